"""`dev`, `serve` and `worker`: what they say, who finds them, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.command import Desk, Service
from tests.services import free_port
from tests.services.process import eventually
from tests.services.tcp_proxy import TcpProxy
from turnkeep.cli import message_sender, server_note
from turnkeep.settings import Settings

LONG = "[[words:120]] tell me"

TOOLS = '''
from turnkeep.tools import tool

@tool(effect="pure")
def opening_hours(city: str) -> str:
    """When the office in a city is open."""
    return f"the office in {city} is open from 9 to 17"

@tool(needs_approval=True)
def send_letter(to: str) -> str:
    """Send somebody a letter."""
    return f"sent to {to}"
'''


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def post(service: Service, path: str, body: Any = None) -> dict[str, Any]:
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(service.url + path, data, {"content-type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        told = json.load(reply)
        assert isinstance(told, dict)
        return told


def get(service: Service, path: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(service.url + path, timeout=PATIENCE) as reply:
            told = json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.status}
    assert isinstance(told, dict)
    return told


def runs(service: Service, message_id: str) -> bool:
    """Whether this message of c1 is being answered."""
    return bool(get(service, f"/api/channels/c1/messages/{message_id}")["status"] == "running")


def transcript(desk: Desk, channel: str) -> list[dict[str, Any]]:
    return list(desk.run("threads", "show", channel, "--json").json["items"])


# ---------------------------------------------------------------- what is said


def test_dev_says_where_everything_is_and_who_answers(desk: Desk) -> None:
    with desk.running("dev") as service:
        told = dict(line.split(None, 1) for line in service.said.splitlines() if line and line[0].islower())
    assert told["page"] == f"{service.url}/"
    assert told["socket"] == f"ws://127.0.0.1:{service.port}/ws"
    assert told["data"] == str(desk.store)
    assert "simulator" in told["answers"]
    assert "OPENAI_API_KEY" in told["answers"]


def test_the_line_to_paste_sends_a_message(desk: Desk) -> None:
    with desk.running("dev") as service:
        [line] = [line for line in service.said.splitlines() if line.startswith("send")]
        program, url, *options = shlex.split(line.removeprefix("send"))
        assert (program, options[0], options[2]) == ("curl", "-H", "-d")
        receipt = post(service, url.removeprefix(service.url), json.loads(options[3]))
    assert receipt["status"] == "accepted"


def test_machines_are_told_as_json(desk: Desk) -> None:
    with desk.running("dev", "--json") as service:
        log = (desk.folder / "log").read_text().splitlines()
    [told] = [json.loads(line) for line in log if line.startswith('{"url"')]
    assert told["url"] == service.url
    assert told["simulated"] is True
    assert told["data"] == str(desk.store)


def test_serve_says_plainly_that_no_model_answers(desk: Desk) -> None:
    with desk.running("serve") as service:
        assert "answers: the built-in simulator" in service.said


def test_a_model_with_a_last_day_is_warned_about(desk: Desk) -> None:
    desk.settings = {
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_MODEL": "gpt-4o-mini",
    }
    with desk.running("serve") as service:
        assert "answers: gpt-4o-mini at 127.0.0.1:9" in service.said
        assert "warning: gpt-4o-mini ends on" in service.said


# ---------------------------------------------------------------- how they end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(desk: Desk, number: signal.Signals) -> None:
    with desk.running("dev", TURNKEEP_DRAIN="40") as service:
        post(service, "/api/channels/c1/messages", {"message": LONG, "message_id": "m1", "flush": True})
        eventually(lambda: runs(service, "m1"), PATIENCE, "the run to begin")
        assert service.stop(number) == 0
    assert desk.run("trace", "m1", "--json").json["message"]["status"] == "answered"
    assert not server_note.path_of(Settings(store=str(desk.store))).exists()  # type: ignore[union-attr]


@contextmanager
def working(desk: Desk, directory: Path, *arguments: str) -> Iterator[Service]:
    """A worker on the store of a desk; it lives in a directory of its own, so that each has its own log."""
    worker = Service(Desk(directory, {"TURNKEEP_STORE": str(desk.store)}), ["worker", *arguments], free_port(), {})
    worker.begin()
    try:
        yield worker
    finally:
        worker.kill9()


def completed(desk: Desk, queue: str = "assistant") -> int:
    return int(desk.run("queue", "status", "--json", TURNKEEP_QUEUE=queue).json["completedCount"])


def test_a_worker_and_a_gateway_share_a_store(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    with desk.running("serve", "--role", "gateway") as gateway:
        assert "answers:" not in gateway.said
        post(gateway, "/api/channels/c1/messages", {"message": "Hi", "flush": True})
        with working(desk, tmp_path_factory.mktemp("worker")) as worker:
            eventually(lambda: completed(desk) == 1, PATIENCE, "the worker to answer", worker.died)
            assert "waiting for work (worker)" in worker.said
            assert worker.stop() == 0


def test_a_worker_answers_the_queues_it_is_told(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    with desk.running("serve", "--role", "gateway", TURNKEEP_QUEUE="sales") as gateway:
        post(gateway, "/api/channels/c1/messages", {"message": "Hi", "flush": True})
        with working(desk, tmp_path_factory.mktemp("worker"), "--queues", "support, sales") as worker:
            eventually(lambda: completed(desk, "sales") == 1, PATIENCE, "the worker to answer", worker.died)


# ---------------------------------------------------------------- who finds them


def test_send_finds_the_server_that_uses_the_store(desk: Desk) -> None:
    with desk.running("dev") as service:
        assert server_note.find(Settings(store=str(desk.store))) == service.url
        said = desk.run("send", "c1", "Hello there", "--status")
    assert said.code == 0
    assert "Hello there" in said.out
    assert "simulator" not in said.err
    assert "[started]" in said.err
    assert "[completed]" in said.err


def test_send_goes_where_turnkeep_url_says(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    with desk.running("dev") as service:
        elsewhere = Desk(tmp_path_factory.mktemp("elsewhere"))
        said = elsewhere.run("send", "c1", "Hello there", TURNKEEP_URL=service.url)
        assert (said.code, said.err) == (0, "")
        assert not elsewhere.store.exists()
        assert desk.run("threads", "show", "c1").code == 0


def test_a_server_that_asks_for_credentials_is_no_obstacle_beside_its_own_store(desk: Desk) -> None:
    with desk.running("dev", TURNKEEP_AUTH="on") as service:
        beside = desk.run("send", "c1", "Hello there")
        from_afar = desk.run("send", "c1", "Hello there", TURNKEEP_URL=service.url)
    assert (beside.code, "Hello there" in beside.out) == (0, True), beside.err
    assert from_afar.code == 1
    assert from_afar.err.startswith("turnkeep send: the server asks for a credential")


def test_the_note_of_a_killed_server_is_not_believed(desk: Desk) -> None:
    with desk.running("dev") as service:
        service.kill9()
        assert server_note.path_of(Settings(store=str(desk.store))).exists()  # type: ignore[union-attr]
        said = desk.run("send", "c1", "Hello there")
    assert said.code == 0
    assert "the built-in simulator answers" in said.err


def test_send_goes_on_when_the_server_is_killed_and_comes_back(desk: Desk) -> None:
    with desk.running("dev") as service:
        heard: list[Any] = []
        asking = threading.Thread(
            target=lambda: heard.append(desk.execute("send", "c1", LONG, "--message-id", "m1", "--json"))
        )
        asking.start()
        eventually(lambda: runs(service, "m1"), PATIENCE, "the answer to begin")
        service.kill9()
        service.start()
        asking.join(60)
        [said] = heard
    assert said.code == 0, said.err
    assert "the server went away; message m1 is kept" in said.err
    frames = said.all_json
    assert frames[-1]["status"] == "completed"
    assert frames[-1]["attempt"] == 2
    assert [frame["status"] for frame in frames].count("completed") == 1
    places = [(frame["offset"], frame["status"]) for frame in frames if "offset" in frame]
    assert len(places) == len(set(places))
    assert [offset for offset, _ in places] == sorted(offset for offset, _ in places)


async def test_a_server_that_goes_away_right_behind_the_receipt_of_a_repeat_is_waited_for(desk: Desk) -> None:
    with desk.running("dev") as service:
        post(service, "/api/channels/c1/messages", {"message": "hello", "message_id": "m1", "flush": True})
        async with TcpProxy("127.0.0.1", service.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            proxy.cut_before_reply(b"GET /api/channels/c1/messages/m1")
            asking = asyncio.create_task(
                asyncio.to_thread(desk.execute, "send", "c1", "hello", "--message-id", "m1", "--json", TURNKEEP_URL=url)
            )
            async with asyncio.timeout(PATIENCE):
                await proxy.lost.wait()
            await proxy.refuse()
            proxy.cut_all()
            await asyncio.sleep(message_sender.PATIENCE + 1.0)  # without a receipt it would have given up
            await proxy.accept()
            said = await asking
    assert said.code == 0, said.err
    assert "the server went away; message m1 is kept" in said.err
    assert said.all_json[-1]["status"] in ("completed", "settled")


async def test_only_a_message_that_was_sent_before_is_asked_after(desk: Desk) -> None:
    with desk.running("dev") as service:
        async with TcpProxy("127.0.0.1", service.port) as proxy:
            words = ("send", "c1", "[[say:fine]]", "--message-id", "m1")
            where = {"TURNKEEP_URL": f"http://127.0.0.1:{proxy.port}"}
            proxy.cut_before_reply(b"GET /api/channels/c1/messages/m1")  # each such request is a cut
            first = await asyncio.to_thread(desk.execute, *words, **where)
            assert (first.code, first.out, proxy.cuts) == (0, "fine\n", 0), first.err
            again = await asyncio.to_thread(desk.execute, *words, **where)
            assert (again.code, again.out, proxy.cuts) == (0, "fine\n", 1), again.err


def text_of(frames: list[dict[str, Any]]) -> str:
    """The answer as it was shown, piece by piece."""
    text = ""
    for frame in frames:
        if frame["status"] == "in_progress":
            text = frame["message"] if frame.get("snapshot") else text + frame["delta"]
    return text


async def test_what_was_said_while_the_line_was_cut_is_told_once(desk: Desk) -> None:
    with desk.running("dev") as service:
        async with TcpProxy("127.0.0.1", service.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            asking = asyncio.create_task(
                asyncio.to_thread(desk.execute, "send", "c1", LONG, "--message-id", "m1", "--json", TURNKEEP_URL=url)
            )
            while not await asyncio.to_thread(runs, service, "m1"):
                await asyncio.sleep(0.05)
            proxy.cut_after(20_000)
            while not proxy.cuts:
                await asyncio.sleep(0.05)
            await proxy.refuse()
            proxy.cut_all()
            while await asyncio.to_thread(runs, service, "m1"):
                await asyncio.sleep(0.05)
            await proxy.accept()
            said = await asking
    assert said.code == 0, said.err
    frames = said.all_json
    assert frames[-1]["message"] == text_of(frames)
    offsets = [frame["offset"] for frame in frames if frame["status"] not in ("accepted", "subscribed")]
    assert len(offsets) == len(set(offsets))
    assert proxy.cuts


def test_the_same_message_id_is_never_answered_twice(desk: Desk) -> None:
    with desk.running("dev"):
        first = desk.run("send", "c1", "Hi", "--message-id", "m1")
        again = desk.run("send", "c1", "Hi", "--message-id", "m1")
        told = desk.run("send", "c1", "Hi", "--message-id", "m1", "--status")
        other = desk.run("send", "c1", "Ho", "--message-id", "m1", "--json")
        assert desk.run("threads", "show", "c1", "--json").json["turns"] == 1
    alone = desk.run("send", "c1", "Hi", "--message-id", "m1", "--here")
    assert first.out
    assert [(one.code, one.out) for one in (again, told, alone)] == [(0, first.out)] * 3
    assert again.err == ""
    assert "message m1 is answered already" in told.err
    assert (other.code, other.json["error"]["code"]) == (1, "message_conflict")


# ---------------------------------------------------------------- tools


def test_tools_of_a_python_file_are_called(desk: Desk) -> None:
    (desk.folder / "tools.py").write_text(TOOLS)
    text = '[[call:opening_hours {"city": "Rome"}]] When?'
    with desk.running("dev", "--tools", "tools.py") as service:
        assert "opening_hours, send_letter" in service.said
        said = desk.run("send", "c1", text, "--status")
    assert said.code == 0
    assert "[processing] Assistant is gathering information..." in said.err
    [output] = [one["output"] for one in transcript(desk, "c1") if one["kind"] == "output"]
    assert output == "the office in Rome is open from 9 to 17"


def test_a_held_call_is_shown_and_decided(desk: Desk) -> None:
    (desk.folder / "tools.py").write_text(TOOLS)
    call = '[[call:send_letter {{"to": "{0}"}}]] Write to {0}'
    with desk.running("dev", "--tools", "tools.py") as service:
        for name in ("anna", "ben"):
            post(service, f"/api/channels/{name}/messages", {"message": call.format(name), "flush": True})
        eventually(lambda: len(desk.run("actions", "list", "--json").lines) == 2, PATIENCE, "two calls to wait")
        calls = {one["channel"]: one for one in desk.run("actions", "list", "--json").all_json}
        assert "send_letter" in desk.run("actions", "list").out
        assert desk.run("actions", "approve", "anna", calls["anna"]["call_id"], "--by", "me").code == 0
        assert desk.run("actions", "deny", "ben", calls["ben"]["call_id"], "--reason", "not now").code == 0
        again = desk.run("actions", "approve", "ben", calls["ben"]["call_id"])
        eventually(lambda: completed(desk) == 2, PATIENCE, "both turns to end")
        outputs = {name: [one["output"] for one in transcript(desk, name) if one["kind"] == "output"] for name in calls}
    assert again.code == 1
    assert outputs == {"anna": ["sent to anna"], "ben": ["not now"]}


def test_reload_starts_again_when_the_tools_have_changed(desk: Desk) -> None:
    tools = desk.folder / "tools.py"
    tools.write_text(TOOLS)
    changed = desk.folder / "changed.py"
    changed.write_text(TOOLS.replace("opening_hours", "closing_hours"))
    for file, moment in ((tools, 1_000.1), (changed, 1_000.9)):  # within one second, as whoever types "save" twice
        os.utime(file, (moment, moment))
    with desk.running("dev", "--tools", "tools.py", "--reload") as service:
        changed.rename(tools)
        eventually(lambda: "closing_hours" in service.said, PATIENCE, "the new tools", service.died)
        assert "a file has changed, starting again" in service.said
        assert service.stop() == 0


# ---------------------------------------------------------------- interrupted


def test_who_stops_listening_does_not_stop_the_answer(desk: Desk) -> None:
    with desk.running("dev") as service:
        asking = Service(Desk(desk.folder / "asking"), ["send", "c1", LONG, "--message-id", "m1", "--status"], 0, {})
        asking.desk.folder.mkdir()
        asking.environment = {"TURNKEEP_URL": service.url}
        asking.begin()
        try:
            eventually(lambda: "[responding]" in asking.said, PATIENCE, "the answer to begin", asking.died)
            assert asking.stop(signal.SIGINT) == 130
        finally:
            asking.kill9()
        assert "stopped listening; message m1 is kept" in asking.said
        eventually(lambda: completed(desk) == 1, PATIENCE, "the answer to end")


def test_watching_goes_on_until_it_is_interrupted(desk: Desk) -> None:
    desk.run("threads", "new")
    with desk.running("queue", "status", "--watch", "--json", listens=False) as watching:
        eventually(lambda: watching.log.read_text().count("activeCount") == 2, PATIENCE, "two looks", watching.died)
        assert watching.stop(signal.SIGINT) == 130
    assert "Traceback" not in watching.log.read_text()
