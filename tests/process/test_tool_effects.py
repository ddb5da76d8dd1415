"""A call with effects starts at most once, whichever step of its life its worker dies at."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.process.programs import Program
from turnkeep.messages import Address, Message, OutputItem, text_content
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.store import Policies, Policy, Store, open_store

CALLS = 4
"""Of one message."""

LIVES = [
    ("tool_started", 1.0), ("tool_done", 1.0), ("called", 1.0), ("tool_done", 0.1), ("tool_started", 0.1),
    ("final", 0.3), ("tool_done", 0.03), ("committed", 0.3), ("tool_started", 0.03), ("midstream", 0.02),
]  # fmt: skip
"""Where a worker dies and how likely, one life after the other: at each point alone, so that none hides another."""

TOOL = '''
import os, secrets, asyncio
from turnkeep.tools import tool, ToolContext

LEDGER = os.open({ledger!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@tool(effect="effect")
async def stamp(number: int, context: ToolContext) -> str:
    """Stamp a letter; what is stamped stays stamped."""
    nonce = secrets.token_hex(8)
    os.write(LEDGER, f"began {{context.call_id}} {{nonce}}\\n".encode())
    await asyncio.sleep(0.02)
    os.write(LEDGER, f"ended {{context.call_id}} {{nonce}}\\n".encode())
    return nonce
'''


# reason: one of them shows daily what a journal is for; that both keep one, the contract
@pytest.fixture(
    params=[pytest.param("sqlite", marks=pytest.mark.only_in_prove), pytest.param("redis", marks=pytest.mark.redis)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'turnkeep.db'}"
    return str(request.getfixturevalue("redis_server").url())


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_call_starts_at_most_once_wherever_its_worker_dies(
    place: str, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    letters = size(20, 500)
    ledger = tmp_path / "ledger"
    ledger.touch()
    async with opened(place) as store, serve(Simulator(pace=StreamPace(first=0.02, token=0.002))) as url:
        await store.accept([letter(number) for number in range(letters)])
        with Crew(place, url, tmp_path, ledger, deaths=size(3, 60)) as crew:
            await crew.answered(store, letters)
        outputs = [output for number in range(letters) for output in await outputs_of(store, f"c{number}")]
        assert (await store.counts()).dead_letters == 0

    verdict = Verdict.of(outputs, ledger.read_text())
    calls = letters * CALLS
    assert len(outputs) == calls
    assert verdict.started_twice == verdict.recomputed == verdict.untold == 0
    assert verdict.unknown
    proof(
        f"tool effects ({place.partition(':')[0]})",
        f"tool calls {calls} | started twice 0 | interrupted {verdict.interrupted} | told unknown {verdict.unknown} "
        f"| recomputed 0 | died {json.dumps(crew.died_at)}",
    )


# ---------------------------------------------------------------- what is compared


@dataclass
class Verdict:
    """The tool's own ledger beside what the transcripts say.

    `interrupted`: began and never ended, or its end was not kept; `untold`: those that were told as something else
    than unknown. `unknown` may be more: a worker may die between the mark and the act.
    """

    started_twice: int = 0
    interrupted: int = 0
    unknown: int = 0
    untold: int = 0
    recomputed: int = 0

    @classmethod
    def of(cls, outputs: list[OutputItem], ledger: str) -> Verdict:
        lines = [line.split() for line in ledger.splitlines()]
        began = Counter(call for what, call, _ in lines if what == "began")
        ended = {call: nonce for what, call, nonce in lines if what == "ended"}
        kept = {output.call_id: output for output in outputs}
        verdict = cls(started_twice=sum(count > 1 for count in began.values()))
        for call in began:
            if call not in kept or kept[call].status != "ok":
                verdict.interrupted += 1
                verdict.untold += call not in kept or kept[call].status != "unknown"
        for call, output in kept.items():
            verdict.unknown += output.status == "unknown"
            verdict.recomputed += output.status == "ok" and ended.get(call) != output.output
        return verdict


def test_the_verdict_sees_what_must_not_be() -> None:
    ledger = "began a 1\nended a 1\nbegan a 2\nended a 2\nbegan b 3\nbegan c 4\nended c 4\nbegan d 5\n"
    outputs = [
        OutputItem("a", "2"),
        OutputItem("b", "not run", "cancelled"),
        OutputItem("c", "other"),
        OutputItem("d", "outcome unknown", "unknown"),
    ]

    assert Verdict.of(outputs, ledger) == Verdict(started_twice=1, interrupted=2, unknown=1, untold=1, recomputed=1)


# ---------------------------------------------------------------- who works


@dataclass
class Crew:
    """Workers that die at a failpoint and are started again with another one, until enough have died."""

    place: str
    url: str
    folder: Path
    ledger: Path
    deaths: int
    workers: list[Program] = field(default_factory=list)
    died_at: Counter[str] = field(default_factory=Counter)
    lives: Iterator[tuple[str, float]] = field(default_factory=lambda: itertools.cycle(LIVES))

    def __enter__(self) -> Crew:
        tools = self.folder / "stamps.py"
        tools.write_text(TOOL.format(ledger=str(self.ledger)))
        for number in range(3):
            folder = self.folder / f"worker {number}"
            folder.mkdir()
            worker = Program(["worker", "--tools", str(tools)], folder, self._settings())
            self.workers.append(worker)
            self._begin(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill9()

    async def answered(self, store: Store, count: int) -> None:
        """Wait until everything is answered and enough have died; who has died begins again."""
        async with asyncio.timeout(900):
            while (await store.counts()).completed < count or self.died_at.total() < self.deaths:
                for worker in self.workers:
                    if worker.process is not None and worker.process.poll() is not None:
                        assert worker.process.returncode == -signal.SIGKILL, worker.log[-2000:]
                        self.died_at[worker.environment["TURNKEEP_FAILPOINTS"].partition(":")[0]] += 1
                        self._begin(worker)
                await asyncio.sleep(0.05)

    def _begin(self, worker: Program) -> None:
        point, chance = next(self.lives) if self.died_at.total() < self.deaths else ("tool_done", 0.0)
        worker.environment = {**worker.environment, "TURNKEEP_FAILPOINTS": f"{point}:{chance}"}
        worker.start()

    def _settings(self) -> dict[str, str]:
        return {
            "TURNKEEP_STORE": self.place, "OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "sk-test",
            "TURNKEEP_MODEL_API": "responses", "TURNKEEP_CONCURRENCY": "4", "TURNKEEP_LEASE": "1.5",
            "TURNKEEP_MAX_ATTEMPTS": "50", "TURNKEEP_MAX_DEATHS": "50", "TURNKEEP_BACKOFF_DELAY": "0.05",
        }  # fmt: skip


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Store]:
    store = open_store(place, Policies(Policy(window=0.0, max_wait=0.0)))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def letter(number: int) -> Message:
    calls = " ".join(f'[[call:stamp {{"number": {n}}}]]' for n in range(CALLS))
    return Message(
        Address("default", "assistant", f"c{number}"), f"m{number}", text_content(f"letter {number} {calls}")
    )


async def outputs_of(store: Store, channel: str) -> list[OutputItem]:
    history = await store.history(Address("default", "assistant", channel))
    return [entry.item for entry in history.entries if isinstance(entry.item, OutputItem)]
