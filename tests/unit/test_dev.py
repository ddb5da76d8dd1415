"""The desk starts on a machine that has nothing but Python, and the lock file it installs from can be trusted."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import dev
from tests.rows import each_row
from tests.services import programs

ROOT = Path(__file__).parents[2]
LOCKS = {path.name: path.read_text() for path in (dev.LOCK, dev.DEV_LOCK)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def desk(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "dev.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_it_needs_the_standard_library_only() -> None:
    tree = ast.parse((ROOT / "dev.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_verb(arguments: tuple[str, ...]) -> None:
    done = desk(*arguments)
    assert done.returncode == 0
    for verb in [*dev.COMMANDS, *dev.VERBS]:
        assert f"dev.py {verb} " in done.stdout


def test_an_unknown_verb_is_refused_with_the_known_ones() -> None:
    done = desk("tset")
    assert done.returncode == 2
    assert "'tset'" in done.stderr
    assert "test" in done.stderr


class Run:
    """Stands where programs would be started, and keeps what would be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        monkeypatch.setattr(dev, "run", self)
        monkeypatch.setattr(dev, "prepare", lambda level: None)
        monkeypatch.chdir(ROOT)

    def __call__(self, command: list[str]) -> int:
        self.commands.append(list(command))
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("CI", "TURNKEEP_PROVE", "DEBIAN_FRONTEND", "PATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "")
    return Run(monkeypatch)


def test_up_becomes_turnkeep_dev_so_that_a_signal_reaches_the_server(
    started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(program: str, words: list[str]) -> None:
        assert Path(program).name == "turnkeep"
        raise InterruptedError(words[1:])  # nothing comes after exec

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(InterruptedError, match="'dev', '--port', '9'"):
        dev.main(["up", "--port", "9"])
    assert started.commands == []


def test_arguments_of_test_go_to_pytest_without_our_own(started: Run) -> None:
    assert dev.main(["test", "--no-install", "tests/unit", "-k", "proxy"]) == 0
    (command,) = started.commands
    assert command[-3:] == ["tests/unit", "-k", "proxy"]
    assert "--no-install" not in command


@pytest.mark.parametrize(
    ("arguments", "quick", "cores", "gigabytes", "number"),
    [
        ([], False, 2, 24, 10),
        ([], False, 1, 24, 5),
        ([], False, 64, 256, 10),
        ([], False, 2, 4, 5),
        ([], False, 2, 0, 1),
        (["-k", "proxy"], False, 2, 24, 10),
        (["tests/unit/test_dev.py::test_it"], False, 2, 24, 6),
        ([], True, 2, 24, 3),
    ],
)
def test_tests_have_as_many_workers_as_they_can_use_and_the_machine_can_hold(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], quick: bool, cores: int, gigabytes: int, number: int
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gigabytes * 250_000}
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert dev.workers(arguments, quick=quick) == number


def test_prove_runs_the_named_proofs_at_full_size_in_one_process(started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "absent", lambda *, large: [])
    assert dev.main(["prove", "bursts", "order"]) == 0
    (command,) = started.commands
    assert command[-2:] == ["-k", "bursts or order"]
    assert command[command.index("-p") + 1] == "no:xdist"
    assert os.environ["TURNKEEP_PROVE"] == "1"


def test_prove_runs_all_that_every_day_leaves_out(started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "absent", lambda *, large: [])
    assert dev.main(["prove"]) == 0
    (command,) = started.commands
    assert command[-2:] == ["-m", "prove or only_in_prove"]


@pytest.mark.parametrize("verb", ["test", "prove"])
def test_programs_that_tests_start_find_what_was_compiled_before(
    verb: str, started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "absent", lambda *, large: [])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert dev.main([verb]) == 0
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ


@pytest.mark.parametrize("refused", [True, False])
def test_servers_are_installed_only_as_root_and_unless_refused(
    started: Run, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(dev, "absent", lambda *, large: ["rabbitmq-server"])
    monkeypatch.setattr(dev, "narrow_path", lambda: "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    dev.provide_programs(install=True, large=False)
    assert started.commands == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    installed: list[str] = []
    monkeypatch.setattr(dev, "apt_install", installed.extend)
    dev.provide_programs(install=not refused, large=False)
    assert installed == ([] if refused else ["rabbitmq-server"])


def test_the_environment_is_made_anew_when_a_lock_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "requirements.lock"
    other.write_text(LOCKS["requirements.lock"])
    before = dev.fingerprint()
    monkeypatch.setattr(dev, "LOCK", other)
    assert dev.fingerprint() == before
    other.write_text(other.read_text() + "\n")
    assert dev.fingerprint() != before


def test_a_selection_is_run_as_often_as_asked_and_one_failure_fails_all(
    started: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = iter([0, 1, 0])
    monkeypatch.setattr(dev, "run", lambda command: next(codes))
    assert dev.main(["test", "--no-install", "--repeat", "3", "--busy", "tests/unit"]) == 1
    assert "3 runs, 1 failed" in capsys.readouterr().out


# ---------------------------------------------------------------- what tests see of a machine


def test_tests_see_the_base_system_and_what_is_declared_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    somewhere = tmp_path / "bin"
    somewhere.mkdir()
    for name in ("redis-server", "a-program-of-this-machine"):
        (somewhere / name).write_text("#!/bin/sh\n")
        (somewhere / name).chmod(0o755)
    monkeypatch.setattr(dev, "TEST_PATH", tmp_path / "path")
    monkeypatch.setattr(dev, "base_programs", lambda: [Path("/bin/sh")])
    monkeypatch.setattr(shutil, "which", found_in(f"{somewhere}:/usr/bin"))
    monkeypatch.setenv("PATH", f"{somewhere}:/usr/bin")

    path = dev.narrow_path()

    assert {"sh", "redis-server", "git"} <= set(os.listdir(path))
    assert "a-program-of-this-machine" not in os.listdir(path)
    monkeypatch.setenv("PATH", path)
    assert dev.narrow_path() == path


def found_in(path: str) -> Callable[..., str | None]:
    """`shutil.which` on a machine that has dpkg."""
    which = shutil.which
    return lambda name, path=path: "/usr/bin/dpkg-query" if name == "dpkg-query" else which(name, path=path)


@pytest.mark.parametrize("program", dev.TEST_PROGRAMS, ids=lambda program: program.package)
def test_a_program_that_is_not_there_is_skipped_with_its_package(
    program: dev.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "located", lambda command: None)
    assert program.package in dev.absent(large=True)
    assert (program.package in dev.absent(large=False)) is not program.is_large
    monkeypatch.setattr(programs, "REQUIRED", False)
    with pytest.raises(pytest.skip.Exception, match=f"apt-get install .*{program.package}"):
        programs.program(program.commands[0])
    monkeypatch.setattr(programs, "REQUIRED", True)
    with pytest.raises(pytest.fail.Exception, match="forbids to skip"):
        programs.program(program.commands[0])


def test_no_test_looks_for_a_program_past_the_declaration() -> None:
    """A name handed to `which` in a test is a step that a bare machine lacks."""
    pattern = re.compile(r"""which\(\s*["'](?!unshare|dpkg-query|git)""")
    places = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name not in {"services", "chaos"}]
    assert [path.name for path in places if pattern.search(path.read_text())] == []


# ---------------------------------------------------------------- lock files


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_holds_no_address(lock: str) -> None:
    assert "://" not in lock
    assert "index-url" not in lock


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_pins_every_package_by_hash(lock: str) -> None:
    pins = re.findall(r"^[a-z0-9][^\s=]*==.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", lock, re.MULTILINE)
    names = re.findall(r"^[a-z0-9]", lock, re.MULTILINE)
    assert len(pins) == len(names) > 50


def test_what_runs_is_what_was_tested() -> None:
    runs, tested = (set(re.findall(r"^([a-z0-9][^\s=\[]*\S*==[^\s;]+)", lock, re.MULTILINE)) for lock in LOCKS.values())
    assert runs < tested


def test_what_runs_brings_no_tool_of_the_tests() -> None:
    runs = LOCKS["requirements.lock"]
    tools = {bare(one) for group in GROUPS.values() for one in group} - {bare(one) for one in DIRECT_TO_RUN}
    assert {name for name in tools if re.search(rf"^{name}(\[.*\])?==", runs, re.MULTILINE)} <= {"python-multipart"}


def test_the_lock_knows_every_direct_dependency() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    everything = re.search(r"\[(.*)\]", extras["all"][0])
    assert everything is not None
    optional = [name for extra in everything[1].split(",") for name in extras[extra]]
    groups = [name for group in PROJECT["dependency-groups"].values() for name in group]
    named = {re.split(r"[^a-z0-9-]", name)[0] for name in [*project["dependencies"], *optional, *groups]}
    assert {
        name
        for name in named - {"turnkeep"}
        if not re.search(rf"^{name}(\[.*\])?==", LOCKS["requirements-dev.lock"], re.MULTILINE)
    } == set()


# ---------------------------------------------------------------- audit


def audited(capsys: pytest.CaptureFixture[str], *dependencies: Mapping[str, object]) -> tuple[int, str]:
    return dev.vulnerabilities(json.dumps({"dependencies": dependencies}), ""), capsys.readouterr().out


def test_an_audit_that_could_not_ask_says_so_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    good = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "1", "vulns": [{"id": "PYSEC-1"}]}
    unknown = {"name": "c", "skip_reason": "not found"}

    assert audited(capsys, good)[0] == 0
    code, said = audited(capsys, good, unknown)
    assert code == 2
    assert "NOT asked for: 1 of 2" in said
    code, said = audited(capsys, good, bad, unknown)
    assert code == 1
    assert "b 1: PYSEC-1" in said
    assert dev.vulnerabilities("", "no such host") == 2
    assert "could not be asked for" in capsys.readouterr().out


# ---------------------------------------------------------------- dependencies


DECISIONS = (ROOT / "docs/decisions/0000-dependencies.md").read_text()


def bare(requirement: object) -> str:
    return re.split(r"[\[<>=;~! ]", str(requirement), maxsplit=1)[0].lower()


def told_of() -> set[str]:
    """Packages in the tables of the page; a cell may name several."""
    rows = [line.split("|")[1:-1] for line in DECISIONS.splitlines() if line.startswith("| ")]
    cells = [cell for row in rows for cell in row[: 2 if row[0].strip() in EXTRAS else 1]]
    return {bare(name) for cell in cells for name in re.split(r",\s*", cell.strip())}


DIRECT_TO_RUN = [
    *PROJECT["project"]["dependencies"],
    *(one for many in PROJECT["project"]["optional-dependencies"].values() for one in many),
]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
DIRECT = {
    bare(one)
    for many in (PROJECT["project"]["dependencies"], *EXTRAS.values(), *GROUPS.values())
    for one in many
    if bare(one) != "turnkeep"
}


@each_row("name", sorted(DIRECT))
def test_a_direct_dependency_has_its_line_among_the_decisions(name: str) -> None:
    assert name in told_of()


def test_no_decision_is_about_a_package_that_is_gone() -> None:
    assert told_of() - {"package", "extra"} - set(EXTRAS) <= DIRECT


@pytest.mark.parametrize(
    "path", [*dev.HEART, *(test for test in (*dev.HEART_RINGS, *dev.ALL_RINGS) if test.startswith("tests/"))]
)
def test_what_coverage_is_asked_of_is_there(path: str) -> None:
    """A module that was moved would be held by nobody, and the figure would stay 100 %."""
    assert list(dev.ROOT.glob(path))
