"""The queue without an event loop: from scripts, threads of a web server, and after a fork."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnkeep import AssistantMessageQueue, SyncAssistantMessageQueue
from turnkeep.background_loop import BackgroundLoop, Blocking
from turnkeep.errors import ConfigurationError, NoAnswer, ThreadNotFound


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SyncAssistantMessageQueue]:
    with AssistantMessageQueue(store=tmp_path / "turnkeep.db", message_delay=0.1, drain=0.0).sync as queue:
        yield queue


def test_it_has_every_method_of_the_queue_with_its_docstring() -> None:
    def methods(face: type) -> set[str]:
        static = {name: inspect.getattr_static(face, name) for name in dir(face) if not name.startswith("_")}
        return {name for name, one in static.items() if inspect.isfunction(one) or isinstance(one, Blocking)}

    # `accept`, `drain`, `lives_until`, `address` and `say` are for doors; hooks belong to a loop
    of_doors = {"accept", "address", "drain", "lives_until", "on", "say"}
    assert methods(AssistantMessageQueue) - of_doors == methods(SyncAssistantMessageQueue)
    for name in methods(SyncAssistantMessageQueue):
        assert inspect.getdoc(inspect.getattr_static(SyncAssistantMessageQueue, name)), name
    waiting = [name for name, one in vars(SyncAssistantMessageQueue).items() if isinstance(one, Blocking)]
    assert all(inspect.iscoroutinefunction(getattr(AssistantMessageQueue, name)) for name in waiting)


def test_it_answers_and_streams_and_raises(queue: SyncAssistantMessageQueue) -> None:
    queue.start_worker()
    assert queue.ask("c", "hello [[say:fine]]") == "fine"
    kinds = []
    for event in queue.events("c", after=0, epoch=""):
        kinds.append(event.kind)
        if event.is_final:
            break
    assert kinds[-1] == "completed"
    with pytest.raises(ThreadNotFound):
        queue.get_thread("nowhere")
    with pytest.raises(NoAnswer):
        queue.ask("c", "hello [[words:4000]] [[pace:20]]", timeout=0.2)


def test_many_threads_may_call_it_at_once(queue: SyncAssistantMessageQueue) -> None:
    queue.start_worker()
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(queue.ask(f"c{n}", f"hello [[say:fine {n}]]")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [f"fine {n}" for n in range(8)]


def test_after_close_it_says_so_and_close_can_be_repeated(tmp_path: Path) -> None:
    queue = AssistantMessageQueue(store=tmp_path / "turnkeep.db").sync
    queue.close()
    queue.add_message_to_thread("c", "hello")
    queue.close()
    queue.close()
    with pytest.raises(ConfigurationError, match="is closed, make a new one"):
        queue.get_queue_status()


def test_a_call_from_its_own_thread_is_refused_instead_of_waiting_for_ever() -> None:
    background = BackgroundLoop("this queue")

    async def nothing() -> None:
        return

    async def call() -> None:
        background.wait(nothing())

    with pytest.raises(ConfigurationError, match="await the asynchronous one"):
        background.wait(call())
    background.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_needs_a_queue_of_its_own_and_one_that_was_not_used_may_be_it(tmp_path: Path) -> None:
    program = """
import os
from turnkeep import AssistantMessageQueue
from turnkeep.errors import ConfigurationError
used = AssistantMessageQueue(store="one.db").sync
fresh = AssistantMessageQueue(store="two.db").sync
used.add_message_to_thread("c", "hello")
if os.fork() == 0:
    try:
        used.get_queue_status()
    except ConfigurationError as error:
        print("after the fork" in str(error), flush=True)
    print(fresh.add_message_to_thread("c", "hello").status, flush=True)
    fresh.close()
    os._exit(0)
os.wait()
used.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["True", "accepted"]), done.stderr


@pytest.mark.parametrize(
    "end",
    ["", *(pytest.param(end, marks=pytest.mark.only_in_prove) for end in ("queue.close()", "import sys; sys.exit(0)"))],
)  # reason: each starts an interpreter
def test_a_script_ends_with_it_and_without_a_word(end: str, tmp_path: Path) -> None:
    program = f"""
from turnkeep import AssistantMessageQueue
queue = AssistantMessageQueue(store="here.db", message_delay=0.1).sync
queue.start_worker()
print(queue.ask("c", "hello [[say:fine]]"))
queue.add_message_to_thread("c", "hello [[words:400]]", flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("simulator_answers ")]
    assert (done.returncode, done.stdout, told) == (0, "fine\n", [])
