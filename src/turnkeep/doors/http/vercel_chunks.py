"""The UI message stream of Vercel's AI SDK, version 1: a turn as chunks, server-sent.

A chunk of an unknown type ends the stream of a client, so each major version is a level: 5 knows
neither approvals nor denied calls, 6 no way to take a step back. Nothing is said of a turn before
its run begins: a client puts the answer behind what it has when `start` comes, and by then all
messages of a burst are there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import orjson

from turnkeep.doors.http.turn_feed import is_piece, is_result_of
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail, StepDetail, TurnFault
from turnkeep.messages import Citation
from turnkeep.runs.journal import SEPARATOR

Level = Literal[5, 6, 7]
END_OF_STREAM = b"data: [DONE]\n\n"
HEADERS = {"X-Vercel-AI-UI-Message-Stream": "v1"}
NO_OUTPUT = {"denied": "The call was denied.", "expired": "Nobody decided about the call in time."}
FINISH_REASONS = {"completed": "stop", "incomplete": "length"}


def chunk(kind: str, **fields: Any) -> bytes:
    """Without what is None; only an output may be nothing."""
    given_fields = {name: value for name, value in fields.items() if value is not None or name == "output"}
    return b"data: " + orjson.dumps({"type": kind, **given_fields}) + b"\n\n"


def aside(**data: Any) -> bytes:
    """Told to the page (`onData`), part of no message."""
    return chunk("data-turn", data=data, transient=True)


class ChunkEncoder:
    """One response. With `after_calls` the message that the client shows goes on with the result of one
    of these calls: what was before it is not told.
    """

    def __init__(self, level: Level, *, after_calls: Collection[str] = ()) -> None:
        self._level = level
        self._continues = bool(after_calls)
        self._after_calls = set(after_calls)
        self._out: list[bytes] = []
        self._open: Literal["text", "reasoning"] | None = None
        self._head = b""
        """Of a delta of the part that is open."""
        self._part_count = 0
        self._in_step = False
        self._step_ended = False
        self._has_text = False
        """Something was said before this step."""
        self._at_step_start = True
        self._open_calls: dict[str, CallDetail] = {}
        self._is_done = False

    @property
    def is_done(self) -> bool:
        return self._is_done

    def encode(self, events: Sequence[Event]) -> bytes:
        for event in events:
            if self._after_calls and is_result_of(event, self._after_calls):
                self._after_calls.clear()
            told_count = len(self._out)
            self._encode(event)
            if self._after_calls and is_piece(event):
                del self._out[told_count:]
        data, self._out = b"".join(self._out), []
        return data

    def break_off(self, fault: TurnFault) -> bytes:
        self._is_done = True
        return chunk("error", errorText=fault.message) + END_OF_STREAM

    def _encode(self, event: Event) -> None:
        match event.kind:
            case "delta":
                self._text(event.text)
            case "reasoning":
                self._think(event.text)
            case "started":
                self._start(event)
            case "completed":
                self._complete(event)
            case "dead":
                self._fail(event.error)
            case "held":
                self._hold(event.calls)
            case "withdrawn":
                self._end(aside(state="withdrawn"))
            case "waiting" | "retrying":
                fault = event.error
                self._out.append(aside(state=event.kind, reason=fault.code if fault else None))
            case "said":
                self._out.append(aside(state="said", text=event.text, author=event.author))
            case _:
                self._part(event)

    def _part(self, event: Event) -> None:
        match event.detail:
            case CallDetail() as call:
                self._call(call)
            case ResultDetail() as result:
                self._result(result)
            case Citation() as source:
                self._source(source)
            case FileDetail(url, media_type):
                self._begin_part()
                self._out.append(chunk("file", url=url, mediaType=media_type))
            case StepDetail(ending=None):
                self._take_back()
            case StepDetail():
                self._close_part()
                self._step_ended = True

    # ------------------------------------------------------------ text and thoughts

    def _text(self, text: str) -> None:
        if self._open != "text":
            self._begin_part()
            # what stands between the texts of two steps: here each has a part of its own
            if self._has_text and self._at_step_start:
                text = text.removeprefix(SEPARATOR)
            if not text:
                return
            self._open_part("text")
        self._has_text, self._at_step_start = True, False
        self._out.append(self._head + orjson.dumps(text) + b"}\n\n")

    def _think(self, text: str) -> None:
        if self._open != "reasoning":
            self._begin_part()
            self._open_part("reasoning")
        self._out.append(self._head + orjson.dumps(text) + b"}\n\n")

    def _open_part(self, kind: Literal["text", "reasoning"]) -> None:
        self._part_count += 1
        part_id = f"{kind}-{self._part_count}"
        self._open, self._head = kind, f'data: {{"type":"{kind}-delta","id":"{part_id}","delta":'.encode()
        self._out.append(chunk(f"{kind}-start", id=part_id))

    def _close_part(self) -> None:
        if self._open is not None:
            self._out.append(chunk(f"{self._open}-end", id=f"{self._open}-{self._part_count}"))
            self._open = None

    def _begin_part(self) -> None:
        """Something else than before; of the next step, if the last one has ended."""
        self._close_part()
        if self._step_ended:
            self._finish_step()
        if not self._in_step:
            self._in_step, self._at_step_start = True, True
            self._out.append(chunk("start-step"))

    def _finish_step(self) -> None:
        self._close_part()
        if self._in_step:
            self._out.append(chunk("finish-step"))
        self._in_step = self._step_ended = False

    # ------------------------------------------------------------ tools, sources

    def _call(self, call: CallDetail) -> None:
        self._begin_part()
        self._open_calls[call.call_id] = call
        # executed by us: a page must not take it for one of its own tools
        self._out.append(_input(call, by_us=True))

    def _result(self, result: ResultDetail) -> None:
        self._close_part()
        self._open_calls.pop(result.call_id, None)
        self._out.append(self._outcome(result))

    def _outcome(self, result: ResultDetail) -> bytes:
        call_id, output = result.call_id, result.output
        if result.status == "ok":
            value = None if output is None else value_of(output)
            return chunk("tool-output-available", toolCallId=call_id, output=value, dynamic=True)
        if result.status == "denied" and self._level >= 6:
            return chunk("tool-output-denied", toolCallId=call_id)
        text = output or NO_OUTPUT.get(result.status, "The call failed.")
        return chunk("tool-output-error", toolCallId=call_id, errorText=text, dynamic=True)

    def _source(self, source: Citation) -> None:
        self._begin_part()
        self._part_count += 1
        source_id = f"source-{self._part_count}"
        if source.url:
            self._out.append(chunk("source-url", sourceId=source_id, url=source.url, title=source.title or None))
        else:
            title = source.title or source.file_id
            self._out.append(
                chunk("source-document", sourceId=source_id, mediaType="application/octet-stream", title=title)
            )

    # ------------------------------------------------------------ the run

    def _start(self, event: Event) -> None:
        metadata = {"run_id": event.run_id, "covers": list(event.message_ids)}
        message_id = None if self._continues else event.run_id
        self._out.append(chunk("start", messageId=message_id, messageMetadata=metadata))

    def _take_back(self) -> None:
        """What was shown of the step does not count."""
        if self._level >= 7 and self._in_step:
            self._out.append(chunk("reset-step"))
            self._open = None
        else:
            self._close_part()
            self._out.append(aside(state="restarted"))
        self._at_step_start = True

    def _hold(self, calls: Sequence[Mapping[str, Any]]) -> None:
        self._close_part()
        for call in calls:
            if call.get("decision"):
                continue
            detail = CallDetail(call["call_id"], call["name"], call["arguments"])
            if detail.call_id not in self._open_calls:
                self._begin_part()
            # with all arguments now: who has to decide, or to run it, has to see them
            self._out.append(_input(detail, by_us=False))
            if call["kind"] == "approval" and self._level >= 6:
                self._out.append(chunk("tool-approval-request", approvalId=detail.call_id, toolCallId=detail.call_id))
        self._finish_step()
        self._end(chunk("finish", finishReason="tool-calls"))

    def _complete(self, event: Event) -> None:
        self._close_part()
        for call_id in self._open_calls:
            self._out.append(
                chunk("tool-output-error", toolCallId=call_id, errorText="The turn was stopped.", dynamic=True)
            )
        self._finish_step()
        if event.outcome == "cancelled":
            self._end(chunk("abort", reason="stopped"))
            return
        usage = {**event.usage.to_json(), "cost": event.usage.cost} if event.usage else None
        metadata = {"usage": usage} if usage else None
        reason = FINISH_REASONS[event.outcome or "completed"]
        self._end(chunk("finish", finishReason=reason, messageMetadata=metadata))

    def _fail(self, fault: TurnFault | None) -> None:
        self._close_part()
        self._end(chunk("error", errorText=fault.message if fault else "This could not be answered."))

    def _end(self, last: bytes) -> None:
        self._out += [last, END_OF_STREAM]
        self._is_done = True


def _input(call: CallDetail, *, by_us: bool) -> bytes:
    # a page need not know our tools: `dynamic`
    return chunk(
        "tool-input-available",
        toolCallId=call.call_id,
        toolName=call.name,
        input={} if call.arguments is None else value_of(call.arguments),
        dynamic=True,
        providerExecuted=by_us,
    )


def value_of(text: str) -> Any:
    """JSON where it is some, else the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
