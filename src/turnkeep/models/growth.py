"""Messages that come whole where pieces belong: some servers say everything so far again, some only
what is new.
"""

from __future__ import annotations

from typing import Any


class Growth:
    """One field of such messages.

    Losing a word is worse than saying one twice, so what cannot be told apart is added.

    What came in pieces before is never added to by a message in other words: it is the same text,
    trimmed or mended.
    """

    def __init__(self) -> None:
        # The first text came in a message, not in pieces.
        self._begins = False
        # Whether messages bring what is new alone; None until two of them differ.
        self._adds: bool | None = None
        # What came again while that was open.
        self._repeats = ""
        self._entries: list[Any] = []

    def news(self, text: str, so_far: str) -> str:
        """What this text adds to what was said `so_far`."""
        if not text or self._adds:
            return text
        if not so_far:
            self._begins = True
            return text
        if text == so_far:
            self._repeats += text if self._adds is None else ""
            return ""
        if text.startswith(so_far):
            self._adds, self._repeats = False, ""
            return text[len(so_far) :]
        if not self._begins or text.strip() == so_far.strip() or (self._adds is False and len(text) >= len(so_far)):
            return ""
        self._adds, repeats = True, self._repeats
        return repeats + text

    def new_entries(self, entries: list[Any]) -> list[Any]:
        """What this list adds to the lists before it."""
        came = len(self._entries)
        if not came or entries[:came] != self._entries:
            self._entries = [*self._entries, *entries]
            return entries
        self._entries = list(entries)
        return entries[came:]
