"""`AssistantMessageQueue`: takes messages in, takes turns, and gives answers out.

The public face of the house: it opens the store, the model client (or the built-in simulator), the tools and the
worker, and closes them again. Doors, the command line and other people's programs send through nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from turnkeep.assistants import Assistant, Assistants
from turnkeep.clock import SystemClock
from turnkeep.composition import Lifespan, open_endpoint, open_house, policies, watch_process
from turnkeep.errors import (
    ConfigurationError,
    Conflict,
    InvalidMessage,
    NotFound,
    Rejection,
    ThreadNotFound,
    TurnkeepError,
)
from turnkeep.events import Event
from turnkeep.hooks import Hook, Hooks
from turnkeep.hub import EventStream, Hub
from turnkeep.inputs import MAX_DELAY, checked_channel, read_message, read_metadata
from turnkeep.messages import Address, BusyPolicy, Content, Item, Message
from turnkeep.pricing.catalog import Catalog
from turnkeep.runs.lease import LeaseRules
from turnkeep.runs.run import RunContext
from turnkeep.runs.worker import Worker, WorkerRules
from turnkeep.settings import Settings
from turnkeep.store import store_of
from turnkeep.store.contract import Decision, HeldCall, Receipt, RunRecord, Store, ThreadRecord
from turnkeep.store.store_metrics import measure_store
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.tools.toolbox import Registrable, Toolbox
from turnkeep.windows import PRESETS, AdaptiveWindow, Preset, thread_options

log = get_log(__name__)

WISHES = (
    *("on_busy", "window", "max_wait", "not_before", "flush", "metadata"),
    *("model", "effort", "format", "parameters"),
)

HandleRequiresAction = Callable[[str, str, list[dict[str, Any]]], Awaitable[list[dict[str, Any]] | None]]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Threads being answered, due, and due later; messages answered and dead, ever."""

    active_count: int
    waiting_count: int
    delayed_count: int
    completed_count: int
    failed_count: int

    def to_json(self) -> dict[str, int]:
        """As the HTTP door tells it."""
        return {
            "activeCount": self.active_count,
            "waitingCount": self.waiting_count,
            "delayedCount": self.delayed_count,
            "completedCount": self.completed_count,
            "failedCount": self.failed_count,
        }


class AssistantMessageQueue:
    """A queue of conversations. Constructing opens nothing; the first use does, or `async with`.

    Without `redis_url` it is embedded: an SQLite file in the working directory. Without a key and base URL the
    built-in simulator answers. `lock_duration` is the deadline of a run, in seconds; `message_delay` a fixed window:
    each batch waits that long after its first message. `preset` ("web": sliding, 1.5 s and at most 8 s) goes before
    it, `window` and `max_wait` before both; with `adaptive` a channel's window is learned from its rhythm.
    Settings that are not given come from `settings`, or the environment.
    """

    adaptive: AdaptiveWindow | None
    """Learns the windows of channels from what is accepted here; None: they are as set."""

    def __init__(
        self,
        redis_url: str | None = None,
        openai_api_key: str | None = None,
        assistant_id: str | None = None,
        *,
        queue_prefix: str = "assistant",
        message_delay: float | None = 10.0,
        max_attempts: int = 3,
        backoff: Mapping[str, Any] | None = None,
        concurrency: int = 5,
        default_instructions: str = "Reply to all messages logically.",
        lock_duration: float = 300.0,
        remove_on_complete: bool = True,
        handle_requires_action: HandleRequiresAction | None = None,
        tools: Iterable[Registrable] = (),
        base_url: str | None = None,
        model: str | None = None,
        store: Store | str | Path | None = None,
        window: float | None = None,
        max_wait: float | None = None,
        preset: Preset | None = None,
        adaptive: bool = False,
        on_busy: BusyPolicy | None = None,
        meter: Meter = SILENT,
        **settings: Any,
    ) -> None:
        given: dict[str, Any] = {
            "redis_url": redis_url,
            "openai_api_key": openai_api_key,
            "openai_assistant_id": assistant_id,
            "openai_base_url": base_url,
            "openai_model": model,
            "queue": queue_prefix,
            "max_attempts": max_attempts,
            "concurrency": concurrency,
            "instructions": default_instructions,
            "run_deadline": lock_duration,
            "on_busy": on_busy,
            "adaptive": adaptive or None,
            **_window(message_delay, preset, window, max_wait),
            **_backoff(backoff),
            **settings,
        }
        if isinstance(store, str | Path):
            given["store"] = str(store)
        self._set_up(
            Settings.load(**{k: v for k, v in given.items() if v is not None}),
            Toolbox(tools, handle_requires_action=handle_requires_action),
            store=None if isinstance(store, str | Path) else store,
            runs_kept=0 if remove_on_complete else 1_000,
            meter=meter,
        )

    @classmethod
    def from_settings(
        cls, settings: Settings, *, toolbox: Toolbox | None = None, store: Store | None = None, meter: Meter = SILENT
    ) -> Self:
        """The queue of a service: everything as set."""
        queue = cls.__new__(cls)
        tools = Toolbox() if toolbox is None else toolbox  # one with MCP servers alone is empty so far
        queue._set_up(settings, tools, store=store, runs_kept=50, meter=meter)
        return queue

    def _set_up(
        self, settings: Settings, toolbox: Toolbox, *, store: Store | None, runs_kept: int, meter: Meter
    ) -> None:
        self.settings = settings
        self.toolbox = toolbox
        if settings.tenant_tools is not None:
            toolbox.share(settings.tenant_tools)
        self.name = settings.queue
        self.serves: tuple[str, ...] = (settings.queue,)
        """Queues that a worker of this process answers; set before it starts."""
        self.meter = meter
        self.clock = SystemClock()
        self.catalog = Catalog.load(settings.price_file)
        self.store = measure_store(store or store_of(settings, policies(settings, runs_kept=runs_kept)), meter)
        self.hub = Hub(self.store, meter=meter)
        self.model_name = settings.model or self.catalog.default
        self.assistants = Assistants(self.store, model=self.model_name, instructions=settings.instructions)
        self._has_simulator = False
        self.adaptive = AdaptiveWindow() if settings.adaptive else None
        self._hooks = Hooks(self.hub)
        self._worker: Worker | None = None
        self._worker_wanted = asyncio.Event()
        self._life = Lifespan(self._live, name=f"turnkeep-{self.name}")

    # ---------------------------------------------------------------- life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open store, model and hub, and the worker if it was started. Raises what stands in the way."""
        await self._life.open()

    @property
    def is_simulated(self) -> bool:
        """Whether the built-in simulator answers here, once the queue is open and its worker was started."""
        return self._has_simulator and self._worker_wanted.is_set()

    def start_worker(self) -> None:
        """Answer messages in this process. Before the event loop runs, or the queue is open, it takes effect then."""
        self._worker_wanted.set()
        if _loop_runs():
            self._life.begin()

    async def run_worker(self) -> None:
        """Answer messages until `close` is called: the main of a plain worker process."""
        self.start_worker()
        await self.lives_until(self._life.closing)

    async def drain(self) -> None:
        """Claim no more, and let runs end or give them back; everything stays open. Safe to repeat."""
        await self._stop_worker()

    async def close(self) -> None:
        """Drain: claim no more, let runs end or give them back, close everything. Safe to repeat."""
        await self._life.close()

    async def lives_until(self, ending: asyncio.Event) -> None:
        """Wait for `ending`, or raise what ended the queue before."""
        await self.open()
        await self._life.until(ending)

    async def _live(self, opened: Callable[[], None]) -> None:
        """Everything that is open lives in here; the task groups end before what they use."""
        async with AsyncExitStack() as stack:
            await self.store.open()
            stack.push_async_callback(self.store.close)
            house = await self._build(stack)
            async with asyncio.TaskGroup() as group:
                hub = group.create_task(self.hub.run())
                watching = watch_process(self.meter, group)
                hooks = group.create_task(self._hooks.run())
                starting = group.create_task(self._start_worker_when_wanted(group, house))
                opened()
                await self._life.closing.wait()
                starting.cancel()
                await self._stop_worker()
                for task in (hub, watching, hooks):
                    if task is not None:
                        task.cancel()

    async def _start_worker_when_wanted(self, group: asyncio.TaskGroup, house: RunContext) -> None:
        await self._worker_wanted.wait()
        settings = self.settings
        self._worker = Worker(
            house,
            rules=WorkerRules(concurrency=settings.concurrency, queues=self.serves, drain=settings.drain),
            lease=LeaseRules(settings.lease_duration),
        )
        self._working = group.create_task(self._worker.run())

    async def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            await asyncio.wait((self._working,))

    async def _build(self, stack: AsyncExitStack) -> RunContext:
        """What every run shares."""
        endpoint = await open_endpoint(self.settings, stack)
        self._has_simulator = endpoint.is_simulated
        self.assistant = await self._default_assistant()
        return await open_house(
            self.settings,
            stack,
            endpoint,
            store=self.store,
            assistants=self.assistants,
            toolbox=self.toolbox,
            catalog=self.catalog,
            model=self.model_name,
            meter=self.meter,
        )

    async def _default_assistant(self) -> Assistant:
        """The assistant of the default tenant: the one that is set, verified; else the stored one; else a new one."""
        wanted = self.settings.openai_assistant_id
        if wanted is not None:
            try:
                return await self.assistants.use("default", wanted)
            except NotFound:
                log.warning("assistant_recreated", assistant=wanted, reason="OPENAI_ASSISTANT_ID names a missing one")
            with suppress(Conflict):  # another process made it meanwhile
                await self.assistants.create("default", {}, now=await self.store.now(), assistant_id=wanted)
            return await self.assistants.use("default", wanted)
        stored = await self.assistants.default("default")
        if stored is None:
            stored = await self.assistants.begin("default", now=await self.store.now())
            log.info("assistant_created", assistant=stored.assistant_id, model=stored.model)
        if self.settings.openai_model and stored.model != self.settings.openai_model:
            return await self._with_model(stored, self.settings.openai_model)
        return stored

    async def _with_model(self, stored: Assistant, model: str) -> Assistant:
        """Processes that start together all set it: whoever is too late finds it set."""
        try:
            return await self.assistants.change("default", stored.assistant_id, {"model": model})
        except Conflict:
            found = await self.assistants.get("default", stored.assistant_id)
            if found.model == model:
                return found
            return await self.assistants.change("default", stored.assistant_id, {"model": model})

    # ---------------------------------------------------------------- messages

    def address(self, channel: str, tenant: str = "default") -> Address:
        """Where a channel's thread is. Raises `InvalidMessage` for what is no name of one."""
        return Address(tenant, self.name, checked_channel(channel))

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        """Take messages in durably; one outcome per message. What doors use."""
        if any(message.not_before is not None for message in messages):
            return await self._accept_later(messages, create=create, max_inbox=max_inbox)
        return await self._accept(messages, create=create, max_inbox=max_inbox)

    async def _accept_later(
        self, messages: Sequence[Message], *, create: bool, max_inbox: int | None
    ) -> list[Receipt | Rejection]:
        """Without those that want to wait for longer than anything is kept."""
        latest = self.clock.now() + MAX_DELAY
        fits = [(message.not_before or 0.0) <= latest for message in messages]
        taken = [message for message, fit in zip(messages, fits, strict=True) if fit]
        outcomes = iter(await self._accept(taken, create=create, max_inbox=max_inbox) if taken else ())
        refusal = InvalidMessage(f"'not_before' must be within {MAX_DELAY / 86_400:.0f} days from now")
        return [next(outcomes) if fit else refusal for fit in fits]

    async def _accept(
        self, messages: Sequence[Message], *, create: bool, max_inbox: int | None
    ) -> list[Receipt | Rejection]:
        if self.adaptive is not None:
            messages = self.adaptive.apply(messages, self.clock.now())
        return await self.store.accept(messages, create=create, max_inbox=max_inbox)

    async def add_message_to_thread(
        self,
        thread_id: str,
        text: str | Content,
        instructions: str | None = None,
        message_id: str | None = None,
        *,
        tenant: str = "default",
        **wishes: Any,
    ) -> Receipt:
        """Take one message in durably; the thread is created if it is new.

        `wishes`: on_busy, window, max_wait, not_before, flush, metadata; of the answer model, effort, format (of a
        structured answer), parameters. Without a `message_id` one is minted, and
        the receipt says that this send is not idempotent. Raises `Rejected`: `InvalidMessage` for what no door takes.
        """
        if unknown := wishes.keys() - WISHES:
            raise InvalidMessage(f"there is no {', '.join(sorted(unknown))[:200]}, known are {', '.join(WISHES)}")
        said = {"content": [part.to_json() for part in text]} if isinstance(text, tuple) else {"message": text}
        body = {**said, "message_id": message_id, "instructions": instructions, **wishes}
        given = {name: value for name, value in body.items() if value is not None}
        message = read_message(given, self.address(thread_id, tenant), limit=self.settings.max_message_bytes)
        await self.open()
        if self._hooks:
            await self._hooks.watch(message.address)
        [outcome] = await self.accept([message])
        if isinstance(outcome, Rejection):
            raise outcome
        return outcome

    async def ask(self, thread_id: str, text: str, *, timeout: float = 300.0, **wishes: Any) -> str:
        """Send and wait for the answer that covers this message. Raises `Rejected` (`NotFound`: it was withdrawn),
        TimeoutError, or `TurnkeepError` when it is dead.
        """
        await self.open()
        address = self.address(thread_id, wishes.get("tenant", "default"))
        async with asyncio.timeout(timeout), EventStream(self.hub, self.store, address) as events:
            receipt = await self.add_message_to_thread(thread_id, text, flush=wishes.pop("flush", True), **wishes)
            async for event in events:
                if receipt.message_id in event.message_ids and (event.is_final or event.kind == "withdrawn"):
                    return _answer_in(event)
        raise AssertionError("a stream does not end")

    @asynccontextmanager
    async def events(
        self, thread_id: str, *, after: int | None = None, epoch: str | None = None, tenant: str = "default"
    ) -> AsyncIterator[EventStream]:
        """`async with queue.events(thread) as events: async for event in events`; no holes, from a position or now."""
        await self.open()
        async with EventStream(
            self.hub, self.store, self.address(thread_id, tenant), after=after, epoch=epoch
        ) as stream:
            yield stream

    async def get_queue_status(self) -> QueueStatus:
        await self.open()
        counts = await self.store.counts(queue=self.name)
        return QueueStatus(counts.active, counts.waiting, counts.delayed, counts.completed, counts.failed)

    # ---------------------------------------------------------------- threads and runs

    async def create_thread(
        self, thread_id: str | None = None, *, metadata: Mapping[str, str] | None = None, tenant: str = "default"
    ) -> ThreadRecord:
        await self.open()
        address = self.address(thread_id or f"thread_{secrets.token_hex(12)}", tenant)
        record = await self.store.thread(address, create=True)
        if metadata:
            record = await self.store.update(address, {"metadata": read_metadata(metadata)})
        if record is None:
            raise ThreadNotFound(f"thread {address.channel!r} could not be created")
        return record

    async def get_thread(self, thread_id: str) -> ThreadRecord:
        """Raises `ThreadNotFound`."""
        await self.open()
        record = await self.store.thread(self.address(thread_id))
        if record is None:
            raise ThreadNotFound(f"there is no thread {thread_id!r}")
        return record

    async def change_thread(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, str | None] | None = None,
        options: Mapping[str, Any] | None = None,
        assistant: str | None = None,
        tenant: str = "default",
        once: str | None = None,
    ) -> ThreadRecord:
        """Change what is given; None as a value of `metadata` removes it. `options` are all that the thread has of its
        own from now on: on_busy, window, max_wait, or a preset. Raises `ThreadNotFound`, `NotFound`, `InvalidMessage`.
        """
        await self.open()
        changes: dict[str, Any] = {} if metadata is None else {"metadata": read_metadata(metadata)}
        if options is not None:
            changes["options"] = thread_options(options)
        if assistant is not None:
            changes["assistant"] = (await self.assistants.get(tenant, assistant)).assistant_id
        return await self.store.update(self.address(thread_id, tenant), changes, once=once)

    async def list_messages(self, thread_id: str, *, limit: int | None = None) -> list[Item]:
        """The transcript, oldest first; the newest whole turns of at most `limit` entries."""
        if limit is not None and limit < 0:
            raise InvalidMessage(f"limit is {limit}, use a number from 0 on or leave it out")
        await self.open()
        history = await self.store.history(self.address(thread_id), items=limit)
        return [entry.item for entry in history.entries]

    async def create_message(self, thread_id: str, text: str, *, message_id: str | None = None) -> Receipt:
        """Add a message that waits until `create_run` (or another message's window) ends its wait."""
        return await self.add_message_to_thread(
            thread_id, text, message_id=message_id, window=3600.0, max_wait=86_400.0
        )

    async def create_run(self, thread_id: str, *, once: str | None = None) -> bool:
        """Answer what waits now. False if nothing waits."""
        await self.open()
        return await self.store.flush(self.address(thread_id), once=once)

    async def list_runs(self, thread_id: str) -> list[RunRecord]:
        await self.open()
        return await self.store.runs(self.address(thread_id))

    async def cancel_run(self, thread_id: str, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        """Stop the run in progress; what was shown stays. False if none was."""
        await self.open()
        return await self.store.cancel(self.address(thread_id), drop_inbox=drop_inbox, once=once)

    async def regenerate(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> list[Receipt]:
        """Answer the last turn again: its messages are sent once more, under new ids, and the old turn is taken back.

        Raises `NotFound` (nothing was answered), `ThreadBusy` (also while messages wait, which come after that turn).
        One act: whatever happens, the turn is there once. Again with the same `once`: the same receipts.
        """
        await self.open()
        return await self.store.regenerate(self.address(thread_id, tenant), once=once)

    async def submit_tool_outputs(self, thread_id: str, outputs: Sequence[Mapping[str, Any]]) -> list[HeldCall]:
        """Give the outputs of held calls, as ``{"tool_call_id", "output"}``. Raises `NotFound`, `Conflict`."""
        record = await self.get_thread(thread_id)
        asked = {call.call_id: call for call in record.calls}
        decided = []
        for one in outputs:
            if not {"tool_call_id", "output"} <= one.keys():
                raise InvalidMessage(f"an output has 'tool_call_id' and 'output', not {', '.join(map(str, one))[:200]}")
            call_id = str(one["tool_call_id"])
            if call_id not in asked:
                raise NotFound(f"no call {call_id!r} waits on thread {thread_id!r}")
            decision = Decision("output", str(one["output"]))
            decided.append(await self.store.decide(record.address, call_id, asked[call_id].digest, decision))
        return decided

    # ---------------------------------------------------------------- hooks

    def on(self, kind: str, hook: Hook) -> Hook:
        """Call `hook(channel, event)` for events of this kind, or ``"*"``, on channels that messages are sent to from
        here. Raises `ConfigurationError` for a kind that does not exist.
        """
        self._hooks.add(kind, hook)
        return hook


def _answer_in(event: Event) -> str:
    if event.kind == "completed":
        return event.text
    if event.kind == "withdrawn":
        raise NotFound("the message was withdrawn and will not be answered")
    fault = event.error
    raise TurnkeepError(f"{fault.code}: {fault.details or fault.message}" if fault else "the message is dead")


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _window(
    delay: float | None, preset: Preset | None, window: float | None, max_wait: float | None
) -> dict[str, float]:
    """A fixed delay is a window that does not slide: it ends `delay` after the first message."""
    if window is not None:
        return {"window": window, "max_wait": max_wait if max_wait is not None else max(window, 8.0)}
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigurationError(f"there is no preset {preset!r}, choose from {', '.join(PRESETS)}")
        usual, longest = PRESETS[preset]
        return {"window": usual, "max_wait": longest if max_wait is None else max_wait}
    return {} if delay is None else {"window": delay, "max_wait": delay if max_wait is None else max_wait}


def _backoff(backoff: Mapping[str, Any] | None) -> dict[str, Any]:
    if backoff is None:
        return {}
    if unknown := set(backoff) - {"type", "delay", "cap"}:
        raise ConfigurationError(f"backoff does not know {', '.join(sorted(unknown))}, it takes type, delay and cap")
    return {f"backoff_{name}": value for name, value in backoff.items()}
