"""Names that the store gives: threads, runs, tokens, epochs, dead letters.

A thread id carries its partition, so that whoever holds one knows where the thread is kept. Equal
`Ids` give equal names in every engine.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from typing import Literal
from zlib import crc32

from turnkeep.messages import Address

# Part of every thread id that was ever given: this number can never change.
PARTITIONS = 16

MOST_PARTITIONS = 1024
"""Into so many a store may be cut. Its number is a power of two, so that the partition of a thread
among few tells where to look among many.
"""

Purpose = Literal["thread", "run", "token", "epoch", "dead", "message"]

Ids = Callable[[Purpose], str]
"""Gives 32 lowercase hex digits that were never given before for this `Purpose`; names use the last
ones they need.
"""

DRAWN_AT_ONCE = 64

# Exactly our own form: a channel may be any string, and somebody's own `thread_7` is one.
_CARRIES_PARTITION = re.compile(r"thread_(0[0-9a-f])[0-9a-f]{22}")
_CARRIES_PLACE = re.compile(r"thread_1([0-3][0-9a-f]{2})[0-9a-f]{20}")
"""Given where a store has more than `PARTITIONS`."""


_stock: list[str] = []
"""Ids drawn and not given yet: one call of the system for many, where each message needs several."""
os.register_at_fork(after_in_child=_stock.clear)


def random_ids(purpose: str) -> str:  # the default `Ids`: unguessable for every purpose
    try:
        return _stock.pop()
    except IndexError:
        digits = secrets.token_hex(16 * DRAWN_AT_ONCE)
        _stock.extend([digits[place : place + 32] for place in range(32, len(digits), 32)])
        return digits[:32]


def partition_of(address: Address) -> int:
    """Where the thread of this address is kept: what its thread id says if the channel is one, else
    by its name.
    """
    if (partition := partition_of_thread_id(address.channel)) is not None:
        return partition
    return _number_of(address) % PARTITIONS


def place_of(address: Address) -> int:
    """The same below `MOST_PARTITIONS`; modulo 16 it is `partition_of`."""
    if match := _CARRIES_PLACE.fullmatch(address.channel):
        return int(match[1], 16)
    number = _number_of(address) % MOST_PARTITIONS
    partition = partition_of_thread_id(address.channel)
    return number if partition is None else number - number % PARTITIONS + partition


def _number_of(address: Address) -> int:
    name = f"{address.tenant}\0{address.queue}\0{address.channel}"
    # Not Python's `hash`, which is another in each process: all must find the same partition.
    return crc32(name.encode("utf-8", "surrogatepass"))


def partition_of_thread_id(thread_id: str) -> int | None:
    """The partition that one of our thread ids carries; None for any other string."""
    # nearly every channel is none, and each of its messages comes by here
    if not thread_id.startswith("thread_"):
        return None
    if match := _CARRIES_PARTITION.fullmatch(thread_id):
        return int(match[1], 16)
    match = _CARRIES_PLACE.fullmatch(thread_id)
    return int(match[1], 16) % PARTITIONS if match else None


def carries_place(thread_id: str) -> bool:
    """Whether this id tells among how many partitions soever where its thread is."""
    return _CARRIES_PLACE.fullmatch(thread_id) is not None


def new_thread_id(ids: Ids, address: Address, partitions: int = PARTITIONS) -> str:
    """The id of the thread that is created for this address: the channel itself if
    that names a thread.
    """
    if address.names_thread:
        return address.channel
    # Only where it is needed: programs before this one do not know the longer form.
    if partitions > PARTITIONS:
        return f"thread_1{place_of(address):03x}{ids('thread')[-20:]}"
    return f"thread_{partition_of(address):02x}{ids('thread')[-22:]}"


def thread_name(once: str | None) -> str:
    """The id of a thread that is made without a channel: of a named call the same each time, so that
    its repeat meets the thread that it has made.
    """
    if once is None:
        return f"thread_{secrets.token_hex(12)}"
    return f"thread_{hashlib.sha256(once.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def new_run_id(ids: Ids) -> str:
    return f"run_{ids('run')[-24:]}"


def new_token(ids: Ids) -> str:
    return ids("token")


def new_epoch(ids: Ids) -> str:
    return ids("epoch")[-16:]


def new_dead_id(ids: Ids, address: Address, now: float, place: int) -> str:
    """Sorts by time, then by place in the batch that died; carries the partition after the time."""
    return f"dead_{int(now * 1000):013d}_{partition_of(address):02x}{place:04x}{ids('dead')[-8:]}"


def new_message_stem(ids: Ids) -> str:
    """What the ids of messages begin with that are sent again together."""
    return f"msg_{ids('message')[-20:]}"


def message_id_of(stem: str, place: int) -> str:
    return f"{stem}{place:04x}"
