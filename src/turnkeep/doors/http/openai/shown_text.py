"""What a client has seen of an answer that grows, and may begin anew."""

from __future__ import annotations


class ShownText:
    """Tells what is to be shown next, for dialects in which nothing that was shown can be taken
    back.

    A further attempt mostly says again what was said: as long as it does, nothing is shown twice.
    """

    __slots__ = ("_behind", "text")

    def __init__(self) -> None:
        self.text = ""
        """What was shown."""
        self._behind: str | None = None
        """The whole answer of an attempt that has not said more than what was shown; None: they are the same."""

    def grow(self, delta: str) -> str | None:
        """What to show of it, and None if it contradicts what was shown."""
        if self._behind is None:
            self.text += delta
            return delta
        return self.become(self._behind + delta)

    def become(self, whole: str) -> str | None:
        """The answer is this, in place of all before: what to show, and None if it contradicts."""
        if whole.startswith(self.text):
            rest = whole[len(self.text) :]
            self.text, self._behind = whole, None
            return rest
        self._behind = whole
        return "" if self.text.startswith(whole) else None

    def grow_on(self, delta: str) -> str:
        """What to show of it where nothing has to be taken back: something else is just shown too."""
        text = self.grow(delta)
        return self.begin_anew() if text is None else text

    def end(self, whole: str) -> str | None:
        """The answer is final: what is left to show, and None if it contradicts."""
        rest = self.become(whole)
        return None if self._behind is not None else rest

    def begin_anew(self) -> str:
        """Forget what was shown; what there is to show now."""
        self.text, self._behind = self._behind or "", None
        return self.text
