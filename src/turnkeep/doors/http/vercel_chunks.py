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

from turnkeep.doors.http.sent_events import END_FRAME
from turnkeep.doors.http.turn_encoder import TurnEncoder, failure_text, is_piece, value_of
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail, StepDetail, TurnFault
from turnkeep.messages import Citation

Level = Literal[5, 6, 7]
STREAM_HEADERS = {"X-Vercel-AI-UI-Message-Stream": "v1"}
FINISH_REASONS = {"completed": "stop", "incomplete": "length"}


def chunk(kind: str, **fields: Any) -> bytes:
    """Without what is None; only an output may be nothing."""
    given_fields = {name: value for name, value in fields.items() if value is not None or name == "output"}
    return b"data: " + orjson.dumps({"type": kind, **given_fields}) + b"\n\n"


def aside(**data: Any) -> bytes:
    """Told to the page (`onData`), part of no message."""
    return chunk("data-turn", data=data, transient=True)


class ChunkEncoder(TurnEncoder):
    """One response. With `after_calls` the message that the client shows goes on.

    `holds_back`: a step is told when it has ended. Levels 5 and 6 cannot take back what a step has
    told that is begun again; who cannot bear half an answer before the whole one waits for it.
    """

    def __init__(self, level: Level, *, after_calls: Collection[str] = (), holds_back: bool = False) -> None:
        super().__init__(after_calls=after_calls)
        self._level = level
        self._holds_back = holds_back
        self._loose: list[Event] = []
        """What is held back: pieces of the step that goes on."""
        self._continues = bool(after_calls)
        self._head = b""
        """Of a delta of the part that is open."""
        self._part_count = 0
        self._open_calls: dict[str, CallDetail] = {}

    def _last_word(self, fault: TurnFault) -> bytes:
        return chunk("error", errorText=fault.message) + END_FRAME

    def visit(self, event: Event) -> None:
        if not self._holds_back or not self._keep_back(event):
            super().visit(event)

    def _keep_back(self, event: Event) -> bool:
        """Whether it is kept, for the end of its step. What that step has asked for ends after it."""
        if isinstance(event.detail, StepDetail) and event.detail.ending is None:
            self._loose.clear()
            return True
        if is_piece(event) and not isinstance(event.detail, StepDetail | ResultDetail):
            self._loose.append(event)
            return True
        if event.kind in ("completed", "held", "step"):
            loose, self._loose = self._loose, []
            for piece in loose:
                super().visit(piece)
        return False

    # ------------------------------------------------------------ text and thoughts

    def _open_text(self) -> None:
        self._open_part("text")

    def _tell_text(self, text: str) -> None:
        self._out.append(self._head + orjson.dumps(text) + b"}\n\n")

    def _close_text(self) -> None:
        self._out.append(chunk("text-end", id=f"text-{self._part_count}"))

    def _open_thought(self) -> None:
        self._open_part("reasoning")

    def _tell_thought(self, text: str) -> None:
        self._tell_text(text)

    def _close_thought(self) -> None:
        self._out.append(chunk("reasoning-end", id=f"reasoning-{self._part_count}"))

    def _open_part(self, kind: Literal["text", "reasoning"]) -> None:
        self._part_count += 1
        part_id = f"{kind}-{self._part_count}"
        self._head = f'data: {{"type":"{kind}-delta","id":"{part_id}","delta":'.encode()
        self._out.append(chunk(f"{kind}-start", id=part_id))

    # ------------------------------------------------------------ steps

    def _begin_step(self) -> None:
        self._out.append(chunk("start-step"))

    def _end_step(self) -> None:
        self._out.append(chunk("finish-step"))

    def _take_back(self) -> None:
        """What was shown of the step does not count."""
        if self._level >= 7 and self._is_in_step:
            self._out.append(chunk("reset-step"))
            self._open = None
        else:
            self._close_part()
            self._out.append(aside(state="restarted"))

    # ------------------------------------------------------------ tools, sources

    def _call(self, call: CallDetail) -> None:
        self._open_calls[call.call_id] = call
        # executed by us: a page must not take it for one of its own tools
        self._out.append(_input(call, by_us=True))

    def _result(self, result: ResultDetail) -> None:
        call_id, output = result.call_id, result.output
        self._open_calls.pop(call_id, None)
        if result.status == "ok":
            value = None if output is None else value_of(output)
            self._out.append(chunk("tool-output-available", toolCallId=call_id, output=value, dynamic=True))
        elif result.status == "denied" and self._level >= 6:
            self._out.append(chunk("tool-output-denied", toolCallId=call_id))
        else:
            self._out.append(_failure(call_id, failure_text(result)))

    def _source(self, source: Citation) -> None:
        self._part_count += 1
        source_id = f"source-{self._part_count}"
        if source.url:
            self._out.append(chunk("source-url", sourceId=source_id, url=source.url, title=source.title or None))
        else:
            title = source.title or source.file_id
            self._out.append(
                chunk("source-document", sourceId=source_id, mediaType="application/octet-stream", title=title)
            )

    def _file(self, file: FileDetail) -> None:
        self._out.append(chunk("file", url=file.url, mediaType=file.media_type))

    # ------------------------------------------------------------ the run

    def _start(self, event: Event) -> None:
        metadata = {"run_id": event.run_id, "covers": list(event.message_ids)}
        message_id = None if self._continues else event.run_id
        self._out.append(chunk("start", messageId=message_id, messageMetadata=metadata))

    def _wait(self, event: Event) -> None:
        fault = event.error
        self._out.append(aside(state=event.kind, reason=fault.code if fault else None))

    def _quote(self, event: Event) -> None:
        self._out.append(aside(state="said", text=event.text, author=event.author))

    def _hold(self, calls: Sequence[Mapping[str, Any]]) -> None:
        self._close_part()
        for call in calls:
            detail = CallDetail(call["call_id"], call["name"], call["arguments"] or None)
            if detail.call_id not in self._open_calls:
                self._begin_part()
            # with all arguments now, to who has to decide, or to run it
            self._out.append(_input(detail, by_us=False))
            if call["kind"] == "approval" and self._level >= 6:
                self._out.append(chunk("tool-approval-request", approvalId=detail.call_id, toolCallId=detail.call_id))
        self._finish_step()
        self._end(chunk("finish", finishReason="tool-calls"))

    def _complete(self, event: Event) -> None:
        self._close_part()
        self._out += [_failure(call_id, "The turn was stopped.") for call_id in self._open_calls]
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

    def _withdraw(self) -> None:
        self._end(aside(state="withdrawn"))

    def _end(self, last: bytes) -> None:
        self._out += [last, END_FRAME]
        self._is_done = True


def _failure(call_id: str, text: str) -> bytes:
    return chunk("tool-output-error", toolCallId=call_id, errorText=text, dynamic=True)


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
