"""The rules of turn-taking, one by one: the table of states, and what it does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rows import each_row
from turnkeep.errors import (
    Conflict,
    InboxFull,
    InvalidMessage,
    LeaseLost,
    MessageConflict,
    MessageFrozen,
    NotFound,
    Rejection,
    ThreadBusy,
    TurnkeepError,
    WrongState,
)
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, BusyPolicy, Message, UserItem, digest, text_content
from turnkeep.store import rules_accept, rules_change, rules_claim, rules_settle
from turnkeep.store.thread import AcceptedId, InboxMessage, Out, Thread, merge_known
from turnkeep.store.values import (
    Claim,
    Commit,
    DeadLetter,
    Decision,
    Directive,
    Failure,
    HeldCall,
    Policy,
    Receipt,
    Remainder,
    ThreadOptions,
    TranscriptEntry,
)
from turnkeep.usage import Usage

HERE = Address("t", "q", "c")
POLICY = Policy(window=2.0, max_wait=8.0)
FAULT = TurnFault("code", "sentence")
CALL = HeldCall("call_1", "pay", "{}", "d1")
LEASE = 30.0
NOW = 1000.0

STATES = ("idle", "waiting", "leased", "retry", "dissolved", "held")


def fresh(now: float = NOW) -> Thread:
    return Thread(HERE, "thread_1", now, now, "epoch")


def message(message_id: str = "m1", **fields: Any) -> Message:
    return Message(HERE, message_id, text_content(message_id), **fields)


def accept(thread: Thread, message_id: str = "m1", now: float = NOW, policy: Policy = POLICY, **fields: Any) -> Receipt:
    return rules_accept.accept(thread, message(message_id, **fields), None, policy, now)


def claim(thread: Thread, now: float = NOW, policy: Policy = POLICY, token: str = "token") -> Claim | None:
    return rules_claim.claim(thread, policy, now, owner="w", lease=LEASE, token=token, run_id="run_1")


def leased(*ids: str, now: float = NOW) -> tuple[Thread, Claim]:
    thread = fresh(now)
    for message_id in ids or ("old",):
        accept(thread, message_id, now)
    rules_accept.flush(thread, POLICY, now)
    taken = claim(thread, now)
    assert taken is not None
    return thread, taken


def done(outcome: Any = "completed", text: str = "answer", usage: Usage = Usage()) -> Commit:
    return Commit(outcome, text, [TranscriptEntry(AssistantItem(text))], usage)


def bring(state: str) -> tuple[Thread, Claim]:
    """A thread in this state, and its claim (a made-up one where there is none)."""
    thread, taken = leased()
    if state == "idle":
        rules_settle.commit(thread, taken, done(), POLICY, NOW)
    elif state == "waiting":
        thread = fresh()
        accept(thread, "old")
    elif state == "retry":
        rules_settle.fail(thread, taken, Failure(FAULT, 60.0), POLICY, NOW)
    elif state == "dissolved":
        rules_settle.release(thread, taken, 60.0, None, NOW)
    elif state == "held":
        rules_settle.hold(thread, taken, [CALL], 600.0, NOW)
    thread.take_out()
    thread.settlements = ()
    return thread, taken


# ---------------------------------------------------------------- the table

LATER = NOW + 1.0

Operation = Callable[[Thread, Claim], Any]

OPERATIONS: dict[str, Operation] = {
    "accept": lambda t, c: accept(t, "new", LATER),
    "queue": lambda t, c: accept(t, "new", LATER, on_busy="queue"),
    "steer": lambda t, c: accept(t, "new", LATER, on_busy="steer"),
    "interrupt": lambda t, c: accept(t, "new", LATER, on_busy="interrupt"),
    "rollback": lambda t, c: accept(t, "new", LATER, on_busy="rollback"),
    "reject": lambda t, c: accept(t, "new", LATER, on_busy="reject"),
    "delayed": lambda t, c: accept(t, "new", LATER, not_before=LATER + 5),
    "begin": lambda t, c: rules_claim.begin(
        t, [message("new")], [None], POLICY, LATER, owner="w", lease=LEASE, token="token 2", run_id="run_2"
    ),
    "flush": lambda t, c: rules_accept.flush(t, POLICY, LATER),
    "typing": lambda t, c: rules_accept.typing(t, POLICY, LATER),
    "claim": lambda t, c: claim(t, LATER, token="token 2"),
    "claim late": lambda t, c: claim(t, NOW + 9000, token="token 2"),
    "renew": lambda t, c: rules_claim.renew(t, c, LATER, LEASE),
    "orphan": lambda t, c: rules_claim.orphan(t, LATER),
    "bereave": lambda t, c: rules_claim.bereave(t, LATER),
    "offered": rules_claim.offer_steering,
    "journal": lambda t, c: rules_claim.journal(t, c, [{"n": 0}], LATER),
    "publish": lambda t, c: rules_claim.publish(t, c, 0, [Event("delta", text="x")], LATER),
    "commit": lambda t, c: rules_settle.commit(t, c, done(), POLICY, LATER),
    "fail retry": lambda t, c: rules_settle.fail(t, c, Failure(FAULT, 5.0), POLICY, LATER),
    "fail dead": lambda t, c: rules_settle.fail(t, c, Failure(FAULT, None), POLICY, LATER),
    "release": lambda t, c: rules_settle.release(t, c, 5.0, None, LATER),
    "hold": lambda t, c: rules_settle.hold(t, c, [CALL], 5.0, LATER),
    "decide": lambda t, c: rules_change.decide(t, "call_1", "d1", Decision("approved"), LATER),
    "cancel": lambda t, c: rules_change.cancel(t, POLICY, LATER, drop_inbox=False),
    "cancel drop": lambda t, c: rules_change.cancel(t, POLICY, LATER, drop_inbox=True),
    "edit": lambda t, c: rules_change.edit(t, "old", text_content("new"), POLICY, LATER),
    "withdraw": lambda t, c: rules_change.withdraw(t, "old", POLICY, LATER),
    "pause": lambda t, c: rules_change.pause(t, LATER),
    "resume": lambda t, c: rules_change.resume(t, POLICY, LATER),
    "append": lambda t, c: rules_change.append(t, [TranscriptEntry(AssistantItem("x"))], None, LATER),
    "regenerate": lambda t, c: rules_change.regenerate(
        t, [TranscriptEntry(UserItem(text_content("x"), "x"))], "msg_", POLICY, LATER
    ),
}

# What each operation leaves: the state, and when it is due. same: as before; now: at the moment of the operation;
# window: 2 s after it; lease: 30 s after it; +n: n seconds after it; or the error it raises.
# A thread that is dissolved is in the state retry without a batch.
TABLE = """
operation   | idle           | waiting        | leased         | retry          | dissolved      | held
accept      | waiting window | waiting window | leased same    | retry same     | dissolved same | held same
queue       | waiting window | waiting window | leased same    | retry same     | dissolved same | held same
steer       | waiting window | waiting window | leased same    | retry same     | dissolved same | held same
interrupt   | waiting window | waiting window | leased same    | retry now      | dissolved now  | held now
rollback    | waiting window | waiting window | leased same    | retry now      | dissolved now  | held now
reject      | waiting window | waiting window | ThreadBusy     | ThreadBusy     | ThreadBusy     | ThreadBusy
delayed     | idle none      | waiting same   | leased same    | retry same     | dissolved same | held same
begin       | leased lease   | leased lease   | ThreadBusy     | ThreadBusy     | ThreadBusy     | ThreadBusy
flush       | idle none      | waiting now    | leased same    | retry same     | dissolved same | held same
typing      | idle none      | waiting window | leased same    | retry same     | dissolved same | held same
claim       | idle none      | waiting same   | leased same    | retry same     | dissolved same | held same
claim late  | idle none      | leased +9029   | leased +9029   | leased +9029   | leased +9029   | leased +9029
renew       | idle none      | waiting same   | leased lease   | retry same     | dissolved same | held same
orphan      | idle none      | waiting same   | dissolved now  | retry same     | dissolved same | held same
bereave     | idle none      | waiting same   | leased now     | retry same     | dissolved same | held same
offered     | LeaseLost      | LeaseLost      | leased same    | LeaseLost      | LeaseLost      | LeaseLost
journal     | LeaseLost      | LeaseLost      | leased same    | LeaseLost      | LeaseLost      | LeaseLost
publish     | LeaseLost      | LeaseLost      | leased same    | LeaseLost      | LeaseLost      | LeaseLost
commit      | LeaseLost      | LeaseLost      | idle none      | LeaseLost      | LeaseLost      | LeaseLost
fail retry  | LeaseLost      | LeaseLost      | retry +5       | LeaseLost      | LeaseLost      | LeaseLost
fail dead   | LeaseLost      | LeaseLost      | idle none      | LeaseLost      | LeaseLost      | LeaseLost
release     | LeaseLost      | LeaseLost      | dissolved +5   | LeaseLost      | LeaseLost      | LeaseLost
hold        | LeaseLost      | LeaseLost      | held +5        | LeaseLost      | LeaseLost      | LeaseLost
decide      | NotFound       | NotFound       | NotFound       | NotFound       | NotFound       | held now
cancel      | idle none      | waiting same   | leased same    | retry now      | dissolved same | held now
cancel drop | idle none      | idle none      | leased same    | retry now      | idle none      | held now
edit        | NotFound       | waiting same   | MessageFrozen  | MessageFrozen  | dissolved same | MessageFrozen
withdraw    | NotFound       | idle none      | MessageFrozen  | MessageFrozen  | idle none      | MessageFrozen
pause       | idle none      | waiting same   | leased same    | retry same     | dissolved same | held same
resume      | idle none      | waiting same   | leased same    | retry same     | dissolved same | held same
append      | idle none      | waiting same   | ThreadBusy     | ThreadBusy     | ThreadBusy     | ThreadBusy
regenerate  | waiting now    | ThreadBusy     | ThreadBusy     | ThreadBusy     | ThreadBusy     | ThreadBusy
"""


ERRORS = {error.__name__: error for error in (LeaseLost, MessageFrozen, NotFound, ThreadBusy)}


def cells() -> list[tuple[str, str, str]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return [(row[0], state, cell) for row in rows[1:] for state, cell in zip(STATES, row[1:], strict=True)]


@each_row(("operation", "state", "cell"), cells())
def test_the_table_of_states(operation: str, state: str, cell: str) -> None:
    thread, taken = bring(state)
    before = thread.due
    if cell in ERRORS:
        with pytest.raises(ERRORS[cell]):
            OPERATIONS[operation](thread, taken)
        return

    OPERATIONS[operation](thread, taken)

    then, due = cell.split()
    moments = {"none": None, "same": before, "now": LATER, "window": LATER + 2, "lease": LATER + LEASE}
    if due.startswith("+"):
        moments[due] = LATER + float(due)
    assert shown(thread) == then
    assert thread.due == moments[due]


def shown(thread: Thread) -> str:
    return "dissolved" if thread.state == "retry" and not thread.batch else thread.state


def test_the_table_knows_every_operation() -> None:
    assert [row[0] for row in cells()][:: len(STATES)] == list(OPERATIONS)


@each_row("operation", OPERATIONS)
@each_row("state", STATES)
def test_on_a_paused_thread_the_table_holds_but_nothing_begins(operation: str, state: str) -> None:
    thread, taken = bring(state)
    rules_change.pause(thread, NOW)
    try:
        OPERATIONS[operation](thread, taken)
    except TurnkeepError:
        return

    assert thread.token != "token 2"
    if thread.paused and thread.state != "leased":
        assert thread.wake is None


@pytest.mark.parametrize("state", STATES)
def test_a_thread_is_written_and_read_as_it_is(state: str) -> None:
    thread, _ = bring(state)
    accept(thread, "later", not_before=LATER + 5)
    rules_change.pause(thread, NOW)
    rules_change.update(thread, {"metadata": {"a": "1"}, "options": ThreadOptions(window=1.0), "ttl": 5.0}, NOW)
    thread.usage = Usage(requests=1, cost_nano=3)

    again = Thread.from_json(thread.head_to_json())

    again.inbox = [InboxMessage.from_json(HERE, opened.to_json()) for opened in thread.inbox]
    again.delayed = tuple(InboxMessage.from_json(HERE, opened.to_json()) for opened in thread.delayed)
    again.journal, again._out = thread.journal, thread.out
    assert again == thread


def test_what_was_done_last_is_written_and_read_as_it_is() -> None:
    thread, taken = leased("m1")
    rules_settle.commit(thread, taken, done(), POLICY, NOW)

    again = Thread.from_json(thread.head_to_json())

    assert again.settlements == thread.settlements
    assert rules_settle.commit(again, taken, done(), POLICY, NOW) == Remainder(0, None)


# ---------------------------------------------------------------- accepting


def test_a_known_id_is_repeated_or_refused_and_nothing_else_happens() -> None:
    thread = fresh()
    receipt = accept(thread, "m1")
    known = thread.out.accepted_ids["m1"]
    thread.take_out()

    again = rules_accept.accept(thread, message("m1"), known, POLICY, NOW)
    with pytest.raises(MessageConflict):
        rules_accept.accept(thread, Message(HERE, "m1", text_content("other")), known, POLICY, NOW)

    assert again.repeated
    assert again.to_json() == receipt.to_json()
    assert (thread.out, len(thread.inbox), thread.messages) == (Out(), 1, 1)


def test_known_ids_keep_the_first_digest_and_receipt() -> None:
    receipt = Receipt("c", "m1", "thread_1", "accepted", 1, 2.0)
    first = AcceptedId("digest", receipt, steer="accepted")

    settled = merge_known(
        first, AcceptedId("", receipt.__class__("c", "m1", "thread_1", "accepted", 0, None), "answered")
    )
    assert (settled.digest, settled.receipt, settled.status, settled.steer) == (
        "digest",
        receipt,
        "answered",
        "accepted",
    )
    assert merge_known(settled, AcceptedId("", receipt, steer="applied")).steer == "applied"
    anew = AcceptedId("other", receipt)
    assert merge_known(settled, anew) is anew
    assert merge_known(None, anew) is anew


def test_a_full_inbox_counts_what_runs_and_what_is_delayed() -> None:
    thread, _ = leased("m1")
    accept(thread, "m2", not_before=NOW + 5)

    with pytest.raises(InboxFull):
        accept(thread, "m3", policy=Policy(max_inbox=2))

    accept(thread, "m3", policy=Policy(max_inbox=3))


@pytest.mark.parametrize(
    ("own", "thread_has", "window", "max_wait"),
    [
        ({}, {}, 2.0, 8.0),
        ({"window": 0.0}, {}, 0.0, 0.0),
        ({"window": 0.0, "max_wait": 5.0}, {}, 0.0, 5.0),
        ({"window": 3.0}, {"window": 4.0, "max_wait": 9.0}, 3.0, 9.0),
        ({"max_wait": 1.0}, {"window": 4.0}, 4.0, 1.0),
        ({}, {"window": 0.0}, 0.0, 0.0),
    ],
)
def test_the_values_that_count_are_the_messages_the_threads_the_queues(
    own: dict[str, Any], thread_has: dict[str, Any], window: float, max_wait: float
) -> None:
    thread = fresh()
    thread.options = ThreadOptions(**thread_has)
    accept(thread, "m1", **own)

    [opened] = thread.inbox

    assert (opened.message.window, opened.message.max_wait) == (window, max_wait)


def test_a_message_is_kept_under_the_address_of_its_thread() -> None:
    thread = fresh()

    receipt = rules_accept.accept(thread, Message(Address("t", "q", "thread_1"), "m1", ()), None, POLICY, NOW)

    assert receipt.channel == "c"
    assert thread.inbox[0].message.address == HERE


# ---------------------------------------------------------------- the window

burst = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
        st.sampled_from([None, 0.0, 0.5, 4.0]),
        st.sampled_from([None, 1.0, 6.0]),
    ),
    min_size=1,
    max_size=8,
)


@given(burst)
def test_due_is_the_sliding_end_but_never_later_than_anybodys_cap(steps: list[tuple[float, Any, Any]]) -> None:
    thread, now = fresh(), NOW
    policy = Policy(window=2.0, max_wait=8.0, max_batch=99)
    ends: list[tuple[float, float]] = []
    for n, (gap, window, max_wait) in enumerate(steps):
        now += gap
        accept(thread, f"m{n}", now, policy, window=window, max_wait=max_wait)
        own = 2.0 if window is None else window
        cap = max_wait if max_wait is not None else 0.0 if own == 0.0 else 8.0
        ends.append((now + own, now + cap))

        assert thread.due == min(ends[-1][0], *(cap for _, cap in ends))
        assert thread.state == "waiting"


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=9), st.integers(1, 4))
def test_a_batch_is_the_longest_prefix_within_the_limits(sizes: list[tuple[int, bool]], max_batch: int) -> None:
    policy = Policy(max_batch=max_batch, max_batch_bytes=150)
    thread = fresh()
    for n, (size, alone) in enumerate(sizes):
        thread.inbox.append(
            InboxMessage(Message(HERE, f"m{n}", text_content("x" * size), window=0.0, max_wait=0.0), size, alone=alone)
        )
    thread.state, thread.due = "waiting", NOW

    taken = claim(thread, NOW, policy)

    assert taken is not None
    batch = thread.inbox[: len(taken.messages)]
    assert 1 <= len(batch) <= max_batch
    assert len(batch) == 1 or sum(o.size for o in batch) <= 150
    assert len(batch) == 1 or not any(o.alone for o in batch)
    if len(batch) < len(thread.inbox) and len(batch) < max_batch and not batch[0].alone:
        after = thread.inbox[len(batch)]
        assert after.alone or sum(o.size for o in batch) + after.size > 150


@pytest.mark.parametrize("window", [0.0, 2.0])
@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"window": 0.0},
        {"window": 3.0},
        {"max_wait": 0.0},
        {"window": 0.0, "max_wait": 4.0},
        {"flush": True},
        {"flush": True, "not_before": LATER},
    ],
)
def test_of_a_message_it_is_known_before_whether_a_resting_thread_is_due_with_it(
    wishes: dict[str, Any], window: float
) -> None:
    policy, thread = Policy(window=window, max_wait=8.0), fresh()
    accept(thread, policy=policy, **wishes)

    assert rules_accept.is_due_at_once(message(**wishes), policy) == (thread.wake == NOW)


def test_delayed_messages_join_in_the_order_of_their_moments() -> None:
    thread = fresh()
    for message_id, delay in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("b2", 20.0)):
        accept(thread, message_id, not_before=NOW + delay)
    assert thread.wake == NOW + 10
    assert thread.due is None

    rules_accept.ripen(thread, POLICY, NOW + 25)

    assert [o.message.message_id for o in thread.inbox] == ["a", "b", "b2"]
    assert [o.message.arrival - NOW for o in thread.inbox] == [10, 20, 20]
    assert [o.message.seq for o in thread.inbox] == [1, 2, 3]
    assert thread.due == NOW + 18
    assert [o.message.message_id for o in thread.delayed] == ["c"]


def test_a_thread_wakes_for_a_delayed_message_before_it_is_due() -> None:
    for state in ("waiting", "retry", "dissolved", "held"):
        thread, _ = bring(state)
        accept(thread, "later", not_before=NOW + 1)
        assert thread.wake == NOW + 1
    thread, _ = bring("leased")
    accept(thread, "later", not_before=NOW + 1)
    assert thread.wake == thread.due == NOW + LEASE


# ---------------------------------------------------------------- claims


def test_a_claim_of_what_is_not_due_changes_nothing_but_what_has_ripened() -> None:
    thread = fresh()
    accept(thread, "m1", not_before=NOW + 1)

    assert claim(thread, NOW + 1) is None

    assert (thread.state, thread.due) == ("waiting", NOW + 3)


def test_the_claim_that_is_valid_can_be_told_again() -> None:
    thread, taken = leased("m1", "m2")

    assert rules_claim.current_claim(thread) == taken


def test_begin_takes_nothing_it_was_not_given_in_full() -> None:
    thread = fresh()
    known = AcceptedId("d", Receipt("c", "m1", "thread_1", "accepted", 1, None))
    names = {"owner": "w", "lease": LEASE, "token": "t", "run_id": "r"}

    with pytest.raises(MessageConflict):
        rules_claim.begin(thread, [message("m1")], [known], POLICY, NOW, **names)  # type: ignore[arg-type]  # keywords
    with pytest.raises(MessageConflict):
        rules_claim.begin(thread, [message("m2"), message("m2")], [None, None], POLICY, NOW, **names)  # type: ignore[arg-type]
    with pytest.raises(ThreadBusy):
        rules_claim.begin(fresh(), [message("m3"), message("m4")], [None, None], Policy(max_batch=1), NOW, **names)  # type: ignore[arg-type]


def test_a_renewal_finds_what_asks_for_the_run() -> None:
    thread, taken = leased("m1")
    assert rules_claim.renew(thread, taken, NOW + 1, LEASE) == Directive(True, NOW + 1 + LEASE)
    accept(thread, "m2", on_busy="steer")
    accept(thread, "m3", on_busy="interrupt")
    assert rules_claim.renew(thread, taken, NOW + 2, LEASE) == Directive(True, NOW + 2 + LEASE, "interrupt", steer=True)
    rules_claim.offer_steering(thread, taken)
    assert not rules_claim.renew(thread, taken, NOW + 3, LEASE).steer
    assert rules_claim.renew(thread, taken.__class__(**{**fields_of(taken), "token": "x"}), NOW, LEASE) == Directive(
        held=False
    )


def fields_of(taken: Claim) -> dict[str, Any]:
    return {name: getattr(taken, name) for name in Claim.__dataclass_fields__}


def test_a_run_is_one_from_its_first_claim_to_its_end() -> None:
    thread, first = leased("m1")
    rules_settle.release(thread, first, 0.0, None, NOW + 1)
    second = rules_claim.claim(thread, POLICY, NOW + 2, owner="w", lease=LEASE, token="t2", run_id="run_2")
    assert second is not None
    assert (second.run_id, second.attempt, thread.first_claimed_at) == ("run_1", 2, NOW)
    rules_settle.commit(thread, second, done(), POLICY, NOW + 3)
    assert thread.out.run is not None
    assert (thread.out.run.run_id, thread.out.run.attempt, thread.out.run.started_at) == ("run_1", 2, NOW)
    accept(thread, "m2", NOW + 4, flush=True)
    third = rules_claim.claim(thread, POLICY, NOW + 4, owner="w", lease=LEASE, token="t3", run_id="run_3")
    assert third is not None
    assert (third.run_id, third.attempt) == ("run_3", 1)


def test_a_death_is_counted_on_the_oldest_message_and_orphans_count_none() -> None:
    thread, _ = leased("m1", "m2")
    assert claim(thread, NOW + LEASE) is not None
    assert [o.deaths for o in thread.inbox] == [1, 0]
    rules_claim.orphan(thread, NOW + LEASE)
    assert claim(thread, NOW + LEASE) is not None
    assert [o.deaths for o in thread.inbox] == [1, 0]
    rules_claim.bereave(thread, NOW + LEASE)
    assert claim(thread, NOW + LEASE) is not None
    assert [o.deaths for o in thread.inbox] == [2, 0]


# ---------------------------------------------------------------- outcomes


def test_a_commit_says_all_that_has_to_be_stored() -> None:
    thread, taken = leased("m1", "m2")
    accept(thread, "m3")
    rules_claim.journal(thread, taken, [{"n": 0}], NOW)
    thread.take_out()

    left = rules_settle.commit(thread, taken, done(usage=Usage(requests=2)), POLICY, NOW + 1)

    out = thread.out
    assert left == Remainder(1, NOW + 2)
    assert out.removed_ids == {"m1", "m2"}
    told = ("answered", "run_1", ("m1", "m2"), NOW + 1 + POLICY.dedupe)
    assert {i: (k.status, k.run_id, k.covers, k.forget_at) for i, k in out.accepted_ids.items()} == {
        "m1": told,
        "m2": told,
    }
    assert [(e.turn, e.at) for e in out.entries] == [(1, NOW + 1)]
    assert out.journal_cleared
    assert (out.completed_count, out.failed_count, thread.turns, thread.usage) == (2, 0, 1, Usage(requests=2))
    assert [e.kind for e in out.events] == ["completed"]


def test_dead_letters_of_a_batch_tell_attempts_and_deaths_of_the_oldest() -> None:
    thread, taken = leased("m1", "m2")
    rules_settle.fail(thread, taken, Failure(FAULT, 0.0), POLICY, NOW)
    again = claim(thread, NOW + 1, token="token 2")
    assert again is not None
    thread.take_out()

    assert rules_settle.fail(thread, again, Failure(FAULT, None, effects=True), POLICY, NOW + 2) == "dead"

    assert [(d.message.message_id, d.attempts, d.deaths, d.dead_id) for d in thread.out.dead] == [
        ("m1", 2, 0, ""),
        ("m2", 2, 0, ""),
    ]
    assert thread.out.failed_count == 2


@pytest.mark.parametrize(
    ("messages", "effects", "stop", "began_stopped", "outcome"),
    [
        (1, False, None, False, "dead"),
        (2, False, None, False, "split"),
        (2, True, None, False, "dead"),
        (1, False, "cancel", False, "retry"),
        (2, True, "cancel", False, "retry"),
        (2, False, "cancel", True, "dead"),
        (1, False, "interrupt", True, "dead"),
    ],
)
def test_what_becomes_of_a_run_that_nobody_will_try_again(
    messages: int, effects: bool, stop: Any, began_stopped: bool, outcome: str
) -> None:
    thread, taken = leased(*(f"m{n}" for n in range(messages)))
    thread.stop = stop
    if began_stopped:
        taken = Claim(**{**fields_of(taken), "stop": stop})

    assert rules_settle.fail(thread, taken, Failure(FAULT, None, effects), POLICY, NOW) == outcome


def test_a_result_is_left_until_a_few_later_ones() -> None:
    thread, first = leased("m1")
    left = rules_settle.commit(thread, first, done(), POLICY, NOW)
    accept(thread, "m2", flush=True)
    second = claim(thread, token="token 2")
    assert second is not None
    assert rules_settle.commit(thread, first, done(), POLICY, NOW) == left
    with pytest.raises(LeaseLost):
        rules_settle.fail(thread, first, Failure(FAULT, None), POLICY, NOW)
    rules_settle.release(thread, second, 0.0, None, NOW)
    for n in range(rules_settle.SETTLEMENTS - 2):
        later = claim(thread, token=f"token {n + 3}")
        assert later is not None
        rules_settle.release(thread, later, 0.0, None, NOW)
    assert rules_settle.commit(thread, first, done(), POLICY, NOW) == left
    last = claim(thread, token="token last")
    assert last is not None
    rules_settle.release(thread, last, 0.0, None, NOW)
    with pytest.raises(LeaseLost):
        rules_settle.commit(thread, first, done(), POLICY, NOW)


def test_journal_and_events_are_kept_in_order_only() -> None:
    thread, taken = leased("m1")
    with pytest.raises(ValueError, match="record 1"):
        rules_claim.journal(thread, taken, [{"n": 1}], NOW)
    with pytest.raises(ValueError, match="event 1"):
        rules_claim.publish(thread, taken, 1, [], NOW)
    rules_claim.journal(thread, taken, [{"n": 0}, {"n": 1}], NOW)
    rules_claim.journal(thread, taken, [{"n": 1, "other": True}], NOW)
    assert list(thread.journal) == thread.out.journal == [{"n": 0}, {"n": 1}]


def test_only_messages_up_to_the_one_taken_are_steered_in() -> None:
    thread, taken = leased("m1")
    for message_id in ("m2", "m3", "m4"):
        accept(thread, message_id, on_busy="steer")
    offered = rules_claim.offer_steering(thread, taken)
    assert [m.message_id for m in offered] == ["m2", "m3", "m4"]

    rules_claim.journal(thread, taken, [{"n": 0, "steered_through": offered[1].seq}], NOW)

    assert thread.batch == 3
    assert [m.message_id for m in rules_claim.offer_steering(thread, taken)] == ["m4"]
    assert {i: k.steer for i, k in thread.out.accepted_ids.items() if k.steer == "applied"} == {
        "m2": "applied",
        "m3": "applied",
    }


# ---------------------------------------------------------------- decisions, stops, changes


def test_a_decision_binds_call_digest_and_moment() -> None:
    thread, _ = bring("held")
    with pytest.raises(NotFound):
        rules_change.decide(thread, "call_9", "d1", Decision("approved"), NOW)
    with pytest.raises(Conflict):
        rules_change.decide(thread, "call_1", "d9", Decision("approved"), NOW)
    with pytest.raises(InvalidMessage, match="takes no output"):
        rules_change.decide(thread, "call_1", "d1", Decision("output", "42"), NOW)
    decided = rules_change.decide(thread, "call_1", "d1", Decision("denied", "no", "ann"), NOW)
    assert (decided.decision, decided.output, decided.by) == ("denied", "no", "ann")
    assert rules_change.decide(thread, "call_1", "d1", Decision("denied", "no", "bob"), NOW) == decided
    with pytest.raises(Conflict):
        rules_change.decide(thread, "call_1", "d1", Decision("denied", "never"), NOW)


def test_an_open_call_of_a_stopped_turn_is_not_decided_any_more() -> None:
    thread, _ = bring("held")
    rules_change.cancel(thread, POLICY, NOW, drop_inbox=False)
    assert claim(thread, NOW) is not None

    with pytest.raises(WrongState):
        rules_change.decide(thread, "call_1", "d1", Decision("approved"), NOW)


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
def test_a_hold_that_came_after_a_stop_is_declined_at_once(policy: BusyPolicy) -> None:
    thread, taken = leased("m1")
    accept(thread, "m2", on_busy=policy)

    rules_settle.hold(thread, taken, [CALL], 600.0, NOW)

    assert thread.due == NOW
    assert [c.decision for c in thread.calls] == ["declined"]


def test_cancelling_drops_what_waits_but_not_what_was_offered() -> None:
    thread, taken = leased("m1")
    accept(thread, "m2", on_busy="steer")
    accept(thread, "m3")
    accept(thread, "m4", not_before=NOW + 9)
    rules_claim.offer_steering(thread, taken)

    assert rules_change.cancel(thread, POLICY, NOW, drop_inbox=True)

    assert [o.message.message_id for o in [*thread.inbox, *thread.delayed]] == ["m1", "m2"]
    assert thread.out.removed_ids == {"m3", "m4"}


def test_a_message_that_is_not_open_is_told_why() -> None:
    receipt = Receipt("c", "m1", "thread_1", "accepted", 1, None)
    with pytest.raises(NotFound):
        rules_change.raise_if_frozen(None, "m1", withdrawing=True)
    rules_change.raise_if_frozen(AcceptedId("d", receipt, "withdrawn"), "m1", withdrawing=True)
    for known, withdrawing in (
        (AcceptedId("d", receipt, "withdrawn"), False),
        (AcceptedId("d", receipt, "answered"), True),
    ):
        with pytest.raises(MessageFrozen):
            rules_change.raise_if_frozen(known, "m1", withdrawing=withdrawing)


def test_where_an_open_message_is() -> None:
    thread, _ = leased("m1")
    accept(thread, "m2")
    accept(thread, "m3", not_before=NOW + 5)

    found = [rules_change.status_of(thread, f"m{n}") for n in range(1, 5)]

    assert [f and f[0] for f in found] == ["running", "waiting", "delayed", None]


def test_a_redrive_is_a_new_acceptance_that_keeps_the_first_digest() -> None:
    thread, taken = leased("m1")
    rules_settle.fail(thread, taken, Failure(FAULT, None), POLICY, NOW)
    [letter] = thread.out.dead
    known = AcceptedId("first digest", Receipt("c", "m1", "thread_1", "accepted", 1, None), "dead")
    thread.take_out()

    receipt = rules_change.redrive(thread, letter, POLICY, NOW + 1, known)

    assert (receipt.position, receipt.repeated) == (1, False)
    assert thread.out.accepted_ids["m1"].digest == "first digest"
    assert (thread.inbox[0].attempts, thread.inbox[0].message.arrival) == (0, NOW + 1)
    with pytest.raises(MessageConflict):
        rules_change.redrive(thread, letter, POLICY, NOW + 1)


def test_a_redrive_of_a_forgotten_id_takes_the_digest_of_the_letter() -> None:
    thread = fresh()
    letter = DeadLetter("dead_1", HERE, "thread_1", message("m1"), FAULT, 1, 0, "run_1", NOW)

    rules_change.redrive(thread, letter, Policy(max_inbox=0), NOW)

    assert thread.out.accepted_ids["m1"].digest == digest(letter.message.content)


def test_only_known_fields_are_updated() -> None:
    thread = fresh()
    with pytest.raises(InvalidMessage):
        rules_change.update(thread, {"state": "idle"}, NOW)
    rules_change.update(thread, {"ttl": 50.0, "metadata": {"a": "1", "b": "2"}}, NOW + 1)
    rules_change.update(thread, {"ttl": 20.0, "metadata": {"a": None}}, NOW + 2)
    rules_change.update(thread, {"ttl": None}, NOW + 3)
    assert (thread.ttl, thread.metadata, thread.active_at) == (50.0, {"b": "2"}, NOW + 3)


# ---------------------------------------------------------------- whatever happens


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.sampled_from([0.0, 1.0, 5.0, 40.0])), max_size=40))
def test_whatever_happens_a_thread_stays_whole(history: list[tuple[str, float]]) -> None:
    thread, now, current, counter = fresh(), NOW, None, 0
    fence = top = 0
    for name, gap in history:
        now, counter = now + gap, counter + 1
        current = step(thread, name, now, current, counter) or current

        assert (thread.state == "idle") == (not thread.inbox)
        assert (thread.due is None) == (thread.state == "idle")
        assert thread.batch <= len(thread.inbox)
        assert (thread.token is not None) == (thread.owner is not None) == (thread.state == "leased")
        assert thread.batch > 0 or thread.state not in ("leased", "held")
        assert thread.batch == 0 or thread.state in ("leased", "retry", "held")
        assert thread.stop is None or thread.batch > 0
        assert thread.fence >= fence
        assert thread.top >= top
        seqs = [o.message.seq for o in thread.inbox]
        assert seqs == sorted(set(seqs))
        fence, top = thread.fence, thread.top


def step(thread: Thread, name: str, now: float, current: Claim | None, counter: int) -> Claim | None:
    """One operation on a thread whose state nobody knows; the claim it gave, if any."""
    fake = current or Claim(HERE, "thread_1", "run", "none", 0, "w", 1, 0.0, ())
    calls: dict[str, Callable[[], Any]] = {
        "begin": lambda: rules_claim.begin(
            thread,
            [message(f"b{counter}")],
            [None],
            POLICY,
            now,
            owner="w",
            lease=LEASE,
            token=f"t{counter}",
            run_id="r",
        ),
        "delayed": lambda: accept(thread, f"m{counter}", now, not_before=now + 5),
        "claim": lambda: claim(thread, now, token=f"t{counter}"),
        "claim late": lambda: claim(thread, now + 100, token=f"t{counter}"),
        "withdraw": lambda: rules_change.withdraw(
            thread, thread.inbox[-1].message.message_id if thread.inbox else "", POLICY, now
        ),
    }
    policies = ("queue", "steer", "interrupt", "rollback", "reject")
    try:
        if name in ("accept", *policies):
            asks: Any = name if name in policies else None
            accept(thread, f"m{counter}", now, on_busy=asks)
            return None
        result = calls[name]() if name in calls else OPERATIONS[name](thread, fake)
    except (Rejection, LeaseLost, ValueError):
        return None
    return result if isinstance(result, Claim) else None
