"""Break the code at random, one place at a time, and see whether the tests notice.

    .venv/bin/python scripts/mutants.py --modules runs/run.py runs/journal.py --count 60 --seed 7

Each mutant is one changed expression of one module, tried in a copy of the package: the tree stays as it is. A mutant
that no test notices has survived; it is printed with its place, as it was and as it is. Mutants that change nothing
anybody could see are named with their reason in `EQUIVALENT`. Exit code: 0 when so many were killed as `--least` asks
for, 1 when not, 2 when the tests fail without any change.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "turnkeep"
HEART = [
    *(f"runs/{name}.py" for name in ("run", "answer", "tool_calls", "journal", "lease", "worker", "announcer")),
    *("runs/outcomes.py", "runs/halt.py", "hooks.py"),
]
PLUGINS = ["-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout"]
PYTEST = ["-x", "-q", "--tb=no", "--no-header", "--disable-plugin-autoload", *PLUGINS, "--timeout", "60"]
PATIENCE = 240.0
"""Seconds after which a mutant that hangs its tests counts as killed."""

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "runs/answer.py",
        "len(self.announcer.text_so_far) - len(before) if running else 0",
        "len(self.announcer.text_so_far) - len(before) if True else 0",
    ): "where no response is gone on with, what was shown is what stood before the step: the difference is 0",
    (
        "runs/journal.py",
        "isinstance(item, UserItem) and item.message_id",
        "isinstance(item, UserItem) or item.message_id",
    ): "all items of this record are user items with an id (`write_steered`): the look is for the types",
    (
        "runs/announcer.py",
        "step if items == step.items else replace(step, items=items)",
        "step if False else replace(step, items=items)",
    ): "a step with the same items is an equal one: the look spares a copy",
    (
        "runs/answer.py",
        "() if self.resources.toolbox.is_empty else self.toolbox.specs(self.assistant.tool_names)",
        "() if False else self.toolbox.specs(self.assistant.tool_names)",
    ): "an empty toolbox has no specs: the look spares the walk",
    (
        "runs/announcer.py",
        "moment <= loop.time()",
        "moment < loop.time()",
    ): "a timer of this very moment runs at the next turn of the loop, where a task made now begins",
    **dict.fromkeys(
        [
            ("runs/tool_calls.py", "plan.way == 'known' and plan.output", "plan.way == 'known' or plan.output"),
            ("runs/tool_calls.py", "plan.way == 'refused' and plan.refusal", "plan.way == 'refused' or plan.refusal"),
        ],
        "a plan has an output just where the output is known, a refusal just where it is refused",
    ),
}
"""(module, as it was, as it is) → why nobody could see the difference."""

OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module."""

    module: str
    kind: str
    line: int
    before: str
    after: str
    source: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a mutant."""

    mutant: Mutant
    outcome: Literal["killed", "survived", "equivalent"]

    def __str__(self) -> str:
        mutant = self.mutant
        change = f"{mutant.before[:70]}  →  {mutant.after[:70]}"
        return f"{self.outcome:10} {mutant.module}:{mutant.line} {mutant.kind}: {change}"


# ---------------------------------------------------------------- making them


def places_of(module: str) -> Iterator[tuple[str, int, str]]:
    """Every place of a module that can be changed, and how: (module, node, kind)."""
    for place, node in enumerate(ast.walk(ast.parse((PACKAGE / module).read_text()))):
        for kind in _kinds(node):
            yield module, place, kind


def mutant_at(module: str, place: int, kind: str) -> Mutant:
    """The mutant of a place."""
    tree = ast.parse((PACKAGE / module).read_text())
    target = next(node for here, node in enumerate(ast.walk(tree)) if here == place)
    before, line = ast.unparse(target).splitlines()[0], getattr(target, "lineno", 0)
    _change(target, kind)
    after = ast.unparse(ast.fix_missing_locations(target)).splitlines()[0]
    return Mutant(module, kind, line, before, after, ast.unparse(tree))


def _kinds(node: ast.AST) -> Sequence[str]:
    match node:
        case ast.Compare():
            return ["compare"]
        case ast.BoolOp():
            return ["and/or"]
        case ast.UnaryOp(op=ast.Not()):
            return ["not"]
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            return ["arithmetic"]
        case ast.If() | ast.IfExp():
            return ["never", "always"]
        case ast.Expr(value=ast.Call() | ast.Await()):
            return ["drop"]
    return []


def _change(node: ast.AST, kind: str) -> None:
    """Change a node in place."""
    match node:
        case ast.Compare():
            node.ops[0] = OPPOSITE[type(node.ops[0])]()
        case ast.BoolOp():
            node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        case ast.UnaryOp():
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
        case ast.BinOp() | ast.AugAssign():
            node.op = ARITHMETIC[type(node.op)]()
        case ast.If() | ast.IfExp():
            node.test = ast.Constant(kind == "always")
        case ast.Expr():
            node.value = ast.Constant(None)


# ---------------------------------------------------------------- trying them


def prepare(tests: Sequence[str]) -> None:
    """Import what every mutant needs that is not ours: a child that is forked from here starts in no time."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True  # a module that changes twice within a second would be taken from its cache
    for path in tests:
        for file in sorted(Path(path).rglob("*.py")) if Path(path).is_dir() else [Path(path.partition("::")[0])]:
            importlib.import_module(".".join(file.with_suffix("").parts))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("turnkeep", "tests", "bench")]:
        del sys.modules[name]


def begin(folder: Path, tests: Sequence[str]) -> int:
    """Run the tests in a child, on this copy of the package; its process id. It exits with 0 if they pass."""
    if child := os.fork():
        return child
    code = 70
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        sys.path.insert(0, str(folder))
        code = int(pytest.main([*PYTEST, *tests]))
    finally:
        os._exit(code)


def outcome_of(child: int, begun_at: float) -> int | None:
    """The exit code of a child, None while it runs; one that hangs is ended, and has failed."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        return os.waitstatus_to_exitcode(status)
    if time.monotonic() - begun_at > PATIENCE:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -signal.SIGKILL
    return None


def trials_of(mutants: Sequence[Mutant], folders: list[Path], tests: Sequence[str]) -> Iterator[Trial]:
    """What becomes of each; as many at a time as there are copies of the package."""
    waiting, running = list(reversed(mutants)), dict[int, tuple[Mutant, Path, float, str]]()
    while waiting or running:
        while waiting and folders:
            mutant = waiting.pop()
            if (mutant.module, mutant.before, mutant.after) in EQUIVALENT:
                yield Trial(mutant, "equivalent")
                continue
            folder = folders.pop()
            path = folder / "turnkeep" / mutant.module
            original = path.read_text()
            path.write_text(mutant.source)
            running[begin(folder, tests)] = (mutant, folder, time.monotonic(), original)
        for child, (mutant, folder, begun_at, original) in list(running.items()):
            if (code := outcome_of(child, begun_at)) is not None:
                del running[child]
                (folder / "turnkeep" / mutant.module).write_text(original)
                folders.append(folder)
                yield Trial(mutant, "killed" if code else "survived")
        time.sleep(0.02)


def passes(folder: Path, tests: Sequence[str]) -> bool:
    child, begun_at = begin(folder, tests), time.monotonic()
    while (code := outcome_of(child, begun_at)) is None:
        time.sleep(0.02)
    return code == 0


def copies_of(folder: Path, jobs: int) -> list[Path]:
    """So many copies of the package, each for one mutant at a time."""
    for number in range(jobs):
        shutil.copytree(PACKAGE, folder / str(number) / "turnkeep", ignore=shutil.ignore_patterns("__pycache__"))
    return [folder / str(number) for number in range(jobs)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--modules", nargs="+", default=HEART, help="paths under src/turnkeep")
    options.add_argument("--tests", nargs="+", default=["tests/runs"], help="what has to notice")
    options.add_argument("--count", type=int, default=100, help="mutants, drawn evenly from all of these modules")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--least", type=float, default=90.0, help="percent that have to be killed")
    chosen = options.parse_args(arguments)
    every = [place for module in chosen.modules for place in places_of(module)]
    places = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))  # noqa: S311 - a choice
    prepare(chosen.tests)
    with tempfile.TemporaryDirectory(prefix="turnkeep-mutants-") as folder:
        copies = copies_of(Path(folder), chosen.jobs)
        if not passes(copies[0], chosen.tests):
            print("mutants: these tests fail without any change; mend that first", file=sys.stderr)
            return 2
        trials = trials_of([mutant_at(*place) for place in places], copies, chosen.tests)
        percent = report(trials, f"of {len(every)} places, drawn with seed {chosen.seed}")
    return 0 if percent >= chosen.least else 1


def report(trials: Iterator[Trial], drawn: str) -> float:
    """Tell what becomes of each mutant, and the percentage that was killed."""
    counts = Counter[str]()
    for trial in trials:
        counts[trial.outcome] += 1
        print(trial, flush=True)
    total = counts["killed"] + counts["survived"]
    percent = 100.0 * counts["killed"] / total if total else 100.0
    print(
        f"mutants: {counts['killed']} of {total} killed ({percent:.1f} %), {counts['survived']} survived, "
        f"{counts['equivalent']} equivalent; {drawn}"
    )
    return percent


if __name__ == "__main__":
    sys.exit(main())
