"""AG-UI 1.0: a turn as events, server-sent, each with an id from which a client goes on.

The id counts what was told: one for each event, and for text and thoughts one for each character,
whose pieces may be cut differently the next time. A client that comes back is told what comes after
its id, if it is of the same attempt; else all from a snapshot of the messages on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from turnkeep.doors.http.turn_encoder import TurnEncoder, failure_text, value_of
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail, TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Citation
from turnkeep.usage import Usage

AGUI_VERSION = "1.0"
AgUiMessage = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far somebody was told of a run."""

    run_id: str
    attempt: int
    progress: int

    def __str__(self) -> str:
        return f"{self.run_id}.{self.attempt}.{self.progress}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None for what is none of ours: then all is told."""
        run_id, _, rest = text.partition(".")
        attempt, _, progress = rest.partition(".")
        digits = (attempt + progress).isascii() and attempt.isdigit() and progress.isdigit()
        return cls(run_id, int(attempt[:9]), int(progress[:15])) if run_id and digits else None


class RunEncoder(TurnEncoder):
    """One response. `base` are the messages that the client has beside this turn, `state` is its own."""

    def __init__(
        self,
        thread_id: str,
        channel_word: str,
        *,
        base: Sequence[AgUiMessage] = (),
        cursor: Cursor | None = None,
        after_calls: Collection[str] = (),
        state: Any = None,
    ) -> None:
        super().__init__(after_calls=after_calls)
        self._state = state
        self._thread_id = thread_id
        self._channel_word = channel_word
        self._base = base
        self._cursor = cursor
        self._run_id = ""
        self._attempt = 0
        self._progress = 0
        self._skip = 0
        """What of the progress the client has been told."""
        self._step = 0
        self._retakes = 0
        self._messages: list[AgUiMessage] = []
        """The turn as messages: what a snapshot repeats of its finished steps."""
        self._firm_count = 0

    @property
    def messages(self) -> list[AgUiMessage]:
        """The turn so far, as a client has it."""
        return self._messages

    def visit(self, event: Event) -> None:
        self._attempt = event.attempt or self._attempt
        super().visit(event)

    def _last_word(self, fault: TurnFault) -> bytes:
        return _frame({"type": "RUN_ERROR", "message": fault.message, "code": fault.code})

    def outer_run_id(self, run_id: str) -> str:
        """A run id that says its channel: a client joins by it alone."""
        return f"{run_id}.{self._channel_word}"

    # ------------------------------------------------------------ text and thoughts

    @property
    def _message_id(self) -> str:
        again = f"-{self._retakes + 1}" if self._retakes else ""
        return f"{self._run_id}-{self._step}{again}"

    def _open_text(self) -> None:
        self._emit("TEXT_MESSAGE_START", messageId=self._message_id, role="assistant")

    def _tell_text(self, text: str) -> None:
        message = self._own_message()
        message["content"] = message.get("content", "") + text
        self._emit_piece("TEXT_MESSAGE_CONTENT", self._message_id, text)

    def _close_text(self) -> None:
        self._emit("TEXT_MESSAGE_END", messageId=self._message_id)

    @property
    def _thought_id(self) -> str:
        return f"{self._message_id}-thought"

    def _open_thought(self) -> None:
        self._emit("REASONING_START", messageId=self._thought_id)
        self._emit("REASONING_MESSAGE_START", messageId=self._thought_id, role="reasoning")

    def _tell_thought(self, text: str) -> None:
        self._emit_piece("REASONING_MESSAGE_CONTENT", self._thought_id, text)

    def _close_thought(self) -> None:
        self._emit("REASONING_MESSAGE_END", messageId=self._thought_id)
        self._emit("REASONING_END", messageId=self._thought_id)

    # ------------------------------------------------------------ steps

    def _begin_step(self) -> None:
        self._step += 1
        self._emit("STEP_STARTED", stepName=f"step {self._step}")

    def _end_step(self) -> None:
        self._emit("STEP_FINISHED", stepName=f"step {self._step}")

    def _settle_step(self) -> None:
        self._firm_count = len(self._messages)

    def _go_on(self) -> None:
        if self._is_in_step:
            self._out.append(_frame({"type": "STEP_STARTED", "stepName": f"step {self._step}"}))

    def _take_back(self) -> None:
        self._close_part()
        if self._is_in_step:
            self._end_step()
            self._step, self._is_in_step = self._step - 1, False
        self._retakes += 1
        self._step_ends = False
        self._messages = self._messages[: self._firm_count]
        self._emit("MESSAGES_SNAPSHOT", messages=[*self._base, *self._messages])

    def _own_message(self) -> AgUiMessage:
        """The message of this step."""
        for message in reversed(self._messages):
            if message["id"] == self._message_id:
                return message
        self._messages.append({"id": self._message_id, "role": "assistant"})
        return self._messages[-1]

    # ------------------------------------------------------------ tools

    def _call(self, call: CallDetail) -> None:
        arguments = "{}" if call.arguments is None else call.arguments
        message = self._own_message()
        function = {"name": call.name, "arguments": arguments}
        message["toolCalls"] = [
            *message.get("toolCalls", ()),
            {"id": call.call_id, "type": "function", "function": function},
        ]
        self._emit("TOOL_CALL_START", toolCallId=call.call_id, toolCallName=call.name, parentMessageId=self._message_id)
        self._emit("TOOL_CALL_ARGS", toolCallId=call.call_id, delta=arguments)
        self._emit("TOOL_CALL_END", toolCallId=call.call_id)

    def _result(self, result: ResultDetail) -> None:
        content = result.output if result.output is not None else _without_output(result)
        message = {"id": f"{result.call_id}-result", "role": "tool", "toolCallId": result.call_id, "content": content}
        self._messages.append(message)
        # what a finished step has asked for ends after it, and stays
        if self._step_ends:
            self._firm_count = len(self._messages)
        state = {"metadata": {"tanstack": {"state": "output-error"}}} if result.status != "ok" else {}
        self._emit(
            "TOOL_CALL_RESULT",
            messageId=message["id"],
            toolCallId=result.call_id,
            content=content,
            role="tool",
            **state,
        )

    def _source(self, source: Citation) -> None:
        self._emit("CUSTOM", name="turnkeep.source", value=source.to_json())

    def _file(self, file: FileDetail) -> None:
        self._emit("CUSTOM", name="turnkeep.file", value=file.to_json())

    # ------------------------------------------------------------ the run

    def _start(self, event: Event) -> None:
        self._run_id = event.run_id or ""
        cursor, self._cursor = self._cursor, None
        is_known = cursor is not None and cursor.run_id == self._run_id and cursor.attempt == self._attempt
        self._skip = cursor.progress if cursor is not None and is_known else 0
        has_some = self._leave_out_own()
        self._tell_start()
        if self._state is not None and not is_known:
            self._out.append(_frame({"type": "STATE_SNAPSHOT", "snapshot": self._state}))
        # of an attempt that is no more, or told again from its beginning: what the client has of it goes
        if (cursor is not None or has_some) and not (is_known or self._after_calls):
            self._out.append(_frame({"type": "MESSAGES_SNAPSHOT", "messages": list(self._base)}))

    def _tell_start(self) -> None:
        run_id = self.outer_run_id(self._run_id)
        self._emit("RUN_STARTED", threadId=self._thread_id, runId=run_id, protocolVersion=AGUI_VERSION)

    def _leave_out_own(self) -> bool:
        """Of the messages of the client those that it made of this turn; whether there are some."""
        own_ids = {one["id"] for one in self._base if str(one.get("id")).startswith(f"{self._run_id}-")}
        call_ids = {call_id for one in self._base if one.get("id") in own_ids for call_id in _call_ids(one)}
        self._base = [
            one for one in self._base if one.get("id") not in own_ids and one.get("toolCallId") not in call_ids
        ]
        return bool(own_ids)

    def _wait(self, event: Event) -> None:
        fault = event.error
        self._note("waiting", {"state": event.kind, **({"reason": fault.code} if fault else {})})

    def _quote(self, event: Event) -> None:
        self._note("said", {"text": event.text, "author": event.author or ""})

    def _hold(self, calls: Sequence[Mapping[str, Any]]) -> None:
        approvals = [_interrupt(call) for call in calls if call["kind"] == "approval"]
        for call in calls:
            self._show_arguments(call)
        if approvals:
            self._finish({"type": "interrupt", "interrupts": approvals})
        else:
            # the client runs its own tools, and comes back with what they gave
            self._finish({"type": "success"}, metadata={"tanstack": {"finishReason": "tool_calls"}})

    def _show_arguments(self, call: Mapping[str, Any]) -> None:
        """A call whose arguments were withheld: who has to decide, or to run it, has to see them."""
        message = next(
            (one for one in self._messages if any(c["id"] == call["call_id"] for c in one.get("toolCalls", ()))), None
        )
        if message is None:
            self._begin_part()
            self._call(CallDetail(call["call_id"], call["name"], call["arguments"] or None))
            return
        function = next(c["function"] for c in message["toolCalls"] if c["id"] == call["call_id"])
        if call["arguments"] and function["arguments"] != call["arguments"]:
            function["arguments"] = call["arguments"]
            self._close_part()
            self._emit("MESSAGES_SNAPSHOT", messages=[*self._base, *self._messages])

    def _complete(self, event: Event) -> None:
        if event.outcome == "cancelled":
            self._finish({"type": "cancelled"})
            return
        usage = {"usage": [_usage(event.usage)]} if event.usage else {}
        reason = {"incomplete": "length"}.get(event.outcome or "", "stop")
        self._finish({"type": "success"}, metadata={"tanstack": {"finishReason": reason}}, **usage)

    def _fail(self, fault: TurnFault | None) -> None:
        self._close_part()
        self._is_done = True
        self._tell_whole_if_ahead()
        code = {"code": fault.code} if fault else {}
        self._emit("RUN_ERROR", message=fault.message if fault else "This could not be answered.", **code)

    def _withdraw(self) -> None:
        self._finish({"type": "cancelled"})

    def _finish(self, outcome: Mapping[str, Any], **more: Any) -> None:
        self._finish_step()
        self._is_done = True
        self._tell_whole_if_ahead()
        run_id = self.outer_run_id(self._run_id)
        self._emit("RUN_FINISHED", threadId=self._thread_id, runId=run_id, outcome=outcome, **more)

    def _tell_whole_if_ahead(self) -> None:
        """Nobody was told of more than there is: an id that says so is of something else, and hid all of it."""
        if self._skip <= self._progress + 1:
            return
        self._progress = self._skip = 0
        self._tell_start()
        self._emit("MESSAGES_SNAPSHOT", messages=[*self._base, *self._messages])

    # ------------------------------------------------------------ frames

    def _note(self, name: str, value: Mapping[str, Any]) -> None:
        """Told in passing: at no place to go on from, and not told again."""
        self._out.append(_frame({"type": "CUSTOM", "name": f"turnkeep.{name}", "value": value}))

    def _emit(self, kind: str, **fields: Any) -> None:
        self._progress += 1
        if self._progress > self._skip:
            self._out.append(_frame({"type": kind, **fields}, self._position))

    def _emit_piece(self, kind: str, message_id: str, text: str) -> None:
        self._progress += len(text)
        if self._progress > self._skip:
            piece = text[max(0, len(text) - (self._progress - self._skip)) :]
            self._out.append(_frame({"type": kind, "messageId": message_id, "delta": piece}, self._position))

    @property
    def _position(self) -> str:
        return f"id: {self._run_id}.{self._attempt}.{self._progress}\n"


def _call_ids(message: AgUiMessage) -> list[str]:
    """What a client says that it has: anything may be in it."""
    calls = message.get("toolCalls")
    entries = [call.get("id") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return [entry for entry in entries if isinstance(entry, str)]


def _frame(event: Mapping[str, Any], position: str = "") -> bytes:
    return position.encode() + b"data: " + orjson.dumps(event) + b"\n\n"


def _without_output(result: ResultDetail) -> str:
    return "" if result.status == "ok" else failure_text(result)


def _usage(usage: Usage) -> dict[str, Any]:
    counts = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
    }
    return {name: count for name, count in counts.items() if count}


def _interrupt(call: Mapping[str, Any]) -> dict[str, Any]:
    return interrupt(call["call_id"], call["name"], call["arguments"])


def interrupt(call_id: str, name: str, arguments: str, expires_at: float | None = None) -> dict[str, Any]:
    """A call that waits for a yes or no."""
    schema = {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]}
    expiry = {} if expires_at is None else {"expiresAt": datetime.fromtimestamp(expires_at, UTC).isoformat()}
    return {
        "id": call_id,
        "reason": "tool_approval",
        "message": f"May {name} be called?",
        "toolCallId": call_id,
        "responseSchema": schema,
        "metadata": {"kind": "approval", "toolName": name, "input": value_of(arguments or "{}")},
        **expiry,
    }
