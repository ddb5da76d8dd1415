"""Gives orders where their keys are: one pipe to each server, and what lost its reply again.

A repeat of the same arguments gives the first reply and touches nothing: they name what they do, or
carry an id under which the server keeps the reply for ten minutes (`lib/once.lua`). So an operation
is repeated here, a bounded number of times with jitter, before the caller is told; but never when
its time is over, as after a process was stopped between two tries. What the server refused without
doing it (a moved slot, a script it does not know, a failover) is sent again the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from turnkeep.backoff import Backoff
from turnkeep.errors import OutcomeUnknown, StoreMisconfigured, StoreUnavailable, ThreadQuarantined
from turnkeep.store.redis.client.cures import Cure, cure_of, meaning
from turnkeep.store.redis.client.dialing import Dialer, ServerAddress, open_pipe
from turnkeep.store.redis.client.pipe import Argument, Pipe, Refusal, Reply
from turnkeep.store.redis.client.scripts import Script
from turnkeep.store.redis.client.topology import ServerTopology

ATTEMPTS = 3
"""How often one command is sent when its reply or its server is lost."""
ANSWER_PATIENCE = 5.0
"""Seconds to wait for a server that says it is not ready yet."""

_AGAIN = Backoff(delay=0.05, cap=0.5)
_NOT_READY = Backoff(delay=0.01, cap=0.1)


class Partition(Protocol):
    """Keys that live on one server together: all that the client has to know of whose they are."""

    @property
    def index(self) -> int: ...

    @property
    def tag(self) -> bytes:
        """A key of theirs, to find the server by."""
        ...

    def of(self, script: Script) -> tuple[bytes, ...]:
        """The keys of a script that concerns the partition alone."""
        ...


class Assurance(Protocol):
    """What some scripts have to wait for, before and after."""

    @property
    def concerns(self) -> Container[str]: ...

    def before(self, name: str, key: bytes) -> Coroutine[Any, Any, Any]: ...

    def after(self, witness: Any) -> Coroutine[Any, Any, None]: ...


class _Node:
    """One server: its pipe, and how its last connections went."""

    def __init__(self) -> None:
        self.pipe: Pipe | None = None
        self.connecting = asyncio.Lock()
        self.failures = 0
        self.not_before = 0.0
        self.tries = 0
        self.refusal: StoreUnavailable | StoreMisconfigured | None = None
        """Why the last try to connect failed."""


class Link:
    """The connections of one engine for commands; subscriptions and waits have their own."""

    def __init__(
        self,
        topology: ServerTopology,
        dialer: Dialer,
        scripts: Mapping[str, Script],
        *,
        timeout: float,
        look: Callable[[ServerAddress, Pipe], Awaitable[object]],
    ) -> None:
        """`look` is called with each server connected to, before anything is done there."""
        self.topology = topology
        self.dialer = dialer
        self.scripts = scripts
        self.incarnations: dict[int, int] = {}
        """How often each partition found itself on a new server, as last told."""
        self.assurance: Assurance | None = None
        """Set once the servers are known to be what is needed."""
        self.mend: Callable[[int], Awaitable[object]] = _nothing
        """Called when stored state is damaged: makes the keys right that the threads of a partition
        share. What met the damage is tried once more, whatever was found: many meet a shared key at
        the same time, and who looks after another one has mended it finds nothing wrong. A thread
        that is damaged itself is met again.
        """
        self._look = look
        self._timeout = timeout
        self._nodes: dict[ServerAddress, _Node] = {}
        self._is_closed = False

    def run(
        self,
        name: str,
        partition: Partition,
        keys: Sequence[bytes],
        *arguments: Argument,
        patience: float = ANSWER_PATIENCE,
    ) -> Coroutine[Any, Any, Reply]:
        """Run the script of an operation on a partition; its answer may be relied on."""
        # Returns the coroutine instead of awaiting it: a frame less for each
        # token that is published.
        command = ("EVALSHA", self.scripts[name].sha, len(keys), *keys, *arguments)
        assurance = self.assurance
        if assurance is None or name not in assurance.concerns:
            return self._run(name, partition, command, patience=patience)
        return self._run_assured(assurance, name, partition, command=command, patience=patience)

    def greet(self, partitions: Collection[Partition]) -> None:
        """Say to the server of these partitions which one it is, before a script that touches
        several; only where they all live on one server.
        """
        endpoint = self.topology.cached_server(next(iter(partitions)).tag)
        node = self._nodes.get(endpoint) if endpoint is not None else None
        if node is None or (pipe := node.pipe) is None or not pipe.is_open:
            return
        for partition in partitions:
            if partition.index not in pipe.greeted_sockets:
                self._greet(pipe, partition)

    async def look_up(self, name: str, partition: Partition, *command: Argument) -> Reply:
        """A command that reads a key which the threads of a partition share."""
        try:
            return await self.call(name, partition.tag, partition, *command)
        except ThreadQuarantined:
            await self.mend(partition.index)
        return await self.call(name, partition.tag, partition, *command)

    async def _run_assured(
        self,
        assurance: Assurance,
        name: str,
        partition: Partition,
        *,
        command: tuple[Argument, ...],
        patience: float,
    ) -> Reply:
        witness = await assurance.before(name, partition.tag)
        reply = await self._run(name, partition, command, patience=patience)
        await assurance.after(witness)
        return reply

    async def _run(self, name: str, partition: Partition, command: tuple[Argument, ...], *, patience: float) -> Reply:
        loss: OutcomeUnknown | None = None
        # The short way of nearly every order. All that can go wrong leads to `call`,
        # which has the loops.
        if (pipe := self._at_hand(partition)) is not None:
            try:  # each token comes this way: nothing but its reply is awaited
                if command[1] not in pipe.loaded_scripts:
                    self._teach(pipe, name)
                if not isinstance(reply := await pipe.send(*command), Refusal):
                    return reply
            except OutcomeUnknown as error:
                loss = error
            except StoreUnavailable:
                pass  # it was never sent
        try:
            return await self.call(name, partition.tag, partition, *command, patience=patience, loss=loss)
        # Once more whether or not anything was mended: somebody else may have done it a moment ago,
        # and a thread that is damaged itself is met again and raised.
        except ThreadQuarantined:
            await self.mend(partition.index)
        return await self.call(name, partition.tag, partition, *command, patience=patience)

    def _at_hand(self, partition: Partition) -> Pipe | None:
        """The pipe of a partition, if nothing has to be done before a command is sent on it."""
        endpoint = self.topology.cached_server(partition.tag)
        node = self._nodes.get(endpoint) if endpoint is not None else None
        pipe = node.pipe if node is not None else None
        return pipe if pipe is not None and pipe.is_at_hand(partition.index) else None

    async def run_apart(self, name: str, key: bytes, keys: Sequence[bytes], *arguments: Argument) -> Reply:
        """Run the script of an operation on keys that belong to no partition, as `run`."""
        command = ("EVALSHA", self.scripts[name].sha, len(keys), *keys, *arguments)
        assurance = self.assurance
        if assurance is None or name not in assurance.concerns:
            return await self.call(name, key, None, *command)
        witness = await assurance.before(name, key)
        reply = await self.call(name, key, None, *command)
        await assurance.after(witness)
        return reply

    def tell(self, name: str, key: bytes, keys: Sequence[bytes], *arguments: Argument) -> None:
        """Run a script behind what was sent last to a key's server, if at hand; no wait."""
        if (answer := self.ask(name, key, keys, *arguments)) is not None:
            answer.add_done_callback(_forget)

    def ask(self, name: str, key: bytes, keys: Sequence[bytes], *arguments: Argument) -> asyncio.Future[Reply] | None:
        """Run a script behind what was sent last to a key's server, once; None if not at hand."""
        endpoint = self.topology.cached_server(key)
        node = self._nodes.get(endpoint) if endpoint is not None else None
        if node is None or node.pipe is None or not node.pipe.is_open:
            return None
        # EVAL with the text: nobody is there to load the script should the server not know it.
        return node.pipe.send("EVAL", self.scripts[name].text, len(keys), *keys, *arguments)

    async def call(
        self,
        operation: str,
        key: bytes,
        partition: Partition | None,
        *command: Argument,
        patience: float = ANSWER_PATIENCE,
        loss: OutcomeUnknown | None = None,
    ) -> Reply:
        """Send a command to the server of a key until it answers; raises what stays in the way.

        `patience`: seconds after which it is not sent again. `loss`: what became of it when it was
        sent before.
        """
        until = asyncio.get_running_loop().time() + patience
        failure: StoreUnavailable | OutcomeUnknown = loss or StoreUnavailable("nothing was tried")
        # The try that was lost on the short way counts.
        for attempt in range(2 if loss else 1, ATTEMPTS + 1):
            if attempt > 1:
                await asyncio.sleep(_AGAIN.after(attempt - 1))
                # A process that was stopped (SIGSTOP, a laptop that slept) goes on here much later:
                # what it meant to do may be over, and its lease with another worker.
                if asyncio.get_running_loop().time() > until:
                    break
            try:
                return await self._until_ready(operation, key, partition, command=command, until=until)
            except OutcomeUnknown as error:
                failure = error
            except StoreUnavailable as unavailable:
                # Once one try may have happened, a later one that surely did not changes nothing
                # about it.
                failure = failure if isinstance(failure, OutcomeUnknown) else unavailable
            # A failover shows as a lost connection: look for the primary anew before the next try.
            self.topology.forget(key)
            if self._is_closed or asyncio.get_running_loop().time() > until:
                break
        raise failure

    async def _until_ready(
        self, operation: str, key: bytes, partition: Partition | None, *, command: tuple[Argument, ...], until: float
    ) -> Reply:
        loop = asyncio.get_running_loop()
        tries, asking = 0, None
        while True:
            endpoint = asking or await self.topology.find(key)
            pipe = await self.pipe_to(endpoint)
            if pipe.is_full:
                await pipe.room()
            if command[0] == "EVALSHA" and command[1] not in pipe.loaded_scripts:
                self._teach(pipe, operation)
            reply = await self._send(pipe, partition, command, asking=asking is not None)
            if not isinstance(reply, Refusal):
                return reply
            # No attempt is used up by a refusal: nothing of it has happened, only
            # the time is bounded.
            cure, asking = cure_of(str(reply)), None
            if cure is None or loop.time() > until:
                raise meaning(str(reply), operation)
            tries += 1
            if cure is Cure.LOAD:
                await self._load(pipe, operation)
            elif cure is Cure.FOLLOW:
                self.topology.note_move(*redirect(str(reply), endpoint))
            elif cure is Cure.ASK:
                _, asking = redirect(str(reply), endpoint)
            else:
                await self._wait(cure, pipe, key, tries)

    async def _send(
        self, pipe: Pipe, partition: Partition | None, command: tuple[Argument, ...], *, asking: bool
    ) -> Reply:
        # A slot on its way: its new owner takes one command after ASKING, so both go out in one
        # write. It is not greeted, for it does not own the slot yet.
        if asking:
            pipe.send("ASKING").add_done_callback(_forget)
        elif partition is not None and partition.index not in pipe.greeted_sockets:
            self._greet(pipe, partition)
        return await pipe.send(*command)

    def _greet(self, pipe: Pipe, partition: Partition) -> None:
        """Before the first command on a partition, in the same write: say which server this is."""
        script = self.scripts["greet"]
        greeting = pipe.send("EVAL", script.text, len(script.keys), *partition.of(script), pipe.server)
        # At once and not with the reply: what is sent behind it in this tick
        # needs no second greeting.
        pipe.greeted_sockets.add(partition.index)

        def note_incarnation(reply: asyncio.Future[Reply]) -> None:
            if reply.cancelled() or reply.exception() or isinstance(reply.result(), Refusal):
                # Epochs are told apart by the incarnation. Without it, offsets of a promoted server
                # that had not heard the last events would be taken for those of the old one.
                pipe.greeted_sockets.discard(partition.index)
            else:
                self.incarnations[partition.index] = reply.result()

        greeting.add_done_callback(note_incarnation)

    async def _load(self, pipe: Pipe, operation: str) -> None:
        reply = await pipe.send("SCRIPT", "LOAD", self.scripts[operation].text)
        if isinstance(reply, Refusal):
            raise meaning(str(reply), f"script {operation}")

    async def _wait(self, cure: Cure, pipe: Pipe, key: bytes, tries: int) -> None:
        if cure is Cure.RECONNECT:
            pipe.close("the server is no primary any more")
            self.topology.forget(key)
        await asyncio.sleep(_NOT_READY.after(tries))

    async def holder(self, key: bytes) -> tuple[ServerAddress, bytes]:
        """Where a key is now, and which server that is."""
        endpoint = self.topology.cached_server(key)
        node = self._nodes.get(endpoint) if endpoint is not None else None
        if endpoint is not None and node is not None and node.pipe is not None and node.pipe.is_open:
            return endpoint, node.pipe.server
        await self.call("holder", key, None, "EXISTS", key)
        endpoint = await self.topology.find(key)
        return endpoint, (await self.pipe_to(endpoint)).server

    async def pipe_of(self, key: bytes) -> Pipe:
        """The pipe to the server of a key."""
        return await self.pipe_to(await self.topology.find(key))

    async def pipe_to(self, endpoint: ServerAddress) -> Pipe:
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = _Node()
        if node.pipe is not None and node.pipe.is_open:
            return node.pipe
        tries = node.tries
        async with node.connecting:
            if node.pipe is not None and node.pipe.is_open:
                return node.pipe
            # With a try for each caller behind all others, forty streams and a sender waited seven
            # seconds for the news that the server is gone.
            if node.tries > tries and node.refusal is not None:  # one try for all who waited for it
                raise type(node.refusal)(str(node.refusal)) from node.refusal
            node.pipe = await self._connect(node, endpoint)
        return node.pipe

    async def _connect(self, node: _Node, endpoint: ServerAddress) -> Pipe:
        """One connection; after failures with a pause, so as not to hammer a server that starts."""
        loop = asyncio.get_running_loop()
        # Here and not at the caller: whoever comes meanwhile waits for the same moment.
        await asyncio.sleep(max(0.0, node.not_before - loop.time()))
        node.tries += 1
        try:
            pipe = await self._open(endpoint)
        except (StoreUnavailable, StoreMisconfigured) as refusal:
            node.refusal = refusal
            node.failures += 1
            node.not_before = loop.time() + _AGAIN.after(node.failures)
            raise
        node.failures, node.refusal = 0, None
        if self._is_closed:
            pipe.close()
            raise StoreUnavailable("the store is closed")
        return pipe

    async def _open(self, endpoint: ServerAddress) -> Pipe:
        pipe = await open_pipe(self.dialer, endpoint, timeout=self._timeout)
        try:
            # A primary that was replaced starts as a primary again, and for seconds takes messages
            # that are lost when it hears of its demotion. So the sentinels are asked once more, and
            # the server whether it is still fit, before the first order.
            await self.topology.confirm(endpoint)
            await self._look(endpoint, pipe)
            await self._learn_scripts(pipe)
        except OutcomeUnknown as loss:
            pipe.close()
            raise StoreUnavailable(f"the connection to Redis at {endpoint} was lost at once") from loss
        except BaseException:
            pipe.close("this server is not the one any more")
            raise
        return pipe

    async def _learn_scripts(self, pipe: Pipe) -> None:
        """Which scripts the server has already."""
        # Asked for instead of loaded: the texts of all are some 700 kB.
        digests = [script.sha for script in self.scripts.values()]
        presence = await pipe.send("SCRIPT", "EXISTS", *digests)
        if not isinstance(presence, Refusal):
            pipe.loaded_scripts.update(sha for sha, is_there in zip(digests, presence, strict=True) if is_there)

    def _teach(self, pipe: Pipe, name: str) -> None:
        """Before the first order of a script, in the same write: load it."""
        # Not left to NOSCRIPT: of two orders in one tick the second would be taken first, while the
        # other waits for its script. And not all at the start: the server keeps each in memory that
        # its Lua goes through at every collection; with all of them a message cost it a tenth more.
        script = self.scripts[name]
        pipe.loaded_scripts.add(script.sha)
        pipe.send("SCRIPT", "LOAD", script.text).add_done_callback(_forget)

    def close(self) -> None:
        self._is_closed = True
        for node in self._nodes.values():
            if node.pipe is not None:
                node.pipe.close("the store is closed")


async def _nothing(partition: int) -> None:
    """Before the store is open there is nobody to mend anything."""


def _forget(reply: asyncio.Future[Reply]) -> None:
    """Nobody waits for this reply: whether it was lost is of no interest."""
    if not reply.cancelled():
        reply.exception()


def redirect(refusal: str, speaker: ServerAddress) -> tuple[int, ServerAddress]:
    """The slot and the node of a MOVED or ASK; without a host, that of the node which said it."""
    _, slot, node = refusal.split()[:3]
    host, _, port = node.rpartition(":")
    return int(slot), ServerAddress(host or speaker.host, int(port))
