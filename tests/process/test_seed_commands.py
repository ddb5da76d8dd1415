"""The commands of the earlier services, word for word as their documents have them; only the program's name changed.

The table in docs/reference/seed-commands.md names these tests.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path

import pytest

from tests.process.command import BUSY, THREAD, UUID, Desk, Said
from turnkeep.clock import SystemClock
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.sqlite import SqliteStore
from turnkeep.testing.fake_clock import FakeClock

DAY = 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def words(line: str) -> list[str]:
    """The arguments of a line of those documents."""
    program, script, *rest = shlex.split(line)
    assert (program, script) == ("python", "main.py")
    return rest


def typed(desk: Desk, line: str, *more: str) -> Said:
    return desk.run(*words(line), *more)


# ---------------------------------------------------------------- starting


def test_python_main_py_starts_the_service(desk: Desk) -> None:
    with desk.running(*words("python main.py")) as service:
        assert f"listening on {service.url}" in service.said
        assert "turnkeep --help" in service.said
        assert service.stop() == 0


def test_the_env_file_of_the_documents_is_read(desk: Desk) -> None:
    (desk.folder / ".env").write_text(
        "OPENAI_API_KEY=your_api_key\n"
        "OPENAI_MODEL=gpt-4o-mini\n"
        "OPENAI_ASSISTANT_ID=asst_mine  # Set after creating assistant\n"
        "QUEUE_NAME=your_queue_name\n"
        "ROUTING_KEY=your_routing_key\n"
        "EXCHANGE_NAME=your_exchange_name\n"
        "OPENWEATHER_API_KEY=your_weather_api_key\n"
    )
    found = {check["name"]: check for check in desk.run("doctor", "--offline", "--json").json["checks"]}
    assert "gpt-4o-mini ends on" in found["model"]["sentence"]
    assert found["tools"]["sentence"] == "get_weather"


# ---------------------------------------------------------------- --test-message


@pytest.mark.parametrize(
    "line",
    [
        'python main.py --test-message 550e8400-e29b-41d4-a716-446655440000 "Hello, assistant!"',
        'python main.py --test-message convex_id_12345 "Hello, assistant!"',
        'python main.py --test-message user_session_abc123 "Hello, assistant!"',
    ],
)
def test_a_test_message_is_answered_where_no_server_runs(desk: Desk, line: str) -> None:
    said = typed(desk, line)
    assert said.code == 0, said.err
    channel = words(line)[1]
    first, second, third, *rest = said.lines
    assert first.startswith("Test message ID: test_msg_")
    assert len(first) == len("Test message ID: test_msg_") + 8
    assert second == f"Channel: {channel}"
    assert THREAD.fullmatch(third.removeprefix("Thread ID: "))
    rest = [line for line in rest if line != BUSY]
    assert rest[0] == "[started] Assistant is processing your request..."
    assert rest[1] == "[responding] Assistant is responding..."
    assert "Hello, assistant!" in rest[2]
    assert rest[-2:] == ["Run completed", "Conversation completed successfully!"]


def test_a_test_message_goes_through_the_running_server(desk: Desk) -> None:
    with desk.running("dev"):
        said = typed(desk, 'python main.py --test-message user_session_abc123 "Your test message"')
    assert said.code == 0, said.err
    assert said.err == ""  # a simulator of its own would be told of
    assert said.lines[-1] == "Conversation completed successfully!"


def test_a_second_test_message_continues_the_thread_of_the_channel(desk: Desk) -> None:
    line = 'python main.py --test-message convex_id_12345 "Hello, assistant!"'
    first, second = typed(desk, line), typed(desk, line)
    assert first.lines[2] == second.lines[2]
    record = desk.run("threads", "show", "convex_id_12345", "--json").json
    assert (record["messages"], record["turns"]) == (2, 2)


# ---------------------------------------------------------------- --generate-…


def test_generate_uuid_makes_a_uuid_and_its_thread(desk: Desk) -> None:
    said = desk.execute(*words("python main.py --generate-uuid"))
    [channel] = said.lines
    assert UUID.fullmatch(channel)
    thread_id = THREAD.search(said.err)
    assert thread_id is not None
    assert desk.run("threads", "show", channel, "--json").json["thread_id"] == thread_id[0]


def test_generate_thread_prints_its_block(desk: Desk) -> None:
    said = typed(desk, "python main.py --generate-thread")
    first, thread_id, last = said.lines
    assert said.out == f"=== TEST THREAD ID ===\n{thread_id}\n=====================\n"
    assert THREAD.fullmatch(thread_id)
    assert first.startswith("===")
    assert last.startswith("===")


def test_a_generated_thread_is_a_channel_and_an_unknown_one_is_refused(desk: Desk) -> None:
    thread_id = typed(desk, "python main.py --generate-thread").lines[1]
    assert typed(desk, f'python main.py --test-message {thread_id} "Hello"').code == 0
    refused = typed(desk, 'python main.py --test-message thread_xyz123 "Hello"', "--json")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "thread_not_found"


# ---------------------------------------------------------------- thread management


async def _aged(path: Path, ages: dict[str, float]) -> None:
    """Threads without activity for so many days."""
    path.parent.mkdir(exist_ok=True)
    oldest = max(ages.values())
    clock = FakeClock(SystemClock().now() - oldest * DAY)
    store = SqliteStore(path, clock=clock)
    await store.open()
    for channel, days in sorted(ages.items(), key=lambda aged: -aged[1]):
        clock.advance((oldest - days) * DAY - clock.elapsed())
        await store.thread(Address("default", "assistant", channel), create=True)
    await store.close()


async def _waiting(path: Path, channel: str) -> None:
    store = SqliteStore(path)
    await store.open()
    address = Address("default", "assistant", channel)
    await store.accept([Message(address, "m1", text_content("later"), window=3600.0, max_wait=3600.0)])
    await store.close()


def test_show_thread_stats_tells_totals_ages_and_storage(desk: Desk) -> None:
    asyncio.run(_aged(desk.store, {"today": 0, "last week": 8, "long ago": 60}))
    said = typed(desk, "python main.py --show-thread-stats")
    told = dict(line.split(None, 1) for line in said.lines if line and " " in line)
    assert told["threads"] == "3"
    assert "60 d ago" in told["oldest"]
    assert "last active" in told["newest"]
    assert told["storage"].endswith(("B", "kB", "MB"))
    assert {
        line[:16].strip(): line[16:].split()[0] for line in said.lines if line.startswith(("within", "longer"))
    } == {
        "within 1 hour": "1",
        "within 1 day": "0",
        "within 7 days": "0",
        "within 30 days": "1",
        "longer ago": "1",
    }


def test_stats_of_an_empty_place_are_zero_and_make_no_store(desk: Desk) -> None:
    said = typed(desk, "python main.py --show-thread-stats", "--json")
    assert said.json["threads"] == 0
    assert not desk.store.exists()


def test_clear_old_threads_asks_and_clears_only_the_old_ones(desk: Desk) -> None:
    asyncio.run(_aged(desk.store, {"today": 0, "29 days": 29, "31 days": 31, "80 days": 80}))
    line = words("python main.py --clear-old-threads 30")
    refused = desk.ask(*line, answer="n")
    assert refused.code == 1
    assert "clear 2 threads without activity for 30 d" in refused.out
    assert len(desk.run("threads", "list", "--json").lines) == 4
    assert "cleared 2 threads" in desk.ask(*line, answer="y").out
    left = {record["channel"] for record in desk.run("threads", "list", "--json").all_json}
    assert left == {"today", "29 days"}


def test_clear_all_threads_asks_keeps_assistants_and_names_threads_that_are_not_idle(desk: Desk) -> None:
    assistant = typed(desk, "python main.py --create-assistant", "--json").json["id"]
    asyncio.run(_aged(desk.store, {"one": 0, "two": 1}))
    asyncio.run(_waiting(desk.store, "in the middle"))
    said = desk.ask(*words("python main.py --clear-all-threads"), answer="y")
    assert said.code == 0
    assert "cleared 2 threads" in said.out
    assert "skipped 1, not idle (--force clears them): in the middle" in said.out
    [left] = desk.run("threads", "list", "--json").all_json
    assert left["channel"] == "in the middle"
    assert desk.run("assistants", "show", assistant).code == 0
    assert desk.run("--clear-all-threads", "--yes", "--force", "--json").json == {"cleared": 1, "skipped": []}


@pytest.mark.parametrize("line", ["python main.py --clear-all-threads", "python main.py --clear-old-threads 30"])
def test_what_deletes_refuses_where_nobody_can_be_asked(desk: Desk, line: str) -> None:
    asyncio.run(_aged(desk.store, {"old": 60}))
    said = typed(desk, line)
    assert said.code == 2
    assert "--yes" in said.err
    assert len(desk.run("threads", "list", "--json").lines) == 1


# ---------------------------------------------------------------- assistants


def test_create_assistant_prints_the_line_to_save_and_the_service_uses_it(desk: Desk) -> None:
    said = typed(desk, "python main.py --create-assistant")
    assert said.code == 0
    line = said.lines[-1]
    assert line.startswith("OPENAI_ASSISTANT_ID=asst_")
    (desk.folder / ".env").write_text(line + "\n")
    assert typed(desk, 'python main.py --test-message c1 "Hello"').code == 0
    found = [json.loads(one) for one in desk.run("assistants", "list", "--json").lines]
    assert [(one["id"], one["default"]) for one in found] == [(line.partition("=")[2], True)]


def test_delete_assistant_asks_first(desk: Desk) -> None:
    assistant = typed(desk, "python main.py --create-assistant", "--json").json["id"]
    line = words(f"python main.py --delete-assistant {assistant}")
    assert desk.ask(*line, answer="n").code == 1
    assert desk.run("assistants", "show", assistant).code == 0
    said = desk.ask(*line, answer="y")
    assert said.code == 0
    assert f"Assistant deleted: {assistant}" in said.out
    assert desk.run("assistants", "show", assistant).code == 1


def test_deleting_an_unknown_assistant_is_one_sentence(desk: Desk) -> None:
    typed(desk, "python main.py --create-assistant")
    said = typed(desk, "python main.py --delete-assistant asst_gone", "--yes")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "asst_gone" in said.err
