"""What never leaves in a log line: keys, tokens, passwords in addresses, and every secret that is
set here.

It looks at finished lines, ours and those of other libraries, so that it does not matter who wrote
what into them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SECRET_MASK = "[secret]"  # noqa: S105 - what stands where a secret stood
SHORTEST = 6
"""Characters below which a set value is too common a word to be looked for."""

# Forms, not only known values: keys of other people come in their messages and in errors of servers.
_FORMS = re.compile(
    r"(?P<key>\btk_[0-9a-f]{16}_)[0-9a-f]+"
    r"|\beyJ[\w-]{6,}\.[\w-]+(?:\.[\w-]*)?"
    r"|\b(?:sk|sess|pk|rk)-[\w*.-]{4,}"
    r"|(?P<scheme>\b(?i:bearer|basic)\s+)[\w.~+/=*-]{12,}"
    r"|(?P<ticket>\bticket\.)[\w-]{16,}"
    r"|(?P<cookie>\bturnkeep_session=)[\w-]{8,}"
    r"|(?P<address>\w://)[^/@\s\"']+(?=@)"
)
_MARKS = ("tk_", "eyJ", "k-", "sess-", "ticket.", "turnkeep_session=", "://")
_MARKS_IN_ANY_CASE = ("bearer", "basic")
"""What every one of these forms holds: a text without all of them is searched in a twentieth of the time."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_secrets: tuple[str, ...] = ()
"""The longest first: a secret that holds another one would leave its rest behind."""

A_WORD = 16
"""Letters below which a secret of nothing but letters may be a word."""


def know(secrets: Iterable[str]) -> None:
    """Look for these values too, from now on, in this process."""
    global _secrets  # noqa: PLW0603 - one process has one set of secrets
    values = {*_secrets, *(secret for secret in secrets if len(secret) >= SHORTEST)}
    # Put in order here, for it is asked nine times for each line.
    _secrets = tuple(sorted(values, key=len, reverse=True))


def hide(text: str) -> str:
    """The same without anything secret."""
    for secret in _secrets:
        text = without(text, secret)
    return _FORMS.sub(_mask, text) if _may_hold_a_form(text) else text


def _may_hold_a_form(text: str) -> bool:
    # Beyond ASCII there are other letters whose case is one of these: that is left to the expression.
    if not text.isascii():
        return True
    lower = text.lower()
    return any(mark in text for mark in _MARKS) or any(mark in lower for mark in _MARKS_IN_ANY_CASE)


def without(text: str, secret: str) -> str:
    """The same without this secret."""
    if secret not in text:
        return text
    # A word that somebody took for a key ("test", "incorrect") stands in other words, too: those stay
    # whole. What is no word is hidden wherever it is found.
    if len(secret) < A_WORD and secret.isalpha():
        return re.sub(rf"(?<![^\W\d_]){secret}(?![^\W\d_])", SECRET_MASK, text)
    return text.replace(secret, SECRET_MASK)


def _mask(match: re.Match[str]) -> str:
    return next((prefix for prefix in match.groupdict().values() if prefix), "") + SECRET_MASK


def one_line(text: str, *, lines: bool = False) -> str:
    """The same with its control characters spelled out, so that nobody's words begin a line or
    steer a terminal.
    """
    if text.isascii() and text.isprintable():  # nearly every value
        return text
    form = _CONTROL_BUT_LINES if lines else _CONTROL
    return form.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
