"""How an answer is told while it comes: for people, as the test command, or as JSON lines."""

from __future__ import annotations

from typing import Any

from turnkeep.cli import output
from turnkeep.cli.exit_codes import FAILED
from turnkeep.wire import Frame


class AnswerPrinter:
    """For people: the answer on stdout as it grows, what else happens on stderr."""

    def __init__(self, message_id: str, *, status: bool = False) -> None:
        self._message_id = message_id
        self._status = status
        self._text = ""

    def show(self, frame: Frame) -> int | None:
        """Tell a frame; the exit code once it was the last one of our message."""
        if frame.get("message_id") != self._message_id and self._message_id not in frame.get("message_ids", ()):
            return None
        match frame["type"], frame["status"]:
            case "error", _:
                self.on_failure(frame)
                return FAILED
            case "response", "in_progress":
                self.on_growth(frame)
            case "response", "completed":
                self.on_completed(frame)
                return 0
            case _, "settled" | "withdrawn":
                return self.on_settled(str(frame.get("outcome") or "withdrawn"), frame.get("answer"))
            case _, "accepted" if "receipt" in frame:
                self.on_accepted(frame["receipt"])
            case _, "accepted":
                return None
            case _:
                self.on_event(frame)
        return None

    def on_accepted(self, receipt: dict[str, Any]) -> None:
        if self._status:
            output.note(f"[accepted] {receipt['message_id']} on thread {receipt['thread_id']}")

    def on_event(self, frame: Frame) -> None:
        if calls := frame.get("calls"):
            names = ", ".join(str(call["name"]) for call in calls)
            output.note(f"waiting for a decision about {names}: see `turnkeep actions list`")
        elif self._status:
            output.note(_line(frame))

    def on_growth(self, frame: Frame) -> None:
        if frame.get("snapshot"):
            self._replace(frame["message"])
        else:
            self._add(frame["delta"])

    def on_completed(self, frame: Frame) -> None:
        self._replace(frame["message"])
        self.end_line()
        if (outcome := frame.get("outcome")) != "completed":
            output.note(f"the answer is {outcome}")
        elif self._status:
            output.note("[completed]")

    def on_failure(self, frame: Frame) -> None:
        self.end_line()
        output.note(f"error: {frame['message']}", style="red")
        output.note(f"{frame.get('code', 'error')}: {frame['error_details']}")

    def on_settled(self, outcome: str, answer: str | None) -> int:
        if answer is None or self._status:
            output.note(f"message {self._message_id} is {outcome} already")
        if answer is not None:
            self._replace(answer)
            self.end_line()
        return 0 if outcome == "answered" else FAILED

    def end_line(self) -> None:
        if self._text and not self._text.endswith("\n"):
            output.write("\n")

    def _add(self, text: str) -> None:
        self._text += text
        output.write(text)

    def _replace(self, text: str) -> None:
        """Go on where the text goes on, else begin anew on a line of its own."""
        if text.startswith(self._text):
            self._add(text[len(self._text) :])
            return
        self.end_line()
        self._text = ""
        self._add(text)


class TestMessagePrinter(AnswerPrinter):
    """As `--test-message` does: events among the answer, and a last line that says it went well."""

    # pytest would collect it by its name
    __test__ = False

    def on_accepted(self, receipt: dict[str, Any]) -> None:
        output.say(f"Test message ID: {receipt['message_id']}")
        output.say(f"Channel: {receipt['channel']}")
        output.say(f"Thread ID: {receipt['thread_id']}")

    def on_event(self, frame: Frame) -> None:
        self.end_line()
        output.say(_line(frame))

    def on_completed(self, frame: Frame) -> None:
        super().on_completed(frame)
        output.say("Run completed")
        output.say("Conversation completed successfully!")


class JsonPrinter(AnswerPrinter):
    """Every frame on a line."""

    def show(self, frame: Frame) -> int | None:
        output.emit(frame)
        return super().show(frame)

    def on_accepted(self, receipt: dict[str, Any]) -> None:
        return

    def on_event(self, frame: Frame) -> None:
        return

    def on_growth(self, frame: Frame) -> None:
        return

    def on_completed(self, frame: Frame) -> None:
        return

    def on_failure(self, frame: Frame) -> None:
        return

    def on_settled(self, outcome: str, answer: str | None) -> int:
        return 0 if outcome == "answered" else FAILED


def _line(frame: Frame) -> str:
    text = frame["message"] or ", ".join(frame.get("tools", ()))
    return f"[{frame['status']}] {text}".rstrip()
