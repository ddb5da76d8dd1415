"""The desk: one command for each thing one does in this repository. Needs python3 (3.11 or newer), pip and git.

python3 dev.py up [ARG…]       start everything in one process (= turnkeep dev)
python3 dev.py test [ARG…]     every promise, in the size of a day; ARG… go to pytest
                               --quick: what can be told within a minute
                               --no-install: install nothing; --all: the large programs too (Chromium, Node)
                               --repeat N: N times, counted; --busy: beside a spinning process for each core
python3 dev.py prove [NAME…]   the tests that give figures, at full size, one line each
python3 dev.py check           lint, format, types (samples too), floors, lock files, and what coverage was seen last
python3 dev.py coverage        that no branch of the heart is without a test (--all: of everything, which is long)
python3 dev.py docs [ARG…]     the tests of the documentation alone
python3 dev.py site            the documentation as a site, into .dev/site
python3 dev.py bench [NAME…]   measure beside floors, in one run (--list, --small, --json, --check: is it worse
                               than before?, --against REV: this tree by another revision)
python3 dev.py chaos [ARG…]    break things at random (--seed, --minutes)
python3 dev.py audit           known vulnerabilities and risky calls (asks pypi.org; 2: could not ask)
python3 dev.py sbom [FILE]     the bill of materials of what runs, as CycloneDX JSON
python3 dev.py lock [ARG…]     write the lock files anew (ARG… go to uv, such as --upgrade)
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
LOCK = ROOT / "requirements.lock"
"""What runs: turnkeep with all extras."""
DEV_LOCK = ROOT / "requirements-dev.lock"
"""The same versions, and what tests, checks and builds need beside them."""
BOOT = ROOT / ".dev" / "boot"
TEST_PATH = ROOT / ".dev" / "path"
APT_OPTIONS = ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]
COMPILE = ["--universal", "--generate-hashes", "--no-emit-index-url", "--python-version", "3.11", "--extra", "all"]
GROUPS = ["--group", "test", "--group", "check", "--group", "build", "--group", "docs"]
WORKER_MEMORY = 700 << 20
"""What a worker of the tests holds, with the servers that it starts."""
QUICK = ["tests/unit", "tests/runs", "tests/process/test_burst.py", "-m", "not slow"]

Level = Literal["run", "dev"]
"""How much is in .venv: what runs, or that and the tools of the tests."""


@dataclass(frozen=True)
class Program:
    """A program that tests start beside Python and git: any one of `commands`, of the Debian package `package`."""

    package: str
    commands: tuple[str, ...]
    companions: tuple[str, ...] = ()
    """Commands that the program itself calls by name."""
    is_large: bool = False
    """Installed only when asked for (`--all`, and in CI): its tests are few and its download is long."""


TEST_PROGRAMS = (
    Program("redis-server", ("redis-server", "valkey-server")),
    Program("rabbitmq-server", ("rabbitmq-server",), ("erl", "epmd")),
    Program("bubblewrap", ("bwrap",)),
    Program("nginx-light", ("nginx",)),
    Program("openssl", ("openssl",)),
    Program("chromium", ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome"), is_large=True),
    Program("nodejs", ("node",), is_large=True),
    Program("npm", ("npm",), is_large=True),
    Program("prometheus", ("prometheus",), ("promtool",), is_large=True),
)
"""Everything that tests may count on; they see nothing else (`narrow_path`)."""


def main(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if verb not in COMMANDS and verb not in VERBS:
        print(f"dev: there is no {verb!r}; choose from {', '.join([*COMMANDS, *VERBS])}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    if verb != "lock":
        prepare("run" if verb == "up" else "dev")
    if verb == "up":
        return become([*COMMANDS[verb], *rest])
    return run([*COMMANDS[verb], *rest]) if verb in COMMANDS else VERBS[verb](rest)


def test(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(prog="dev.py test", add_help=False, allow_abbrev=False)
    options.add_argument("--no-install", action="store_true")
    options.add_argument("--all", action="store_true")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--repeat", type=int, default=1)
    options.add_argument("--busy", action="store_true")
    asked, for_pytest = options.parse_known_args(arguments)
    provide_programs(install=not (asked.no_install or asked.quick), large=asked.all or os.environ.get("CI") == "true")
    keep_bytecode()
    selection = [*QUICK, *for_pytest] if asked.quick else for_pytest
    number = str(workers(for_pytest, quick=asked.quick))
    command = [PYTHON, "-m", "pytest", "-n", number, "--dist", "loadgroup", *selection]
    with busy_cores() if asked.busy else contextlib.nullcontext():
        return run(command) if asked.repeat == 1 else repeat(command, asked.repeat)


def workers(arguments: Sequence[str], *, quick: bool) -> int:
    """How many share the tests: more than processors, as many tests wait for servers. Each of them collects all tests,
    which a part of these is not worth, and beyond ten nothing is.
    """
    cores = os.cpu_count() or 1
    is_part = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    wanted = cores + 1 if quick else 3 * cores if is_part else 5 * cores
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else WORKER_MEMORY
    return max(1, min(wanted, 10, memory // WORKER_MEMORY))


def repeat(command: Sequence[str], times: int) -> int:
    """Run it so many times, whatever comes of it; the code of the first run that failed."""
    codes: list[int] = []
    for number in range(1, times + 1):
        start = time.monotonic()
        codes.append(run(command))
        outcome = "failed" if codes[-1] else "passed"
        say(f"run {number} of {times} {outcome} in {time.monotonic() - start:.0f} s")
    failed = [code for code in codes if code]
    say(f"{times} runs, {len(failed)} failed")
    return failed[0] if failed else 0


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """A process that spins on each core: what waits for a time instead of a state fails beside them."""
    spin = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
    spinning = [subprocess.Popen([sys.executable, "-I", "-c", spin]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def prove(names: list[str]) -> int:
    provide_programs(install=True, large=False)
    keep_bytecode()
    os.environ["TURNKEEP_PROVE"] = "1"
    selection = ["-m", "prove or only_in_prove", *(["-k", " or ".join(names)] if names else [])]
    return run([PYTHON, "-m", "pytest", "-q", "-s", "-p", "no:xdist", "--timeout", "3600", *selection])


def keep_bytecode() -> None:
    """Tests start hundreds of processes, each of which would else compile everything that it imports once more; and
    every worker of pytest would rewrite the asserts of all test files. What is written stays in this clone.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def check(_: list[str]) -> int:
    steps = {
        "lint": [str(BIN / "ruff"), "check", "."],
        "format": [str(BIN / "ruff"), "format", "--check", "."],
        "types": [str(BIN / "mypy")],
        "types of samples": [PYTHON, "scripts/sample_types.py"],
        "floors": [str(BIN / "lint-imports"), "--no-logo"],
        "coverage": [PYTHON, COVERAGE_FIGURE],
    }
    failed = [name for name, command in steps.items() if not passes(name, command)]
    for path in [LOCK, DEV_LOCK, *ROOT.glob("[!.]*/**/package-lock.json")]:
        if "node_modules" not in path.parts and "://" in path.read_text():
            say(f"{path.name} names an address; lock files hold names, versions and hashes only")
            failed.append("lock")
    say(f"check failed: {', '.join(failed)}" if failed else "check passed")
    return 1 if failed else 0


def coverage(arguments: list[str]) -> int:
    """The heart by its own rings, every branch; with `--all` the whole by all rings, and in the programs that they
    start: each process leaves a file of its own, but for those that are killed.
    """
    everything = "--all" in arguments
    tests, include, least = (ALL_RINGS, [], 95) if everything else (HEART_RINGS, ["--include", ",".join(HEART)], 100)
    provide_programs(install=False, large=False)
    command = [PYTHON, "-m", "coverage"]
    must([*command, "erase"])
    code = run([*command, "run", "-m", "pytest", "-q", *tests])
    must([*command, "combine", "--quiet"])
    report = [*command, "report", "--skip-covered", "--show-missing", "--fail-under", str(least)]
    code = run([*report, *include]) or code
    return (run([PYTHON, COVERAGE_FIGURE, "--write"]) or code) if everything else code


COVERAGE_FIGURE = "scripts/coverage_figure.py"
"""Holds the tree against what `coverage --all` saw last, which is too long for `check`."""
HEART = ["src/turnkeep/runs/*.py", *(f"src/turnkeep/{name}.py" for name in ("hooks", "store/rules_*", "wire"))]
"""What a mistake in would cost most: every branch is taken by a test without a socket."""
HEART_RINGS = [
    *("tests/runs", *(f"tests/unit/test_{name}.py" for name in ("rules", "wire", "run_context"))),
    "tests/contract/test_store.py",
    *("-k", "not Redis and not Valkey and not Sqlite", "-p", "no:xdist"),
]
ALL_RINGS = [
    *(f"tests/{ring}" for ring in ("unit", "runs", "contract", "scenario", "process", "clients", "attack")),
    *("-n", str(os.cpu_count() or 1), "--dist", "loadgroup"),
]


def audit(_: list[str]) -> int:
    """0: nothing found; 1: something found; 2: nothing found, but not everything could be asked."""
    calls = run([str(BIN / "bandit"), "-q", "-ll", "--skip", BY_RUFF, "-r", "src"])
    say(f"risky calls: {'see above' if calls else 'none'}")
    command = [str(BIN / "pip-audit"), "--require-hashes", "--disable-pip", "-f", "json", "-r", str(DEV_LOCK)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1 if calls else vulnerabilities(told.stdout, told.stderr)


BY_RUFF = "B104,B108,B608"
"""Looked at line by line: `check` refuses a line that does not say why it may (S104, S108, S608)."""


def vulnerabilities(report: str, complaint: str) -> int:
    """Tell what pip-audit found, and above all what it could not ask."""
    try:
        asked = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        say(f"vulnerabilities: could not be asked for: {complaint.strip().splitlines()[-1:] or 'no answer'}")
        return 2
    unknown = [one["name"] for one in asked if "skip_reason" in one]
    known = [(one["name"], one["version"], bad["id"]) for one in asked for bad in one.get("vulns", [])]
    for name, version, number in known:
        say(f"vulnerability: {name} {version}: {number}")
    say(f"vulnerabilities: {len(known)} in {len(asked) - len(unknown)} packages that were asked for")
    if unknown:
        say(f"NOT asked for: {len(unknown)} of {len(asked)} packages, the index here has no such data about them")
        say("run it again where the public package index is reached")
    return 1 if known else 2 if unknown else 0


def lock(arguments: list[str]) -> int:
    """First everything, then what runs out of the same versions, so that no test ran with others."""
    quietly = ["--custom-compile-command", "python3 dev.py lock", "--quiet"]
    compile_lock = [uv(), "pip", "compile", "pyproject.toml", *COMPILE, *quietly]
    everything = [*compile_lock, *GROUPS, "-o", DEV_LOCK.name, *arguments]
    return run(everything) or run([*compile_lock, "-c", DEV_LOCK.name, "-o", LOCK.name])


COMMANDS = {
    "up": [str(BIN / "turnkeep"), "dev"],
    "docs": [PYTHON, "-m", "pytest", "tests/docs"],
    "bench": [PYTHON, "bench/run.py"],
    "chaos": [PYTHON, "-m", "tests.chaos"],
    "sbom": [PYTHON, "scripts/sbom.py"],
    "site": [PYTHON, "-m", "mkdocs", "build", "--strict", "--quiet"],
}
VERBS = {"test": test, "prove": prove, "check": check, "coverage": coverage, "audit": audit, "lock": lock}


def prepare(level: Level) -> None:
    """Make .venv what the lock file says; at once when it is already. What has the tools keeps them."""
    stamp = VENV / "turnkeep.stamp"
    present = stamp.read_text() if Path(PYTHON).exists() and stamp.exists() else ""
    if present.startswith("dev"):
        level = "dev"
    wanted = f"{level} {fingerprint()}"
    if present == wanted:
        return
    lock_file = DEV_LOCK if level == "dev" else LOCK
    say(f"preparing .venv from {lock_file.name} (the first time takes up to a minute)")
    if not Path(PYTHON).exists():
        shutil.rmtree(VENV, ignore_errors=True)
        must([uv(), "venv", "--quiet", "--python", sys.executable, str(VENV)])
    install = [uv(), "pip", "install", "--quiet", "--python", PYTHON]
    # tests start hundreds of processes, which would all compile at once; one program compiles what it imports
    compiled = ["--compile-bytecode"] if level == "dev" else []
    must([uv(), "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes", *compiled, str(lock_file)])
    must([*install, "--no-deps", "--build-constraints", str(DEV_LOCK), "-e", "."])
    stamp.write_text(wanted)


def fingerprint() -> str:
    parts = [LOCK, DEV_LOCK, ROOT / "pyproject.toml"]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def uv() -> str:
    """uv from PATH, else our own copy."""
    own = BOOT / "bin" / "uv"
    found = shutil.which("uv") or shutil.which(own)
    if found is None:
        say("fetching uv into .dev/boot (once)")
        quietly = ["-qq", "--disable-pip-version-check", "--root-user-action=ignore"]
        must([sys.executable, "-m", "pip", "install", *quietly, "--upgrade", "--target", str(BOOT), "uv"])
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # also behind a proxy with a certificate of its own
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
    if not can_write(Path.home()):
        os.environ.setdefault("UV_CACHE_DIR", str(ROOT / ".dev" / "cache"))
    return found or str(own)


def can_write(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def provide_programs(*, install: bool, large: bool) -> None:
    """Install what the tests want to start and this machine does not have, or say what is skipped without it."""
    missing = absent(large=large)
    if missing and install and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing for the tests: {', '.join(missing)} (apt-get; nothing is started; --no-install refuses)")
        apt_install(missing)
    if missing := absent(large=True):
        say(f"not installed: {', '.join(missing)}. Their tests are skipped; without redis-server a Valkey serves")
        say(f"to get them: apt-get install {' '.join(missing)}, or as root python3 dev.py test --all")
    os.environ["PATH"] = narrow_path()


def absent(*, large: bool) -> list[str]:
    """Packages of which no command is here."""
    wanted = [program for program in TEST_PROGRAMS if large or not program.is_large]
    return [program.package for program in wanted if not any(located(command) for command in program.commands)]


def located(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def narrow_path() -> str:
    """A folder of links to the base system and TEST_PROGRAMS: what else this machine has cannot hide a missing step.

    The base is what Debian calls required; on a system without dpkg the PATH stays as it is.
    """
    if shutil.which("dpkg-query") is None or os.environ.get("PATH") == str(TEST_PATH):
        return os.environ.get("PATH", "")
    declared = [name for program in TEST_PROGRAMS for name in (*program.commands, *program.companions)]
    links = {name: path for name in ["git", "python3", "awk", "which", *declared] if (path := located(name))}
    links |= {path.name: str(path) for path in base_programs()}
    TEST_PATH.mkdir(parents=True, exist_ok=True)
    for stale in set(os.listdir(TEST_PATH)) - set(links):
        (TEST_PATH / stale).unlink(missing_ok=True)
    for name, target in links.items():
        link = TEST_PATH / name
        if not link.is_symlink() or os.readlink(link) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return str(TEST_PATH)


def base_programs() -> list[Path]:
    query = ["dpkg-query", "--show", "--showformat", "${Priority} ${Package}\n"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    required = [line.split()[1] for line in listed if line.startswith("required ")]
    files = subprocess.run(["dpkg-query", "--listfiles", *required], capture_output=True, text=True, check=True)
    folders = {"/bin", "/sbin", "/usr/bin", "/usr/sbin"}
    return [Path(line) for line in files.stdout.splitlines() if os.path.dirname(line) in folders]


def apt_install(packages: Sequence[str]) -> None:
    """Install without starting the services of the packages."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        installed = passes("package lists", ["apt-get", "update", "-qq"]) and passes(
            "packages", ["apt-get", "install", *APT_OPTIONS, *packages]
        )
        if not installed:
            say("apt-get could not install them; what it said is above")
    finally:
        if ours:
            policy.unlink()


def node_packages(folder: Path) -> None:
    """What the package-lock.json of a folder names, installed beside it from npm; at once when it is there. Of several
    processes one installs. Raises RuntimeError with what npm said.
    """
    fingerprint = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / "turnkeep.stamp"
    (ROOT / ".dev").mkdir(exist_ok=True)
    with open(ROOT / ".dev" / f"npm-{folder.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == fingerprint:
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"npm ci in {folder.name}: {done.stderr[-500:]}")
        stamp.write_text(fingerprint)


def python_packages(folder: Path) -> Path:
    """What the requirements.txt of a folder names, in a folder of their own; at once when it is there. Raises
    RuntimeError with what uv said.
    """
    target = ROOT / ".dev" / f"python-{folder.name}"
    fingerprint = hashlib.sha256((folder / "requirements.txt").read_bytes()).hexdigest()
    stamp = target / "turnkeep.stamp"
    (ROOT / ".dev").mkdir(exist_ok=True)
    with open(ROOT / ".dev" / f"python-{folder.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == fingerprint:
            return target
        command = [uv(), "pip", "install", "--quiet", "--python", PYTHON, "--target", str(target), "--require-hashes"]
        command += ["-r", str(folder / "requirements.txt")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"uv pip install of {folder.name}: {done.stderr[-500:]}")
        stamp.write_text(fingerprint)
    return target


def passes(name: str, command: Sequence[str]) -> bool:
    """Run quietly; show the output only of what fails."""
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    say(f"{name}: {'failed' if done.returncode else 'ok'} ({time.monotonic() - start:.1f} s)")
    if done.returncode:
        print(done.stdout, flush=True)
    return done.returncode == 0


def run(command: Sequence[str]) -> int:
    with subprocess.Popen(command) as process:
        while True:
            with suppress(KeyboardInterrupt):  # the terminal told the child too: let it end in its own way
                return process.wait()


def become(command: Sequence[str]) -> int:
    """Run it in our place: who kills this process means what it has started."""
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], list(command))  # noqa: S606 - a shell would be one process more
    return run(command)


def must(command: Sequence[str]) -> None:
    if code := run(command):
        raise SystemExit(f"dev: {' '.join(command[:4])} … failed ({code}); what it said is above")


def say(text: str) -> None:
    print(f"dev: {text}", flush=True)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        raise SystemExit(f"dev: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    sys.exit(main(sys.argv[1:]))
