"""Turns: beginning, stopping, pausing, answering again, and deciding what a turn waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from turnkeep.application import Application
from turnkeep.errors import InvalidMessage, NotFound, ThreadNotFound
from turnkeep.store.values import Decision, HeldCall, Receipt, RunRecord


class TurnMethods(Application):
    """What is done to the turns of a thread."""

    async def create_run(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> bool:
        """The same as `flush`, under the name of the Assistants API."""
        return await self.flush(thread_id, tenant=tenant, once=once)

    async def flush(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> bool:
        """Answer what waits now, without waiting for more. False if nothing waits."""
        await self.open()
        return await self.store.flush(self.address(thread_id, tenant), once=once)

    async def pause(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> None:
        """Let nobody answer until `resume`; messages are taken in, and a run in progress ends."""
        await self.open()
        await self.store.pause(self.address(thread_id, tenant), once=once)

    async def resume(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> None:
        """Answer again what has waited since `pause`."""
        await self.open()
        await self.store.resume(self.address(thread_id, tenant), once=once)

    async def list_runs(self, thread_id: str, *, tenant: str = "default") -> list[RunRecord]:
        """The run in progress or in waiting first, then the last finished ones, newest first.

        Finished ones are kept with `remove_on_complete=False` only.
        """
        await self.open()
        return await self.store.runs(self.address(thread_id, tenant))

    async def cancel_run(
        self, thread_id: str, *, drop_inbox: bool = False, tenant: str = "default", once: str | None = None
    ) -> bool:
        """Stop the run in progress; what was shown stays. `drop_inbox` withdraws what waits, too.
        False if no run was in progress.
        """
        await self.open()
        return await self.store.cancel(self.address(thread_id, tenant), drop_inbox=drop_inbox, once=once)

    async def regenerate(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> list[Receipt]:
        """Answer the last turn again: its messages are sent once more, under new ids, and the old
        turn is taken back.

        Raises `NotFound` (nothing was answered), `ThreadBusy` (also while messages wait, which come
        after that turn). One act: whatever happens, the turn is there once. Again with the same
        `once`: the same receipts.
        """
        await self.open()
        return await self.store.regenerate(self.address(thread_id, tenant), once=once)

    async def decide(
        self,
        thread_id: str,
        call_id: str,
        verdict: Literal["approved", "denied", "output"],
        output: str = "",
        *,
        digest: str | None = None,
        by: str = "",
        tenant: str = "default",
        once: str | None = None,
    ) -> HeldCall:
        """Decide about a call that waits; `get_thread(…).calls` are those that do.

        `digest` binds the decision to the arguments that were looked at: give the one of the call
        that was shown. Without it the decision is for the arguments of now. `by` says who decides.
        Raises `NotFound`, `Conflict` (decided otherwise, or other arguments), `InvalidMessage`.
        """
        if verdict not in ("approved", "denied", "output"):
            raise InvalidMessage(f"a verdict is approved, denied or output, not {str(verdict)[:80]!r}")
        await self.open()
        address = self.address(thread_id, tenant)
        if digest is None:
            digest = (await self._held_calls(thread_id, tenant, call_id))[call_id].digest
        return await self.store.decide(address, call_id, digest, Decision(verdict, output, by), once=once)

    async def submit_tool_outputs(
        self, thread_id: str, outputs: Sequence[Mapping[str, Any]], *, tenant: str = "default"
    ) -> list[HeldCall]:
        """Give the outputs of held calls, as ``{"tool_call_id", "output"}``.

        Raises `NotFound`, `Conflict`.
        """
        for one in outputs:
            if not {"tool_call_id", "output"} <= one.keys():
                names = ", ".join(map(str, one))[:200] or "nothing"
                raise InvalidMessage(f"an output has 'tool_call_id' and 'output', not {names}")
        call_ids = [str(one["tool_call_id"]) for one in outputs]
        # with the digest of the arguments: an id alone could name a call that somebody has
        # changed meanwhile
        calls = await self._held_calls(thread_id, tenant, *call_ids)
        address = self.address(thread_id, tenant)
        decisions = [Decision("output", str(one["output"])) for one in outputs]
        return [
            await self.store.decide(address, call_id, calls[call_id].digest, decision)
            for call_id, decision in zip(call_ids, decisions, strict=True)
        ]

    async def _held_calls(self, thread_id: str, tenant: str, *call_ids: str) -> dict[str, HeldCall]:
        """The calls that wait. Raises `ThreadNotFound`, and `NotFound` for an id that none has."""
        await self.open()
        record = await self.store.thread(self.address(thread_id, tenant))
        if record is None:
            raise ThreadNotFound(f"there is no thread {thread_id!r}")
        calls = {call.call_id: call for call in record.calls}
        if missing := [call_id for call_id in call_ids if call_id not in calls]:
            raise NotFound(f"no call {missing[0]!r} waits on thread {thread_id!r}")
        return calls
