"""The rules of what people do to a thread from outside: decide, cancel, edit, pause, append,
regenerate, redrive.

Plain functions, as in `rules_accept`. None of them touches a batch that a run may be answering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from turnkeep.errors import Conflict, InvalidMessage, MessageConflict, MessageFrozen, NotFound, ThreadBusy, WrongState
from turnkeep.events import Event
from turnkeep.messages import Address, AssistantItem, Content, Message, UserItem
from turnkeep.store.ids import message_id_of
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.rules_accept import accept, ask_to_stop, await_next_batch, no_later, ripen
from turnkeep.store.rules_settle import add_turn, complete, remember_status
from turnkeep.store.thread import AcceptedId, InboxMessage, Thread
from turnkeep.store.values import (
    Commit,
    DeadLetter,
    Decision,
    HeldCall,
    MessageStatus,
    Policy,
    Receipt,
    ThreadOptions,
    TranscriptEntry,
)

FOREIGN: Mapping[str, str] = {"approval": "output", "output": "approved"}
"""The verdict that is none for a call of this kind: nobody speaks for a tool that runs here."""

RUN_IN_PROGRESS = "a run is in progress, change the transcript when it has ended"
INBOX_CHANGED = "the messages that wait are others than those that were read, read them again"

OTHERS_WAIT = "other messages are open on this thread, answer a turn again when they are answered"
NOTHING_ASKED = "no turn of this thread holds a user message, there is nothing to answer again"


def decide(thread: Thread, call_id: str, call_digest: str, decision: Decision, now: float) -> HeldCall:
    place = next((i for i, c in enumerate(thread.calls) if c.call_id == call_id), None)
    if place is None:
        raise NotFound(f"no call {call_id!r} waits on this thread")
    call = thread.calls[place]
    # A person decides on what he was shown: the same id with other arguments is another call.
    if call.digest != call_digest:
        raise Conflict(f"call {call_id!r} has other arguments (digest {call.digest}), decide on what is asked now")
    if call.decision is not None:
        # A button that is pressed twice, or whose reply was lost.
        if (call.decision, call.output) == (decision.verdict, decision.output):
            return call
        raise Conflict(f"call {call_id!r} was decided already: {call.decision}")
    if decision.verdict == FOREIGN[call.kind]:
        raise unfit(call_id, call.kind)
    # Last of all: the same decision again is answered also when the turn goes on already.
    if thread.state != "held":
        raise WrongState(f"call {call_id!r} waits no longer, its run is being stopped")
    outcome = replace(call, decision=decision.verdict, output=decision.output, by=decision.by, decided_at=now)
    thread.calls = (*thread.calls[:place], outcome, *thread.calls[place + 1 :])
    thread.emit(Event("decided", thread.batch_ids, run_id=thread.run_id, calls=(outcome.to_json(),)), now)
    if all(c.decision for c in thread.calls):
        thread.due = no_later(thread, now)
    return outcome


def unfit(call_id: str, kind: str) -> InvalidMessage:
    if kind == "approval":
        return InvalidMessage(f"call {call_id!r} asks for an approval and takes no output: decide approved or denied")
    return InvalidMessage(f"call {call_id!r} asks for its output and runs nowhere here: give the output, or deny it")


def cancel(thread: Thread, policy: Policy, now: float, *, drop_inbox: bool) -> bool:
    ripen(thread, policy, now)
    stopping = thread.state in ("leased", "held") or (thread.state == "retry" and thread.batch > 0)
    if stopping:
        ask_to_stop(thread, "cancel", now)
    # What was offered to the run is in its hands: it may be in the next request already.
    if drop_inbox:
        waiting = [o for o in thread.inbox[thread.batch :] if o.steer != "offered"]
        _drop(thread, [*waiting, *thread.delayed], policy, now)
    return stopping


def _drop(thread: Thread, envelopes: Sequence[InboxMessage], policy: Policy, now: float) -> None:
    for envelope in envelopes:
        remember_status(thread, envelope, "withdrawn", policy, now)
        thread.emit(Event("withdrawn", (envelope.message.message_id,)), now)
    message_ids = {envelope.message.message_id for envelope in envelopes}
    thread.inbox = [o for o in thread.inbox if o.message.message_id not in message_ids]
    thread.delayed = tuple([o for o in thread.delayed if o.message.message_id not in message_ids])
    _after_removal(thread, policy, now)


def _after_removal(thread: Thread, policy: Policy, now: float) -> None:
    if not thread.is_busy or (thread.state == "retry" and not thread.batch and not thread.inbox):
        await_next_batch(thread, policy, now)


def withdraw(thread: Thread, message_id: str, policy: Policy, now: float) -> None:
    envelope = _find_changeable(thread, message_id, policy, now)
    _drop(thread, [envelope], policy, now)


def edit(thread: Thread, message_id: str, content: Content, policy: Policy, now: float) -> Message:
    envelope = _find_changeable(thread, message_id, policy, now)
    # A repeat shows no second `edited` to those who watch.
    if envelope.message.content == content:
        return envelope.message
    envelope.message = envelope.message.but(content=content)
    envelope.size = envelope.message.size
    thread.out.changed_ids.add(message_id)
    thread.emit(Event("edited", (message_id,), text=envelope.message.text), now)
    return envelope.message


def _find_changeable(thread: Thread, message_id: str, policy: Policy, now: float) -> InboxMessage:
    ripen(thread, policy, now)
    for place, envelope in enumerate([*thread.inbox, *thread.delayed]):
        if envelope.message.message_id == message_id:
            # Offered is as good as taken: the run may have read it.
            if place < thread.batch or envelope.steer == "offered":
                raise MessageFrozen(f"message {message_id!r} is being answered, send a new one")
            return envelope
    raise NotFound(f"no message {message_id!r} waits on this channel")


def raise_if_frozen(accepted_id: AcceptedId | None, message_id: str, *, withdrawing: bool) -> None:
    """Why a message that is not open cannot be changed; a withdrawal that is repeated has nothing
    left to do.
    """
    if accepted_id is None:
        raise NotFound(f"no message {message_id!r} is known on this channel")
    # What is gone is gone: a repeated withdrawal has what it wants.
    if not (withdrawing and accepted_id.status == "withdrawn"):
        raise MessageFrozen(f"message {message_id!r} is {accepted_id.status}, send a new one")


def status_of(thread: Thread, message_id: str) -> tuple[MessageStatus, Message] | None:
    """Where an open message is now; None if it is not open."""
    for place, envelope in enumerate(thread.inbox):
        if envelope.message.message_id == message_id:
            return ("running" if place < thread.batch else "waiting"), envelope.message
    for envelope in thread.delayed:
        if envelope.message.message_id == message_id:
            return "delayed", envelope.message
    return None


def pause(thread: Thread, now: float) -> None:
    if not thread.paused:
        thread.paused = True
        thread.active_at = now
        thread.emit(Event("paused"), now)


def resume(thread: Thread, policy: Policy, now: float) -> None:
    if thread.paused:
        thread.paused = False
        thread.active_at = now
        # What was delayed into the pause takes its place before `due` counts again.
        ripen(thread, policy, now)
        thread.emit(Event("resumed"), now)


def append(thread: Thread, entries: Sequence[TranscriptEntry], author: str | None, now: float) -> None:
    _between_turns(thread)
    add_turn(thread, entries, now)
    thread.active_at = now
    for entry in entries:
        if author is not None and isinstance(entry.item, AssistantItem):
            thread.emit(Event("said", text=entry.item.text, author=author), now)


def answer(
    thread: Thread, inbox: InboxView, entries: Sequence[TranscriptEntry], policy: Policy, now: float,
    *, author: str | None, run_id: str,
) -> None:  # fmt: skip
    """Answer what waits in the place of a model; `run_id` is used when no run is open."""
    ripen(thread, policy, now)
    # What was let go with nothing begun (the provider is down) is nobody's: there a person is needed most.
    if thread.state in ("leased", "held") or thread.batch:
        raise ThreadBusy(RUN_IN_PROGRESS)
    if (thread.thread_id, thread.top) != (inbox.thread_id, inbox.top) or len(thread.inbox) < len(inbox.entries):
        raise Conflict(INBOX_CHANGED)
    if thread.run_id is None:
        thread.run_id, thread.attempt, thread.first_claimed_at = run_id, 0, now
    thread.batch, thread.attempt = len(inbox.entries), thread.attempt + 1
    thread.flushed, thread.typed_at = False, None
    # As of any run, so that whoever waits for one of the messages sees its turn begin and end.
    names: dict[str, Any] = {"run_id": thread.run_id, "attempt": thread.attempt, "thread_id": thread.thread_id}
    thread.emit(Event("started", thread.batch_ids, **names), now)
    complete(thread, Commit("completed", said_in(entries), (*inbox.entries, *entries)), policy, now, author=author)


def said_in(entries: Sequence[TranscriptEntry]) -> str:
    """The text of an answer that was made of these entries."""
    return "\n\n".join(entry.item.text for entry in entries if isinstance(entry.item, AssistantItem))


def regenerate(
    thread: Thread, last_turn: Sequence[TranscriptEntry], stem: str, policy: Policy, now: float
) -> list[Receipt]:
    """Accept once more what was said in a turn; `last_turn` are the entries of the last one that
    holds user items, which the engine removes with all later ones. The new ids begin with `stem`.
    """
    ripen(thread, policy, now)
    # Delayed messages are no obstacle: they are for another time.
    if thread.is_busy or thread.inbox:
        raise ThreadBusy(OTHERS_WAIT)
    if not last_turn:
        raise NotFound(NOTHING_ASKED)
    _note_edit(thread, now)
    return [accept(thread, message, None, policy, now) for message in repeat_messages(thread.address, last_turn, stem)]


def repeat_messages(address: Address, last_turn: Sequence[TranscriptEntry], stem: str) -> list[Message]:
    """Messages like those that were said in a turn. They wait for nothing, whatever messages do on
    their thread.
    """
    items = [entry.item for entry in last_turn if isinstance(entry.item, UserItem)]
    return [
        Message(
            address,
            message_id_of(stem, place),
            item.content,
            instructions=item.instructions,
            user_instructions=item.user_instructions,
            assistant_instructions=item.assistant_instructions,
            model=item.model,
            parameters=item.parameters,
            assistant=item.assistant,
            client_tools=item.client_tools,
            metadata=item.metadata or {},
            # The turn was asked for once already, so it waits for no window and stops nobody.
            on_busy="collect",
            flush=True,
        )
        for place, item in enumerate(items)
    ]


def compact(thread: Thread, summary: str, now: float) -> None:
    """Let a summary stand for the turns that the engine removes."""
    thread.summary = summary
    thread.active_at = now
    _note_edit(thread, now)


def _note_edit(thread: Thread, now: float) -> None:
    thread.edits += 1
    thread.transcript_at = now


def _between_turns(thread: Thread) -> None:
    if thread.is_busy:
        raise ThreadBusy(RUN_IN_PROGRESS)


def update(thread: Thread, changes: Mapping[str, Any], now: float) -> None:
    """Change what people may set. A time to live that somebody set is never shortened
    by a later one.
    """
    if strange := set(changes) - {"assistant", "metadata", "options", "ttl"}:
        raise InvalidMessage(
            f"a thread has no {', '.join(sorted(strange))}, change assistant, metadata, options or ttl"
        )
    if "assistant" in changes:
        thread.assistant = changes["assistant"]
    if "options" in changes:
        options = changes["options"]
        thread.options = options if isinstance(options, ThreadOptions) else ThreadOptions(**options)
    if (ttl := changes.get("ttl")) is not None:
        # A second caller with a shorter wish must not delete what the first was promised.
        thread.ttl = max(thread.ttl or 0.0, ttl)
    metadata = thread.metadata | dict(changes.get("metadata", {}))
    # None removes a name: otherwise nobody could ever take one back.
    thread.metadata = {name: value for name, value in metadata.items() if value is not None}
    thread.active_at = now


def redrive(thread: Thread, letter: DeadLetter, policy: Policy, now: float, prior: AcceptedId | None = None) -> Receipt:
    """A new acceptance at the end of the inbox, under the same id; `prior` is what was remembered
    of it, if anything: the digest stays that of the first text.
    """
    # The moment, the haste and the policy were of another day; only what was said is asked again.
    message = letter.message.but(not_before=None, flush=False, on_busy="collect")
    if status_of(thread, message.message_id) is not None:
        raise MessageConflict(
            f"a message {message.message_id!r} waits on this channel already, redrive when it is settled"
        )
    # A full inbox is no reason: it was accepted once, and the operator has chosen this moment.
    receipt = accept(thread, message, None, policy, now, max_inbox=1 << 60)
    # A client that still repeats its first send must
    # find it known, whatever an edit has made of it.
    if prior is not None:
        thread.out.accepted_ids[message.message_id].digest = prior.digest
    return receipt
