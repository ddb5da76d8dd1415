"""The books that random histories keep beside the engines: what was promised to whom, from what callers saw alone.

They know no rule of the store. They check what must hold whatever the rules are: nothing is lost, nothing is answered
twice or out of order, one worker at a time, fences rise, no window is cut short, attempts and deaths are counted
where they happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from turnkeep.messages import Address, Message, digest
from turnkeep.store.values import Claim, MessageRecord, Policy, ThreadRecord

Place = tuple[float, int, int]
"""Where a message stands in its channel's order: moment of joining, delayed ones first, order of acceptance."""


@dataclass(slots=True)
class Noted:
    """One accepted message."""

    message_id: str
    digest: str
    place: Place
    status: str = "open"
    settled_at: float = 0.0
    attempts: int = 0
    deaths: int = 0

    def is_known(self, now: float, dedupe: float) -> bool:
        return self.status == "open" or now < self.settled_at + dedupe


@dataclass(slots=True)
class Channel:
    """What was noted of one channel."""

    noted: dict[str, Noted] = field(default_factory=dict)
    past: dict[str, Noted] = field(default_factory=dict)
    """Ids of threads that are gone, which are remembered as long."""
    claim: Claim | None = None
    lease_until: float = 0.0
    taken: list[str] = field(default_factory=list)
    fence: int = 0
    answered: Place | None = None
    thread_id: str | None = None
    is_hurried: bool = False

    def remembered(self, message_id: str) -> Noted | None:
        return self.noted.get(message_id) or self.past.get(message_id)

    @property
    def open_ids(self) -> list[str]:
        """In the order in which they have to be answered."""
        return [n.message_id for n in sorted(self.noted.values(), key=lambda n: n.place) if n.status == "open"]

    @property
    def batch(self) -> list[str]:
        """What the claim that is out answers."""
        return [] if self.claim is None else [*self.claim.message_ids, *self.taken]


class Books:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._channels: dict[Address, Channel] = {}
        self._order = 0
        self.completed = 0
        self.failed = 0

    def of(self, where: Address) -> Channel:
        return self._channels.setdefault(where, Channel())

    # ---------------------------------------------------------------- in and out

    def expected(self, message: Message, now: float) -> str | None:
        """What accepting this id has to give if it is remembered: ``repeated`` or ``conflict``."""
        noted = self.of(message.address).remembered(message.message_id)
        if noted is None or not noted.is_known(now, self._policy.dedupe):
            return None
        return "repeated" if noted.digest == digest(message.content) else "conflict"

    def accepted(self, message: Message, now: float) -> None:
        self._order += 1
        is_delayed = message.not_before is not None and message.not_before > now
        moment = message.not_before if is_delayed and message.not_before is not None else now
        place = (moment, 0 if is_delayed else 1, self._order)
        self.of(message.address).noted[message.message_id] = Noted(message.message_id, digest(message.content), place)

    def redriven(self, where: Address, message: Message, now: float) -> None:
        self._order += 1
        old = self.of(where).remembered(message.message_id)
        known = old is not None and old.is_known(now, self._policy.dedupe)
        first = old.digest if old is not None and known else digest(message.content)
        self.of(where).noted[message.message_id] = Noted(message.message_id, first, (now, 1, self._order))

    def withdrawn(self, where: Address, ids: Iterable[str], now: float) -> None:
        channel = self.of(where)
        for message_id in ids:
            assert message_id not in channel.batch, f"{message_id} was withdrawn from under a run"
            self._settle(channel, [message_id], "withdrawn", now)

    def _settle(self, channel: Channel, ids: Iterable[str], status: str, now: float) -> None:
        for message_id in ids:
            noted = channel.noted[message_id]
            assert noted.status == "open", f"{message_id} was {noted.status} already and is {status} now"
            noted.status, noted.settled_at = status, now

    # ---------------------------------------------------------------- claims

    def before_claims(self, now: float) -> None:
        """Leases that are over are taken over now: each is a death of its oldest message."""
        for channel in self._channels.values():
            if channel.claim is not None and channel.lease_until <= now:
                channel.noted[channel.claim.message_ids[0]].deaths += 1
                channel.claim = None

    def claimed(self, claim: Claim, now: float) -> None:
        channel = self.of(claim.address)
        assert channel.claim is None, f"{claim.address} has two claims that are valid"
        assert claim.fence > channel.fence, f"fence {claim.fence} after {channel.fence}"
        ids = list(claim.message_ids)
        assert ids, "a claim without messages"
        assert ids == channel.open_ids[: len(ids)], f"{ids} is not the beginning of {channel.open_ids}"
        oldest = channel.noted[ids[0]]
        assert (claim.attempts, claim.deaths) == (oldest.attempts, oldest.deaths)
        if claim.attempt == 1 and not claim.last_chance and not channel.is_hurried:
            self._check_window(claim, channel.open_ids, now)
        channel.claim, channel.lease_until, channel.taken = claim, claim.lease_until, []
        channel.fence, channel.is_hurried = claim.fence, False

    def _check_window(self, claim: Claim, open_ids: Sequence[str], now: float) -> None:
        """Nobody who could still have joined was cut off."""
        messages = claim.messages
        is_full = len(messages) < len(open_ids) or len(messages) >= self._policy.max_batch
        if is_full or any(m.flush or m.on_busy == "queue" for m in messages):
            return
        slides = messages[-1].arrival + (messages[-1].window or 0.0)
        cap = min(m.arrival + (m.max_wait or 0.0) for m in messages)
        assert now >= min(slides, cap), f"claimed at {now}, {min(slides, cap) - now} s before the end of its window"

    def is_current(self, claim: Claim) -> bool:
        """Whether this claim has to be the valid one of its thread."""
        current = self.of(claim.address).claim
        return current is not None and current.token == claim.token

    def renewed(self, owner: str, kept: Sequence[Claim], until: float) -> None:
        tokens = {claim.token for claim in kept}
        for channel in self._channels.values():
            if channel.claim is not None and channel.claim.owner == owner:
                if channel.claim.token in tokens:
                    channel.lease_until = until
                else:
                    channel.claim = None

    def steered(self, where: Address, ids: Iterable[str]) -> None:
        self.of(where).taken += ids

    def committed(self, where: Address, outcome: str, now: float) -> None:
        channel = self.of(where)
        self._answer(channel, channel.batch, "cancelled" if outcome == "cancelled" else "answered", now)
        channel.claim = None

    def answered_by_a_person(self, where: Address, ids: Sequence[str], now: float) -> None:
        channel = self.of(where)
        if not ids:
            return
        assert channel.claim is None, f"{ids} were answered over a run in progress"
        assert list(ids) == channel.open_ids[: len(ids)], f"{ids} is not the beginning of {channel.open_ids}"
        self._answer(channel, ids, "answered", now)
        channel.is_hurried = False

    def _answer(self, channel: Channel, ids: Sequence[str], status: str, now: float) -> None:
        places = [channel.noted[message_id].place for message_id in ids]
        assert places == sorted(places), f"{ids} answered out of order"
        assert channel.answered is None or channel.answered < places[0], f"{ids[0]} was answered too late"
        channel.answered = places[-1]
        self._settle(channel, ids, status, now)
        self.completed += len(ids)

    def ended(self, where: Address, outcome: str, now: float) -> None:
        """A claim was failed (retry, split, dead), released or held."""
        channel = self.of(where)
        ids = channel.batch
        if outcome in ("retry", "split", "dead"):
            channel.noted[ids[0]].attempts += 1
        if outcome == "dead":
            self._settle(channel, ids, "dead", now)
            self.failed += len(ids)
        channel.claim = None

    # ---------------------------------------------------------------- checks

    def check(self, where: Address, record: ThreadRecord | None, waiting: Sequence[MessageRecord]) -> None:
        """What the store tells of a channel agrees with the books."""
        channel = self.of(where)
        if record is None or (channel.thread_id is not None and record.thread_id != channel.thread_id):
            assert not channel.open_ids, f"{where} is gone with open messages {channel.open_ids}"
            channel = self._channels[where] = Channel(past=channel.past | channel.noted)
        if record is None:
            return
        channel.thread_id = record.thread_id
        inbox = [r.message_id for r in waiting if r.status != "delayed"]
        delayed = [r.message_id for r in waiting if r.status == "delayed"]
        assert [*inbox, *delayed] == channel.open_ids, f"{inbox} and {delayed} are open, not {channel.open_ids}"
        assert record.open_messages == len(waiting)
        assert (record.state == "idle") == (not inbox), f"{record.state} with {inbox}"
        assert (record.due is None) == (record.state == "idle"), f"{record.state}, due {record.due}"
        assert (record.state == "leased") == (channel.claim is not None)
        running = [r.message_id for r in waiting if r.status == "running"]
        assert running == inbox[: len(running)]
        if channel.claim is not None:
            assert running == channel.batch, f"{running} run, not {channel.batch}"

    def recent_ids(self, where: Address) -> list[str]:
        """Ids worth asking about: those accepted last, settled or not, and one that never was."""
        noted = sorted(self.of(where).noted.values(), key=lambda n: n.place)
        return [*(n.message_id for n in noted[-8:]), "never"]

    def forgotten(self, where: Address, now: float) -> None:
        channel = self.of(where)
        self._settle(channel, channel.open_ids, "withdrawn", now)
        self._channels[where] = Channel(past=channel.past | channel.noted)

    def open_total(self) -> int:
        return sum(len(channel.open_ids) for channel in self._channels.values())
