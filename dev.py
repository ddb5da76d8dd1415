"""The desk: one command for each thing one does in this repository. Needs python3 (3.11 or newer), pip and git.

python3 dev.py up [ARG…]       start everything in one process (= turnkeep dev)
python3 dev.py test [ARG…]     all tests at reduced sizes; ARG… go to pytest
                               --no-install: never install missing test servers; --browser: install Chromium too
python3 dev.py prove [NAME…]   the tests that give figures, at full size, one line each
python3 dev.py check           lint, format, types, floors, lock file
python3 dev.py docs [ARG…]     the tests of the documentation alone
python3 dev.py bench [ARG…]    measure
python3 dev.py chaos [ARG…]    break things at random (--seed, --minutes)
python3 dev.py audit           known vulnerabilities and risky calls (asks pypi.org; 2: could not ask)
python3 dev.py lock [ARG…]     write requirements.lock anew (ARG… go to uv, such as --upgrade)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
LOCK = ROOT / "requirements.lock"
BOOT = ROOT / ".dev" / "boot"
APT_OPTIONS = ["-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
COMPILE = ["--universal", "--generate-hashes", "--no-emit-index-url", "--python-version", "3.11", "--extra", "all"]
GROUPS = ["--group", "test", "--group", "check", "--group", "build"]


def main(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if verb not in PROGRAMS and verb not in VERBS:
        print(f"dev: there is no {verb!r}; choose from {', '.join([*PROGRAMS, *VERBS])}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    if verb != "lock":
        prepare()
    return run([*PROGRAMS[verb], *rest]) if verb in PROGRAMS else VERBS[verb](rest)


def test(arguments: list[str]) -> int:
    for_pytest = [argument for argument in arguments if argument not in ("--no-install", "--browser")]
    browser = "--browser" in arguments or os.environ.get("CI") == "true"
    provide_servers(install="--no-install" not in arguments, browser=browser)
    workers = str(min(4, 2 * (os.cpu_count() or 1)))  # more than processors: many tests wait for servers
    return run([PYTHON, "-m", "pytest", "-n", workers, "--dist", "loadgroup", *for_pytest])


def prove(names: list[str]) -> int:
    provide_servers(install=True, browser=False)
    os.environ["TURNKEEP_PROVE"] = "1"
    only = ["-k", " or ".join(names)] if names else []
    return run([PYTHON, "-m", "pytest", "-m", "prove", "-q", "-s", "-p", "no:xdist", "--timeout", "3600", *only])


def check(_: list[str]) -> int:
    steps = {
        "lint": [str(BIN / "ruff"), "check", "."],
        "format": [str(BIN / "ruff"), "format", "--check", "."],
        "types": [str(BIN / "mypy")],
        "floors": [str(BIN / "lint-imports"), "--no-logo"],
    }
    failed = [name for name, command in steps.items() if not passes(name, command)]
    for path in [LOCK, *ROOT.glob("[!.]*/**/package-lock.json")]:
        if "node_modules" not in path.parts and "://" in path.read_text():
            say(f"{path.name} names an address; lock files hold names, versions and hashes only")
            failed.append("lock")
    say(f"check failed: {', '.join(failed)}" if failed else "check passed")
    return 1 if failed else 0


def audit(_: list[str]) -> int:
    """0: nothing found; 1: something found; 2: nothing found, but not everything could be asked."""
    calls = run([str(BIN / "bandit"), "-q", "-ll", "--skip", BY_RUFF, "-r", "src"])
    say(f"risky calls: {'see above' if calls else 'none'}")
    command = [str(BIN / "pip-audit"), "--require-hashes", "--disable-pip", "-f", "json", "-r", str(LOCK)]
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
    told = ["--custom-compile-command", "python3 dev.py lock", "--quiet", "-o", LOCK.name]
    return run([uv(), "pip", "compile", "pyproject.toml", *COMPILE, *GROUPS, *told, *arguments])


PROGRAMS = {
    "up": [str(BIN / "turnkeep"), "dev"],
    "docs": [PYTHON, "-m", "pytest", "tests/docs"],
    "bench": [PYTHON, "bench/run.py"],
    "chaos": [PYTHON, "-m", "turnkeep.testing.chaos"],
}
VERBS = {"test": test, "prove": prove, "check": check, "audit": audit, "lock": lock}


def prepare() -> None:
    """Make .venv what requirements.lock says; at once when it is already."""
    wanted, stamp = fingerprint(), VENV / "turnkeep.stamp"
    if Path(PYTHON).exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    say("preparing .venv from requirements.lock (the first time takes a minute)")
    if not Path(PYTHON).exists():
        shutil.rmtree(VENV, ignore_errors=True)
        must([uv(), "venv", "--quiet", "--python", sys.executable, str(VENV)])
    must([uv(), "pip", "sync", "--python", PYTHON, "--require-hashes", "--compile-bytecode", str(LOCK)])
    must([uv(), "pip", "install", "--quiet", "--python", PYTHON, "--no-deps", "--no-build-isolation", "-e", "."])
    stamp.write_text(wanted)


def fingerprint() -> str:
    return hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def uv() -> str:
    """uv from PATH, else our own copy."""
    own = BOOT / "bin" / "uv"
    found = shutil.which("uv") or shutil.which(own)
    if found is None:
        say("fetching uv into .dev/boot (once)")
        must([sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(BOOT), "uv"])
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # also behind a proxy with a certificate of its own
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
    return found or str(own)


def provide_servers(*, install: bool, browser: bool) -> None:
    """Install what the tests want to talk to and this machine does not have, or say what is skipped without it."""
    missing = absent(browser)
    if not missing:
        return
    if install and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing for the tests: {', '.join(missing)} (apt-get; nothing is started; --no-install refuses)")
        apt_install(missing)
    if missing := absent(browser=True):
        say(f"not installed: {', '.join(missing)}. Their tests are skipped; without redis-server a Valkey serves")
        say(f"to get them: apt-get install {' '.join(missing)} (elsewhere: brew install redis rabbitmq)")


def absent(browser: bool) -> list[str]:
    programs = {"redis-server": ["redis-server", "valkey-server"], "rabbitmq-server": ["rabbitmq-server"]}
    if browser:
        programs["chromium"] = ["chromium", "chromium-browser", "chromium-headless-shell", "google-chrome"]
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    return [name for name, any_of in programs.items() if not any(shutil.which(one, path=path) for one in any_of)]


def apt_install(packages: Sequence[str]) -> None:
    """Install without starting the services of the packages."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        if run(["apt-get", "update", "-q"]) or run(["apt-get", "install", *APT_OPTIONS, *packages]):
            say("apt-get could not install them")
    finally:
        if ours:
            policy.unlink()


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


def must(command: Sequence[str]) -> None:
    if code := run(command):
        raise SystemExit(f"dev: {' '.join(command[:4])} … failed ({code}); what it said is above")


def say(text: str) -> None:
    print(f"dev: {text}", flush=True)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        raise SystemExit(f"dev: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    sys.exit(main(sys.argv[1:]))
