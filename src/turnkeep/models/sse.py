"""Server-sent events: push bytes as they arrive, get the complete events.

Follows the standard: lines end with LF, CRLF or CR (also when a read falls between the two), one
leading byte order mark, comments, several `data` lines in one event, `event`, `id` and `retry`. An
event that the end of the stream cuts off is not given by `push`; `rest` has it. Bytes stay bytes: a
character split over two reads needs no care. Beyond the standard, a line `error: …` (llama.cpp) is
an event of that name.

Cost matters here, every token passes: what all OpenAI-compatible servers send (LF, one `data` line,
at most one `event` line before it) never reaches the line parser.
"""

from __future__ import annotations

from turnkeep.errors import AnswerMalformed

Frame = tuple[bytes, bytes]
"""One event: its name (empty when it has none) and its data."""

MAX_EVENT = 8 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class Framer:
    """Cuts one stream into frames. After an error it is of no further use.

    `last_id` and `retry` (milliseconds) hold what the stream said last.
    """

    __slots__ = ("_after_cr", "_has_started", "_limit", "_pending", "_pending_size", "last_id", "retry")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self.last_id = b""
        self.retry: int | None = None
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._after_cr = False
        self._has_started = False

    def push(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete, in order.

        Raises AnswerMalformed when one event is larger than the limit.
        """
        if not self._has_started:
            data = self._without_bom(data)
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._pending:
            if not self._completes(data):
                self._keep(data)
                return []
            data = b"".join((*self._pending, data))
        blocks = data.split(b"\n\n")
        if (rest := blocks.pop()) or self._pending:
            self._restart(rest)
        if len(data) > self._limit:
            self._check_sizes(blocks)
        return self._frames(blocks)

    def rest(self) -> list[Frame]:
        """The event that the end of the stream left without its blank line, if there is one."""
        block = b"".join(self._pending).rstrip(b"\n")
        self._restart(b"")
        return self._frames([block]) if block else []

    def _frames(self, blocks: list[bytes]) -> list[Frame]:
        frames: list[Frame] = []
        for block in blocks:
            lines = block.count(b"\n")
            if lines == 1 and block.startswith(b"event: "):
                end = block.find(b"\ndata: ")
                if end > 0:
                    frames.append((block[7:end], block[end + 7 :]))
                    continue
            elif lines == 0 and block.startswith(b"data: "):
                frames.append((b"", block[6:]))
                continue
            if (frame := self._parse(block)) is not None:
                frames.append(frame)
        return frames

    def _parse(self, block: bytes) -> Frame | None:
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"error" and value.startswith(b"{"):
                name = field
                data.append(value)
            elif field == b"id" and b"\0" not in value:
                self.last_id = value
            elif field == b"retry" and value.isdigit() and len(value) < 10:
                self.retry = int(value)
        return (name, b"\n".join(data)) if data else None

    def _without_bom(self, data: bytes) -> bytes:
        data = b"".join((*self._pending, data))
        self._restart(b"")
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._restart(data)
            return b""
        self._has_started = True
        return data.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        # The LF of a CRLF that was cut in two: its CR has already ended the line.
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _completes(self, data: bytes) -> bool:
        return b"\n\n" in data or (data.startswith(b"\n") and self._pending[-1].endswith(b"\n"))

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._pending_size += len(data)
            self._check(self._pending_size - 1)  # the last byte may belong to the blank line

    def _restart(self, rest: bytes) -> None:
        self._pending = [rest] if rest else []
        self._pending_size = len(rest)
        self._check(len(rest) - 1)

    def _check_sizes(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._check(len(block))

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise AnswerMalformed(f"one event of the stream is larger than {self._limit} bytes")
