"""What a run tells its subscribers while it goes on, in order and without slowing the model down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from turnkeep.errors import StoreError
from turnkeep.events import BESIDE_TEXT, Event, TextDelta, delta
from turnkeep.runs.journal import PATIENCE
from turnkeep.runs.publisher import Publisher
from turnkeep.store.contract import EventGap
from turnkeep.store.values import Claim, Publication

MERGE_ABOVE = 64
"""Events waiting for the store from which on neighbouring deltas are merged: only
when it is behind.
"""


class Announcer:
    """Publishes the events of one claim.

    `say` never waits; what was said is published with what others say (`Publisher`), while `run` runs.

    Everything said before a settlement is in the log before it, if `wait_until_published` is awaited in between.
    Who waits for the answer in this process is told at once.
    """

    def __init__(self, publisher: Publisher, claim: Claim, *, tell: Callable[[Event], None] | None = None) -> None:
        self._lane = publisher.lane(claim.address)
        self._claim = claim
        self._tell = tell
        self._waiting: list[Event] = []
        self._batch: list[Event] = []
        """What is being published: the same again, until the store has answered."""
        self.published_count = 0
        """How many events of the claim are in the log, as far as the store has answered."""
        self._failures = 0
        self._parts: list[tuple[int, Event]] = []
        """What was shown beside the text, by number: few, and a log that lost its end has to get it again."""
        self._is_queued = False
        self._is_over = False
        self._errors: list[Exception] = []
        """What ends the publishing."""
        self._has_failed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.text_so_far = ""
        """The text of this attempt that subscribers have seen, or will before the settlement."""

    def say(self, event: Event) -> None:
        self._waiting.append(event)
        if self._tell is not None:
            self._tell(event)
        if not self._is_queued:
            self._queue()
        # All but more of the same text: a step begins, a tool runs, a decision is waited for.
        if event.__class__ is not TextDelta:
            self._lane.hurry()

    def _queue(self) -> None:
        if self._is_over:
            return
        self._is_queued = True
        self._empty.clear()
        self._lane.add(self)

    def text(self, text: str) -> None:
        """Some more of the answer."""
        self.text_so_far += text
        self.say(delta(text, self._claim.run_id, self._claim.attempt))

    def replace(self, text: str) -> None:
        """The whole answer so far, in place of what was shown."""
        self.text_so_far = text
        self.say(Event("snapshot", text=text, run_id=self._claim.run_id, attempt=self._claim.attempt))

    async def run(self) -> None:
        """Publish until cancelled; raises what ends the publishing, as `LeaseLost`."""
        try:
            await self._has_failed.wait()
            raise self._errors[0]
        finally:
            self._is_over = True

    async def wait_until_published(self) -> None:
        """Wait until all that was said is in the log; raises what ends the publishing."""
        self._lane.hurry()
        await self._empty.wait()
        if self._errors:
            raise self._errors[0]

    async def publish_again(self, published_count: int) -> None:
        """Once `run` is over: publish what came after these events once more, for a log that lost its end."""
        self._is_over = False
        self._go_back_to(published_count)
        self._queue()
        await self.wait_until_published()

    def take(self) -> Publication:
        self._is_queued = False
        if not self._batch:
            pending, self._waiting = self._waiting, []
            # a store that keeps up streams as the model does; one that is behind gets fewer events,
            # not a longer queue
            self._batch = pending if len(pending) <= MERGE_ABOVE else merge_deltas(pending)
        # the count makes a repeat harmless: of what the store has already nothing is written twice
        return Publication(self._claim, self.published_count, self._batch)

    def settle(self, outcome: int | Exception) -> None:
        if isinstance(outcome, int):
            self._failures = 0
            self._note_parts()
            self.published_count += len(self._batch)
            self._batch = []
        elif isinstance(outcome, EventGap):  # a server that was promoted had not heard of the last ones
            self._go_back_to(outcome.published_count)
        elif isinstance(outcome, StoreError) and outcome.retryable:
            self._try_later()
            return
        else:
            self._errors.append(outcome)
            self._has_failed.set()
            self._empty.set()
            return
        if not (self._batch or self._waiting):
            self._empty.set()
        elif not self._is_queued:
            self._queue()

    def _try_later(self) -> None:
        """Without an end of its own: the lease of the run is the limit."""
        self._failures += 1
        # What is said meanwhile goes along then.
        self._is_queued = True
        asyncio.get_running_loop().call_later(PATIENCE.after(self._failures), self._queue)

    def _note_parts(self) -> None:
        first = self.published_count
        self._parts += [(first + n, one) for n, one in enumerate(self._batch) if one.kind in BESIDE_TEXT]

    def _go_back_to(self, published_count: int) -> None:
        self.published_count = published_count
        lost_parts = [event for number, event in self._parts if number >= published_count]
        self._parts = [one for one in self._parts if one[0] < published_count]
        self._batch = [*lost_parts, *self._shown_before(self._batch), *self._batch]

    def _shown_before(self, events: list[Event]) -> list[Event]:
        """The answer as it was before these events, unless they begin it anew."""
        pending = [*events, *self._waiting]
        # it replaces everything that was shown, so nobody misses the past
        if any(event.kind == "snapshot" for event in pending):
            return []
        unsaid = sum(len(event.text) for event in pending if event.kind == "delta")
        text = self.text_so_far[: len(self.text_so_far) - unsaid]
        return [Event("snapshot", text=text, run_id=self._claim.run_id, attempt=self._claim.attempt)] if text else []


def merge_deltas(events: list[Event]) -> list[Event]:
    """Neighbouring deltas as one: the text is the same, the offsets are fewer."""
    result: list[Event] = []
    texts: list[str] = []
    for event in events:
        if event.kind == "delta":
            texts.append(event.text)
            if len(texts) == 1:
                result.append(event)
            continue
        _close(result, texts)
        result.append(event)
    _close(result, texts)
    return result


def _close(result: list[Event], texts: list[str]) -> None:
    if len(texts) > 1:
        last = result[-1]
        result[-1] = delta("".join(texts), last.run_id or "", last.attempt)
    texts.clear()
