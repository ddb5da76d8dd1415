"""Programs that OpenAI's Assistants API has left behind, with nothing but its address changed: one that queues and
polls on Node, one that streams in Python. Our workers are killed under them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from tests.clients.node import driver, python_driver
from tests.patience import PATIENCE
from tests.process.fleet import Fleet, Worker, fleet, until_taken_over
from tests.process.openai_desk import NESTED
from tests.scenario.house import gate_answers
from tests.services import RabbitServer, RedisServer
from turnkeep.simulator import Simulator, serve

pytestmark = pytest.mark.slow

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]
LEASE = 2.0
TEXTS = 3
SLOWLY = "[[pace:25]] " + "and so on " * 12
"""So that an answer, which quotes it, takes a second."""
LOOKUP = '[[call:lookup {{"q":"{user}"}}]]'


class House:
    """A gateway, two workers on Redis, a model, and an assistant whose function the program runs."""

    def __init__(self, many: Fleet, simulator: Simulator, assistant_id: str) -> None:
        self.many, self.simulator, self.assistant_id = many, simulator, assistant_id
        self.taken: list[float] = []
        self.beside: list[float] = []
        """Seconds from message to model of somebody who speaks meanwhile: how late this machine is by itself."""
        self.all_is_said = asyncio.Event()
        self.may_go_on = asyncio.Event()

    @property
    def url(self) -> str:
        return self.many.gateways[0].url

    async def kill_in_turn(self, busy: int) -> None:
        """Kill each worker once, with runs under way."""
        try:
            await self._kill_in_turn(busy)
        finally:
            self.may_go_on.set()

    async def _kill_in_turn(self, busy: int) -> None:
        for worker in self.many.workers:
            if not await self._gets_busy(busy):
                assert self.taken, "nothing was under way when the first worker was to die"
                return
            is_over = asyncio.Event()
            speaking = asyncio.ensure_future(self._speak_after(worker, worker.lives, until=is_over))
            self.taken += await until_taken_over(worker, self.simulator)
            is_over.set()
            await speaking  # what is on its way is measured, too: it was beside the last one that was taken over

    async def _gets_busy(self, busy: int) -> bool:
        """Whether so many runs are under way together; not any more where all is said and nothing more begins."""
        idle_since = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while (count := len(self.simulator.ledger.open())) < busy:
                if count or not self.all_is_said.is_set() or not len(self.simulator.ledger):
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > 3 * LEASE:
                    return False
                await asyncio.sleep(0.005)
        return True

    async def _speak_after(self, worker: Worker, lives: int, *, until: asyncio.Event) -> None:
        """One word after the other once this worker is dead, each on a channel of its own: nothing holds it
        but the machine.
        """
        while worker.lives == lives:
            await asyncio.sleep(0.01)
        while not until.is_set():
            number = len(self.beside)
            began = time.time()
            await self.many.send(f"beside-{number}", "m", f"beside {number}.")
            while not (heard := [one for one in self.simulator.ledger if f"beside {number}." in one.texts]):
                await asyncio.sleep(0.02)
            self.beside.append(heard[0].arrived - began)

    @property
    def longest_lock(self) -> float:
        """Seconds that a thread was kept by a dead owner, beside what this machine needs for any message."""
        return max(self.taken, default=0.0) - max(self.beside, default=0.0)

    def hold_answers(self) -> None:
        """Let answers stand still behind their first word until both workers were killed: of few users' runs two may
        never be under way together on a slow machine. Many would leave no slot for what is taken over.
        """
        gate_answers(self.simulator, self.may_go_on)

    async def messages(self, thread_id: str) -> list[tuple[str, str]]:
        url = f"{self.url}/v1/threads/{thread_id}/messages?order=asc&limit=100"
        async with self.many.http.get(url) as told:
            page = await told.json()
        return [(one["role"], one["content"][0]["text"]["value"]) for one in page["data"]]


@contextlib.asynccontextmanager
async def house(folder: Path, redis: RedisServer) -> AsyncIterator[House]:
    simulator = Simulator()
    async with (
        serve(simulator) as model,
        fleet(folder, redis.url(), model, workers=2, TURNKEEP_LEASE=str(LEASE)) as many,
    ):
        body = {"model": "gpt-4o-mini", "tools": NESTED}
        async with many.http.post(f"{many.gateways[0].url}/v1/assistants", json=body) as told:
            assistant_id = (await told.json())["id"]
        yield House(many, simulator, assistant_id)


async def until_all_are_answered(look: Callable[[], Any], is_over: Callable[[Any], bool], patience: float) -> Any:
    async with asyncio.timeout(patience):
        while not is_over(told := await look()):
            await asyncio.sleep(0.2)
    return told


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_a_program_that_queues_and_polls_runs_by_its_address_alone(
    redis_server: RedisServer, tmp_path: Path, size: Size, proof: Proof
) -> None:
    users = [f"u{number}" for number in range(size(8, 200))]
    async with driver("openai", "queue_program.mjs") as program, house(tmp_path, redis_server) as here:
        about = {"url": here.url, "redis_url": redis_server.url(), "assistant": here.assistant_id}
        await program.ask("start", concurrency=len(users), **about)
        async with asyncio.TaskGroup() as group:
            if len(users) < 100:
                here.hold_answers()
            group.create_task(here.kill_in_turn(busy=size(2, 4)))
            for number in range(TEXTS):
                for user in users:
                    text = f"{user} says {number} {SLOWLY}" + (LOOKUP.format(user=user) if number == 0 else "")
                    await program.ask("add", user=user, text=text)
                await asyncio.sleep(0.7)
            here.all_is_said.set()

        async def look() -> Any:
            return await program.ask("look", users=users)

        told = await until_all_are_answered(look, lambda told: is_quiet(told, users), 300.0)
        lost, doubled = await miscounted(here, told, users)
        await program.ask("end")
    proof(
        "queue program on Node",
        f"threads {len(users)} | messages {len(users) * TEXTS} | lost {lost} | doubled {doubled} | runs "
        f"{len(told['held'])} | failed {len(told['failures'])} | runs cut {len(here.taken)} | taken over at the latest "
        f"{max(here.taken, default=0.0):.2f} s | a message beside {max(here.beside, default=0.0):.2f} s | longest lock "
        f"of the program {max(told['held']) / 1000:.2f} s",
    )
    assert (lost, doubled, told["failures"]) == (0, 0, [])
    assert here.longest_lock <= size(60, int(LEASE) + 1)


def is_quiet(told: Any, users: list[str]) -> bool:
    """Nothing waits, and each user has heard of the last thing that he has said."""
    return not told["waiting"] and all(answers_last(told["answers"][user], user) for user in users)


def answers_last(answers: list[str], user: str) -> bool:
    return bool(answers) and any(f"{user} says {TEXTS - 1}" in answer for answer in answers)


async def miscounted(here: House, told: Any, users: list[str]) -> tuple[int, int]:
    """Of what was said: in no message of its thread, and in more than one."""
    lost = doubled = 0
    for user in users:
        said = [text for role, text in await here.messages(told["threads"][user]) if role == "user"]
        for number in range(TEXTS):
            count = sum(f"{user} says {number}" in text for text in said)
            lost, doubled = lost + (count == 0), doubled + max(0, count - 1)
    return lost, doubled


@pytest.mark.prove
@pytest.mark.only_in_prove  # the one above is orphaned alike; test_openai_kills streams through kills
@pytest.mark.timeout(900)
async def test_a_program_that_streams_runs_by_its_address_alone(
    redis_server: RedisServer, rabbit_server: RabbitServer, amqp_name: str, tmp_path: Path, size: Size, proof: Proof
) -> None:
    channels = [f"c{number}" for number in range(size(8, 200))]
    async with (
        python_driver("openai", "streaming_program.py", older=False) as program,
        house(tmp_path, redis_server) as here,
    ):
        about = {"url": here.url, "redis_url": redis_server.url(), "assistant": here.assistant_id}
        await program.ask("start", amqp_url=rabbit_server.url(), queue=amqp_name, **about)
        connection = await aio_pika.connect(rabbit_server.url())
        async with connection, asyncio.TaskGroup() as group:
            exchange = (await connection.channel()).default_exchange
            if len(channels) < 100:
                here.hold_answers()
            group.create_task(here.kill_in_turn(busy=size(2, 4)))
            for number in range(TEXTS):
                for channel in channels:
                    text = f"{channel} says {number} {SLOWLY}" + (LOOKUP.format(user=channel) if number == 1 else "")
                    body = json.dumps({"channel": channel, "message": text, "message_id": f"{channel}-{number}"})
                    await exchange.publish(aio_pika.Message(body.encode()), amqp_name)
            here.all_is_said.set()

        async def look() -> Any:
            return await program.ask("look", channels=channels)

        told = await until_all_are_answered(
            look, lambda told: all(len(told["answers"][channel]) >= TEXTS for channel in channels), 300.0
        )
        wrong = await misheard(here, told, channels)
    proof(
        "streaming program in Python",
        f"threads {len(channels)} | messages {len(channels) * TEXTS} | answers misheard {wrong} | runs cut "
        f"{len(here.taken)} | taken over at the latest {max(here.taken, default=0.0):.2f} s | a message beside "
        f"{max(here.beside, default=0.0):.2f} s",
    )
    assert wrong == 0
    assert here.longest_lock <= size(60, int(LEASE) + 1)


async def misheard(here: House, told: Any, channels: list[str]) -> int:
    """Answers that were not heard, word for word, as the transcript has them; once for each message, in order."""
    wrong = 0
    for channel in channels:
        messages = await here.messages(told["threads"][channel])
        texts = [text for role, text in messages if role == "assistant"]
        said = [text for role, text in messages if role == "user"]
        wrong += texts != told["answers"][channel]
        wrong += [f"{channel} says {number}" in text for number, text in enumerate(said)] != [True] * TEXTS
    return wrong
