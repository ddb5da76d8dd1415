"""Hints of the engine on Redis: a worker hears what can be heard, whatever else cannot."""

from __future__ import annotations

import asyncio

import pytest

from tests.patience import PATIENCE
from tests.unit.redis_client.subscriber import Notes, acknowledge, subscribed
from turnkeep.backoff import Backoff
from turnkeep.clock import SystemClock
from turnkeep.store.redis import hints as hints_module
from turnkeep.store.redis.hints import Hints
from turnkeep.store.redis.key_names import KeyNames


async def test_a_channel_that_cannot_be_heard_makes_no_worker_deaf_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints_module, "POLL", Backoff(type="fixed", delay=10 * PATIENCE))  # it would find out by itself
    keys = KeyNames("test:")
    async with subscribed() as (server, subscriptions), asyncio.timeout(PATIENCE):
        hints = Hints(
            subscriptions, keys.partitions, SystemClock(), revisions=keys.registry("revisions"), revise=lambda: None
        )
        await hints.listen()
        server.answers["SUBSCRIBE"] = lambda command: (
            b"-ERR not now\r\n" if command[1] == b"refused" else acknowledge(command)
        )
        await subscriptions.listen(b"refused", Notes())
        assert not subscriptions.is_whole

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(hints.wait_nudge(20 * PATIENCE))
            # Told again until it is heard: who listens may not have begun to wait.
            while not waiting.done():
                channel, nudge = keys.partitions[3].names["hints"], b"nudge\0ann\0t\0q\0c"
                for writer in server.writers:
                    writer.write(
                        b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
                        % (len(channel), channel, len(nudge), nudge)
                    )
                await asyncio.sleep(0.01)

        assert waiting.result() is False
        assert hints.take_nudges("ann") is not None
