"""What an answer is made with, within which limits, and what it can come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from turnkeep.clock import Clock
from turnkeep.conversation.history_cache import HistoryCache
from turnkeep.errors import ModelError
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.capabilities import ContextSizes
from turnkeep.models.model import ModelRequest
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.journal import Ending
from turnkeep.store.contract import Store
from turnkeep.store.record_cache import RecordCache
from turnkeep.store.values import HeldCall
from turnkeep.telemetry import Meter
from turnkeep.tools.toolbox import Toolbox


def never(error: ModelError, failures: int) -> float | None:
    """A failed request is not made again here: its run has failed."""
    return None


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """Limits of one run. `history_tokens`: how much of the past is told; `output_tokens`: kept free
    for the answer.

    `again` says in how many seconds a request that has failed so many times is made again within
    the same run, or None.
    """

    max_steps: int = 8
    history_tokens: int = 64_000
    output_tokens: int = 8_000
    again: Callable[[ModelError, int], float | None] = never


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The model has answered: `ending` says whether wholly."""

    text: str
    ending: Ending


@dataclass(frozen=True, slots=True)
class NeedsDecision:
    """The turn waits for somebody's decision."""

    calls: Sequence[HeldCall]


class AnswerResources(Protocol):
    """What all runs share, as far as an answer needs it."""

    @property
    def store(self) -> Store: ...
    @property
    def toolbox(self) -> Toolbox: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def prices(self) -> PriceBook: ...
    @property
    def contexts(self) -> ContextSizes: ...
    @property
    def histories(self) -> HistoryCache: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def meter(self) -> Meter: ...


class Steerable(Protocol):
    """Knows of hints that messages want to join this run: its lease, which every renewal tells."""

    @property
    def wants_steering(self) -> bool: ...


class Spending(Protocol):
    """What one run may spend of money and pace."""

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget or a pace; else only `slow_downs` may let a request wait."""
        ...

    @property
    def slow_downs(self) -> RecordCache[float, str]:
        """For how many seconds the provider at an endpoint lets everybody wait."""
        ...

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of the next request decide anything: else nobody has to count them."""
        ...

    async def before_request(self, request: ModelRequest, tokens: int, endpoint: str) -> None:
        """Raises when the request, of so many input tokens, has to wait or is refused."""
        ...

    async def slow_down(self, wait: float, endpoint: str) -> None:
        """Nobody may ask there for so many seconds, says the provider at the beginning of its answer."""
        ...
