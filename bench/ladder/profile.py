"""Where the CPU of a token goes: a sampling profile (py-spy) of an embedded service while its streams flow.

Shares of the samples with the lock of the interpreter held, by package and by function. What is
compiled (uvloop, orjson, SQLite) counts for the Python function that called it.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.ladder.callers import Subscriber, connect, subscribe
from bench.ladder.peers import installed
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack
from bench.ladder.tokens import House, Load, warm

TOP = 15
_FRAME = re.compile(r"^(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Profile:
    """Percent of the samples."""

    packages: Mapping[str, float]
    functions: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def take(size: Size) -> Profile | None:
    """None where py-spy cannot be had or may not look, which is said."""
    programs = await asyncio.to_thread(installed, "py-spy", ("py-spy",))
    if programs is None:
        return None
    load = Load(size.of(50, 200), size.of(60, 100), 100)
    with Stack() as stack:
        model = stack.model()
        service = stack.service(model=model)
        await warm(House("sqlite", service, [service]))
        callers = await connect(Subscriber, service.port, load.streams)
        await subscribe(callers, "t{}")
        answers = [caller.say(f"t{place}", f"mode={load.mode}") for place, caller in enumerate(callers)]
        await asyncio.sleep(1.0)
        stacks = await asyncio.to_thread(record, programs, service, stack.folder / "stacks", size.of(3, 7))
        await asyncio.gather(*answers)
    return fold(stacks) if stacks else None


def record(programs: Path, part: Part, file: Path, seconds: int) -> str:
    options = ["--format", "raw", "--duration", str(seconds), "--rate", "200", "--gil", "--output", str(file)]
    command = [str(programs / "py-spy"), "record", "--pid", str(part.process.pid), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        print(f"bench: no profile: {done.stderr.strip()[-200:]}", flush=True)
        return ""
    return file.read_text()


def fold(stacks: str) -> Profile:
    """Of lines `frame;frame;… count`, the shares of the innermost frames."""
    packages, functions = Counter[str](), Counter[str]()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if not count.isdigit() or (found := _FRAME.match(frames.rpartition(";")[2])) is None:
            continue
        package, place = place_of(found["file"])
        packages[package] += int(count)
        functions[f"{place} {found['function']}"] += int(count)
    return Profile(_shares(packages), _shares(functions))


def place_of(file: str) -> tuple[str, str]:
    """The package of a file, and its path from there."""
    if "turnkeep/" in file:
        inner = file.rpartition("turnkeep/")[2]
        return f"turnkeep.{inner.partition('/')[0].removesuffix('.py')}", inner
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].partition("/")[0].removesuffix(".py"), Path(file).name
    # py-spy shortens paths of libraries: the first part is the package, and a file alone is of Python
    package = file.partition("/")[0] if "/" in file and not file.startswith("/") else "Python"
    return package, Path(file).name


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values()) or 1
    return {name: round(count / total * 100, 1) for name, count in counts.most_common(TOP)}
