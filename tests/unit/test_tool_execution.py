"""One call: checked, bounded, capped, and every failure told in words."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.errors import ToolDenied, ToolFailed
from turnkeep.tools import Tool, ToolContext, from_dict, tool
from turnkeep.tools.execution import (
    ARGUMENTS_CAP,
    Result,
    ToolRequest,
    arguments_digest,
    call,
    call_catch_all,
    cap_output,
    refusal,
)
from turnkeep.tools.thread_pool import ThreadPool


class HandClock:
    """Stands still until `pass_time`."""

    def __init__(self) -> None:
        self.time = 0.0
        self.moved = asyncio.Event()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        while self.time < until:
            await self.moved.wait()

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.moved.set()
        self.moved = asyncio.Event()


async def run(
    made: Tool | None, arguments: Any = "{}", context: ToolContext | None = None, clock: Any = None
) -> Result:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return await call(made, ToolRequest("call_1", "t", text), context or ToolContext(), clock=clock or HandClock())


@tool(effect="pure")
async def echo(text: str) -> str:
    """Say it again."""
    return text


async def test_text_is_told_as_it_is() -> None:
    assert await run(echo, {"text": "hello"}) == Result("hello")


async def test_other_results_are_told_as_json() -> None:
    @tool
    def offices(city: str) -> dict[str, Any]:
        """Offices."""
        return {"city": city, "offices": ["A", "é"]}

    assert (await run(offices, {"city": "Makati"})).output == '{"city": "Makati", "offices": ["A", "é"]}'


async def test_a_result_without_a_json_form_is_told_as_a_failure() -> None:
    @tool
    def strange() -> Any:
        """Gives something strange."""
        return object()

    result = await run(strange)

    assert (result.status, result.code) == ("error", "tool_failed")
    assert "no JSON form" in result.output


async def test_an_unknown_tool_is_told() -> None:
    result = await run(None)

    assert result == Result("error: there is no tool named 't'", "error", "unknown_tool")


BROKEN = [
    "{",
    "[]",
    "null",
    "3",
    '{"text": NaN}',
    '{"text": ' + "[" * 30_000,
    "[" * 60_000,
    '{"text": ' + "1" * 5_000 + "}",
    '{"text": "\\ud800',
    "\x00",
    '{"text": "a"} trailing',
    json.dumps({"text": "x" * ARGUMENTS_CAP}),
    json.dumps({"text": "x" * 1_000_000}),
    "{}",
    '{"text": 1}',
    '{"text": "a", "more": 1}',
]


@pytest.mark.parametrize("arguments", BROKEN, ids=range(len(BROKEN)))
async def test_broken_arguments_are_told_and_the_tool_does_not_run(arguments: str) -> None:
    ran = []

    @tool
    async def watched(text: str) -> str:
        """Watches whether it ran."""
        ran.append(text)
        return text

    result = await run(watched, arguments)

    assert (result.status, result.code) == ("error", "bad_arguments")
    assert len(result.output) < 1000
    assert ran == []


@given(st.text(max_size=200))
def test_no_argument_text_raises(arguments: str) -> None:
    result = asyncio.run(_run_echo(arguments))

    assert result.code == "bad_arguments" or result.status == "ok"


async def _run_echo(arguments: str) -> Result:
    return await run(echo, arguments)


async def test_an_empty_argument_text_is_an_empty_object() -> None:
    @tool
    def nothing() -> str:
        """Takes nothing."""
        return "fine"

    assert (await run(nothing, "")).output == "fine"


async def test_what_a_tool_error_says_is_told() -> None:
    @tool
    async def strict() -> str:
        """Fails in words."""
        raise ToolFailed("no office of that name; list them first")

    assert await run(strict) == Result("error: no office of that name; list them first", "error", "tool_failed")


async def test_a_declined_call_is_told_as_denied() -> None:
    @tool
    async def denied() -> str:
        """Declines."""
        raise ToolDenied("not today")

    assert (await run(denied)).status == "denied"


@pytest.mark.parametrize(
    "kind", [ValueError, KeyError, OSError, StopIteration, SystemExit, RecursionError, MemoryError]
)
@pytest.mark.parametrize("blocking", [True, False], ids=["thread", "loop"])
async def test_of_other_exceptions_only_the_type_is_told(
    kind: type[BaseException], blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        """Fails with a secret."""
        raise kind("sk-secret")

    async def fail_async() -> str:
        """Fails with a secret."""
        raise kind("sk-secret")

    with caplog.at_level(logging.WARNING):
        result = await run(tool(name="fail")(fail if blocking else fail_async))

    assert (result.status, result.code) == ("error", "tool_failed")
    assert "secret" not in result.output
    if kind is not StopIteration:
        assert kind.__name__ in result.output
    assert "tool_failed tool=fail" in caplog.text


@pytest.mark.parametrize(
    ("effect", "status", "words"),
    [
        ("pure", "error", "error: no result after 30 seconds"),
        ("idempotent", "error", "error: no result after 30 seconds"),
        ("effect", "unknown", "outcome unknown: no result after 30 seconds; it may or may not have taken effect"),
    ],
)
async def test_a_tool_that_takes_too_long_is_stopped(effect: Any, status: str, words: str) -> None:
    stopped = asyncio.Event()
    began = asyncio.Event()

    @tool(effect=effect)
    async def slow() -> str:
        """Never ends."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    clock, context = HandClock(), ToolContext()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run(slow, context=context, clock=clock))
        await began.wait()
        await asyncio.sleep(0)
        clock.pass_time(29.9)
        await asyncio.sleep(0)
        assert not running.done()
        clock.pass_time(0.2)

    assert running.result() == Result(words, status, "tool_timed_out")  # type: ignore[arg-type]
    assert stopped.is_set()
    assert context.cancellation.is_set()


@pytest.mark.parametrize(("effect", "status"), [("pure", "cancelled"), ("effect", "unknown")])
async def test_a_call_ends_when_nobody_waits_for_it(effect: Any, status: str) -> None:
    @tool(effect=effect)
    async def slow(context: ToolContext) -> str:
        """Cancels itself."""
        context.cancellation.set()
        await asyncio.Event().wait()
        return "never"

    result = await run(slow)

    assert (result.status, result.code) == (status, "tool_cancelled")


async def test_a_cancelled_caller_stops_the_tool_and_hears_it() -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Never ends."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    context = ToolContext()
    task = asyncio.create_task(run(slow, context=context))
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()
    assert context.cancellation.is_set()


async def test_a_function_in_a_thread_sees_that_its_time_is_up() -> None:
    began, ended = threading.Event(), threading.Event()

    @tool
    def slow(context: ToolContext) -> str:
        """Asks whether to stop."""
        began.set()
        while not context.cancellation.is_set():
            threading.Event().wait(0.001)
        ended.set()
        return "stopped"

    clock = HandClock()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run(slow, clock=clock))
        await asyncio.to_thread(began.wait, 10)
        clock.pass_time(31)

    assert running.result().status == "unknown"
    assert await asyncio.to_thread(ended.wait, 10)


async def test_long_output_keeps_head_and_tail_within_the_cap() -> None:
    @tool(output_cap=1000)
    async def long() -> str:
        """Says a lot."""
        return "BEGIN" + "é" * 5000 + "END"

    output = (await run(long)).output

    assert len(output.encode()) <= 1000
    assert output.startswith("BEGIN")
    assert output.endswith("END")
    assert "bytes left out" in output


@given(st.text(), st.integers(256, 400))
def test_capped_text_fits_and_encodes(text: str, cap: int) -> None:
    data = cap_output(text * 20, cap).encode()

    assert len(data) <= cap


def test_text_that_fits_is_left_alone() -> None:
    assert cap_output("x" * 256, 256) == "x" * 256
    assert cap_output("half a pair: \ud800", 256) == "half a pair: ?"


@pytest.mark.parametrize(
    ("one", "other"), [('{"a":1,"b":2}', '{ "b": 2, "a": 1 }'), ("", "{}"), ('{"a":"é"}', '{"a":"\\u00e9"}')]
)
def test_equal_arguments_have_equal_digests(one: str, other: str) -> None:
    assert arguments_digest(one) == arguments_digest(other)


def test_other_arguments_have_other_digests() -> None:
    texts = ["{}", '{"a":1}', '{"a":"1"}', '{"a":true}', "{", "[", "[" * 5000, "\ud800"]

    digests = [arguments_digest(text) for text in texts]

    assert len(set(digests)) == len(texts)
    assert all(len(digest) == 32 for digest in digests)


async def test_the_dict_form_is_called_with_its_arguments() -> None:
    async def later(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"result": arguments["input"]}

    def now(arguments: dict[str, Any]) -> str:
        return arguments["input"].upper()  # type: ignore[no-any-return]

    handlers: list[tuple[Callable[..., Any], str]] = [
        (later, '{"result": "a"}'),
        (now, "A"),
        (lambda a: later({**a}), '{"result": "a"}'),
    ]
    for handler, expected in handlers:
        made = from_dict({"type": "function", "function": {"name": "custom"}, "handler": handler})
        assert (await run(made, {"input": "a"})).output == expected


async def test_a_client_side_tool_does_not_run_here() -> None:
    made = from_dict({"type": "function", "function": {"name": "custom"}})

    assert made.client_side
    assert (await run(made)).status == "error"


# ---------------------------------------------------------------- threads


async def test_threads_are_bounded_and_the_rest_waits() -> None:
    threads, gate, most = ThreadPool(limit=3), threading.Event(), []
    three = threading.Barrier(3, action=gate.set)
    running = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal running
        with guard:
            running += 1
            most.append(running)
        if not gate.is_set():
            three.wait(10)
        with guard:
            running -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(threads.run(work))

    assert len(most) == 10
    assert max(most) == 3


async def test_a_function_that_has_not_begun_is_dropped_with_its_caller() -> None:
    threads, gate, ran = ThreadPool(limit=1), threading.Event(), []

    async with asyncio.TaskGroup() as group:
        group.create_task(threads.run(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        waiting = group.create_task(threads.run(lambda: ran.append("no")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.set()
    await threads.run(lambda: ran.append("yes"))

    assert ran == ["yes"]


async def test_two_functions_wait_for_each_other_in_two_threads() -> None:
    threads, barrier = ThreadPool(limit=2), threading.Barrier(2)

    async with asyncio.TaskGroup() as group:
        results = [group.create_task(threads.run(lambda: barrier.wait(10))) for _ in range(2)]

    assert sorted(task.result() for task in results) == [0, 1]


# ---------------------------------------------------------------- the catch-all

CALLS = [ToolRequest("call_a", "get_weather", '{"location":"Makati"}'), ToolRequest("call_b", "other", "{}")]


async def caught(handler: Any, clock: Any = None) -> dict[str, Result] | None:
    context = ToolContext(thread_id="thread_1", run_id="run_1")
    return await call_catch_all(handler, CALLS, context, clock=clock or HandClock())


async def test_the_catch_all_gets_the_calls_in_the_wire_form() -> None:
    seen: list[Any] = []

    async def handler(thread_id: str, run_id: str, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen.append((thread_id, run_id, tool_calls[0]))
        return [{"tool_call_id": one["id"], "output": one["function"]["name"]} for one in tool_calls]

    assert await caught(handler) == {"call_a": Result("get_weather"), "call_b": Result("other")}
    assert seen == [
        (
            "thread_1",
            "run_1",
            {
                "id": "call_a",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"location":"Makati"}'},
            },
        )
    ]


async def test_none_holds_the_turn() -> None:
    async def handler(*_: Any) -> None:
        return None

    assert await caught(handler) is None


@pytest.mark.parametrize(
    ("given_outputs", "expected"),
    [
        ([], {}),
        ([{"tool_call_id": "call_b", "output": "b"}], {"call_b": "b"}),
        ([{"tool_call_id": "call_b", "output": {"x": 1}}], {"call_b": '{"x": 1}'}),
        ([{"tool_call_id": "call_b", "output": "b"}, {"tool_call_id": "call_b", "output": "c"}], {"call_b": "b"}),
        ([{"tool_call_id": "else", "output": "b"}, "nonsense", {"output": "c"}, {"tool_call_id": "call_a"}], {}),
    ],
)
async def test_a_list_answers_every_call(given_outputs: list[Any], expected: dict[str, str]) -> None:
    async def handler(*_: Any) -> list[Any]:
        return given_outputs

    results = await caught(handler)

    assert results is not None
    assert set(results) == {"call_a", "call_b"}
    for call_id, result in results.items():
        assert result.output == expected.get(call_id, "no result was given")


async def test_a_failing_catch_all_answers_every_call_with_the_failure() -> None:
    async def fails(*_: Any) -> list[Any]:
        raise ValueError("sk-secret")

    async def nonsense(*_: Any) -> Any:
        return "text"

    def not_async(*_: Any) -> Any:
        return []

    for handler in (fails, nonsense):
        results = await caught(handler)
        assert results is not None
        assert {one.status for one in results.values()} == {"error"}
        assert "secret" not in str(results)
    results = await caught(not_async)
    assert results is not None
    assert {one.output for one in results.values()} == {"no result was given"}


async def test_a_catch_all_that_takes_too_long_is_an_unknown_outcome() -> None:
    began = asyncio.Event()

    async def handler(*_: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    clock = HandClock()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(caught(handler, clock))
        await began.wait()
        await asyncio.sleep(0)
        clock.pass_time(61)

    results = running.result()
    assert results is not None
    assert {one.status for one in results.values()} == {"unknown"}


def test_importing_the_tools_loads_no_optional_part() -> None:
    import subprocess

    script = "import sys, turnkeep.tools; print([m for m in ('sqlalchemy', 'mcp', 'aiohttp') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "text", ["{amount", "[]", '"x"', '{"a": NaN}', '{"a":' * 2000, "x" * (ARGUMENTS_CAP + 1), "{}"]
)
def test_what_no_tool_would_take_is_refused_before_it_starts(text: str) -> None:
    told = refusal(echo, ToolRequest("call_1", "echo", text))

    assert told is not None
    assert (told.status, told.code) == ("error", "bad_arguments")


def test_a_call_that_may_run_is_not_refused() -> None:
    assert refusal(echo, ToolRequest("call_1", "echo", '{"text": "x"}')) is None
