"""The tool calls of one step: journal before act, in parallel, each with exactly one output.

What happens to a call is decided first, as a value (`CallPlan`); then acted upon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from turnkeep.clock import Clock
from turnkeep.events import Event
from turnkeep.failpoints import reach
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import CallItem, OutputItem
from turnkeep.runs.announcer import Announcer, Disclosure
from turnkeep.runs.journal import Journal
from turnkeep.runs.trace_attributes import call_attributes
from turnkeep.store.values import Claim, HeldCall
from turnkeep.telemetry import SILENT, Meter
from turnkeep.telemetry.traces import span
from turnkeep.tools.execution import Result, ToolRequest, arguments_digest, call_catch_all, parse_arguments, refusal
from turnkeep.tools.execution import call as execute
from turnkeep.tools.tool import Tool, ToolContext
from turnkeep.tools.toolbox import Toolbox

EFFECT_UNKNOWN = "outcome unknown, interrupted: the call had begun and may or may not have taken effect"


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What becomes of a call: it has its output, it is refused, it runs, the catch-all takes it, or
    somebody is asked first.

    Only `run` and `catch_all` are journalled as started: a batch whose effects have started is
    never split, so a call that cannot have had one must not count.
    """

    item: CallItem
    way: Literal["known", "refused", "run", "catch_all", "ask"]
    tool: Tool | None = None
    output: OutputItem | None = None
    kind: Literal["approval", "output"] = "approval"
    refusal: Result | None = None


@dataclass(frozen=True, slots=True)
class CallRules:
    """Limits of the tool calls of a run."""

    max_calls: int = 16
    parallel: int = 8


class Calls:
    """Runs what the model asked for."""

    def __init__(
        self,
        claim: Claim,
        journal: Journal,
        announcer: Announcer,
        disclosure: Disclosure,
        *,
        toolbox: Toolbox,
        rules: CallRules,
        clock: Clock,
        meter: Meter = SILENT,
    ) -> None:
        self._claim = claim
        self._journal = journal
        self._announcer = announcer
        self._disclosure = disclosure
        self._toolbox = toolbox
        self._rules = rules
        self._clock = clock
        self._meter = meter
        self._slots = asyncio.Semaphore(rules.parallel)
        self._decisions = {call.call_id: call for call in claim.calls if call.decision}

    async def answer(self, enabled_names: Sequence[str] | None, client_names: Collection[str] = ()) -> list[HeldCall]:
        """Give every open call its output; the calls that have to wait for somebody, after all
        others have run. `client_names`: functions that the caller runs himself.
        """
        open_calls = self._journal.open_calls
        plans = [self._plan(place, item, enabled_names, client_names) for place, item in enumerate(open_calls)]
        self._announce(plans)
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                if plan.way == "known" and plan.output:
                    group.create_task(self._end(plan.output))
                elif plan.way == "refused" and plan.refusal:
                    group.create_task(self._refuse(plan.item, plan.tool, plan.refusal))
                elif plan.way == "run":
                    group.create_task(self._run(plan.item, plan.tool))
            catching = group.create_task(self._catch([p.item for p in plans if p.way == "catch_all"]))
        held_calls = [_held_call(p.item, p.kind, p.tool) for p in plans if p.way == "ask"]
        return held_calls + catching.result()

    def _plan(
        self, place: int, item: CallItem, enabled_names: Sequence[str] | None, client_names: Collection[str]
    ) -> CallPlan:
        if (held_call := self._decisions.get(item.call_id)) is not None:
            return self._plan_decided(item, held_call)
        if item.name in client_names and place < self._rules.max_calls:
            return CallPlan(item, "ask", kind="output")
        tool = self._tool(item.name, enabled_names)
        # begun by an attempt that ended: nobody saw how it ended, and it must not begin twice
        if item.call_id in self._journal.started_calls and (tool is None or tool.effect == "effect"):
            return CallPlan(item, "known", output=OutputItem(item.call_id, EFFECT_UNKNOWN, "unknown"))
        if place >= self._rules.max_calls:
            text = f"error: more than {self._rules.max_calls} calls in one step, ask for fewer at once"
            return CallPlan(item, "known", output=OutputItem(item.call_id, text, "error"))
        if tool is None and self._toolbox.catches_all:
            return CallPlan(item, "catch_all")
        if tool is not None and tool.client_side:
            return CallPlan(item, "ask", tool, kind="output")
        # refused first: nobody should have to decide about a call that cannot run
        plan = self._plan_run(item, tool)
        if plan.way == "run" and tool is not None and tool.asks_first(parse_arguments(item.arguments)):
            return CallPlan(item, "ask", tool)
        return plan

    def _plan_run(self, item: CallItem, tool: Tool | None) -> CallPlan:
        if (reason := refusal(tool, _tool_request(item))) is not None:
            return CallPlan(item, "refused", tool, refusal=reason)
        return CallPlan(item, "run", tool)

    def _plan_decided(self, item: CallItem, held_call: HeldCall) -> CallPlan:
        if held_call.decision == "approved" and item.call_id not in self._journal.started_calls:
            # checked once more: the tool may be another one since somebody was asked
            return self._plan_run(item, self._toolbox.get(item.name))
        match held_call.decision:
            case "output":
                output = OutputItem(item.call_id, held_call.output)
            case "denied":
                output = OutputItem(item.call_id, held_call.output or "the call was denied", "denied")
            case "expired":
                output = OutputItem(item.call_id, "nobody decided about this call in time", "expired")
            case "declined":
                output = OutputItem(item.call_id, "the user moved on before the call was decided", "denied")
            case _:
                output = OutputItem(item.call_id, EFFECT_UNKNOWN, "unknown")
        return CallPlan(item, "known", output=output)

    def _tool(self, name: str, enabled_names: Sequence[str] | None) -> Tool | None:
        return None if enabled_names is not None and name not in enabled_names else self._toolbox.get(name)

    def _announce(self, plans: Sequence[CallPlan]) -> None:
        names = tuple(dict.fromkeys(p.item.name for p in plans if p.way in ("run", "catch_all")))
        if names:
            claim = self._claim
            self._announcer.say(
                Event("processing", claim.message_ids, run_id=claim.run_id, attempt=claim.attempt, tools=names)
            )

    async def _end(self, output: OutputItem) -> None:
        """Told only when it is in the journal: what was shown must not happen again otherwise."""
        if (decision := self._decisions.get(output.call_id)) is not None:
            output = replace(
                output,
                decision=decision.decision or "",
                decided_by=decision.by,
                decided_at=decision.decided_at,
            )
        await self._journal.write_output(output)
        self._disclosure.result(output)

    async def _refuse(self, item: CallItem, tool: Tool | None, result: Result) -> None:
        self._meter.count("tool_calls", tool=tool.name if tool else "unknown", status=result.status)
        await self._end(_output(item, result))

    async def _run(self, item: CallItem, tool: Tool | None) -> None:
        async with self._slots:
            # what only reads may run again, and a record of it would cost a write for nothing
            if tool is not None and tool.effect == "effect":
                await self._journal.write_started([item.call_id])
            reach("tool_started")
            result = await self._call(item, tool)
            reach("tool_done")
            await self._end(_output(item, result))

    async def _call(self, item: CallItem, tool: Tool | None) -> Result:
        name = tool.name if tool else "unknown"
        begun_at = asyncio.get_running_loop().time()
        with span(f"execute_tool {name}", lambda: call_attributes(name, item)) as current:
            result = await execute(tool, _tool_request(item), self._context(item), clock=self._clock)
            if result.status != "ok":
                current.fail(result.code or result.status)
        self._meter.count("tool_calls", tool=name, status=result.status)
        self._meter.observe("tool_seconds", asyncio.get_running_loop().time() - begun_at, tool=name)
        return result

    async def _catch(self, items: Sequence[CallItem]) -> list[HeldCall]:
        """All calls that no tool takes, as one call with effects of the catch-all; those it leaves
        to somebody else.
        """
        handler = self._toolbox.catches_all
        if not items or handler is None:
            return []
        await self._journal.write_started([item.call_id for item in items])
        reach("tool_started")
        results = await call_catch_all(
            handler, [_tool_request(i) for i in items], self._context(items[0]), clock=self._clock
        )
        reach("tool_done")
        if results is None:
            return [_held_call(item, "output") for item in items]
        for item in items:
            self._meter.count("tool_calls", tool="catch_all", status=results[item.call_id].status)
            await self._end(_output(item, results[item.call_id]))
        return []

    def _context(self, item: CallItem) -> ToolContext:
        claim = self._claim
        return ToolContext(
            tenant=claim.address.tenant,
            channel=claim.address.channel,
            thread_id=claim.thread_id,
            run_id=claim.run_id,
            call_id=item.call_id,
            # the same at each attempt, so that whoever is called can see a repeat
            idempotency_key=f"{claim.run_id}:{item.call_id}",
        )


def _tool_request(item: CallItem) -> ToolRequest:
    return ToolRequest(item.call_id, item.name, item.arguments)


def _held_call(item: CallItem, kind: Literal["approval", "output"], tool: Tool | None = None) -> HeldCall:
    may_approve = tool is not None and tool.self_approval
    digest = arguments_digest(item.arguments)
    return HeldCall(item.call_id, item.name, item.arguments, digest, kind, self_approval=may_approve, show=item.show)


def _output(item: CallItem, result: Result) -> OutputItem:
    return OutputItem(item.call_id, result.output, result.status)
