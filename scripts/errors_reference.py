"""Write docs/reference/errors.md from the error tree: `python scripts/errors_reference.py`."""

from __future__ import annotations

from pathlib import Path

from turnkeep.doors.error_answers import status_of
from turnkeep.errors import TurnkeepError

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"
HEAD = """# Errors

`code` is stable. Over HTTP an error is `{"error": {"code", "message"}}` with this status; on the socket it is an error
frame with `code`; a dead letter carries the code of what ended its message. What is retryable may be sent again
unchanged. This page is made by `scripts/errors_reference.py`; a test compares it.

| code | HTTP | retryable | what people are told | what it means |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(row(kind) for kind in tree(TurnkeepError)) + "\n"


def tree(kind: type[TurnkeepError]) -> list[type[TurnkeepError]]:
    """A class and all beneath it that belong to the kernel, in the order of the source."""
    found = [kind]
    for below in kind.__subclasses__():
        if below.__module__ == "turnkeep.errors":
            found += tree(below)
    return found


def row(kind: type[TurnkeepError]) -> str:
    retryable = "yes" if kind.retryable else ""
    meaning = "anything else" if kind is TurnkeepError else (kind.__doc__ or "").splitlines()[0]
    return f"| `{kind.code}` | {status_of(kind())} | {retryable} | {kind.public} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page())
