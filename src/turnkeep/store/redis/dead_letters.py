"""Dead letters of the Redis engine."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeep.errors import MessageConflict, NotFound, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.ids import new_epoch
from turnkeep.store.redis.codec import message_row, read_dead_letter, read_receipt
from turnkeep.store.redis.key_names import PartitionKeys, space_of, to_bytes, to_text
from turnkeep.store.redis.part import RedisPart, gather, quarantining, status_word
from turnkeep.store.values import DeadLetter, Receipt
from turnkeep.telemetry import get_log

log = get_log(__name__)

PAGE = 100


class RedisDeadLetters(RedisPart):
    """Messages that no run could answer."""

    async def dead(
        self,
        *,
        tenant: str | None = None,
        queue: str | None = None,
        channel: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[DeadLetter]:
        if channel is not None:
            return await self._dead_of(Address(tenant or "", queue or "", channel), after=after, limit=limit)
        partitions = self._keys.partitions
        lists = await gather(
            [self._dead_in(partition, tenant, queue, after=after, limit=limit) for partition in partitions]
        )
        letters = [letter for letters in lists for letter in letters]
        return sorted(letters, key=lambda letter: letter.dead_id)[:limit]

    async def _dead_of(self, address: Address, *, after: str, limit: int) -> list[DeadLetter]:
        """The letters of a channel, or of the thread that it names: an index has them under both."""
        partition = (await self._resolve(address)).partition
        place = space_of(address.tenant, address.queue) + b"\0" + to_bytes(address.channel) + b"\0"
        first, last = b"(" + place + to_bytes(after), b"(" + place[:-1] + b"\1"
        entries: list[bytes] = await self._link.look_up(
            "dead_of", partition, "ZRANGEBYLEX", partition.names["dead_places"], first, last, "LIMIT", 0, limit
        )
        letters = [await self._letter_if_whole(partition, entry[len(place) :]) for entry in entries]
        # a channel may hold NUL, so that another one begins like this one
        mine = address.channel
        return [one for one in letters if one is not None and mine in (one.address.channel, one.thread_id)]

    async def _dead_in(
        self, partition: PartitionKeys, tenant: str | None, queue: str | None, *, after: str, limit: int
    ) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        first = b"(" + to_bytes(after) if after else b"-"
        while len(letters) < limit:
            ids: list[bytes] = await self._link.look_up(
                "dead", partition, "ZRANGEBYLEX", partition.names["dead_ids"], first, "+", "LIMIT", 0, PAGE
            )
            page = [await self._letter_if_whole(partition, dead_id) for dead_id in ids]
            letters += [
                letter
                for letter in page
                if letter and tenant in (None, letter.address.tenant) and queue in (None, letter.address.queue)
            ]
            if len(ids) < PAGE:
                break
            first = b"(" + ids[-1]
        return letters[:limit]

    async def _letter(self, partition: PartitionKeys, dead_id: bytes) -> DeadLetter | None:
        key = partition.names["dead"]
        data = await self._link.look_up("dead_letter", partition, "HGET", key, dead_id)
        with quarantining():
            return None if data is None else read_dead_letter(to_text(dead_id), data)

    async def _letter_if_whole(self, partition: PartitionKeys, dead_id: bytes) -> DeadLetter | None:
        """In a list a damaged letter is told of and left out."""
        try:
            return await self._letter(partition, dead_id)
        except ThreadQuarantined as damage:
            log.error("letter_damaged", dead_id=to_text(dead_id), reason=str(damage))
            return None

    async def dead_letter(self, dead_id: str) -> DeadLetter | None:
        for partition in self._partitions_of_letter(dead_id):
            if (letter := await self._letter(partition, to_bytes(dead_id))) is not None:
                return letter
        return None

    def _partitions_of_letter(self, dead_id: str) -> Sequence[PartitionKeys]:
        """Where a dead letter may be: its id carries after its time which of 16 partitions it is."""
        try:
            # Ids are minted with the partition in them, because nothing else about a letter says
            # where it is.
            return self._keys.like(int(dead_id.split("_")[2][:2], 16))
        except (IndexError, ValueError):
            return ()

    async def redrive(self, dead_id: str) -> Receipt:
        letter = await self.dead_letter(dead_id)
        # Gone may mean redriven before: a repeat gets the receipt of the first time.
        if letter is None:
            return await self._redriven(dead_id)
        address, policy = letter.address, self._policy(letter.address.queue)
        keys = self._keys.thread(address)
        # Neither its old moment nor a policy that would refuse it during a run counts any more.
        message = letter.message.but(not_before=None, flush=False, on_busy="collect")
        reply = await self._run(
            "redrive", keys, self._now(), policy, keys.space, keys.channel, b"",
            to_bytes(self._new_thread_id(address)), new_epoch(self._ids).encode(), to_bytes(dead_id),
            *message_row(message),
        )  # fmt: skip
        if status_word(reply) == "absent":
            raise _no_letter(dead_id)
        if status_word(reply) == "conflict":
            raise MessageConflict(
                f"a message {message.message_id!r} waits on this channel already, redrive when it is settled"
            )
        return read_receipt(reply, message.message_id)

    async def _redriven(self, dead_id: str) -> Receipt:
        """The receipt of a dead letter that was redriven before."""
        for partition in self._partitions_of_letter(dead_id):
            reply = await self._run_on_partition("redriven", partition, self._now(), to_bytes(dead_id))
            if reply is not None:
                message_id, receipt = reply
                return read_receipt(receipt, to_text(message_id))
        raise _no_letter(dead_id)

    async def discard(self, dead_id: str, *, once: str | None = None) -> bool:
        operation = self._operation(once, "discard", dead_id)
        letter = await self.dead_letter(dead_id)
        space = b"" if letter is None else space_of(letter.address.tenant, letter.address.queue)
        # One that is gone may be remembered as discarded, by the partition where it was.
        places = self._partitions_of_letter(dead_id) if letter is None else [self._keys.partition(letter.address)]
        for partition in places:
            if await self._run_on_partition("discard", partition, self._now(), operation, space, to_bytes(dead_id)):
                return True
        return False


def _no_letter(dead_id: str) -> NotFound:
    return NotFound(f"there is no dead letter {dead_id!r}")
