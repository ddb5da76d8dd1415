"""What a run tells its subscribers while it goes on, in order and without slowing the model down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from turnkeep.events import BESIDE_TEXT, Event, delta
from turnkeep.runs.journal import retry_until_answered
from turnkeep.store.contract import EventGap, Events
from turnkeep.store.values import Claim

MERGE_ABOVE = 64
"""Events waiting for the store from which on neighbouring deltas are merged: only when it is
behind.
"""


class Announcer:
    """Publishes the events of one claim.

    `say` never waits; `run` does the work until it is cancelled.

    Everything said before a settlement is in the log before it, if `wait_until_published` is awaited in between.
    Who waits for the answer in this process is told at once.
    """

    def __init__(self, store: Events, claim: Claim, *, tell: Callable[[Event], None] | None = None) -> None:
        self._store = store
        self._claim = claim
        self._tell = tell
        self._waiting: list[Event] = []
        self._published_count = 0
        self._parts: list[tuple[int, Event]] = []
        """What was shown beside the text, by number: few, and a log that lost its end has to get it again."""
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.text_so_far = ""
        """The text of this attempt that subscribers have seen, or will before the settlement."""

    def say(self, event: Event) -> None:
        self._waiting.append(event)
        self._empty.clear()
        self._wake.set()
        if self._tell is not None:
            self._tell(event)

    def text(self, text: str) -> None:
        """Some more of the answer."""
        self.text_so_far += text
        self.say(delta(text, self._claim.run_id, self._claim.attempt))

    def replace(self, text: str) -> None:
        """The whole answer so far, in place of what was shown."""
        self.text_so_far = text
        self.say(Event("snapshot", text=text, run_id=self._claim.run_id, attempt=self._claim.attempt))

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._publish(self._take())
            self._empty.set()

    async def wait_until_published(self) -> None:
        """Wait until all that was said is in the log."""
        await self._empty.wait()

    def _take(self) -> list[Event]:
        pending, self._waiting = self._waiting, []
        # a store that keeps up streams as the model does; one that is behind gets fewer events, not
        # a longer queue
        return pending if len(pending) <= MERGE_ABOVE else merge_deltas(pending)

    async def _publish(self, events: list[Event]) -> None:
        try:
            # the count makes a repeat harmless: of what the store has already nothing is written
            # twice
            await retry_until_answered(lambda: self._store.publish(self._claim, self._published_count, events))
        except EventGap as gap:  # a server that was promoted had not heard of the last ones
            self._published_count = gap.published_count
            lost_parts = [event for number, event in self._parts if number >= gap.published_count]
            self._parts = [one for one in self._parts if one[0] < gap.published_count]
            await self._publish([*lost_parts, *self._shown_before(events), *events])
        else:
            first = self._published_count
            self._parts += [(first + n, one) for n, one in enumerate(events) if one.kind in BESIDE_TEXT]
            self._published_count += len(events)

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
