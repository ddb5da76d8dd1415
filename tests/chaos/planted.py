"""Bugs to plant: what a careful person might write, and a storm must notice.

A driver that finds nothing proves nothing, unless it finds these. Each one is a patch of the running code, taken back
afterwards: `with planted("no_dedupe"): simulate(seed)`. Those that only real processes can show: `planted_outside`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from turnkeep import clock, failpoints, hub
from turnkeep.errors import AnswerMalformed
from turnkeep.events import Event
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem
from turnkeep.queue import AssistantMessageQueue
from turnkeep.resumption import StartingPoint
from turnkeep.runs import announcer, answer, journal, lease, outcomes, run, tool_calls, worker
from turnkeep.store import rules_accept, rules_change, rules_claim, rules_settle
from turnkeep.store.memory import MemoryStore, once
from turnkeep.store.thread import Thread
from turnkeep.store.values import Commit, Receipt
from turnkeep.usage import Usage

Replace = Callable[[Any, str, Any], None]
"""Put something else in the place of an attribute, until the bug is taken out."""

BUGS: dict[str, Callable[[Replace], None]] = {}
"""By name; the docstring says what is wrong with it."""

OUTSIDE: dict[str, Callable[[Replace], None]] = {}
"""Those of `planted_outside`."""


def bug(plant: Callable[[Replace], None]) -> Callable[[Replace], None]:
    BUGS[plant.__name__] = plant
    return plant


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The code of this process with one bug in it."""
    with ExitStack() as stack:
        plant = (BUGS | OUTSIDE)[name]
        plant(lambda owner, attribute, instead: stack.enter_context(patch.object(owner, attribute, instead)))
        yield


# ---------------------------------------------------------------- the store


@bug
def no_fence(replaces: Replace) -> None:
    """Whoever writes for a thread is believed to own it."""
    for rules in (rules_claim, rules_settle):
        replaces(rules, "check_lease", lambda thread, claim: None)


@bug
def no_dedupe(replaces: Replace) -> None:
    """An id that was accepted before is accepted again."""
    accept = rules_accept.accept

    def accepted(thread: Thread, message: Any, known: Any, *rest: Any) -> Receipt:
        return accept(thread, message, None, *rest)

    for rules in (rules_accept, rules_claim, rules_change):
        replaces(rules, "accept", accepted)


@bug
def calls_without_names(replaces: Replace) -> None:
    """A call that is sent again under its name happens again."""
    replaces(once, "operation_id", lambda *call: secrets.token_hex(8))


@bug
def ids_forgotten_with_the_answer(replaces: Replace) -> None:
    """An id is remembered only as long as its message is open."""
    remember = rules_settle.remember_status

    def remembered(thread: Thread, opened: Any, status: Any, policy: Any, now: float, *rest: Any) -> None:
        remember(thread, opened, status, replace(policy, dedupe=0.0), now, *rest)

    for rules in (rules_settle, rules_change):
        replaces(rules, "remember_status", remembered)


@bug
def commit_in_two_commands(replaces: Replace) -> None:
    """The answer enters the transcript first, then the batch is settled; between the two a process may die."""

    async def write_entries(self: MemoryStore, claim: Any, entries: Sequence[Any]) -> None:
        now = self.moment()

        def rule(thread: Thread) -> None:
            rules_claim.check_lease(thread, claim)
            thread.turns += 1
            thread.out.entries = [replace(entry, turn=thread.turns, at=now) for entry in entries]

        self.apply(self.claimed_thread(claim), rule, now)

    settle = run.Run._settle

    async def settled(self: run.Run, verdict: Any) -> None:
        if isinstance(verdict, Commit):
            store: Any = self.context.store
            await journal.retry_until_answered(lambda: store.write_entries(self.claim, verdict.entries))
            failpoints.reach("final")
            verdict = replace(verdict, entries=())
        await settle(self, verdict)

    replaces(run.Run, "_settle", settled)
    MemoryStore.write_entries = write_entries  # type: ignore[attr-defined]  # one more command


@bug
def commit_takes_what_came_meanwhile(replaces: Replace) -> None:
    """A commit empties the inbox, not only its batch of it."""
    close = rules_settle._close

    def closed(thread: Thread, count: int, *rest: Any) -> None:
        close(thread, len(thread.inbox), *rest)

    replaces(rules_settle, "_close", closed)


@bug
def due_not_armed_again(replaces: Replace) -> None:
    """What a run has left behind waits for nobody."""
    rest = rules_accept.await_next_batch

    def rested(thread: Thread, *more: Any) -> None:
        rest(thread, *more)
        if thread.state == "waiting":
            thread.due = None

    for rules in (rules_accept, rules_claim, rules_settle, rules_change):
        replaces(rules, "await_next_batch", rested)


@bug
def released_for_ever(replaces: Replace) -> None:
    """A claim that is given back is due at no time."""
    release = rules_settle.release

    def released(thread: Thread, *rest: Any) -> None:
        release(thread, *rest)
        thread.due = None

    replaces(rules_settle, "release", released)


@bug
def lease_without_end(replaces: Replace) -> None:
    """A dead worker keeps its threads."""
    give, renew = rules_claim._lease, rules_claim.renew

    def given(thread: Thread, policy: Any, now: float, owner: str, lease: float, *rest: Any) -> Any:
        return give(thread, policy, now, owner, 1e9, *rest)

    def renewed(thread: Thread, claim: Any, now: float, lease: float, *rest: Any) -> Any:
        return renew(thread, claim, now, 1e9, *rest)

    replaces(rules_claim, "_lease", given)
    replaces(rules_claim, "renew", renewed)


@bug
def newest_first(replaces: Replace) -> None:
    """A message that comes during a run goes before those that wait already."""
    join = rules_accept._join

    def joined(thread: Thread, *rest: Any) -> None:
        join(thread, *rest)
        thread.inbox.insert(thread.batch, thread.inbox.pop())

    replaces(rules_accept, "_join", joined)


@bug
def retry_of_a_grown_batch(replaces: Replace) -> None:
    """A new attempt takes what has come since into the batch, and goes on with the old journal."""
    give = rules_claim._lease

    def given(thread: Thread, *rest: Any) -> Any:
        thread.frozen = False
        return give(thread, *rest)

    replaces(rules_claim, "_lease", given)


@bug
def death_forgets_the_journal(replaces: Replace) -> None:
    """The next claimant of a dead worker's batch begins from nothing."""
    bury = rules_claim._bury

    def buried(thread: Thread, now: float) -> None:
        bury(thread, now)
        thread.journal = ()

    replaces(rules_claim, "_bury", buried)


@bug
def publish_repeated(replaces: Replace) -> None:
    """Events that are published again after a lost reply are told again."""
    publish = rules_claim.publish

    def published(thread: Thread, claim: Any, n: int, *rest: Any) -> int:
        return publish(thread, claim, thread.published, *rest)

    replaces(rules_claim, "publish", published)


# ---------------------------------------------------------------- the run


@bug
def act_before_journal(replaces: Replace) -> None:
    """A call with effects is marked as started when it is done."""

    async def ran(self: tool_calls.Calls, item: CallItem, tool: Any) -> None:
        async with self._slots:
            failpoints.reach("tool_started")
            result = await self._call(item, tool)
            failpoints.reach("tool_done")
            await self._journal.write_started([item.call_id])
            await self._journal.write_output(OutputItem(item.call_id, result.output, result.status))

    replaces(tool_calls.Calls, "_run", ran)


@bug
def effects_run_again(replaces: Replace) -> None:
    """A call that was interrupted is simply made again."""
    fold = journal.Journal._fold

    def folded(self: journal.Journal, record: Any) -> None:
        fold(self, record)
        self.started_calls.clear()

    replaces(journal.Journal, "_fold", folded)


@bug
def key_of_the_attempt(replaces: Replace) -> None:
    """An idempotent call gets another key at every attempt."""
    context = tool_calls.Calls._context

    def keyed(self: tool_calls.Calls, item: CallItem) -> Any:
        return replace(context(self, item), idempotency_key=f"{self._claim.attempt}:{item.call_id}")

    replaces(tool_calls.Calls, "_context", keyed)


@bug
def batch_asked_again(replaces: Replace) -> None:
    """A new attempt puts its messages behind those of the first one."""

    def transcript(self: journal.Journal) -> list[Item]:
        repeats = 2 if self.claim.attempt > 1 else 1
        return [*self.first_messages * repeats, *self.items]

    replaces(journal.Journal, "transcript", property(transcript))


@bug
def cut_taken_for_the_end(replaces: Replace) -> None:
    """A stream that ends without its terminal event counts as an answer."""
    ask = answer.Answering._ask

    async def asked(self: answer.Answering, request: Any) -> Any:
        try:
            return await ask(self, request)
        except AnswerMalformed:
            text = self.announcer.text_so_far[len(self.journal.text) :]
            return journal.Step((AssistantItem(text),), text, Usage(), "stop", request.model)

    replaces(answer.Answering, "_ask", asked)


@bug
def steering_not_journalled(replaces: Replace) -> None:
    """What a user says during a run is told to the model, and waits for the next run too."""

    async def written(self: journal.Journal, messages: Sequence[Any]) -> None:
        self.items += [journal.user_item(message) for message in messages]
        self.ending = None

    replaces(journal.Journal, "write_steered", written)


@bug
def stopped_turn_forgets_its_questions(replaces: Replace) -> None:
    """A turn that is taken back takes along what people said."""
    replaces(run, "without_text", lambda items, started: [])


@bug
def told_before_it_is_kept(replaces: Replace) -> None:
    """The end of an answer is published, then committed."""
    settle = run.Run._settle

    async def settled(self: run.Run, verdict: Any) -> None:
        if isinstance(verdict, Commit):
            ids, claim = self.claim.message_ids, self.claim
            end = Event("completed", ids, verdict.text, claim.run_id, claim.attempt, outcome=verdict.outcome)
            await journal.retry_until_answered(
                lambda: self.context.store.publish(claim, self.announcer.published_count, [end])
            )
        await settle(self, verdict)

    replaces(run.Run, "_settle", settled)


@bug
def answer_ends_without_its_words(replaces: Replace) -> None:
    """A commit asks nobody whether its log holds what was shown."""
    replaces(rules_settle, "check_published", lambda thread, n: None)


@bug
def old_steps_not_shown_again(replaces: Replace) -> None:
    """A new attempt does not show what its journal holds."""

    def replaced(self: announcer.Announcer, text: str) -> None:
        self.text_so_far = text

    replaces(announcer.Announcer, "replace", replaced)


@bug
def goes_by_the_time_of_day(replaces: Replace) -> None:
    """Windows and leases follow whoever sets the clock."""
    replaces(clock.SteadyClock, "now", lambda self: self._clock.now())


@bug
def compares_the_clocks_of_two_hosts(replaces: Replace) -> None:
    """A worker looks at the time of day of its own machine to see whether the lease that the store gave it is over."""
    decide = run.Run._decide

    async def compared(self: run.Run) -> Any:
        if self.context.clock.now() > self.claim.lease_until:
            return outcomes.Dropping()
        return await decide(self)

    replaces(run.Run, "_decide", compared)


# ---------------------------------------------------------------- the lease


@bug
def deaf_heartbeat(replaces: Replace) -> None:
    """A renewal that says that the lease is lost is taken for a good one."""
    told = lease.Lease.take_directive

    def deaf(self: lease.Lease, directive: Any, *, good_until: float) -> None:
        told(self, replace(directive, held=True), good_until=good_until)

    replaces(lease.Lease, "take_directive", deaf)


@bug
def never_gives_up(replaces: Replace) -> None:
    """A worker that cannot renew goes on as if it had."""

    def overlook(self: worker.Keeper) -> None:
        """Their time is over, and nobody is told."""

    replaces(worker.Keeper, "_give_up", overlook)


# ---------------------------------------------------------------- the doors


@bug
def receipt_before_accept(replaces: Replace) -> None:
    """The sender has a receipt while the message is still on its way to the store."""

    in_flight: set[asyncio.Task[Any]] = set()

    async def accepted(self: AssistantMessageQueue, messages: Sequence[Any], **options: Any) -> list[Receipt]:
        in_flight.add(asyncio.get_running_loop().create_task(self.store.accept(messages, **options)))
        return [Receipt(m.address.channel, m.message_id, "", "accepted", 0, None) for m in messages]

    replaces(AssistantMessageQueue, "accept", accepted)


@bug
def blind_to_gaps(replaces: Replace) -> None:
    """A hub passes on what it hears, whatever is missing before it."""
    replaces(hub._Fanout, "goes_on_with", lambda self, event: True)


@bug
def resumes_too_early(replaces: Replace) -> None:
    """A subscriber that comes back is told some events again."""
    offset_in = StartingPoint.offset_in
    replaces(StartingPoint, "offset_in", lambda self, page: max(0, offset_in(self, page) - 2))
