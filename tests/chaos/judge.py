"""The verdict: what independent ledgers say of one storm, compared.

The senders know what they have a receipt for, the model knows what it was asked, the tools know what they did, the
listeners know what they were told. Only then is the store asked what it has kept.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.people import Answered, Listener, Sender, Sent, Tear
from turnkeep.messages import Item, OutputItem, UserItem
from turnkeep.simulator.exchanges import ANSWER_OUTCOMES, ExchangeLedger
from turnkeep.store.values import Page


@dataclass(frozen=True, slots=True)
class Deed:
    """What a tool did. One of kind ``stamp`` may happen once for each message; ``look`` is idempotent by its key."""

    kind: str
    message: str
    call_id: str
    key: str


@dataclass(frozen=True, slots=True)
class ChannelLog:
    """What the store says of the log of a channel in the end: where messages were accepted, and where they ended."""

    epoch: str = ""
    accepted: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    floor: int = 0
    """Up to here it is cut off: of what was there nothing is known any more."""

    @classmethod
    def of(cls, page: Page) -> ChannelLog:
        accepted = {m: event.offset for event in page.events if event.kind == "accepted" for m in event.message_ids}
        ends = {m: event.offset for event in page.events if event.is_final for m in event.message_ids}
        return cls(page.epoch, accepted, ends, page.floor)


@dataclass(slots=True)
class Books:
    """Everything that is known when the storm is over."""

    senders: Sequence[Sender]
    listeners: Sequence[Listener]
    model: ExchangeLedger
    deeds: Sequence[Deed]
    transcripts: dict[str, Sequence[Item]]
    """By channel: what the store has kept."""
    logs: dict[str, ChannelLog] = field(default_factory=dict)
    dead: int = 0
    open: int = 0
    """Messages that were not settled when the waiting was over."""
    fenced: int = 0
    deaths: int = 0
    store_kills: int = 0
    delivered: dict[str, list[tuple[int, tuple[str, ...]]]] | None = None
    """What a receiver outside has taken, by channel and in order: offset and message ids. None: there was none."""
    refusals: int = 0
    unfit: Sequence[tuple[float, float]] = ()
    """Spans in which the store could have lost what it takes in, and everybody could know: no receipt is given."""
    failovers: Sequence[float] = ()
    """When a replica took over, which had not heard the last deltas."""
    acts: dict[str, int] = field(default_factory=dict)
    """What was broken how often."""
    overruns: Sequence[str] = ()
    """Work that went on without its lease."""
    broken: Sequence[str] = ()
    """Errors that nobody expected."""
    edits: Sequence[str] = ()
    """Every change of the message that two people change, as the log tells them; each was asked for once."""


@dataclass(slots=True)
class Judgement:
    """The figures, and a sentence for everything that must not be."""

    sent: int = 0
    once: int = 0
    dup: int = 0
    lost: int = 0
    out_of_order: int = 0
    model_saw_twice: int = 0
    tool_repeats: int = 0
    unknown: int = 0
    fenced: int = 0
    deaths: int = 0
    store_kills: int = 0
    worst_stall: float = 0.0
    cuts: int = 0
    torn: int = 0
    repeated: int = 0
    untold: int = 0
    unsent: int = 0
    refusals: int = 0
    acts: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        return (
            f"sent {self.sent} | once {self.once} | dup {self.dup} | lost {self.lost} "
            f"| out-of-order {self.out_of_order} | model saw twice {self.model_saw_twice} "
            f"| tool repeats {self.tool_repeats} | unknown {self.unknown} | fenced {self.fenced} "
            f"| deaths {self.deaths} | redis kills {self.store_kills} | worst stall {self.worst_stall:.1f} s"
        )

    @property
    def streams(self) -> str:
        return f"streams cut {self.cuts} | torn {self.torn} | repeated {self.repeated} | untold {self.untold}"

    @property
    def faults(self) -> str:
        return "broken: " + " | ".join(f"{name} {count}" for name, count in sorted(self.acts.items()))

    @property
    def sinks(self) -> str:
        return f"receiver refused {self.refusals} | unsent {self.unsent}"


def judge(books: Books) -> Judgement:
    """Compare the ledgers."""
    found = Judgement(fenced=books.fenced, deaths=books.deaths, store_kills=books.store_kills)
    found.violations += [*books.overruns, *books.broken]
    found.acts = dict(books.acts)
    for sender in books.senders:
        found.violations += [f"refused: {refused}" for refused in sender.refused]
    changes = Counter(books.edits)
    found.violations += [f"the change {text!r} happened {count} times" for text, count in changes.items() if count > 1]
    _transcripts(books, found)
    _model(books, found)
    _tools(books, found)
    _streams(books, found)
    _sinks(books, found)
    found.violations += [rash for sender in books.senders for m in sender.sent if (rash := _rash(m, books.unfit))]
    found.worst_stall = _worst_stall(books)
    if books.dead:
        found.violations.append(f"{books.dead} dead letters")
    if books.open:
        found.violations.append(f"{books.open} messages were never settled")
    return found


# ---------------------------------------------------------------- what went outside


def _sinks(books: Books, found: Judgement) -> None:
    """Every end that somebody heard of went to the receiver, once, in the order of its channel."""
    if books.delivered is None:
        return
    found.refusals = books.refusals
    sent = {message_id for events in books.delivered.values() for _, ids in events for message_id in ids}
    unsent = sorted({message_id for listener in books.listeners for message_id in listener.ends} - sent)
    found.unsent = len(unsent)
    ends = Counter(message_id for events in books.delivered.values() for _, ids in events for message_id in ids)
    found.violations += [f"{m}: the receiver outside was told of {n} ends" for m, n in ends.items() if n > 1]
    found.violations += [f"{message_id}: no receiver outside was told of its end" for message_id in unsent]
    for channel, events in books.delivered.items():
        offsets = [offset for offset, _ in events]
        found.violations += [
            f"{channel}: the receiver outside was told of {after} before {offset}"
            for after, offset in itertools.pairwise(offsets)
            if after > offset
        ]


# ---------------------------------------------------------------- what was kept


def _rash(message: Sent, unfit: Iterable[tuple[float, float]]) -> str:
    """A receipt that could be broken: for a message that was brought, and accepted, while the store was unfit."""
    if message.requested is None or message.accepted is None:
        return ""
    spans = [(since, until) for since, until in unfit if since <= message.requested and message.accepted <= until]
    return f"{message.message_id} has a receipt of a server that could lose it: unfit {spans[0]}" if spans else ""


def _transcripts(books: Books, found: Judgement) -> None:
    said = {channel: _said(items) for channel, items in books.transcripts.items()}
    kept = Counter(message_id for ids in said.values() for message_id in ids)
    for sender in books.senders:
        found.sent += len(sender.sent)
        for message in sender.sent:
            match kept[message.message_id]:
                case 0:
                    found.lost += 1
                    found.violations.append(f"{message.message_id} was accepted and is in no transcript")
                case 1:
                    found.once += 1
                case count:
                    found.dup += 1
                    found.violations.append(f"{message.message_id} is {count} times in its transcript")
        found.out_of_order += _out_of_order(sender.sent, said, found.violations)


def _said(items: Iterable[Item]) -> list[str]:
    return [item.message_id or "" for item in items if isinstance(item, UserItem)]


def _out_of_order(sent: Sequence[Sent], said: dict[str, list[str]], violations: list[str]) -> int:
    """How many messages of one person stand before one that was sent earlier."""
    if not sent:
        return 0
    wanted = {message.message_id: message.number for message in sent}
    numbers = [wanted[each] for each in dict.fromkeys(said.get(sent[0].channel, ())) if each in wanted]
    wrong = sum(later < earlier for earlier, later in itertools.pairwise(numbers))
    if wrong:
        violations.append(f"{sent[0].channel}: {sent[0].person} was kept in the order {numbers}")
    return wrong


# ---------------------------------------------------------------- what the model saw


def _model(books: Books, found: Judgement) -> None:
    twice = {text for _, text in books.model.twice_within_a_request()}
    answers = [answered for listener in books.listeners for answered in listener.answers.values()]
    texts = {message.message_id: message.text for sender in books.senders for message in sender.sent}
    for text, exchanges in books.model.answered_twice().items():
        ids = {message_id for message_id, said in texts.items() if said == text} if books.failovers else set()
        if len({exchange.run for exchange in exchanges} & _runs_that_answered(ids, answers)) > 1:
            twice.add(text)
    found.model_saw_twice = len(twice)
    found.violations += [f"the model was given twice: {text!r}" for text in sorted(twice)]
    for answered in answers:
        found.violations += _unread(answered, books.model, texts)


def _runs_that_answered(ids: set[str], answers: Iterable[Answered]) -> set[str]:
    """Those that came to an end; a stopped turn stays unanswered. Where ids are given, with one of these messages: a
    store that is about to be replaced gives runs what it alone has heard, and no receipt. In the next one the same run
    may end without it.
    """
    return {
        answered.run_id
        for answered in answers
        if answered.outcome != "cancelled" and (not ids or ids.intersection(answered.message_ids))
    }


def _unread(answered: Answered, model: ExchangeLedger, texts: dict[str, str]) -> list[str]:
    """Messages that a run claims to have answered, though no finished answer of the model had them before it."""
    if answered.outcome != "completed":
        return []
    read = {
        text
        for exchange in model
        if exchange.run == answered.run_id and exchange.outcome in ANSWER_OUTCOMES and not exchange.calls
        for text in exchange.texts
    }
    unread = [each for each in answered.message_ids if texts.get(each) not in read]
    return [f"run {answered.run_id} answered {each} without the model having read it" for each in unread]


# ---------------------------------------------------------------- what the tools did


def _tools(books: Books, found: Judgement) -> None:
    stamped = Counter(deed.message for deed in books.deeds if deed.kind == "stamp")
    found.tool_repeats = sum(count - 1 for count in stamped.values())
    found.violations += [f"the tool acted {count} times for {m}" for m, count in stamped.items() if count > 1]
    keys: dict[str, set[str]] = {}
    for deed in books.deeds:
        keys.setdefault(deed.call_id, set()).add(deed.key)
    found.violations += [f"call {call} was repeated under another key" for call, held in keys.items() if len(held) > 1]
    outputs = [item for items in books.transcripts.values() for item in items if isinstance(item, OutputItem)]
    found.unknown = sum(item.status == "unknown" for item in outputs)
    found.violations += [f"call {o.call_id} was told done, and is not" for o in outputs if _untrue(o, keys)]


def _untrue(output: OutputItem, done: dict[str, set[str]]) -> bool:
    return output.status == "ok" and output.call_id not in done


# ---------------------------------------------------------------- what was told


def _streams(books: Books, found: Judgement) -> None:
    for listener in books.listeners:
        found.cuts += listener.cuts
        torn = [tear for tear in listener.torn if not _is_of_a_failover(tear, books.failovers)]
        found.torn += len(torn)
        found.repeated += len(listener.repeats)
        found.violations += [f"a torn stream: {tear.what}" for tear in torn]
        found.violations += [f"told again: {each}" for each in listener.repeats]
    heard = {listener.channel: listener for listener in books.listeners}
    for channel, log in books.logs.items():
        if channel in heard:
            heard[channel].end_in(log.epoch)
    for sender in books.senders:
        for message in sender.sent:
            if message.channel in heard:
                _told(message, heard[message.channel], books, found)


def _is_of_a_failover(tear: Tear, failovers: Iterable[float]) -> bool:
    """Whether the pieces are of two logs: what a replica had not heard is gone, and the epoch says so. Within one epoch
    an answer is whole, a failover in its middle or not: what was lost is published again before its end.
    """
    return tear.begun_in != tear.ended_in and any(at < tear.at for at in failovers)


def _told(message: Sent, listener: Listener, books: Books, found: Judgement) -> None:
    message_id = message.message_id
    ends = listener.ends.get(message_id, set())
    noticed = message_id in listener.accepted
    log = books.logs.get(message.channel, ChannelLog())
    if books.failovers:
        has_one_end = _are_told_again(ends, listener) if ends else _is_missed(log.ends.get(message_id), listener)
        # where it stood is not known once the log is cut off there: anywhere below
        is_noticed = noticed or _is_missed(log.accepted.get(message_id, 1 if log.floor else None), listener)
    else:
        has_one_end, is_noticed = len(ends) == 1, noticed
    if not (has_one_end and is_noticed):
        found.untold += 1
        found.violations.append(f"{message_id}: its listener heard {len(ends)} ends, and its acceptance: {noticed}")


def _is_missed(offset: int | None, listener: Listener) -> bool:
    """Whether an event was said anew at a place that its listener had passed already: a log that has lost its end to a
    failover goes on from there (docs/guarantees.md, Not promised).
    """
    return offset is not None and any(offset <= place for place in listener.crossings)


def _are_told_again(ends: Collection[int], listener: Listener) -> bool:
    """Whether of each two ends the later was said behind the place up to which the log was taken for known, when it
    went on under another epoch: the earlier was lost to a failover.
    """
    return all(
        any(earlier <= place < later for place in listener.crossings)
        for earlier, later in itertools.pairwise(sorted(ends))
    )


def _worst_stall(books: Books) -> float:
    """The longest time in which somebody waited and nobody's message was settled."""
    ends = {mid: at for listener in books.listeners for mid, at in listener.ended_at.items()}
    spans = [
        (message.accepted, ends[message.message_id])
        for sender in books.senders
        for message in sender.sent
        if message.accepted is not None and message.message_id in ends
    ]
    worst, last, waiting = 0.0, 0.0, 0
    moments = sorted([(begun, 0) for begun, _ in spans] + [(end, 1) for _, end in spans])
    for at, kind in moments:
        if kind == 0:
            last = at if waiting == 0 else last
            waiting += 1
        else:
            worst, last = max(worst, at - last), at
            waiting -= 1
    return worst
