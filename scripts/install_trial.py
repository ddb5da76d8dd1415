"""Install turnkeep as people do, in empty environments on every Python that is found, and say what it costs:
`python scripts/install_trial.py [--extra EXTRA]… [--oldest] [--python VERSION]… [--sdist]`.

One line for each: packages, megabytes (as uv leaves them, and compiled, as pip does), CPU to import the queue, seconds
to the first answer of the simulator.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dev  # noqa: E402 - after the path

OLDEST, NEWEST = (3, 11), (3, 14)
IMPORT = "import time; begun = time.process_time(); from turnkeep import AssistantMessageQueue as Q; Q; " \
    "print(time.process_time() - begun)"  # fmt: skip
ANSWER = """
import asyncio
from turnkeep import AssistantMessageQueue


async def main() -> None:
    async with AssistantMessageQueue(message_delay=0.0, store="memory:") as queue:
        queue.start_worker()
        print(await queue.ask("thread-123", "Hello [[say:fine]]"))


asyncio.run(main())
"""
TOOL = """
import asyncio
from turnkeep import AssistantMessageQueue


async def look(arguments: dict[str, str]) -> str:
    print(arguments["word"])
    return "seen"


WORD = {"type": "object", "properties": {"word": {"type": "string", "pattern": "^f"}}, "required": ["word"]}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": WORD}, "handler": look}


async def main() -> None:
    async with AssistantMessageQueue(message_delay=0.0, store="trial.db", tools=[LOOK]) as queue:
        queue.start_worker()
        await queue.ask("thread-123", 'Hello [[call:look {"word": "fine"}]]')


asyncio.run(main())
"""
"""What an answer alone does not touch of the core: a schema, and a file."""


@dataclass(frozen=True)
class Trial:
    """What one environment costs."""

    python: str
    packages: int
    megabytes: float
    megabytes_compiled: float
    import_seconds: float
    answer_seconds: float
    answer_cpu: float

    def line(self) -> str:
        return (
            f"python {self.python}: {self.packages} packages, {self.megabytes:.0f} MB "
            f"({self.megabytes_compiled:.0f} compiled), import "
            f"{self.import_seconds * 1000:.0f} ms of CPU, first answer {self.answer_seconds:.2f} s "
            f"({self.answer_cpu:.2f} of CPU)"
        )


def main() -> int:
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--extra", action="append", default=[], help="an extra to install as well")
    options.add_argument("--oldest", action="store_true", help="the oldest versions that pyproject.toml allows")
    options.add_argument("--python", action="append", default=[], help="one version instead of all that are found")
    options.add_argument("--sdist", action="store_true", help="from the source archive instead of the wheel")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnkeep-trial-") as folder:
        archive = build(Path(folder), sdist=asked.sdist)
        for python in asked.python or pythons():
            place = Path(folder) / "environment"
            trial = tried(place, archive, python, extras=asked.extra, oldest=asked.oldest)
            print(trial.line(), flush=True)
            shutil.rmtree(place)
    return 0


def build(folder: Path, *, sdist: bool = False) -> Path:
    """The wheel or the source archive, built from this tree."""
    kind = "--sdist" if sdist else "--wheel"
    subprocess.run([dev.uv(), "build", "--quiet", kind, "--out-dir", folder, str(ROOT)], check=True)
    [archive] = folder.glob("*.tar.gz" if sdist else "*.whl")
    return archive


def pythons() -> list[str]:
    """Every Python here that turnkeep runs on, one of each minor version."""
    listing = subprocess.run(
        [dev.uv(), "python", "list", "--only-installed", "--output-format", "json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = {entry["version"]: entry["path"] for entry in json.loads(listing.stdout)}
    # pyenv hides all versions but the chosen one from the PATH
    found |= {path.parts[-3]: str(path) for path in Path.home().glob(".pyenv/versions/*/bin/python3")}
    minors = {}
    for version, path in found.items():
        major, minor, *_ = version.split(".")
        if major == "3" and version.replace(".", "").isdigit() and OLDEST <= (3, int(minor)) <= NEWEST:
            minors[int(minor)] = path
    return [path for _, path in sorted(minors.items())]


def tried(place: Path, archive: Path, python: str, *, extras: list[str], oldest: bool) -> Trial:
    """Install into an empty environment, and ask it something."""
    subprocess.run([dev.uv(), "venv", "--quiet", "--python", python, str(place)], check=True)
    program = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
    wanted = f"turnkeep[{','.join(extras)}] @ {archive.as_uri()}" if extras else str(archive)
    # of what is asked for by name alone uv takes the oldest; what turnkeep asks for would be the newest
    lowest = ["--resolution", "lowest-direct", *requirements(extras)] if oldest else []
    install = [dev.uv(), "pip", "install", "--quiet", "--python", program, *lowest, wanted]
    subprocess.run(install, check=True)
    plain = megabytes(place)
    subprocess.run([program, "-m", "compileall", "-q", str(place)], check=False)
    listing = subprocess.run(
        [dev.uv(), "pip", "list", "--python", program, "--format", "json"], check=True, capture_output=True, text=True
    )
    imported = min(float(run(program, IMPORT, place)) for _ in range(3))
    start, before = time.monotonic(), os.times()
    answer = run(program, ANSWER, place)
    seconds, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    for told in (answer, run(program, TOOL, place)):
        if told.strip() != "fine":
            raise SystemExit(f"{python}: the first answer was {told!r}")
    version = run(program, "import platform; print(platform.python_version())", place).strip()
    return Trial(version, len(json.loads(listing.stdout)), plain, megabytes(place), imported, seconds, cpu)


def requirements(extras: Iterable[str]) -> list[str]:
    """What the core and these extras ask for, with their floors."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        for one in project["optional-dependencies"][extra]:
            parts = re.fullmatch(r"turnkeep\[(.+)\]", one)
            wanted += requirements(parts[1].split(","))[len(project["dependencies"]) :] if parts else [one]
    return wanted


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def run(python: str, program: str, folder: Path) -> str:
    """What a program prints, away from this tree and its settings."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    done = subprocess.run(
        [python, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
