"""What every run of a worker shares, and the limits of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import field

from turnkeep.assistants import Assistants
from turnkeep.backoff import Backoff
from turnkeep.clock import Clock, SystemClock
from turnkeep.conversation.history_cache import HistoryCache
from turnkeep.errors import TurnkeepError
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Content
from turnkeep.models import load_clients
from turnkeep.models.capabilities import ContextSizes
from turnkeep.models.model import Model
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.pricing.tokenizer import Tokenizer, tokenizer_for
from turnkeep.runs.activity import Activity
from turnkeep.runs.announcer import Publisher
from turnkeep.runs.answer_contract import AnswerRules
from turnkeep.runs.budget import Budgets
from turnkeep.runs.tool_calls import CallRules
from turnkeep.store.contract import Store
from turnkeep.store.record_cache import RecordCache
from turnkeep.store.shared_ledger import Circuit
from turnkeep.telemetry import SILENT, Meter
from turnkeep.tools.toolbox import Toolbox

DETAILS = 500
"""Characters of technical detail that a subscriber sees."""


@dataclass(frozen=True, slots=True)
class RunRules:
    """Limits of a run, in seconds and counts.

    `direct`: somebody waits for this very run and nobody else would take it up, so what would wait
    ends it.
    """

    deadline: float = 300.0
    max_attempts: int = 3
    # more than attempts: a worker dies of many things that are no fault of its messages
    max_deaths: int = 10
    backoff: Backoff = Backoff()
    probe_every: float = 30.0
    reconnect: Backoff = Backoff(delay=2.0, cap=15.0)
    rate_limit_pause: Backoff = Backoff(delay=1.0, cap=60.0)
    action_expiry: float = 86_400.0
    answer: AnswerRules = AnswerRules()
    calls: CallRules = CallRules()
    direct: bool = False


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every run of a worker shares."""

    store: Store
    model: Callable[[str], Model]
    """The model client that answers for a model name."""
    assistants: Assistants
    toolbox: Toolbox
    catalog: Catalog
    prices: PriceBook
    rules: RunRules = RunRules()
    clock: Clock = field(default_factory=SystemClock)
    meter: Meter = SILENT
    budgets: Budgets | None = None
    activity: Activity | None = None
    """Where figures for people go; None where nobody looks."""
    contexts: ContextSizes = field(default_factory=ContextSizes)
    histories: HistoryCache = field(init=False)
    circuits: RecordCache[list[Circuit]] = field(init=False)
    """The open circuits, as the store told them last."""
    sentences: Callable[[TurnkeepError], str] = lambda error: error.public
    """What people are told of an error."""
    publisher: Publisher = field(init=False)
    is_prepared: bool = field(init=False, default=False)
    """Whether a run waits for nothing that has to be loaded."""

    def __post_init__(self) -> None:
        # Not given: of one store there is one each, or runs would not share them.
        object.__setattr__(self, "histories", HistoryCache(self.store))
        object.__setattr__(self, "circuits", RecordCache(self.store, self._read_circuits))
        object.__setattr__(self, "publisher", Publisher(self.store))

    async def _read_circuits(self) -> list[Circuit]:
        return await self.store.circuits()

    async def prepare(self, contents: Iterable[Content] = ()) -> None:
        """Load what runs need and no start should wait for: vocabulary, prices, and the clients of
        models; and what it takes to count these. At once afterwards.
        """
        if not self.is_prepared:
            # In a thread: it would stop the event loop for half a second.
            await asyncio.to_thread(self.load)
        await self._tokenizer.load(part.text for content in contents for part in content)

    def load(self) -> None:
        """The same, where it may stop everything else."""
        self._tokenizer.build()
        self.prices.read_tables()
        load_clients()
        object.__setattr__(self, "is_prepared", True)

    @property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_for(self.assistants.blank.model, self.catalog)

    def fault(self, error: TurnkeepError) -> TurnFault:
        """An error as subscribers see it."""
        return TurnFault(error.code, self.sentences(error), str(error)[:DETAILS])
