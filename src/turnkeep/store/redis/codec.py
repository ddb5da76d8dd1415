"""What Python writes into Redis and reads back: JSON, message bodies, turns, events, records.

Bodies, turns and journal records carry a checksum; what does not fit it raises `ThreadQuarantined`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from zlib import crc32

import orjson

from turnkeep.errors import ThreadQuarantined
from turnkeep.events import Event, TextDelta, TurnFault
from turnkeep.messages import Address, Content, Message, Part, digest, item_from_json, item_to_json
from turnkeep.store.redis.key_names import ThreadKeys, address_of, to_bytes, to_text
from turnkeep.store.transcript import size_of
from turnkeep.store.transcript_version import TranscriptVersion
from turnkeep.store.values import (
    Claim,
    DeadLetter,
    HeldCall,
    MessageRecord,
    Policy,
    Receipt,
    RunRecord,
    ThreadOptions,
    ThreadRecord,
    TranscriptEntry,
)
from turnkeep.usage import Usage

T = TypeVar("T")

_EMPTY = b""

_STORED_ELSEWHERE = ("content", "arrival", "seq", "window", "max_wait", "on_busy")

DELTA_MEMBERS = 120
"""Bytes of the members of an ordinary delta at most; read once, being the same for a run."""


def dump(value: Any) -> bytes:
    """JSON in one line; a blank before what orjson refuses (lone surrogates, huge integers)."""
    try:
        return orjson.dumps(value)
    # Both are valid in what users send; a message is not refused for them.
    except TypeError:
        return b" " + to_bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def parse(data: bytes) -> Any:
    """Raises ValueError for what is no JSON."""
    if data.startswith(b" "):
        return json.loads(to_text(data))
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(to_text(data))


def add_checksum(data: bytes) -> bytes:
    return b"%08x" % crc32(data) + data


def check_checksum(data: bytes, what: str) -> bytes:
    body = data[8:]
    if data[:8] != b"%08x" % crc32(body):
        raise ThreadQuarantined(f"the stored {what} is damaged: its checksum does not fit")
    return body


def parse_json(data: bytes, what: str) -> Any:
    try:
        return parse(data)
    except ValueError as wrong:
        raise ThreadQuarantined(f"the stored {what} is damaged: it is no JSON") from wrong


def number(text: bytes) -> float | None:
    return float(text) if text else None


def words(data: bytes) -> str:
    return data.decode()


@lru_cache(maxsize=256)
def policy_argument(policy: Policy) -> bytes:
    """Limits as doubles, then the busy policy."""
    numbers = (
        policy.window, policy.max_wait, policy.max_batch, policy.max_batch_bytes, policy.max_inbox, policy.expiry,
        policy.dedupe, policy.history_items, policy.history_bytes, policy.log_events, policy.log_age, policy.runs_kept,
    )  # fmt: skip
    # Binary, so that a script unpacks all of it in one call. There are few policies and many
    # orders, hence `lru_cache`.
    return struct.pack("<12d", *numbers) + policy.on_busy.encode()


def usage_argument(usage: Usage) -> bytes:
    return struct.pack(
        "<9d", usage.requests, usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.output_tokens,
        usage.reasoning_tokens, usage.cost_nano, usage.unpriced, usage.estimated,
    )  # fmt: skip


def exact(value: float | None) -> bytes:
    # repr is the shortest text that reads back as the same double; Lua prints 14 digits.
    return _EMPTY if value is None else repr(float(value)).encode()


def flag(value: bool) -> bytes:
    return b"1" if value else b"0"


def content_bytes(content: Content) -> bytes:
    return add_checksum(dump([part.to_json() for part in content]))


def body(message: Message) -> bytes:
    """Of a message what never changes, and on a line of its own the content."""
    # On lines of their own because `edit` replaces the content alone, and each has its checksum.
    data = message.to_json()
    content = data["content"]
    for name in _STORED_ELSEWHERE:
        data.pop(name, None)
    return add_checksum(dump(data)) + b"\n" + add_checksum(dump(content))


def message_row(message: Message) -> tuple[bytes, ...]:
    """A message as accepting scripts take it."""
    return (
        to_bytes(message.message_id),
        digest(message.content).encode(),
        b"%d" % message.size,
        (message.on_busy or "").encode(),
        exact(message.window),
        exact(message.max_wait),
        exact(message.not_before),
        flag(message.flush),
        flag(message.minted),
        body(message),
        to_bytes(message.text),
    )


def turn_argument(entries: Sequence[TranscriptEntry]) -> bytes:
    """A turn without its number and moment; nothing for no entries."""
    if not entries:
        return _EMPTY
    items = [item_to_json(e.item) for e in entries]
    size, tokens = sum(map(size_of, items)), sum(e.tokens for e in entries)
    has_user = any(e.item.kind == "user" for e in entries)
    turn = dump([[item, e.tokens] for item, e in zip(items, entries, strict=True)])
    return b"%d %d %d %d\n" % (len(entries), size, tokens, has_user) + add_checksum(turn)


def event_row(event: Event) -> tuple[bytes, bytes, bytes]:
    """Kind, the JSON of its other members, text."""
    # Nearly every event is one: its members are the same for the whole run, so their
    # JSON is made once.
    if event.__class__ is TextDelta:
        return b"delta", _delta_members(event.run_id, event.attempt), to_bytes(event.text)
    left_out = ("kind", "text", "offset", "epoch", "at")
    members = {k: v for k, v in event.to_json().items() if k not in left_out}
    return event.kind.encode(), dump(members), to_bytes(event.text)


def event_frame(event: Event, at: bytes) -> bytes:
    """An event as its log holds it, without the offset in front: the log gives that."""
    kind, members, text = event_row(event)
    return b" %b %b %d %d\n%b%b" % (kind, at, len(members), len(text), members, text)


@lru_cache(maxsize=4096)
def _delta_members(run_id: str | None, attempt: int) -> bytes:
    data = {"run_id": run_id, "attempt": attempt}
    return dump({k: v for k, v in data.items() if v})


def fault_argument(fault: TurnFault | None) -> bytes:
    return dump(fault.to_json()) if fault else _EMPTY


def call_row(call: HeldCall) -> tuple[bytes, ...]:
    """Id, digest, decision, JSON members that never change, output and by as JSON."""
    data = call.to_json()
    base = {k: v for k, v in data.items() if k not in ("decision", "output", "by")}
    return (
        to_bytes(call.call_id),
        to_bytes(call.digest),
        (call.decision or "").encode(),
        dump(base).strip()[1:-1],
        dump(call.output),
        dump(call.by),
    )


def read_message(address: Address, about: Mapping[str, Any], data: bytes) -> Message:
    """A message from what the store says about it and its body."""
    head, _, content = data.partition(b"\n")
    values = parse_json(check_checksum(head, "message"), "message")
    parts = parse_json(check_checksum(content, "message"), "message")
    try:
        values["content"] = tuple([Part.from_json(part) for part in parts])
        values["arrival"], values["seq"] = float(about["arrival"]), about["seq"]
        values["window"], values["max_wait"] = float(about["window"]), float(about["max_wait"])
        values["on_busy"] = about["on_busy"]
        return Message(address=address, **values)
    except (KeyError, TypeError) as wrong:
        raise ThreadQuarantined("a stored message is damaged") from wrong


def read_messages(address: Address, rows: Sequence[bytes]) -> tuple[Message, ...]:
    return tuple(read_message(address, parse_json(rows[i], "message"), rows[i + 1]) for i in range(0, len(rows), 2))


def read_receipt(reply: Sequence[Any], message_id: str) -> Receipt:
    _, status, position, due_in, is_minted, is_steered, is_repeat, channel, thread_id = reply
    return Receipt(
        channel=to_text(channel),
        message_id=message_id,
        thread_id=to_text(thread_id),
        status=words(status),  # type: ignore[arg-type]  # scripts write no other
        position=position,
        due_in=number(due_in),
        idempotent=not is_minted,
        repeated=bool(is_repeat),
        steer="accepted" if is_steered else None,
    )


def read_claim(keys: ThreadKeys, reply: Sequence[Any]) -> Claim:
    """The answer of `claim` and `begin`."""
    (_, thread_id, run_id, token, fence, owner, attempt, until, attempts, deaths, last_chance, stop, calls, assistant,
     has_assistant, claimed_at, due_at, items, version, messages, journal) = reply  # fmt: skip
    return Claim(
        address=keys.address,
        thread_id=to_text(thread_id),
        run_id=words(run_id),
        token=words(token),
        fence=fence,
        owner=to_text(owner),
        attempt=attempt,
        lease_until=float(until),
        messages=read_messages(keys.address, messages),
        journal=tuple(parse_json(check_checksum(record or _EMPTY, "journal"), "journal") for record in journal),
        attempts=attempts,
        deaths=deaths,
        last_chance=bool(last_chance),
        stop=words(stop) or None,  # type: ignore[arg-type]  # scripts write no other
        calls=read_calls(parse_json(calls, "calls")),
        assistant=to_text(assistant) if has_assistant else None,
        claimed_at=float(claimed_at),
        due_at=float(due_at),
        transcript=read_version(version),
        items=items,
    )


def read_version(parts: Sequence[Any]) -> TranscriptVersion:
    turns, edits, changed_at = parts
    return TranscriptVersion(turns, edits, float(changed_at))


def read_calls(data: Iterable[Mapping[str, Any]]) -> tuple[HeldCall, ...]:
    return tuple(HeldCall(**call) for call in data)


def read_message_record(address: Address, reply: Sequence[Any]) -> MessageRecord:
    """The answer of `message`, and of what changes one."""
    _, message_id, receipt, steer, status, run_id, settled_at, covers, *open_message = reply
    name = to_text(message_id)
    return MessageRecord(
        message=read_messages(address, open_message)[0] if open_message else None,
        message_id=name,
        status=words(status),  # type: ignore[arg-type]  # scripts write no other
        receipt=read_receipt(receipt, name),
        run_id=words(run_id) or None,
        covers=tuple(parse_json(covers, "closing")),
        settled_at=number(settled_at),
        steer=words(steer) or None,  # type: ignore[arg-type]  # scripts write no other
    )


def read_run(data: bytes) -> RunRecord:
    values = parse_json(data, "run")
    return RunRecord(
        run_id=values["run_id"],
        status=values["status"],
        message_ids=tuple(values["message_ids"]),
        attempt=values["attempt"],
        started_at=float(values["started_at"]),
        finished_at=values.get("finished_at") and float(values["finished_at"]),
        usage=Usage.from_json(values["usage"]),
        model=values.get("model"),
        fault=TurnFault(**values["fault"]) if "fault" in values else None,
        calls=read_calls(values["calls"]),
    )


def read_turn(data: bytes) -> list[TranscriptEntry]:
    """The entries of one stored turn."""
    header, _, entries_json = data.partition(b"\n")
    turn, at, *_ = header.split()
    items = parse_json(check_checksum(entries_json, "history"), "history")
    return [TranscriptEntry(item_from_json(item), tokens, int(turn), float(at)) for item, tokens in items]


def epoch_of(epoch: bytes, incarnation: int) -> str:
    """The epoch of a log changes when its partition finds itself on another server."""
    return f"{words(epoch)}.{incarnation}" if incarnation else words(epoch)


def read_event(place: tuple[int, str], kind: bytes, at: bytes, members: bytes, text: bytes) -> Event:
    """An event from its stored parts; `place` is its offset and the epoch of its log."""
    offset, epoch = place
    # A follower reads each token; the JSON of its members is parsed once for a run.
    if kind == b"delta" and len(members) <= DELTA_MEMBERS and (run := _delta_parsed(members)) is not None:
        return TextDelta(to_text(text), *run, offset, epoch, float(at))
    own = {"kind": words(kind), "text": to_text(text), "offset": offset, "epoch": epoch, "at": float(at)}
    return Event.from_json(parse_json(members, "event") | own)


@lru_cache(maxsize=4096)
def _delta_parsed(members: bytes) -> tuple[str | None, int] | None:
    """The run and the attempt that a delta names; None where it says anything else."""
    data: dict[str, Any] = parse_json(members, "event")
    return (data.get("run_id"), data.get("attempt", 0)) if data.keys() <= {"run_id", "attempt"} else None


def read_frames(data: bytes, epoch: str) -> list[Event]:
    """Events on their way: "offset kind at length length", a newline, members, text; and again."""
    events, place = [], 0
    while place < len(data):
        end = data.index(b"\n", place)
        offset, kind, at, members, text = data[place:end].split(b" ")
        border = end + 1 + int(members)
        last = border + int(text)
        events.append(read_event((int(offset), epoch), kind, at, data[end + 1 : border], data[border:last]))
        place = last
    return events


def read_thread(reply: Sequence[bytes], policy: Policy) -> ThreadRecord:
    """The answer of `thread`: names and values."""
    values = dict(zip(map(words, reply[1::2]), reply[2::2], strict=True))
    active_at = float(values["active_at"])
    ttl = float(values["ttl"]) if "ttl" in values else policy.expiry
    options = {name.removeprefix("option:"): value for name, value in values.items() if name.startswith("option:")}
    summary = values.get("summary")
    metadata = parse_json(values["metadata"], "metadata")
    return ThreadRecord(
        address=address_of(values["space"], values["channel"]),
        thread_id=to_text(values["thread_id"]),
        state=words(values["state"]),  # type: ignore[arg-type]  # scripts write no other
        paused="paused" in values,
        created_at=float(values["created_at"]),
        active_at=active_at,
        expires_at=active_at + ttl,
        due=number(values.get("due", _EMPTY)),
        assistant=to_text(values["assistant"]) if "assistant" in values else None,
        metadata=metadata,
        options=ThreadOptions(
            number(options.get("window", _EMPTY)),
            number(options.get("max_wait", _EMPTY)),
            words(options["on_busy"]) if "on_busy" in options else None,  # type: ignore[arg-type]
        ),
        summary=None if summary is None else to_text(check_checksum(summary, "summary")),
        messages=int(values["messages"]),
        open_messages=int(values["inbox"]) + int(values["delayed"]),
        turns=int(values["turns"]),
        items=int(values["items"]),
        bytes=int(values["bytes"]),
        usage=Usage.from_json(parse_json(values["usage"], "usage")),
        run_id=words(values["run_id"]) if "run_id" in values else None,
        attempt=int(values["attempt"]),
        calls=read_calls(parse_json(values.get("calls", b"[]"), "calls")),
        epoch=epoch_of(values["epoch"], int(values.get("incarnation", b"0"))),
        top=int(values["top"]),
    )


def read_dead_letter(dead_id: str, data: bytes) -> DeadLetter:
    """A stored dead letter; its seal is the scripts', so only its JSON is looked at here."""
    about, _, message = data[8:].partition(b"\n")
    values = parse_json(about, "dead letter")
    address = address_of(to_bytes(values["space"]), to_bytes(values["channel"]))
    return DeadLetter(
        dead_id=dead_id,
        address=address,
        thread_id=values["thread_id"],
        message=read_message(address, values["message"], message),
        fault=TurnFault(**values["fault"]),
        attempts=values["attempts"],
        deaths=values["deaths"],
        run_id=values["run_id"],
        at=float(values["at"]),
    )
