"""What a run's failure means for all others, and which model a run asks while circuits are open.

An endpoint that fails for good would fail every thread alike. So the first run that meets it opens
its circuit for all workers, the threads wait without using up attempts, and one run at a time probes
whether it is back.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnkeep.errors import EndpointBlocked, ModelError, ModelGone, ModelRateLimited, ModelUnreachable, Waiting
from turnkeep.events import TurnFault
from turnkeep.models.waits import BRIEF_WAIT
from turnkeep.runs.journal import retry_until_answered
from turnkeep.runs.outcomes import Releasing
from turnkeep.runs.run_context import RunContext
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.values import Claim
from turnkeep.telemetry import get_log

log = get_log(__name__)


class Circuits:
    """The circuits as one run sees, probes and opens them."""

    def __init__(self, context: RunContext, claim: Claim) -> None:
        self._context = context
        self._claim = claim
        self._probe_endpoint: str | None = None
        self.blocking_fault: TurnFault | None = None
        """What opened the circuit for which this run has to wait."""

    async def choose_model(self, candidates: Sequence[str], open_circuits: Sequence[Circuit]) -> str:
        """The first that may answer and whose circuit is closed.

        Raises `Waiting` when all are open.
        """
        circuits = {circuit.endpoint: circuit for circuit in open_circuits}
        blocking: list[Circuit] = []
        for name in candidates:
            open_ones = [circuits[key] for key in self._keys(name) if key in circuits]
            if not open_ones:
                return name
            blocking += open_ones
        # of the first choice: what was asked for should be the first to answer again
        await self._probe(blocking[0])
        return candidates[0]

    async def _probe(self, circuit: Circuit) -> None:
        """Be the one run that tries whether an open circuit can be closed, or wait."""
        store = self._context.store
        is_away = circuit.fault.code == ModelUnreachable.code
        every = self._until_reconnecting() if is_away else self._context.rules.probe_every
        if await store.probe(circuit.endpoint, every=every):
            self._probe_endpoint = circuit.endpoint
            return
        delay = max(1.0, circuit.probe_at - await store.now(), every if is_away else 0.0)
        # looked at again within a minute, for the circuit may be closed by hand long before its probe
        delay = min(delay, BRIEF_WAIT)
        self.blocking_fault = circuit.fault
        raise Waiting(f"the circuit of {circuit.endpoint} is open: {circuit.fault.details}", retry_after=delay)

    async def close_after_probe(self) -> None:
        """Close the circuit that this run has probed, if it did: it has its answer."""
        if self._probe_endpoint is not None:
            await self._context.store.mend(self._probe_endpoint)

    def are_opened_by(self, error: ModelError) -> bool:
        # who waits for a direct run is told at once that the server is away, instead of waiting for its return
        is_away = isinstance(error, ModelUnreachable) and not self._context.rules.direct
        return is_away or isinstance(error, EndpointBlocked)

    async def open(
        self, model_name: str, error: ModelError, *, has_fallback: bool, probe_in: float | None = None
    ) -> Releasing:
        """Nobody can be answered there for now: wait without using attempts, or go on at once with
        a fallback.
        """
        context, is_away = self._context, isinstance(error, ModelUnreachable)
        pause = self._until_reconnecting() if is_away else probe_in or context.rules.probe_every
        endpoint, once, fault = self._key(model_name, error), self._act_of_attempt("trip"), context.fault(error)
        await retry_until_answered(lambda: context.store.trip(endpoint, fault, probe_in=pause, once=once))
        log.warning("circuit_opened", endpoint=endpoint, code=error.code)
        return Releasing(0.0 if has_fallback else min(pause, BRIEF_WAIT), fault)

    async def slow_down(self, model_name: str, error: ModelRateLimited, *, has_fallback: bool) -> Releasing:
        """The provider asks to wait: all workers do, and no attempt is used."""
        context = self._context
        delay = error.retry_after or context.rules.rate_limit_pause.after(self._claim.attempt) + 1.0
        if delay > BRIEF_WAIT and not context.rules.direct:
            # hours of a spent quota: as an open circuit it is seen by operators, and a fallback may answer meanwhile
            return await self.open(model_name, error, has_fallback=has_fallback, probe_in=delay)
        endpoint, once = self._key(model_name), self._act_of_attempt("slow_down")
        await retry_until_answered(lambda: context.store.slow_down(endpoint, delay, once=once))
        return Releasing(delay, context.fault(error))

    def _until_reconnecting(self) -> float:
        return max(0.5, self._context.rules.reconnect.after(self._claim.attempt))

    def _keys(self, model_name: str) -> tuple[str, str]:
        endpoint = self._context.model(model_name).endpoint
        return endpoint, f"{endpoint}/{model_name}"

    def _key(self, model_name: str, error: ModelError | None = None) -> str:
        endpoint, of_model = self._keys(model_name)
        # limits are those of a model, mostly: a fallback at the same endpoint may answer meanwhile
        return of_model if isinstance(error, (ModelGone, ModelRateLimited)) else endpoint

    def _act_of_attempt(self, name: str) -> str:
        """An attempt does such a thing once: a repeat must not undo what somebody did to the
        circuit meanwhile.
        """
        return f"{name} {self._claim.run_id} {self._claim.attempt}"
