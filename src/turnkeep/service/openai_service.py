"""`OpenAIService`: a question answered at once, with tools, in one loop.

A call with a session is a turn of that thread: accepted and claimed in one act, so that it never
races a queued run. A call without one is a turn of a thread that exists for it alone, in memory.
Both are runs like any other; what comes back are the chunks of that run, and a call that blocks is
a fold over them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, Self

from turnkeep.assistants import Assistant, Assistants
from turnkeep.composition import Lifespan, RunParts, open_endpoint, open_run_context, policies, run_rules, watch_process
from turnkeep.errors import ConfigurationError, LeaseLost, ModelGone, RunBroke, TurnkeepError
from turnkeep.inputs import checked_channel
from turnkeep.messages import DEFAULT_TENANT, Address, Item
from turnkeep.runs.lease import Lease
from turnkeep.runs.outcomes import HoldVerdict, Verdict
from turnkeep.runs.run import Run
from turnkeep.runs.worker import Keeper, LeaseRules
from turnkeep.seconds import SecondsLimit
from turnkeep.service.call_runner import NO_LIMITS, CallRunner, DirectCall, ForgetfulStore
from turnkeep.service.chunks import Chunk, Completion, DoneChunk, ErrorChunk, Metadata, Outlet, ToolCall, fold_chunks
from turnkeep.service.config import OpenAIConfig, create_openai_config
from turnkeep.service.request import DirectRequest
from turnkeep.settings import Settings
from turnkeep.store import store_of
from turnkeep.store.contract import Registry, Store
from turnkeep.store.store_metrics import measure_store
from turnkeep.store.values import Commit, Failure
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.tools import Tool, Toolbox
from turnkeep.tools.builtin import configured_tools
from turnkeep.tools.toolbox import Registrable
from turnkeep.usage import Usage

log = get_log(__name__)

WAIT = 30.0
"""Seconds that a call with a session waits for a run in progress, unless it says otherwise."""

WAIT_LIMIT = SecondsLimit(3_600.0)

FINISH = {"filter": "content_filter"}

Messages = Sequence[Mapping[str, Any] | Item]


class OpenAIService:
    """Streamed answers with tools, with or without memory.

    Constructing opens nothing; the first call does.

    `async with` or `close` ends it; calls in progress are cancelled then, and what they have shown
    is kept.
    """

    def __init__(self, config: OpenAIConfig | None = None, *, meter: Meter = SILENT) -> None:
        if config is not None and not isinstance(config, OpenAIConfig):
            raise ConfigurationError("OpenAIService takes what create_openai_config(api_key=…, model=…) gives")
        self.config = config or create_openai_config()
        self.meter = meter
        settings = self.config.settings
        self.toolbox = Toolbox(configured_tools(settings), tenants=settings.tenant_tools or {})
        self._life = Lifespan(self._live, name="openai-service")
        self._opening = asyncio.Lock()
        self._runners: dict[bool, CallRunner] = {}
        self._store: Store | None = None
        self._works: dict[Lease, asyncio.Task[None]] = {}

    async def stream_completion(
        self,
        messages: Messages,
        session_id: str | None = None,
        *,
        wait: float = WAIT,
        metadata: Mapping[str, str] | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the answer as it comes: content, tool_call and tool_result chunks, then
        one done or error.

        Without a session, `messages` are the whole conversation and nothing is remembered. With one
        they are what is new, system messages are instructions for this call alone, and what waits
        on the thread is answered along. Where a run is in progress there, the call waits for so
        many seconds. Leaving the iterator early cancels: the text so far is kept in the session.

        Raises, before the first chunk: `InvalidMessage`, `ThreadBusy`,
        `ConfigurationError`, `StoreError`.
        """
        WAIT_LIMIT.check("wait", wait)
        request = DirectRequest.of(messages) if session_id is None else DirectRequest.of_session(messages)
        if session_id is not None:
            checked_channel(session_id)
        runner = await self._runner(remembers=session_id is not None)
        outlet = Outlet()
        address = Address(tenant, self.config.settings.queue, session_id or f"direct-{secrets.token_hex(12)}")
        call = await runner.begin(request, address, dict(metadata or {}), wait=wait)
        work = self._works[call.lease] = self._group.create_task(self._work(runner, call, outlet, session_id))
        try:
            async for chunk in outlet:
                yield chunk
        finally:
            # whoever leaves early: what nobody reads must not go on spending
            call.lease.stop("cancel")
            await asyncio.wait((work,))

    async def complete(self, messages: Messages, session_id: str | None = None, **options: Any) -> Completion:
        """The whole answer, tools included.

        Raises what `stream_completion` raises, and what it tells as error.
        """
        async with aclosing(self.stream_completion(messages, session_id, **options)) as chunks:
            return await fold_chunks(chunks)

    async def complete_with_tools(
        self, messages: Messages, session_id: str | None = None, **options: Any
    ) -> tuple[ToolCall, ...]:
        """Answer, and return the tool calls that were made on the way, each with its output."""
        return (await self.complete(messages, session_id, **options)).tool_calls

    def register_tool(self, tool: Registrable, *, replace: bool = False) -> Tool:
        """Add a tool: a function, a `Tool`, or
        ``{"type": "function", "function": {…}, "handler": …}``.
        """
        return self.toolbox.register(tool, replace=replace)

    async def __aenter__(self) -> Self:
        await self._life.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is in progress, keep what it has shown, close everything. Safe to repeat."""
        await self._life.close()

    async def _live(self, on_open: Callable[[], None]) -> None:
        # `keeping` is the outer group: leases are renewed until the last call is over
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as keeping, asyncio.TaskGroup() as group:
            self._stack, self._keeping, self._group = stack, keeping, group
            self._endpoint = await open_endpoint(self.config.settings, stack)
            watching = watch_process(self.meter, keeping)
            on_open()
            await self._life.closing.wait()
            for lease in self._works:
                lease.stop("cancel")
            if self._works:
                await asyncio.wait(self._works.values())
            for task in (watching, *(task for runner in self._runners.values() for task in runner.upkeep)):
                if task is not None:
                    task.cancel()

    async def _runner(self, *, remembers: bool) -> CallRunner:
        """Where calls with, or without, a session are answered; opened when the first one comes."""
        await self._life.open()
        async with self._opening:
            if remembers not in self._runners:
                self._runners[remembers] = await self._open_runner(remembers)
            return self._runners[remembers]

    async def _open_runner(self, remembers: bool) -> CallRunner:
        config, stack = self.config, self._stack
        store = await self._session_store() if remembers else ForgetfulStore(NO_LIMITS)
        # without limits nothing is shared, and a call without a session needs no store but memory
        ledger = await self._session_store() if _is_limited(config.settings) else store
        rules = run_rules(config.settings)
        rules = replace(
            rules,
            deadline=config.timeout,
            # the caller is there and decides: a further attempt would come after it has gone
            max_attempts=1,
            answer=replace(rules.answer, again=config.retries.again),
            direct=True,
        )
        parts = RunParts(
            store=store,
            assistants=_Profile(store, config),
            toolbox=self.toolbox,
            catalog=config.catalog,
            model=config.model,
            rules=rules,
            meter=self.meter,
            kind=config.protocol,
            is_patient=True,
            ledger=ledger,
        )
        context = await open_run_context(config.settings, stack, self._endpoint, parts)
        keeper = Keeper(store, rules=LeaseRules(config.settings.lease_duration), owner=f"direct-{secrets.token_hex(8)}")
        upkeep = tuple(self._keeping.create_task(act) for act in (keeper.run(), context.publisher.run()))
        return CallRunner(context, keeper, upkeep, remembers)

    async def _session_store(self) -> Store:
        """Where sessions are, and what all processes may spend together."""
        if self._store is None:
            store, settings = self.config.store, self.config.settings
            if store is None:
                store = store_of(settings, policies(settings))
                await store.open()
                self._stack.push_async_callback(store.close)
            self._store = measure_store(store, self.meter)
        return self._store

    async def _work(self, runner: CallRunner, call: DirectCall, outlet: Outlet, session_id: str | None) -> None:
        last: Chunk = ErrorChunk(RunBroke())
        try:
            run = Run(runner.context, call.lease, outlet.observe)
            verdict = await run.perform()
            last = self._last_chunk(run, verdict, outlet, session_id)
        finally:
            del runner.keeper.leases[call.lease.claim.token]
            self._works.pop(call.lease, None)
            # in any case: a reader that is not told of the end waits for ever
            outlet.end(last)
        await runner.tidy(call, verdict)

    def _last_chunk(self, run: Run, verdict: Verdict, outlet: Outlet, session_id: str | None) -> Chunk:
        match verdict:
            case Commit():
                ending = run.journal.ending or "stop"
                finish = "cancelled" if verdict.outcome == "cancelled" else FINISH.get(ending, ending)
                return DoneChunk(_metadata(run, finish, verdict.usage, outlet, session_id))
            case HoldVerdict():
                metadata = _metadata(run, "tool_calls", run.journal.usage, outlet, session_id)
                return DoneChunk(metadata)
            case Failure():
                metadata = _metadata(run, "error", verdict.usage, outlet, session_id)
                return ErrorChunk(self._error_of(run.error), metadata)
        return ErrorChunk(LeaseLost(f"another worker took over run {run.claim.run_id}, which goes on there"))

    def _error_of(self, error: Exception | None) -> TurnkeepError:
        """The error of a run, with what to do about a model that is gone."""
        # the catalog names a successor, which the server that refused cannot know of
        if isinstance(error, ModelGone):
            return ModelGone(f"{error}; use {self.config.catalog.suggest(self.config.model)}")
        return error if isinstance(error, TurnkeepError) else RunBroke()


def _is_limited(settings: Settings) -> bool:
    """Whether calls without a session count as well: then they need what all processes share."""
    return bool(settings.has_budgets or settings.requests_per_minute or settings.tokens_per_minute)


def _metadata(run: Run, finish: str, usage: Usage, outlet: Outlet, session_id: str | None) -> Metadata:
    return Metadata(
        finish_reason=finish,
        model=run.journal.model or run.model_name,
        usage=usage,
        timings=outlet.timings(usage),
        run_id=run.claim.run_id,
        thread_id=run.claim.thread_id,
        session_id=session_id,
        warnings=tuple(run.answering.prompt.warnings) if run.answering else (),
    )


class _Profile(Assistants):
    """Who answers a direct call: always the one that the configuration describes."""

    def __init__(self, registry: Registry, config: OpenAIConfig) -> None:
        super().__init__(registry, model=config.model, instructions="")
        self._only = replace(self.blank, parameters=config.parameters)

    async def _choose(self, tenant: str, assistant_id: str | None) -> Assistant:
        return self._only
