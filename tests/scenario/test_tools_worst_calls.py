"""A model that always emits the worst calls hurts nobody: every run ends, within bounds, and the house goes on."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable

import pytest

from tests.scenario.house import TestHouse, opened
from turnkeep.messages import CallItem, OutputItem
from turnkeep.simulator.worst import MEGABYTE, WORST_KINDS
from turnkeep.tools import Tool, ToolContext, tool

WORST = {
    **{kind: f"[[worst:{kind}]]" for kind in WORST_KINDS},
    **{f"always {kind}": f"[[worst:always {kind}]]" for kind in WORST_KINDS},
    "everything": "[[worst]]",
    "always everything": "[[worst:always]]",
    "loop": '[[loop:note {"text": "again"}]]',
    "loop of an unknown tool": "[[loop:nothing]]",
}
STEPS, CALLS = 4, 16


class Notes:
    """A tool with an effect that remembers who began it."""

    def __init__(self) -> None:
        self.begun: collections.Counter[str] = collections.Counter()
        self.in_channel: collections.Counter[str] = collections.Counter()

    def tool(self) -> Tool:
        @tool
        async def note(context: ToolContext, text: str = "") -> str:
            """Write something down."""
            self.begun[context.idempotency_key] += 1
            self.in_channel[context.channel] += 1
            return f"noted {len(text)} characters"

        return note


async def one_run(house: TestHouse, channel: str, text: str) -> str:
    """How the run of this message ended, in one word; what it asked for was bounded, and the thread can go on."""
    async with house.stream(channel) as stream:
        await house.send(channel, f"do it {text}", f"{channel}-worst")
        events = await house.settled(stream, f"{channel}-worst", timeout=120)
    items = await house.transcript(channel)
    calls = [item.call_id for item in items if isinstance(item, CallItem)]
    outputs = [item for item in items if isinstance(item, OutputItem)]
    assert len(set(calls)) == len(calls)
    assert sorted(output.call_id for output in outputs) == sorted(calls)
    assert all(len(output.output) < MEGABYTE // 4 for output in outputs)

    async with house.stream(channel) as stream:
        await house.send(channel, "and now something else [[say:gladly]]", f"{channel}-after")
        after = await house.settled(stream, f"{channel}-after", timeout=120)
    assert (after[-1].kind, after[-1].text) == ("completed", "gladly")
    return events[-1].error.code if events[-1].error else events[-1].kind


@pytest.mark.prove
@pytest.mark.parametrize("model_api", ["responses", "chat"])
async def test_every_run_of_the_worst_model_ends_and_the_next_message_is_answered(
    model_api: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    notes, ends = Notes(), dict[str, collections.Counter[str]]()
    runs, first = size(len(WORST) // 2, 100), ("responses", "chat").index(model_api)
    order = [*list(WORST)[first::2], *list(WORST)[1 - first :: 2]]
    kinds = list(itertools.islice(itertools.cycle(order), runs))
    async with opened(tools=[notes.tool()], model_api=model_api, max_steps=STEPS, max_calls=CALLS) as house:
        for start in range(0, runs, 6):
            some = {f"c{start + place}": kind for place, kind in enumerate(kinds[start : start + 6])}
            async with asyncio.TaskGroup() as group:
                tasks = {name: group.create_task(one_run(house, name, WORST[kind])) for name, kind in some.items()}
            for name, kind in some.items():
                ends.setdefault(kind, collections.Counter())[tasks[name].result()] += 1
                assert notes.in_channel[name] <= CALLS * (STEPS if "always" in kind or "loop" in kind else 1)
        requests = len(house.simulator.ledger)

    assert all(set(counted) <= {"completed", "too_many_steps"} for counted in ends.values())
    assert requests <= runs * (STEPS + 1)
    assert max(notes.begun.values()) == 1
    told = ", ".join(f"{kind}: {count} {end}" for kind, ended in sorted(ends.items()) for end, count in ended.items())
    proof(
        f"worst calls ({model_api})",
        f"runs {runs} | ended {sum(c.total() for c in ends.values())} | model requests {requests} | "
        f"effects begun {len(notes.begun)}, most per call {max(notes.begun.values())} | {told}",
    )
