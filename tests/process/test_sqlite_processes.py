"""Several processes on one store file, and the ends that processes come to."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.contract.suite.desk import answer, at, said
from tests.patience import PATIENCE
from tests.services import CHECKOUT
from turnkeep.messages import Address, UserItem
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies, Policy

CHILD = "tests.process.sqlite_child"

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]


class Child:
    """A process on the store. What it says is read as far as it got when it was killed."""

    def __init__(self, *arguments: object, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-m", CHILD, *map(str, arguments)]
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open for as long as the child
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=self._complaints, text=True
        )
        self._complaint = ""
        self.lines: list[str] = []

    def line(self) -> str:
        """The next line; at the end its complaint."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._rest()
            pytest.fail(f"the child has ended: {self._complaint}")
        self.lines.append(line.rstrip("\n"))
        return self.lines[-1]

    def until(self, begins: str) -> str:
        """The next line that begins so."""
        while not self.line().startswith(begins):
            pass
        return self.lines[-1]

    def kill(self) -> list[str]:
        """kill -9; all that it had said. A line cut off by the end is none."""
        self._process.kill()
        return self._rest()

    def end(self) -> list[str]:
        """Wait for its own end; all that it said."""
        said_all = self._rest()
        assert self._process.returncode == 0, self._complaint
        return said_all

    def _rest(self) -> list[str]:
        """Read to the end. (`communicate` would lose what `line` has read ahead.)"""
        out = self._process.stdout
        if out is not None and not out.closed:
            self.lines += [line.rstrip("\n") for line in out if line.endswith("\n")]
            out.close()
            self._process.wait(PATIENCE)
            self._complaints.seek(0)
            self._complaint = self._complaints.read()
            self._complaints.close()
        return self.lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turnkeep.db"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Child]]:
    """Starts children that do not outlive the test."""
    children: list[Child] = []

    def start(verb: str, *arguments: object, wait: bool = True) -> Child:
        children.append(Child(verb, path, *arguments))
        if wait:
            children[-1].until("open")
        return children[-1]

    yield start
    for child in children:
        child.kill()


Start = Callable[..., Child]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, Policies(Policy(window=0.0, max_inbox=1_000_000)), ballast=0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def ids_of(lines: list[str], verb: str) -> list[str]:
    """The message ids said after this word."""
    return [word for line in lines for word in line.split()[1:] if line.startswith(f"{verb} ")]


async def all_answered(store: SqliteStore) -> None:
    """Answer what is left."""
    while claims := await store.claim(owner="the test", limit=100, lease=60.0):
        await asyncio.gather(*[store.commit(claim, answer(claim)) for claim in claims])


async def transcripts(store: SqliteStore) -> dict[Address, list[str]]:
    """The message ids in each transcript, in order."""
    found: dict[Address, list[str]] = {}
    async for record in store.scan():
        entries = (await store.history(record.address)).entries
        found[record.address] = [e.item.message_id or "" for e in entries if isinstance(e.item, UserItem)]
    return found


# ---------------------------------------------------------------- together


async def test_two_workers_answer_every_message_once(path: Path, start: Start, size: Size) -> None:
    total = size(150, 3_000)
    async with opened(path) as store:
        workers = [start("work", f"worker-{n}") for n in range(2)]
        for n in range(total):
            await store.accept([said(f"m{n}", where=at(f"c{n % 30}"))])
        async with asyncio.timeout(PATIENCE):
            while (await store.counts()).completed < total:
                await asyncio.sleep(0.05)
        answered = Counter(message_id for worker in workers for message_id in ids_of(worker.kill(), "answered"))

        assert set(answered.values()) == {1}
        for address, ids in (await transcripts(store)).items():
            assert ids == [f"m{n}" for n in range(total) if at(f"c{n % 30}") == address]


async def test_a_subscriber_here_hears_every_token_of_a_run_there(path: Path, start: Start, size: Size) -> None:
    tokens = size(200, 5_000)
    async with opened(path) as store, store.follow() as follower:
        await store.accept([said("m1", where=at("c0"))])
        await follower.add(at("c0"))
        child = start("publish", "worker-1", tokens)
        text, top = "", 1
        async with asyncio.timeout(PATIENCE):
            async for notice in follower:
                for event in notice.events or (await store.read(at("c0"), after=top)).events:
                    assert event.offset == top + 1
                    top, text = event.offset, text + (event.text if event.kind == "delta" else "")
                if notice.events and notice.events[-1].kind == "completed":
                    break
        child.end()

    assert text == "".join(f"{n} " for n in range(tokens))


# ---------------------------------------------------------------- killed


async def test_the_runs_of_a_killed_worker_are_free_long_before_their_leases_end(
    path: Path, start: Start, proof: Proof
) -> None:
    async with opened(path) as store:
        for n in range(3):
            await store.accept([said("m1", where=at(f"c{n}"))])
        holder = start("hold", "worker-1")
        assert holder.until("holding") == "holding c0 c1 c2"
        assert await store.claim(owner="worker-2", limit=10, lease=60.0) == []

        holder.kill()
        killed = time.monotonic()
        await store.ready(queues=None, timeout=PATIENCE)
        claims = await store.claim(owner="worker-2", limit=10, lease=60.0)
        proof("lease of a killed process, free after", f"{time.monotonic() - killed:.2f} s")

        assert [claim.address for claim in claims] == [at("c0"), at("c1"), at("c2")]
        assert {claim.deaths for claim in claims} == {1}


async def test_a_restart_goes_on_at_once(path: Path, start: Start) -> None:
    async with opened(path) as store:
        await store.accept([said("m1", where=at("c0"))])
    holder = start("hold", "worker-1")
    holder.until("holding c0")
    holder.kill()

    async with opened(path) as store:
        [claim] = await store.claim(owner="worker-1", limit=10, lease=60.0)

        assert claim.message_ids == ("m1",)
        assert claim.attempt == 2


@pytest.mark.timeout(1_800)
async def test_nothing_acknowledged_is_lost_or_done_twice_when_processes_are_killed(
    path: Path, start: Start, size: Size, proof: Proof
) -> None:
    rounds, chance = size(2, 60), random.Random(7)
    accepted: list[str] = []
    answered: Counter[str] = Counter()
    for n in range(rounds):
        senders = [start("accept", f"r{n}s{k}", wait=False) for k in range(2)]
        workers = [start("work", f"r{n}w{k}", wait=False) for k in range(2)]
        senders[0].until("accepted")
        workers[0].until("answered")
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        for child in chance.sample([*senders, *workers], 4):
            lines = child.kill()
            accepted += ids_of(lines, "accepted")
            answered.update(ids_of(lines, "answered"))

    async with opened(path) as store:
        await all_answered(store)
        kept = await transcripts(store)
        counts = await store.counts()

    found = Counter(message_id for ids in kept.values() for message_id in ids)
    assert set(accepted) <= set(found)
    assert set(found.values()) == {1}
    assert set(answered.values()) <= {1}
    assert (counts.open_messages, counts.dead_letters) == (0, 0)
    for ids in kept.values():
        by_sender: dict[str, list[int]] = {}
        for message_id in ids:
            sender, _, number = message_id.partition("-")
            by_sender.setdefault(sender, []).append(int(number))
        assert all(numbers == sorted(numbers) for numbers in by_sender.values())
    proof("kill -9", f"{rounds * 4} processes killed, {len(accepted)} acknowledged messages, 0 lost, 0 twice")


# ---------------------------------------------------------------- other ends


def test_a_store_used_after_a_fork_says_so_and_the_parent_goes_on(start: Start) -> None:
    lines = start("fork").end()

    assert lines[1].startswith("StoreUnavailable the store was opened in another process")
    assert lines[2] == "accepted m1"


def can_mount() -> bool:
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "none",
        "/mnt",
    ]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


async def test_on_a_full_disk_runs_end_and_new_messages_are_refused_until_there_is_room(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("a small disk cannot be mounted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=4m none '{disk}' && exec \"$@\""
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh")

    lines = Child("fill", disk / "turnkeep.db", before=before).end()

    assert lines[1] == "full No space left on device"
    refused = next(line for line in lines if line.startswith("refused"))
    assert "is full, free some space" in refused
    assert "answered first" in lines
    assert lines[-1] == "accepted last"
