"""What doors and commands hold of turnkeep: store, hub, assistants, clock and settings, opened and
closed together.

The names of the seeds stand above it, in `queue/`: what a door needs and what a program calls are
two lists, and a door that went through the second could not offer anything that the
first does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from turnkeep.adaptive_window import AdaptiveWindow
from turnkeep.assistants import Assistant, Assistants
from turnkeep.clock import SystemClock
from turnkeep.composition import Lifespan, RunParts, open_endpoint, open_run_context, policies, watch_process
from turnkeep.core_settings import Role
from turnkeep.errors import Conflict, InvalidMessage, NotFound, Rejection, ThreadBusy, ThreadNotFound
from turnkeep.fleet import Heartbeat
from turnkeep.hooks import Hooks
from turnkeep.hub import Hub
from turnkeep.inputs import MAX_DELAY, checked_channel, read_metadata
from turnkeep.messages import Address, AssistantItem, Item, Message
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.runs.activity import Activity
from turnkeep.runs.backlog_series import MOST_CHARTED_TENANTS, BacklogSeries
from turnkeep.runs.journal import user_item
from turnkeep.runs.run_context import RunContext
from turnkeep.runs.worker import LeaseRules, Worker, WorkerRules
from turnkeep.settings import Settings
from turnkeep.store import store_of
from turnkeep.store.contract import Store
from turnkeep.store.ids import thread_name
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.store_metrics import QueueGauges, measure_store
from turnkeep.store.values import Receipt, ThreadRecord, TranscriptEntry
from turnkeep.streams import EventStream, EventSubscription
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.telemetry.siblings import Siblings
from turnkeep.tools.toolbox import Toolbox

log = get_log(__name__)


RUNS_OF_A_SERVICE = 50
"""Finished runs that a service can show of a thread."""

ROUNDS = 5
"""How often what waits is read anew for a person's answer, because others wrote meanwhile."""


class Application:
    """One application with all its parts. Constructing opens nothing; `open` does, or `async with`.

    Doors may be mounted on it before it is open; a store that is given is opened and closed here
    all the same.
    """

    adaptive: AdaptiveWindow | None
    """Learns the windows of channels from what is accepted here; None: they are as set."""

    def __init__(
        self,
        settings: Settings,
        *,
        toolbox: Toolbox | None = None,
        store: Store | None = None,
        runs_kept: int = RUNS_OF_A_SERVICE,
        meter: Meter = SILENT,
    ) -> None:
        # not `toolbox or …`: a toolbox of MCP servers alone is empty, and so false, until their tools are listed
        toolbox = Toolbox() if toolbox is None else toolbox
        self.settings = settings
        self.toolbox = toolbox
        if settings.tenant_tools is not None:
            toolbox.share(settings.tenant_tools)
        self.name = settings.queue
        self.serves: tuple[str, ...] = (settings.queue,)
        """Queues that a worker of this process answers; set before it starts."""
        self.role: Role | None = None
        """What this process is to the fleet; set before it is opened. None: it is a program's own."""
        self.meter = meter
        self.siblings: Siblings | None = None
        """The other processes of this service, where `serve --processes` started several."""
        self.clock = SystemClock()
        self.catalog = Catalog.load(settings.price_file)
        self.store = measure_store(store or store_of(settings, policies(settings, runs_kept=runs_kept)), meter)
        self.hub = Hub(self.store, meter=meter)
        self.model_name = settings.model or self.catalog.default
        self.assistants = Assistants(self.store, model=self.model_name, instructions=settings.instructions)
        self._has_simulator = False
        self.adaptive = AdaptiveWindow() if settings.adaptive else None
        self._hooks = Hooks(self.hub)
        self._tenants: dict[str, None] = {}
        """That messages came for."""
        self._backlog = BacklogSeries(self.store, self.name, self._tenants)
        self._worker: Worker | None = None
        # an event and not a flag: `start_worker` may be called before there is a loop
        self._worker_wanted = asyncio.Event()
        self._first_message = asyncio.Event()
        self._queue_gauges: QueueGauges | None = None
        self._life = Lifespan(self._live, name=f"turnkeep-{self.name}")

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open store, model and hub, and the worker if it was started.

        Raises what stands in the way.
        """
        await self._life.open()

    @property
    def is_simulated(self) -> bool:
        """Whether the built-in simulator answers here, once the application is open and
        its worker was started.
        """
        return self._has_simulator and self._worker_wanted.is_set()

    @property
    def has_worker(self) -> bool:
        """Whether a worker was started in this process."""
        return self._worker_wanted.is_set()

    @property
    def queue_gauges(self) -> QueueGauges:
        """How much waits in the queues that this process takes in or answers."""
        if self._queue_gauges is None:  # at the first look: until then a worker may be told other queues
            queues = tuple(dict.fromkeys((self.name, *self.serves)))
            self._queue_gauges = QueueGauges(self.store, self.meter, self.clock, queues)
        return self._queue_gauges

    def start_worker(self) -> None:
        """Answer messages in this process.

        Before the event loop runs, or the application is open, it takes effect then.
        """
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
        """Wait for `ending`, or raise what ended the application before."""
        await self.open()
        await self._life.until(ending)

    async def _live(self, on_open: Callable[[], None]) -> None:
        """Everything that is open lives in here; the task groups end before what they use."""
        async with AsyncExitStack() as stack:
            await self.store.open()
            # the last of all: runs that drain still commit
            stack.push_async_callback(self.store.close)
            context = await self._build(stack)
            async with asyncio.TaskGroup() as group:
                hub = group.create_task(self.hub.run())
                watching = watch_process(self.meter, group)
                hooks = group.create_task(self._hooks.run())
                starting = group.create_task(self._start_worker_when_wanted(group, context))
                heartbeat = self._heartbeat()
                beating = group.create_task(self._beat(heartbeat))
                preparing = group.create_task(self._prepare_at_first_message(context))
                on_open()
                await self._life.closing.wait()
                # first: a worker that starts now would claim what nobody answers any more
                starting.cancel()
                await self._stop_worker()
                for task in (hub, watching, hooks, beating, preparing):
                    if task is not None:
                        task.cancel()
                await heartbeat.end()

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self.store,
            role=self.role or "library",
            queues=self.serves,
            slots=0 if self.role == "gateway" else self.settings.concurrency,
            active_runs=lambda: 0 if self._worker is None else self._worker.active,
        )

    async def _beat(self, heartbeat: Heartbeat) -> None:
        """A program that only sends is nobody of the fleet: one that answers is."""
        if self.role is None:
            await self._worker_wanted.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(heartbeat.run())
            group.create_task(self._backlog.run())

    async def _start_worker_when_wanted(self, group: asyncio.TaskGroup, context: RunContext) -> None:
        await self._worker_wanted.wait()
        settings = self.settings
        self._worker = Worker(
            context,
            rules=WorkerRules(concurrency=settings.concurrency, queues=self.serves, drain=settings.drain),
            lease=LeaseRules(settings.lease_duration),
        )
        self._working = group.create_task(self._worker.run())

    async def _prepare_at_first_message(self, context: RunContext) -> None:
        """While the window of the first message passes, so that its run waits for nothing."""
        await self._first_message.wait()
        # a gateway only takes messages in: who answers them prepares for itself
        if self._worker_wanted.is_set():
            await context.prepare()

    async def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            await asyncio.wait((self._working,))

    async def _build(self, stack: AsyncExitStack) -> RunContext:
        """What every run shares."""
        endpoint = await open_endpoint(self.settings, stack)
        self._has_simulator = endpoint.is_simulated
        self.assistant = await self._default_assistant()
        parts = RunParts(
            store=self.store,
            assistants=self.assistants,
            toolbox=self.toolbox,
            catalog=self.catalog,
            model=self.model_name,
            meter=self.meter,
            activity=Activity(self.store),
        )
        return await open_run_context(self.settings, stack, endpoint, parts)

    async def _default_assistant(self) -> Assistant:
        """The assistant of the default tenant: the one that is set, verified; else the stored one;
        else a new one.
        """
        assistant_id = self.settings.openai_assistant_id
        if assistant_id is not None:
            try:
                return await self.assistants.use("default", assistant_id)
            except NotFound:
                log.warning("assistant_recreated", assistant=assistant_id, reason="there was none of this id")
            with suppress(Conflict):  # another process made it meanwhile
                await self.assistants.create("default", {}, now=await self.store.now(), assistant_id=assistant_id)
            return await self.assistants.use("default", assistant_id)
        assistant = await self.assistants.default("default")
        if assistant is None:
            assistant = await self.assistants.begin("default", now=await self.store.now())
            log.info("assistant_created", assistant=assistant.assistant_id, model=assistant.model)
        if self.settings.openai_model and assistant.model != self.settings.openai_model:
            return await self._with_model(assistant, self.settings.openai_model)
        return assistant

    async def _with_model(self, assistant: Assistant, model: str) -> Assistant:
        """Processes that start together all set it: whoever is too late finds it set."""
        try:
            return await self.assistants.change("default", assistant.assistant_id, {"model": model})
        # read once more instead of failing: most often the other process has set the same model
        except Conflict:
            current = await self.assistants.get("default", assistant.assistant_id)
            if current.model == model:
                return current
            return await self.assistants.change("default", assistant.assistant_id, {"model": model})

    def address(self, channel: str, tenant: str = "default") -> Address:
        """Where a channel's thread is. Raises `InvalidMessage` for what is no name of one."""
        return Address(tenant, self.name, checked_channel(channel))

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        """Take messages in durably; one outcome per message. What doors use."""
        # one that wants to wait too long is refused alone: the others of the call are taken
        if any(message.not_before is not None for message in messages):
            return await self._accept_later(messages, create=create, max_inbox=max_inbox)
        return await self._accept(messages, create=create, max_inbox=max_inbox)

    async def _accept_later(
        self, messages: Sequence[Message], *, create: bool, max_inbox: int | None
    ) -> list[Receipt | Rejection]:
        """Without those that want to wait for longer than anything is kept."""
        latest = self.clock.now() + MAX_DELAY
        fits = [(message.not_before or 0.0) <= latest for message in messages]
        timely = [message for message, fit in zip(messages, fits, strict=True) if fit]
        outcomes = iter(await self._accept(timely, create=create, max_inbox=max_inbox) if timely else ())
        refusal = InvalidMessage(f"'not_before' must be within {MAX_DELAY / 86_400:.0f} days from now")
        return [next(outcomes) if fit else refusal for fit in fits]

    async def _accept(
        self, messages: Sequence[Message], *, create: bool, max_inbox: int | None
    ) -> list[Receipt | Rejection]:
        # as a wish of the message, before the store sees it: what the store promises about windows
        # stays as it is
        self._first_message.set()
        if messages and len(self._tenants) < MOST_CHARTED_TENANTS:
            self._tenants[messages[0].address.tenant] = None
        if self.adaptive is not None:
            messages = self.adaptive.apply(messages, self.clock.now())
        return await self.store.accept(messages, create=create, max_inbox=max_inbox)

    async def say(self, address: Address, text: str, *, author: str, once: str | None = None) -> None:
        """Add what a person says in the assistant's place to the transcript, and tell who watches.

        The messages that wait are answered by it, as one turn; those for a later time wait on.
        Raises `ThreadBusy` while a run is in progress, waits for a retry of what it has begun or
        for a decision: stop the run first.
        """
        entry = self._entry_of(AssistantItem(text, author=author))
        for _ in range(ROUNDS):
            inbox = await self._read_inbox(address)
            with suppress(Conflict):
                return await self.store.append(address, [entry], author=author, inbox=inbox, once=once)
        raise ThreadBusy("others wrote each time that the waiting messages were read, send it again")

    async def _read_inbox(self, address: Address) -> InboxView | None:
        """What waits for an answer; None while nothing does."""
        # The end of the log first: what happens behind it is noticed by the store.
        record = await self.store.thread(address)
        waiting = [one for one in await self.store.open_messages(address) if one.status == "waiting"]
        entries = tuple(self._entry_of(user_item(one.message)) for one in waiting if one.message is not None)
        return InboxView(entries, record.top, record.thread_id) if record is not None and entries else None

    def _entry_of(self, item: Item) -> TranscriptEntry:
        return TranscriptEntry(item, tokenizer_for(self.model_name, self.catalog).count_item(item))

    def events(
        self, thread_id: str, *, after: int | None = None, epoch: str | None = None, tenant: str = "default"
    ) -> EventSubscription:
        """`async for event in application.events(thread)`: no holes, from a position or from now.

        `async with application.events(thread) as events` is subscribed before its block begins, so
        that nothing is missed of what the block does.
        """

        async def stream() -> EventStream:
            address = self.address(thread_id, tenant)
            await self.open()
            return EventStream(self.hub, self.store, address, after=after, epoch=epoch)

        return EventSubscription(stream)

    async def create_thread(
        self,
        thread_id: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        tenant: str = "default",
        once: str | None = None,
    ) -> ThreadRecord:
        """The thread of this name, made if it is new; without a name a new one, with an id. Again with
        the same `once`: the first answer.
        """
        await self.open()
        address = self.address(thread_id or thread_name(once), tenant)
        record = await self.store.thread(address, create=True, once=once)
        if metadata:
            record = await self.store.update(address, {"metadata": read_metadata(metadata)}, once=once)
        if record is None:
            raise ThreadNotFound(f"thread {address.channel!r} could not be created")
        return record


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
