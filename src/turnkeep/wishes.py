"""What a message may ask for, as typed keywords: the same in a queue and in a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from turnkeep.messages import BusyPolicy


class Wishes(TypedDict, total=False):
    """Times in seconds, `not_before` in Unix seconds; `flush` ends the window at once. `model`,
    `effort`, `format` (of a structured answer) and `parameters` are of the answer.
    """

    on_busy: BusyPolicy | None
    window: float | None
    max_wait: float | None
    not_before: float | None
    flush: bool
    metadata: Mapping[str, str] | None
    model: str | None
    effort: str | None
    format: Mapping[str, Any] | None
    parameters: Mapping[str, Any] | None
