"""The first minutes of somebody new, timed: every command and sample of README, the tutorial and the "Coming from"
pages, as they are printed, each page in a clone of its own.

    python3 scripts/first_minutes.py [PAGE…] [--port N]

Needs python3, pip and git, and no more; `scripts/bare_machine.py --first-minutes` runs it on a machine that has nothing
else. One line for each step, with its seconds. Ends with 1 if a step failed, and shows what it said.

What stands in for what a page cannot know is in `STAND_INS`: this clone for the address of the repository, the
simulator for a model of one's own. What is asked of a person is answered with yes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/tutorial.md", *sorted(
    str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "coming-from").glob("*.md") if page.stem != "index"
)]  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
SERVERS = ("python3 dev.py up", "python main.py", "turnkeep dev", "turnkeep serve")
"""What goes on until it is ended: begun behind the page, and ended by the next one, or with the page."""
STAND_INS = {
    "git clone https://github.com/turnkeep/turnkeep": f"git clone --quiet '{ROOT}' turnkeep",
    "sk-…": "sk-test",
    "http://localhost:11434/v1": "http://127.0.0.1:11434/v1",
    "asst_…": "$(cat assistant)",
    "--create-assistant": "--create-assistant | tee said; grep -o 'asst_[0-9a-z]*' said | head -1 > assistant",
    "MESSAGE_ID": "$(grep -o 'msg_[0-9a-f]*' said | head -1)",
    "--status": "--status 2>&1 | tee said",
}
ASKS = re.compile(r"--clear-|--delete-")
"""A command that asks before it deletes: nobody is here to say yes."""
MODEL = "turnkeep simulate --port 11434 --key sk-test"
PORT = 8080
END = "that was it:"
PATIENCE = 600
"""Seconds until a step that does not end is a failure."""


@dataclass(frozen=True)
class Step:
    """A line of a page, or all its samples; `command` is what is typed for it."""

    text: str
    command: str


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pages", nargs="*", metavar="PAGE", default=PAGES)
    options.add_argument("--port", type=int, default=PORT, help="where the pages' server listens (8080)")
    asked = options.parse_args(arguments)
    results = []
    for name in asked.pages:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="first-minutes-") as folder:
            results.append(follow(Path(folder), ROOT / name, asked.port))
        print(f"{name}: {'as printed' if results[-1] else 'FAILED'}, {time.monotonic() - start:.1f} s in all\n")
    return 0 if all(results) else 1


def follow(folder: Path, page: Path, port: int) -> bool:
    """Do what a page says, step by step, until one fails."""
    with Terminal(folder, port) as terminal:
        for step in steps_of(page, folder):
            start = time.monotonic()
            if missing := absent(step.command):
                print(f"not tried  {step.text}: there is no {missing} here", flush=True)
                continue
            code, said = terminal.type(step.command)
            print(f"{time.monotonic() - start:7.1f} s  {step.text}", flush=True)
            if code:
                print(textwrap.indent(f"code {code}\n{said[-3000:]}", "    | "), flush=True)
                return False
    return True


def absent(command: str) -> str:
    """What this command needs and a bare machine may not have."""
    if "curl " in command and shutil.which("curl") is None:
        return "curl"
    if "python3 -m venv" in command and importlib.util.find_spec("ensurepip") is None:
        return "python3-venv"
    return ""


def steps_of(page: Path, folder: Path) -> Iterator[Step]:
    """Commands in their order. The samples of a page go on where earlier ones ended, so they are one program, at the
    place of the last one.
    """
    blocks = FENCE.findall(page.read_text())
    samples = [code for language, code in blocks if language == "python"]
    if not any("git clone" in code for _, code in blocks):
        yield from steps_before(page)
    seen = 0
    for language, code in blocks:
        if language == "python":
            seen += 1
            if seen == len(samples):
                (folder / "hello.py").write_text("\n\n".join(samples))
                words = "" if len(samples) == 1 else f"  # the {len(samples)} samples of the page, one after the other"
                yield Step(f"python hello.py{words}", "mv ../hello.py . && python hello.py")
        elif language in ("", "console"):
            for line in code.splitlines():
                if (command := command_of(line)) and command != "python hello.py":  # it comes with its text
                    yield Step(command, stand_in(command))


def steps_before(page: Path) -> Iterator[Step]:
    """Where pages begin in a clone: what the first of them says to do before, but the installing, which they repeat."""
    for _, code in FENCE.findall((page.parent / "index.md").read_text()):
        for command in filter(None, map(command_of, code.splitlines())):
            if not command.startswith("pip install"):
                yield Step(command, stand_in(command))


def command_of(line: str) -> str:
    """What is typed of a line, without its comment; nothing if it is what a program says."""
    if not line.startswith(("$ ", "git clone ", "python3 dev.py ", ". .venv/")):
        return ""
    return re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip().removesuffix(" &")


def stand_in(command: str) -> str:
    for printed, typed in STAND_INS.items():
        command = command.replace(printed, typed)
    return f"{command} --yes" if ASKS.search(command) else command


class Terminal:
    """A shell in which one thing is typed after the other, and what goes on behind it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._page = f"http://127.0.0.1:{port}/healthz"
        self._port = port
        reads, writes = os.pipe()
        self._shell = subprocess.Popen(
            ["sh", f"/dev/fd/{reads}"], cwd=folder, env=self._environment(), pass_fds=[reads], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        os.close(reads)
        self._keys = os.fdopen(writes, "w")

    def _environment(self) -> dict[str, str]:
        """What a new login has. A system without `python` gets one, and where no environment could be made pip
        installs beside the system's packages.
        """
        here = os.environ
        commands = self._folder / "bin"
        commands.mkdir()
        if shutil.which("python") is None:
            (commands / "python").symlink_to(sys.executable)
        own = {name: value for name, value in here.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
        pip = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        path = f"{commands}:{Path.home()}/.local/bin:{here.get('PATH', os.defpath)}"
        port = {} if self._port == PORT else {"TURNKEEP_PORT": str(self._port)}
        return {**own, **pip, **port, "PATH": path, "HOME": str(Path.home()), "LANG": "C.UTF-8"}

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._keys.close()

    def type(self, command: str) -> tuple[int, str]:
        """The code and what was said; of a server when it answers."""
        if command in SERVERS or command.startswith("turnkeep serve"):
            return self._begin(command)
        if "OPENAI_BASE_URL" in command:
            self._enter(f"{MODEL} > model.log 2>&1 &")
        return self._enter(command)

    def _begin(self, command: str) -> tuple[int, str]:
        self._enter('[ -z "$server" ] || { kill $server; wait $server; }')
        if answers(self._page):
            return 1, f"somebody else's server answers at {self._page}: end it, or choose another --port"
        self._enter(f"{command} > '{self._folder}/server.log' 2>&1 & server=$!")
        deadline = time.monotonic() + PATIENCE
        while not answers(self._page):
            gone, _ = self._enter("kill -0 $server 2>/dev/null")
            if gone or time.monotonic() > deadline:
                return 1, (self._folder / "server.log").read_text()
            time.sleep(0.05)
        return 0, ""

    def _enter(self, command: str) -> tuple[int, str]:
        self._keys.write(f"{command}\necho '{END}' $?\n")
        self._keys.flush()
        said = ""
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(self._shell.pid, signal.SIGKILL))
        signal.alarm(PATIENCE)
        for line in self._shell.stdout or ():
            if END in line:
                signal.alarm(0)
                return int(line.rpartition(END)[2]), said
            said += line
        return 1, f"{said}it ended, or did not end within {PATIENCE} s"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
