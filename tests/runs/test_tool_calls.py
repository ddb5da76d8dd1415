"""The calls of a step: each gets exactly one output, and what may have happened is never done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.runs.stage import ONE, RULES, Stage, StumblingStore, announcer_of, disclosure_of, journal_of
from turnkeep.errors import StoreMisconfigured
from turnkeep.events import Event, ResultDetail
from turnkeep.messages import CallItem, OutputItem
from turnkeep.runs.journal import Journal, Step
from turnkeep.runs.tool_calls import EFFECT_UNKNOWN, CallRules, Calls
from turnkeep.store.values import HeldCall
from turnkeep.tools.execution import CatchAll, arguments_digest
from turnkeep.tools.tool import Tool, ToolContext, from_dict, tool

ran: list[tuple[str, Any]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@tool
async def pay(amount: int) -> str:
    """Pay."""
    ran.append(("pay", amount))
    return f"paid {amount}"


@tool(effect="pure")
async def look(amount: int) -> str:
    """Look."""
    ran.append(("look", amount))
    return f"saw {amount}"


@tool(effect="idempotent")
async def put(amount: int) -> str:
    """Put."""
    ran.append(("put", amount))
    return f"put {amount}"


@tool(needs_approval=True, self_approval=True)
async def buy(amount: int) -> str:
    """Buy."""
    ran.append(("buy", amount))
    return f"bought {amount}"


@tool(needs_approval=lambda arguments: arguments["amount"] > 10)
async def spend(amount: int) -> str:
    """Asks first for much."""
    ran.append(("spend", amount))
    return f"spent {amount}"


@tool
async def break_down(amount: int) -> str:
    """Fails."""
    raise OSError("a secret")


upload: Tool = from_dict({
    "type": "function",
    "function": {"name": "upload", "description": "At the client.", "parameters": {"type": "object", "properties": {}}},
})  # fmt: skip

TOOLS = (pay, look, put, buy, spend, break_down, upload)


@dataclass
class Play:
    """What is asked, what has been journalled and decided before, and who is there to answer."""

    calls: Sequence[tuple[str, str, str]]
    started: Sequence[str] = ()
    decided: Sequence[HeldCall] = ()
    enabled: Sequence[str] | None = None
    of_callers: Sequence[str] = ()
    catch_all: CatchAll | None = None
    rules: CallRules = RULES.calls
    stage: Stage = field(init=False)
    journal: Journal = field(init=False)
    events: list[Event] = field(init=False)

    async def run(self) -> list[HeldCall]:
        self.stage = Stage(tools=TOOLS, catch_all=self.catch_all)
        lease = await self.stage.lease("m1", calls=tuple(self.decided))
        self.journal = journal_of(self.stage, lease.claim)
        await self.journal.write_step(Step(tuple(CallItem(*c) for c in self.calls), "", ONE, "calls", "m"))
        if self.started:
            await self.journal.write_started(self.started)
        self.stage.store.requests.clear()
        self.events: list[Event] = []
        announcer = announcer_of(self.stage, lease.claim, tell=self.events.append)
        calls = Calls(
            lease.claim, self.journal, announcer, disclosure_of(self.stage, announcer),
            toolbox=self.stage.house.toolbox, rules=self.rules, clock=self.stage.clock, meter=self.stage.meter,
        )  # fmt: skip
        self.announcer = announcer
        return await calls.answer(self.enabled, self.of_callers)

    @property
    def outputs(self) -> dict[str, tuple[str, str]]:
        return {o.call_id: (o.status, o.output) for o in self.journal.items if isinstance(o, OutputItem)}

    @property
    def starts(self) -> list[str]:
        """Calls that were journalled as started in this attempt."""
        records = [record for [record] in self.stage.store.about("journal")]
        return [call_id for record in records if record["type"] == "started" for call_id in record["calls"]]

    @property
    def announcements(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is told before the calls are answered."""
        return [(event.kind, event.tools) for event in self.events if event.kind != "tool_result"]

    @property
    def results(self) -> dict[str, str]:
        """What is shown of the outputs."""
        details = [event.detail for event in self.events if event.kind == "tool_result"]
        return {detail.call_id: detail.status for detail in details if isinstance(detail, ResultDetail)}


def held_call(
    name: str, decision: Any = None, output: str = "", arguments: str = '{"amount": 5}', call_id: str = "c1"
) -> HeldCall:
    return HeldCall(call_id, name, arguments, arguments_digest(arguments), decision=decision, output=output)


# ---------------------------------------------------------------- one call


@dataclass(frozen=True)
class Row:
    """One call, and what becomes of it: its output, or that somebody is asked; what ran, and what was journalled."""

    name: str
    arguments: str = '{"amount": 5}'
    status: str = "ok"
    says: str = ""
    ran: int = 0
    begun: int = 0
    asks: str = ""
    started: bool = False
    decision: Any = None
    output: str = ""
    enabled: Sequence[str] | None = None
    of_caller: bool = False


DENIED = "the call was denied"
ROWS = {
    "an effect": Row("pay", says="paid 5", ran=1, begun=1),
    "a look": Row("look", says="saw 5", ran=1),
    "an idempotent one": Row("put", says="put 5", ran=1),
    "one that fails": Row("break_down", status="error", says="OSError", begun=1),
    "wrong arguments": Row("pay", '{"amount": "much"}', "error", "amount"),
    "no JSON": Row("pay", "{", "error", "no valid JSON"),
    "no such tool": Row("nothing", status="error", says="there is no tool named 'nothing'"),
    "one that is not enabled": Row("pay", status="error", says="there is no tool", enabled=["look"]),
    "one that is enabled": Row("pay", says="paid 5", ran=1, begun=1, enabled=["pay"]),
    "an effect that had begun": Row("pay", status="unknown", says=EFFECT_UNKNOWN, started=True),
    "a look that had begun": Row("look", says="saw 5", ran=1, started=True),
    "an idempotent one that had begun": Row("put", says="put 5", ran=1, started=True),
    "one that is gone and had begun": Row("nothing", status="unknown", says=EFFECT_UNKNOWN, started=True),
    "one that somebody approves first": Row("buy", asks="approval"),
    "wrong arguments that nobody need approve": Row("buy", '{"amount": []}', "error", "amount"),
    "one that needs no approval for little": Row("spend", says="spent 5", ran=1, begun=1),
    "one that needs approval for much": Row("spend", '{"amount": 50}', asks="approval"),
    "one that runs at the client": Row("upload", "{}", asks="output"),
    "a function of the caller": Row("theirs", "{}", asks="output", of_caller=True),
    "one of the caller that has the name of ours": Row("pay", asks="output", of_caller=True),
    "one of the caller, answered": Row("theirs", "{}", says="done", decision="output", output="done", of_caller=True),
    "approved": Row("buy", says="bought 5", ran=1, begun=1, decision="approved"),
    "approved, and had begun": Row("buy", status="unknown", says=EFFECT_UNKNOWN, started=True, decision="approved"),
    "approved, and gone since": Row("nothing", status="error", says="there is no tool", decision="approved"),
    "approved, and wrong since": Row("buy", '{"amount": []}', "error", "amount", decision="approved"),
    "answered by the client": Row("upload", "{}", says="uploaded", decision="output", output="uploaded"),
    "answered though it had begun": Row("pay", says="by hand", decision="output", output="by hand", started=True),
    "denied": Row("buy", status="denied", says=DENIED, decision="denied"),
    "denied with a reason": Row("buy", status="denied", says="too dear", decision="denied", output="too dear"),
    "expired": Row("buy", status="expired", says="nobody decided about this call in time", decision="expired"),
    "declined": Row("buy", status="denied", says="the user moved on", decision="declined"),
    "held and not decided": Row("buy", asks="approval", decision=""),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_each_call_has_one_way(row: Row) -> None:
    decided = [] if row.decision is None else [held_call(row.name, row.decision or None, row.output, row.arguments)]
    of_callers = [row.name] if row.of_caller else []
    play = Play([("c1", row.name, row.arguments)], ["c1"] if row.started else [], decided, row.enabled, of_callers)

    waiting = await play.run()

    if row.asks:
        expected = held_call(row.name, arguments=row.arguments)
        assert waiting == [replace(expected, kind=row.asks, self_approval=row.name == "buy")]  # type: ignore[arg-type]
        assert play.outputs == {}
    else:
        assert waiting == []
        [(status, output)] = play.outputs.values()
        assert status == row.status
        assert row.says in output
        assert output.startswith("error: " if row.status == "error" else row.says)
    assert play.results == {call_id: status for call_id, (status, _) in play.outputs.items()}
    assert (len(ran), len(play.starts)) == (row.ran, row.begun)
    runs = row.ran or row.begun
    assert play.announcements == ([("processing", (row.name,))] if runs else [])
    counted = play.stage.meter.total("tool_calls")
    assert counted == (1 if runs or (row.status == "error" and not row.asks) else 0)
    if runs:
        assert play.stage.meter.total("tool_calls", tool=row.name, status=row.status) == 1
    assert len(play.stage.meter.observed("tool_seconds")) == bool(runs)


async def test_a_refused_call_is_counted_under_the_name_of_its_tool_or_as_unknown() -> None:
    play = Play([("c1", "pay", "[]"), ("c2", "nothing", "{}")])

    await play.run()

    assert play.stage.meter.total("tool_calls", tool="pay", status="error") == 1
    assert play.stage.meter.total("tool_calls", tool="unknown", status="error") == 1


async def test_a_tool_knows_for_whom_it_runs_and_under_which_key() -> None:
    seen: list[ToolContext] = []

    async def whoami(context: ToolContext) -> str:
        """Who."""
        seen.append(context)
        return "me"

    stage = Stage(tools=[tool(whoami)])
    lease = await stage.lease("m1")
    journal = journal_of(stage, lease.claim)
    await journal.write_step(Step((CallItem("c9", "whoami", "{}"),), "", ONE, "calls", "m"))
    events: list[Event] = []
    announcer = announcer_of(stage, lease.claim, tell=events.append)

    await Calls(
        lease.claim, journal, announcer, disclosure_of(stage, announcer), toolbox=stage.house.toolbox,
        rules=RULES.calls, clock=stage.clock,
    ).answer(None)  # fmt: skip

    [context] = seen
    claim = lease.claim
    assert (context.tenant, context.channel, context.call_id) == ("default", "c", "c9")
    assert (context.thread_id, context.run_id) == (claim.thread_id, claim.run_id)
    assert context.idempotency_key == f"{claim.run_id}:c9"
    event, _ = events
    assert (event.message_ids, event.run_id, event.attempt) == (("m1",), claim.run_id, 1)


# ---------------------------------------------------------------- several calls


async def test_all_calls_get_an_output_and_those_that_wait_come_after_the_others_have_run() -> None:
    play = Play([
        ("c1", "buy", '{"amount": 1}'), ("c2", "pay", '{"amount": 2}'), ("c3", "look", '{"amount": 3}'),
        ("c4", "pay", "{}"), ("c5", "upload", "{}"), ("c6", "pay", '{"amount": 6}'),
    ])  # fmt: skip

    waiting = await play.run()

    assert [(call.call_id, call.kind) for call in waiting] == [("c1", "approval"), ("c5", "output")]
    assert {call_id: status for call_id, (status, _) in play.outputs.items()} == {
        "c2": "ok", "c3": "ok", "c4": "error", "c6": "ok",
    }  # fmt: skip
    assert play.announcements == [("processing", ("pay", "look"))]
    assert sorted(play.starts) == ["c2", "c6"]


@pytest.mark.parametrize(("most", "refused"), [(2, ["c2", "c3"]), (3, ["c3"]), (4, [])])
async def test_more_calls_than_one_step_may_have_are_refused_in_words(most: int, refused: list[str]) -> None:
    calls = [(f"c{n}", "pay", f'{{"amount": {n}}}') for n in range(4)]
    play = Play(calls, rules=CallRules(max_calls=most))

    await play.run()

    told = f"error: more than {most} calls in one step, ask for fewer at once"
    assert [c for c, output in play.outputs.items() if output == ("error", told)] == refused
    assert len(ran) == 4 - len(refused)


async def test_so_many_calls_run_at_once_and_each_is_journalled_before_it_begins() -> None:
    running, most, journalled = 0, 0, []

    @tool
    async def wait(number: int) -> str:
        """Waits."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        journalled.append((number, f"c{number}" in journal.started_calls))
        await asyncio.sleep(1.0)
        running -= 1
        return "ok"

    stage = Stage(tools=[wait])
    lease = await stage.lease("m1")
    journal = journal_of(stage, lease.claim)
    items = tuple(CallItem(f"c{n}", "wait", f'{{"number": {n}}}') for n in range(7))
    await journal.write_step(Step(items, "", ONE, "calls", "m"))

    announcer = announcer_of(stage, lease.claim)
    await Calls(
        lease.claim, journal, announcer, disclosure_of(stage, announcer), toolbox=stage.house.toolbox,
        clock=stage.clock, rules=CallRules(parallel=3), meter=stage.meter,
    ).answer(None)  # fmt: skip

    assert most == 3
    assert sorted(journalled) == [(n, True) for n in range(7)]
    assert stage.meter.observed("tool_seconds") == [pytest.approx(1.0)] * 7


async def test_a_call_whose_start_cannot_be_journalled_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play([("c1", "pay", '{"amount": 5}')])
    stumble = StoreMisconfigured("no")
    original = StumblingStore.journal

    async def refusing(self: StumblingStore, claim: Any, records: Any) -> None:
        if records[0]["type"] == "started":
            raise stumble
        await original(self, claim, records)

    monkeypatch.setattr(StumblingStore, "journal", refusing)
    with pytest.raises(ExceptionGroup):
        await play.run()

    assert ran == []


# ---------------------------------------------------------------- the catch-all


async def _by_hand(thread_id: str, run_id: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    ran.append(("by hand", [call["function"]["name"] for call in calls]))
    return [{"tool_call_id": call["id"], "output": f"{call['function']['name']} done"} for call in calls[:2]]


async def test_calls_that_no_tool_takes_go_to_the_catch_all_as_one() -> None:
    calls = [("c1", "rare", "{}"), ("c2", "pay", '{"amount": 2}'), ("c3", "odd", "{"), ("c4", "more", "{}")]
    play = Play(calls, catch_all=_by_hand)

    assert await play.run() == []

    assert ("by hand", ["rare", "odd", "more"]) in ran
    assert play.outputs["c1"] == ("ok", "rare done")
    assert play.outputs["c3"] == ("ok", "odd done")
    assert play.outputs["c4"] == ("error", "no result was given")
    assert sorted(play.starts) == ["c1", "c2", "c3", "c4"]
    assert play.announcements == [("processing", ("rare", "pay", "odd", "more"))]
    assert play.stage.meter.total("tool_calls", tool="catch_all", status="ok") == 2
    assert play.stage.meter.total("tool_calls", tool="catch_all", status="error") == 1


async def test_a_catch_all_may_leave_its_calls_to_somebody_else() -> None:
    async def later(thread_id: str, run_id: str, calls: list[dict[str, Any]]) -> None:
        return None

    play = Play([("c1", "rare", "{}"), ("c2", "buy", '{"amount": 1}')], catch_all=later)

    waiting = await play.run()

    assert [(call.call_id, call.kind) for call in waiting] == [("c2", "approval"), ("c1", "output")]
    assert play.outputs == {}


async def test_a_catch_all_that_is_not_needed_is_not_asked() -> None:
    play = Play([("c1", "pay", '{"amount": 2}')], catch_all=_by_hand)

    await play.run()

    assert ran == [("pay", 2)]
    assert play.starts == ["c1"]


async def test_what_the_catch_all_had_begun_is_not_asked_of_it_again() -> None:
    play = Play([("c1", "rare", "{}")], started=["c1"], catch_all=_by_hand)

    await play.run()

    assert (ran, play.outputs) == ([], {"c1": ("unknown", EFFECT_UNKNOWN)})
