"""Hooks: called for what happens on a channel, in order; slow and broken ones harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.runs.stage import HERE, Stage
from turnkeep import hooks as module
from turnkeep.errors import ConfigurationError
from turnkeep.events import Event
from turnkeep.hooks import Hooks
from turnkeep.hub import Hub
from turnkeep.messages import Address

LogLines = Callable[[], list[dict[str, Any]]]


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Hooks]:
    hub = Hub(stage.store)
    hooks = Hooks(hub)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hub.run()), group.create_task(hooks.run())]
        yield hooks
        for task in tasks:
            task.cancel()


async def test_a_hook_is_called_for_its_kind_with_channel_and_event_in_order() -> None:
    stage, calls = Stage(), list[tuple[str, str, str]]()

    async def slowly(channel: str, event: Event) -> None:
        await asyncio.sleep(0.1)
        calls.append(("async", channel, event.kind))

    async with running(stage) as hooks:
        assert not hooks
        hooks.add("accepted", lambda channel, event: calls.append(("plain", channel, event.kind)))
        hooks.add("*", slowly)
        assert hooks
        await hooks.watch(HERE)
        await stage.play("m1")
        await asyncio.sleep(5.0)

    assert [call for call in calls if call[0] == "plain"] == [("plain", "c", "accepted")]
    assert [kind for name, _, kind in calls if name == "async"] == await stage.kinds()
    assert calls[0][0] == "plain"


@pytest.mark.parametrize("kind", ["nothing", "", "Delta"])
async def test_a_hook_for_an_event_that_does_not_exist_is_refused(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no event"):
        Hooks(Hub(Stage().store)).add(kind, print)


async def test_a_hook_that_fails_is_said_and_the_others_go_on(log_lines: LogLines) -> None:
    stage, calls = Stage(), list[str]()

    def broken(channel: str, event: Event) -> None:
        raise ValueError("a bug")

    async def broken_later(channel: str, event: Event) -> None:
        raise ValueError("a bug")

    async with running(stage) as hooks:
        for hook in (broken, broken_later, lambda channel, event: calls.append(event.kind)):
            hooks.add("accepted", hook)
        await hooks.watch(HERE)
        await stage.say("m1")
        await stage.say("m2")
        await asyncio.sleep(1.0)

    assert calls == ["accepted", "accepted"]
    assert [line["event"] for line in log_lines()] == ["hook_failed"] * 4


async def test_a_channel_is_listened_to_once_and_only_those_that_are_watched() -> None:
    stage, calls = Stage(), list[str]()
    elsewhere = Address("default", "assistant", "elsewhere")

    async with running(stage) as hooks:
        hooks.add("*", lambda channel, event: calls.append(channel))
        await hooks.watch(HERE)
        await hooks.watch(HERE)
        await stage.say("m1")
        await stage.say("m2", where=elsewhere)
        await asyncio.sleep(1.0)

    assert calls == ["c"]


@pytest.mark.parametrize(("again", "heard"), [(True, ["a", "c"]), (False, ["b", "c"])])
async def test_of_too_many_channels_the_longest_silent_one_is_let_go(
    again: bool, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHANNELS", 2)
    stage, calls = Stage(), list[str]()
    a, b, c = (Address("default", "assistant", name) for name in "abc")

    async with running(stage) as hooks:
        hooks.add("*", lambda channel, event: calls.append(channel))
        await hooks.watch(a)
        await hooks.watch(b)
        if again:
            await hooks.watch(a)
        await hooks.watch(c)
        for number, where in enumerate((a, b, c)):
            await stage.say(f"m{number}", where=where)
        await asyncio.sleep(1.0)

    assert sorted(calls) == heard


async def test_what_comes_on_top_of_what_may_wait_is_dropped_and_said(
    monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
) -> None:
    monkeypatch.setattr(module, "WAITING", 3)
    hooks, calls = Hooks(Hub(Stage().store)), list[int]()
    hooks.add("*", lambda channel, event: calls.append(event.offset))

    hooks.deliver(HERE, [Event("delta", offset=n) for n in range(5)])
    task = asyncio.create_task(hooks.run())
    await asyncio.sleep(1.0)
    task.cancel()

    assert calls == [0, 1, 2]
    assert [(line["event"], line["dropped"]) for line in log_lines()] == [("hooks_too_slow", "delta")] * 2
