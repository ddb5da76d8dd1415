"""Names of the Redis keys.

All keys of one thread and of its partition share a hash tag, so that one script may touch them
together, on a cluster too. Channels are hashed: any string is a safe channel, and none can leave
its tag. Layout version 4::

    cosmo:{cosmo:7}t:<hash>          a thread; beside it q inbox, d delayed, l log, f finals, k known ids, h history,
                                     s snapshot, and the channel e on which its events are told
    cosmo:{cosmo:7}due               one of the indexes of partition 7 of 16
    cosmo:{cosmo:64.7}due            the same of 64
    cosmo:{cosmo:7}outbox:<sink>     what partition 7 owes to a sink
    cosmo:{cosmo:registry}…          documents, circuits, layout
    cosmo:{cosmo:ledger:<tenant>}…   accounts and reservations
    cosmo:{cosmo:pace:<digest>}      the pace of one key
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.resources import files
from urllib.parse import quote

from turnkeep.errors import ConfigurationError
from turnkeep.messages import Address
from turnkeep.store.ids import (
    MOST_PARTITIONS,
    PARTITIONS,
    carries_place,
    partition_of,
    partition_of_thread_id,
    place_of,
)
from turnkeep.store.redis.client.scripts import Publish, Script, load_scripts

_OF_THREAD = {
    "thread": "t", "inbox": "q", "delayed": "d", "log": "l", "finals": "f", "known": "k", "history": "h",
    "snapshot": "s", "channel": "e",
}  # fmt: skip

_OF_PARTITION = {
    **{
        name: name
        for name in (
            "due", "ends", "spaces", "leases", "counters", "threads", "aging", "aliases", "sinks", "outbox", "parked",
            "hints", "dead", "redriven", "quarantine", "meta", "fence", "operations", "mending",
        )
    },
    # Named as they were when dead letters had other words: another name would be another layout,
    # and a store that runs would lose its index of dead letters.
    "dead_ids": "graves",
    "dead_places": "letters",
    "thread_list": "found",
}  # fmt: skip
"""What scripts call the keys of a partition, and how the keys end."""

GROUPS = {
    "@thread": tuple(_OF_THREAD),
    "@partition": (
        "due", "ends", "spaces", "leases", "counters", "threads", "aging", "aliases", "sinks", "outbox", "hints",
        "meta",
    ),
}  # fmt: skip
"""What `@thread` and `@partition` mean in a header: what most operations on a thread touch."""

MOST_KEY_NAMES = 8_192
"""Addresses whose key names are kept ready."""


@cache
def operation_scripts(publish: Publish) -> Mapping[str, Script]:
    """The operations of this engine as scripts, put together once in a process."""
    return load_scripts(files("turnkeep.store") / "lua", GROUPS, publish)


class PartitionKeys:
    """The keys that all threads of a partition share."""

    __slots__ = ("_common", "_ready", "index", "names", "tag")

    def __init__(self, prefix: str, index: int, partitions: int = PARTITIONS) -> None:
        self.index = index
        # Among more than 16 the name says of how many, so that a copy stands beside what it was
        # made of until it counts.
        number = f"{index}" if partitions <= PARTITIONS else f"{partitions}.{index}"
        self.tag = f"{prefix}{{{prefix}{number}}}".encode()
        self.names = {name: self.tag + end.encode() for name, end in _OF_PARTITION.items()}
        self._ready: dict[Script, tuple[bytes, ...]] = {}
        self._common: dict[Script, tuple[bytes, ...]] = {}

    def of(self, script: Script) -> tuple[bytes, ...]:
        """The keys of a script that touches no thread, in its order."""
        if (keys := self._ready.get(script)) is None:
            keys = self._ready[script] = tuple(self.names[name] for name in script.keys)
        return keys

    def group_keys(self, script: Script) -> tuple[bytes, ...]:
        """One repeated group of a script."""
        return tuple(self.names[name] for name in script.repeated_keys)

    def shared_keys(self, script: Script) -> tuple[bytes, ...]:
        """What the threads of a script share that live here."""
        if (keys := self._common.get(script)) is None:
            keys = self._common[script] = tuple([self.names[name] for name in script.shared_keys])
        return keys


class ThreadKeys:
    """The keys of one thread and of its partition, and its address as the scripts write it."""

    __slots__ = ("_groups", "_own", "_ready", "address", "channel", "partition", "space")

    def __init__(self, address: Address, partition: PartitionKeys) -> None:
        self.address = address
        self.partition = partition
        self.space = space_of(address.tenant, address.queue)
        self.channel = to_bytes(address.channel)
        # Hashed, because a channel is any string: with its own braces it could choose its slot, and
        # with its length the memory of every key.
        digest = blake2b(self.space + b"\0" + self.channel, digest_size=16).digest()
        name = urlsafe_b64encode(digest).rstrip(b"=")
        # Made once for an address and not for each token.
        self._own = {key: partition.tag + letter.encode() + b":" + name for key, letter in _OF_THREAD.items()}
        self._groups: dict[tuple[str, ...], tuple[bytes, ...]] = {}
        self._ready: dict[Script, tuple[bytes, ...]] = {}

    def of(self, script: Script) -> tuple[bytes, ...]:
        """The keys of a script, in its order."""
        if (keys := self._ready.get(script)) is None:
            own, common = self._own, self.partition.names
            keys = self._ready[script] = tuple([own[name] if name in own else common[name] for name in script.keys])
        return keys

    def group_keys(self, script: Script) -> tuple[bytes, ...]:
        """One repeated group of a script."""
        # By the names and not by the script: most scripts on several threads touch the same keys.
        names = script.repeated_keys
        if (keys := self._groups.get(names)) is None:
            own = self._own
            keys = self._groups[names] = tuple([own[name] for name in names])
        return keys

    def __getitem__(self, name: str) -> bytes:
        return self._own.get(name) or self.partition.names[name]


class KeyNames:
    """All names under one prefix."""

    def __init__(self, prefix: str, partitions: int = PARTITIONS) -> None:
        # Redis hashes what stands between the first pair of braces.
        if "{" in prefix or "}" in prefix:
            raise ConfigurationError(
                f"the Redis prefix {prefix!r} holds a brace, which decides where keys live: choose another"
            )
        if not 1 <= partitions <= MOST_PARTITIONS or MOST_PARTITIONS % partitions:
            raise ConfigurationError(
                f"{partitions} partitions are not possible, choose a power of two from 16 to {MOST_PARTITIONS}"
            )
        self.prefix = prefix
        self.partitions = [PartitionKeys(prefix, index, partitions) for index in range(partitions)]
        self._place_of = partition_of if partitions <= PARTITIONS else place_of
        self._threads: dict[Address, ThreadKeys] = {}

    def thread(self, address: Address) -> ThreadKeys:
        """The keys of the thread of this address."""
        if (keys := self._threads.get(address)) is None:
            # Emptied whole: they are made again for what is in use, without an order to be kept.
            if len(self._threads) >= MOST_KEY_NAMES:
                self._threads.clear()
            keys = self._threads[address] = ThreadKeys(address, self.partition(address))
        return keys

    def partition(self, address: Address) -> PartitionKeys:
        return self.partitions[self._place_of(address) % len(self.partitions)]

    def partitions_of_id(self, address: Address) -> Sequence[PartitionKeys]:
        """Where the thread may be whose id this is, where it should be first: an id that was given
        among fewer partitions tells it among those alone.
        """
        own = self.partition(address)
        if len(self.partitions) <= PARTITIONS or carries_place(address.channel):
            return (own,)
        if partition_of_thread_id(address.channel) is None:
            return (own,)
        return (own, *(one for one in self.like(own.index) if one is not own))

    def like(self, partition: int) -> Sequence[PartitionKeys]:
        """The partitions that were this one when there were 16."""
        return self.partitions[partition % min(PARTITIONS, len(self.partitions)) :: PARTITIONS]

    def registry(self, *parts: str) -> bytes:
        return self._with_tag("registry", *parts)

    def ledger(self, tenant: str, name: str) -> bytes:
        return self._with_tag(f"ledger:{_escape(tenant)}", name)

    def pace(self, key: str, name: str = "") -> bytes:
        return self._with_tag(f"pace:{blake2b(to_bytes(key), digest_size=12).hexdigest()}", name)

    def _with_tag(self, what: str, *parts: str) -> bytes:
        return f"{self.prefix}{{{self.prefix}{what}}}{':'.join(map(_escape, parts))}".encode()


def _escape(text: str) -> str:
    return quote(text, safe="-_.~@", errors="surrogatepass")


def to_bytes(text: str) -> bytes:
    # JSON may carry lone surrogates, and a channel is the string as it came.
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def space_of(tenant: str, queue: str) -> bytes:
    """Tenant and queue as the indexes write them: joined by NUL."""
    return plain(tenant) + b"\0" + plain(queue)


def address_of(space: bytes, channel: bytes) -> Address:
    return Address(*_owner_of(space), to_text(channel))


@lru_cache(maxsize=4096)
def _owner_of(space: bytes) -> tuple[str, str]:
    """Tenant and queue. There are few beside the threads of them."""
    tenant, _, queue = space.partition(b"\0")
    return _unplain(tenant), _unplain(queue)


def plain(text: str) -> bytes:
    """Without NUL, sorted like the text."""
    return to_bytes(text).replace(b"\x01", b"\x01\x02").replace(b"\0", b"\x01\x01")


def _unplain(data: bytes) -> str:
    return to_text(data.replace(b"\x01\x01", b"\0").replace(b"\x01\x02", b"\x01"))
