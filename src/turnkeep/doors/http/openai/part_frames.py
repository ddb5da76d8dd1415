"""One stream of what becomes of a message, in any of OpenAI's dialects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol, TypeVar

from turnkeep.doors.error_answers import error_body
from turnkeep.doors.http.openai.turn_reader import Silence, TurnFailure, TurnPart
from turnkeep.doors.http.sent_events import COMMENT, END_FRAME
from turnkeep.errors import TurnkeepError
from turnkeep.events import TurnFault

Form_co = TypeVar("Form_co", covariant=True)
Form = TypeVar("Form")


class PartEncoder(Protocol[Form_co]):
    """A dialect: what is said of each part."""

    is_over: bool

    def begin(self) -> Iterable[Form_co]:
        """What is told at once, while the turn still waits."""
        ...

    def encode(self, part: TurnPart) -> Iterable[Form_co]: ...


async def frames_of(
    parts: AsyncIterator[TurnPart],
    encoder: PartEncoder[Form],
    frame: Callable[[Form], bytes],
    *,
    end: bytes = END_FRAME,
) -> AsyncIterator[bytes]:
    """From the first to the last word."""
    for form in encoder.begin():
        yield frame(form)
    try:
        async for part in parts:
            if isinstance(part, Silence):
                yield COMMENT
            for form in encoder.encode(part):
                yield frame(form)
            if encoder.is_over:
                break
    except TurnkeepError as error:  # in the words of the dialect: the answer has begun, with a status
        body = error_body(error)
        for form in encoder.encode(TurnFailure(TurnFault(body["code"], body["message"]))):
            yield frame(form)
    yield end
