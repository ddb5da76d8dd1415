"""One call from arguments to output: checked, bounded in time and size, failures in words.

`call` never raises, except `CancelledError` when the caller itself is cancelled: whatever happens
in a tool becomes an output that the model can read. When and whether a call may start at all
(journal, approval, repetition) is decided by the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from turnkeep.clock import Clock
from turnkeep.errors import BadArguments, ToolDenied, ToolError, ToolFailed, ToolTimedOut, UnknownTool
from turnkeep.lean_dataclass import dataclass
from turnkeep.tools.tool import OUTPUT_CAP, Effect, Tool, ToolContext, as_text, invoke

ARGUMENTS_CAP = 64 * 1024
"""Bytes of argument text that are read at all."""

NO_RESULT = "no result was given"

T = TypeVar("T")

log = logging.getLogger(__name__)

Status = Literal["ok", "error", "denied", "cancelled", "unknown"]
CatchAll = Callable[[str, str, list[dict[str, Any]]], Awaitable[list[dict[str, Any]] | None]]
"""``handle_requires_action(thread_id, run_id, tool_calls)``: outputs, or None to hold the turn."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave. `output` is for the model; `code` names the error for metrics."""

    output: str
    status: Status = "ok"
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call as the model wrote it."""

    call_id: str
    name: str
    arguments: str


def refusal(tool: Tool | None, request: ToolRequest) -> Result | None:
    """Why this call would not run at all, as what the model is told. None: it may run."""
    try:
        _admit(tool, request)
    except ToolError as error:
        return _error_result(error)
    return None


async def call(tool: Tool | None, request: ToolRequest, context: ToolContext, *, clock: Clock) -> Result:
    """Run one call. `tool` is None when there is none of this name.

    A call that is stopped, by its timeout or by `context.cancellation`, ends "unknown" if
    the tool has effects: nobody can say whether they happened. Otherwise it ends as an error
    or as cancelled.
    """
    try:
        ready, arguments = _admit(tool, request)
    except ToolError as error:
        return _error_result(error)
    try:
        output = await _within_timeout(
            _run_tool(ready, arguments, context), ready.timeout, context=context, clock=clock
        )
    except _Abort as abort:
        return _abort_result(ready.effect, abort)
    except ToolError as error:
        return _error_result(error)
    return Result(cap_output(output, ready.output_cap))


def _admit(tool: Tool | None, request: ToolRequest) -> tuple[Tool, dict[str, Any]]:
    """The tool and its arguments. Raises `UnknownTool` or `BadArguments`."""
    if tool is None:
        raise UnknownTool(f"there is no tool named {request.name[:80]!r}")
    arguments = parse_arguments(request.arguments)
    try:
        return tool, tool.check_arguments(arguments)
    except ToolError:
        raise
    except Exception as error:  # a check that somebody wrote may stumble over anything
        log.warning("arguments_unchecked tool=%s call_id=%s", tool.name, request.call_id, exc_info=True)
        raise BadArguments(f"the arguments could not be checked ({type(error).__name__})") from error


def parse_arguments(arguments: str) -> dict[str, Any]:
    """The argument text as an object; an empty text is an empty object. Raises `BadArguments`."""
    size = len(arguments.encode("utf-8", "surrogatepass"))
    if size > ARGUMENTS_CAP:
        raise BadArguments(f"the arguments have {size} bytes, more than the {ARGUMENTS_CAP} that are read; send less")
    try:
        # Python reads NaN and Infinity; no other reader of the transcript would
        value = json.loads(arguments or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadArguments(f"the arguments are no valid JSON ({_where(error)}); send one JSON object") from None
    if not isinstance(value, dict):
        raise BadArguments("the arguments are no JSON object; send one JSON object")
    return value


def arguments_digest(arguments: str) -> str:
    """Binds a decision to the arguments it was made for: equal for equal JSON, 32 hex digits."""
    try:
        canonical = json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        canonical = arguments
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def cap_output(output: str, cap: int) -> str:
    """At most `cap` bytes of UTF-8: the head, a note of how much is left out, the tail."""
    data = output.encode("utf-8", "replace")
    if len(data) <= cap:
        return data.decode("utf-8")
    # both ends: what it is about stands at the beginning, what went wrong at the end
    room = (cap - 64) // 2
    head, tail = data[:room].decode("utf-8", "ignore"), data[-room:].decode("utf-8", "ignore")
    return f"{head}\n[… {len(data) - 2 * room} of {len(data)} bytes left out …]\n{tail}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number or constant that JSON does not have"


def _error_result(error: ToolError) -> Result:
    status: Status = "denied" if isinstance(error, ToolDenied) else "error"
    return Result(cap_output(f"error: {error}", OUTPUT_CAP), status, error.code)


async def _run_tool(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> str:
    if tool.run is None:
        raise ToolFailed(f"the tool {tool.name!r} runs at the client, not here")
    return as_text(await _convert_failures(tool.run(arguments, context), tool.name, context))


async def _convert_failures(work: Awaitable[T], name: str, context: ToolContext) -> T:
    """The work's result. What it raises becomes a `ToolError`; the details stay in the log."""
    try:
        return await work
    except ToolError:
        raise
    # SystemExit: a handler that calls `sys.exit()` must not end the worker. KeyboardInterrupt is
    # the operator's.
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        log.warning("tool_failed tool=%s call_id=%s error=%s", name, context.call_id, kind, exc_info=True)
        # the type only: an exception's words may hold a password, and the model repeats what it
        # reads
        raise ToolFailed(f"the tool failed with {kind}; nothing more is known") from error


class _Abort(Exception):
    """the work was given up before it gave a result"""

    def __init__(self, cause: str, *, timed_out: bool) -> None:
        super().__init__(cause)
        self.timed_out = timed_out


async def _within_timeout(work: Coroutine[Any, Any, T], timeout: float, *, context: ToolContext, clock: Clock) -> T:
    """The work's result, unless its time is up or nobody waits for it any more.

    `context.cancellation` is set whenever the work is given up, so that a function in a thread can
    stop too.
    """
    # not `asyncio.timeout`: time is the clock's, which tests move, and cancellation comes from
    # outside too
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_outcome(work))
        late = group.create_task(clock.sleep(timeout))
        tasks = (running, late, group.create_task(context.cancellation.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not running.done():
                # a thread cannot be cancelled: this is all that a function in one ever hears
                context.cancellation.set()
            for task in tasks:
                task.cancel()
    if running.cancelled():
        # whichever of the two ended by itself was not cancelled: that tells a timeout from a stop
        timed_out = not late.cancelled()
        cause = f"no result after {timeout:g} seconds" if timed_out else "cancelled before it gave a result"
        raise _Abort(cause, timed_out=timed_out)
    outcome = running.result()
    if isinstance(outcome, ToolError):
        raise outcome
    return outcome


async def _outcome(work: Coroutine[Any, Any, T]) -> T | ToolError:
    """The work's result or error as a value: an error must not cancel the tasks beside it."""
    try:
        return await work
    except ToolError as error:
        return error


def _abort_result(effect: Effect, abort: _Abort) -> Result:
    code = ToolTimedOut.code if abort.timed_out else "tool_cancelled"
    if effect == "effect":
        return Result(f"outcome unknown: {abort}; it may or may not have taken effect", "unknown", code)
    return Result(f"error: {abort}", "error" if abort.timed_out else "cancelled", code)


async def call_catch_all(
    handler: CatchAll, requests: Sequence[ToolRequest], context: ToolContext, *, clock: Clock, timeout: float = 60.0
) -> dict[str, Result] | None:
    """What ``handle_requires_action`` gives for these calls, by call id.

    None: hold the turn for submitted outputs.

    A list answers every call: one that it leaves out gets "no result was given". A handler that
    fails or takes too long is told like a tool with effects that does.
    """
    try:
        outputs = await _within_timeout(_answers(handler, requests, context), timeout, context=context, clock=clock)
    except _Abort as abort:
        return dict.fromkeys((one.call_id for one in requests), _abort_result("effect", abort))
    except ToolError as error:
        return dict.fromkeys((one.call_id for one in requests), _error_result(error))
    if outputs is None:
        return None
    return {one.call_id: outputs.get(one.call_id, Result(NO_RESULT, "error", "no_result")) for one in requests}


async def _answers(
    handler: CatchAll, requests: Sequence[ToolRequest], context: ToolContext
) -> dict[str, Result] | None:
    """The outputs by call id; of a doubled id the first counts."""
    work = invoke(handler, context.thread_id, context.run_id, [_wire(one) for one in requests])
    outputs = await _convert_failures(work, "handle_requires_action", context)
    if outputs is None:
        return None
    if not isinstance(outputs, list):
        raise ToolFailed('handle_requires_action must give a list of {"tool_call_id", "output"}, or None')
    answers: dict[str, Result] = {}
    for one in outputs:
        if isinstance(one, Mapping) and one.get("output") is not None:
            answers.setdefault(str(one.get("tool_call_id")), Result(cap_output(as_text(one["output"]), OUTPUT_CAP)))
    return answers


def _wire(request: ToolRequest) -> dict[str, Any]:
    return {
        "id": request.call_id,
        "type": "function",
        "function": {"name": request.name, "arguments": request.arguments},
    }
