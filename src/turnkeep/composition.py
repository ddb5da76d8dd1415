"""What a queue and a service are built of: from settings to parts opened and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import lru_cache

from pydantic import SecretStr

from turnkeep.assistants import Assistants
from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass
from turnkeep.models import ModelApi, ModelPool, Provider
from turnkeep.models.capabilities import ContextSizes, read_capabilities
from turnkeep.models.model import Model
from turnkeep.models.provider import ANTHROPIC, OPENAI, patience_with
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import SIMULATOR, PriceBook
from turnkeep.runs.activity import Activity
from turnkeep.runs.answer_contract import AnswerRules
from turnkeep.runs.budget import Budgets
from turnkeep.runs.run_context import RunContext, RunRules
from turnkeep.runs.tool_calls import CallRules
from turnkeep.settings import Settings
from turnkeep.store import Policies, Policy, Store
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.telemetry.metrics import watch_loop
from turnkeep.telemetry.traces import configure_tracing
from turnkeep.tools.toolbox import Toolbox
from turnkeep.wording import sentences

log = get_log(__name__)

RUNS_OF_BUDGETS = 20
"""Finished runs that a thread keeps at least where a budget is set: a reservation left open is
settled from them.
"""


class Lifespan:
    """Keeps parts open in a task of its own, from the first `open` to `close`.

    `live` opens them, calls its argument when they are, and returns when `closing` is set and they
    are closed again.
    """

    def __init__(self, live: Callable[[Callable[[], None]], Awaitable[None]], *, name: str) -> None:
        self._live = live
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Event()
        self.closing = asyncio.Event()

    def begin(self) -> None:
        """Start to open, if that has not begun.

        Raises `ConfigurationError` on another event loop than the first.
        """
        loop = asyncio.get_running_loop()
        # parts hold sockets and locks of the loop on which they were opened
        if self._loop is not None and self._loop is not loop:
            state = "has ended" if self._loop.is_closed() else "is not this one"
            raise ConfigurationError(f"{self._name} was opened on an event loop that {state}, make a new one for this")
        if self._task is None:
            self._loop = loop
            self._task = asyncio.create_task(self._run(), name=self._name)

    async def _run(self) -> None:
        await self._live(self._opening.set)

    async def open(self) -> None:
        """Wait until everything is open. Raises what stands in the way, or what has ended it since."""
        self.begin()
        await self.until(self._opening)
        if self.closing.is_set():
            raise ConfigurationError(f"{self._name} is closed, make a new one")

    async def until(self, event: asyncio.Event) -> None:
        """Wait for an event, or raise what ended everything before it."""
        if self._task is not None and not event.is_set():
            waiting = asyncio.create_task(event.wait())
            await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if self._task is not None and self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Close everything. Safe to repeat; raises what has ended it before.

        An event loop that ended took it along.
        """
        self.closing.set()
        if self._task is not None and not (self._loop and self._loop.is_closed()):
            self.begin()
            await asyncio.wait((self._task,))
            self._task.result()


async def open_endpoint(settings: Settings, stack: AsyncExitStack) -> Provider:
    """Where models are asked: what is set, or the built-in simulator, which only this
    process reaches.
    """
    if not settings.uses_simulator:
        return endpoint_of(settings)
    # imported here: whoever has a key does not pay for a simulator at the start
    from turnkeep.simulator import Options, Simulator, StreamPace, inside

    simulator = Simulator(pace=StreamPace.lively(), options=Options(answers_as=SIMULATOR), control=False)
    # on no port of this machine: nobody else may reach a simulator that answers in a service's name
    dial = await stack.enter_async_context(inside(simulator))
    log.warning("simulator_answers", reason="no OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY is set")
    return Provider(base_url=f"http://{SIMULATOR}/v1", is_simulated=True, dial=dial)


def endpoint_of(settings: Settings) -> Provider:
    """Who answers for models that are nobody's in particular: the server of OpenAI's
    kind, else Anthropic.
    """
    if (anthropic := anthropic_of(settings)) is not None and not settings.uses_openai:
        return anthropic
    endpoint = _endpoint(settings, settings.openai_base_url or OPENAI, settings.openai_api_key)
    return replace(endpoint, organisation=settings.openai_organization, project=settings.openai_project)


def anthropic_of(settings: Settings) -> Provider | None:
    """Who answers for models named claude…, if Anthropic or a server of its kind was named."""
    if not settings.uses_anthropic:
        return None
    base_url = (settings.anthropic_base_url or ANTHROPIC).rstrip("/").removesuffix("/v1")
    return _endpoint(settings, f"{base_url}/v1", settings.anthropic_api_key)


def _endpoint(settings: Settings, base_url: str, key: SecretStr | None) -> Provider:
    return Provider(
        base_url,
        api_key=key.get_secret_value() if key else "",
        proxy=settings.model_proxy,
        ca_file=str(settings.model_ca_file) if settings.model_ca_file else None,
        first_event_timeout=settings.first_event_timeout or patience_with(base_url),
        idle_timeout=settings.idle_timeout,
        capabilities=read_capabilities(settings.model_capabilities),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """What a queue or a service brings to its runs."""

    store: Store
    assistants: Assistants
    toolbox: Toolbox
    catalog: Catalog
    model: str
    """The model of the default assistant."""
    meter: Meter = SILENT
    activity: Activity | None = None
    rules: RunRules | None = None
    """None: as the settings say."""
    kind: ModelApi | None = None
    """The protocol in which models are asked; None: as the settings say."""
    is_patient: bool = False
    """Runs wait for a budget themselves: nobody claims them again."""
    ledger: Store | None = None
    """Where money and pace are kept, if not in the store."""


async def open_run_context(
    settings: Settings, stack: AsyncExitStack, endpoint: Provider, parts: RunParts
) -> RunContext:
    """What every run shares. Vocabulary, prices and clients are loaded by the first run.

    Raises `ConfigurationError` where a budget is set and the price of the model is not known.
    """
    prices = PriceBook(settings.price_file, base_url=settings.openai_base_url or settings.anthropic_base_url)
    budgets = await _open_budgets(settings, parts, prices)
    open_tracing(settings, stack)
    return RunContext(
        parts.store,
        _model_clients(settings, stack, endpoint, parts.kind or settings.model_api),
        parts.assistants,
        parts.toolbox,
        parts.catalog,
        prices,
        parts.rules or run_rules(settings),
        meter=parts.meter,
        budgets=budgets,
        activity=parts.activity,
        contexts=ContextSizes(endpoint),
        sentences=sentences(settings.sentences_file),
    )


async def _open_budgets(settings: Settings, parts: RunParts, prices: PriceBook) -> Budgets:
    # direct calls without a session have a store of their own in memory, but money is everybody's
    ledger = parts.ledger or parts.store
    budgets = Budgets.from_settings(settings, ledger, prices, meter=parts.meter, patient=parts.is_patient)
    if budgets.budgets:
        await prices.load()
        # said at the start: a budget that cannot be kept would let every run wait for an operator, one by one
        if prices.price(parts.model) is None:
            raise ConfigurationError(
                f"a budget is set, but no price of {parts.model} is known: add it to TURNKEEP_PRICE_FILE, or install "
                "turnkeep[prices]"
            )
    return budgets


def _model_clients(
    settings: Settings, stack: AsyncExitStack, endpoint: Provider, kind: ModelApi
) -> Callable[[str], Model]:
    """The client for each model name: Claude is asked at Anthropic where that is set, everything
    else at `endpoint`.
    """
    pool = ModelPool()
    stack.push_async_callback(pool.close)
    anthropic = anthropic_of(settings)

    # decided once for a name; of as many as a process is asked for, since users may name any
    @lru_cache(maxsize=256)
    def model_of(name: str) -> Model:
        if anthropic is not None and (anthropic == endpoint or name.startswith("claude")):
            return pool.get(anthropic, "anthropic")
        return pool.get(endpoint, kind)

    return model_of


def open_tracing(settings: Settings, stack: AsyncExitStack) -> None:
    """Trace while the stack is open, if an endpoint for traces is set."""
    if settings.otel_endpoint:
        end = configure_tracing(settings.otel_endpoint)
        stack.push_async_callback(asyncio.to_thread, end)


def watch_process(meter: Meter, group: asyncio.TaskGroup) -> asyncio.Task[None] | None:
    """Measure the event loop in this group, if anybody looks."""
    return None if meter is SILENT else group.create_task(watch_loop(meter))


def policies(settings: Settings, *, runs_kept: int = 50) -> Policies:
    """The store's limits, from settings."""
    policy = Policy(
        window=settings.window,
        # without a window nothing is waited for, so there is no longest wait either
        max_wait=settings.max_wait if settings.window else 0.0,
        max_batch=settings.max_batch,
        max_batch_bytes=settings.max_batch_bytes,
        max_inbox=settings.max_inbox,
        on_busy=settings.on_busy,
        expiry=settings.thread_expiry,
        dedupe=settings.dedupe,
        history_items=settings.history_items,
        history_bytes=settings.history_bytes,
        runs_kept=max(runs_kept, RUNS_OF_BUDGETS) if settings.has_budgets else runs_kept,
    )
    return Policies(policy, weights=settings.weights)


def run_rules(settings: Settings) -> RunRules:
    """A run's limits, from settings."""
    return RunRules(
        deadline=settings.run_deadline,
        max_attempts=settings.max_attempts,
        max_deaths=settings.max_deaths,
        backoff=settings.backoff,
        action_expiry=settings.action_expiry,
        answer=AnswerRules(max_steps=settings.max_steps),
        calls=CallRules(settings.max_calls, settings.parallel_tools),
    )
