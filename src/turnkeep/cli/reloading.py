"""`turnkeep dev --reload`: the same in a child process, started again when a watched file has
changed.

Nothing is lost by it: the child drains, and what it gives back the next one goes on with.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from turnkeep.cli import ENV_FILE, context, output
from turnkeep.cli.exit_codes import WRONG
from turnkeep.env_file import DEFAULT
from turnkeep.settings import Settings

EVERY = 0.25
"""Seconds between two looks at the files."""
GRACE = 10.0
"""Seconds beyond the drain that a child gets to end."""

Stamps = tuple[float | None, ...]


def words(options: Mapping[str, object | None], flags: Sequence[str]) -> list[str]:
    """The arguments of a child: options that have a value, and flags, by the names of parameters."""
    pairs = [(_option(name), str(value)) for name, value in options.items() if value is not None]
    return [*(word for pair in pairs for word in pair), *map(_option, flags)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(settings: Settings, arguments: Sequence[str]) -> int:
    """Keep a child running until a signal; its exit code."""
    env_file = context.env_file.get()
    files = [path for path in (settings.tools_file, env_file or DEFAULT) if path is not None]
    # A .env that nobody named is believed only so far: the child must be told by hand
    # what its parent was told by hand.
    env_option = [] if env_file is None else [ENV_FILE, str(env_file)]
    command = [sys.executable, "-m", "turnkeep", "dev", *env_option, *arguments]
    keeper = _Keeper(command, files, settings.drain + GRACE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, keeper.stop)
    return keeper.run()


class _Keeper:
    def __init__(self, command: Sequence[str], files: Sequence[Path], patience: float) -> None:
        self._command = command
        self._files = files
        self._patience = patience
        self._stopping = False

    def stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    def run(self) -> int:
        while True:
            stamps = self._stamps()
            # In a session of its own, Ctrl-C reaches the parent alone, which asks the child to
            # drain.
            with subprocess.Popen(self._command, start_new_session=True) as child:  # noqa: S603 - ourselves
                self._watch(child, stamps)
                # A wrong file is waited for until it is corrected; any other end is the child's
                # own.
                if not self._stopping and self._stamps() == stamps and child.returncode != WRONG:
                    return child.returncode
                self._end(child)
            if self._stopping:
                return child.returncode
            self._wait_for_change(stamps)
            if self._stopping:
                return WRONG
            output.note("a file has changed, starting again")

    def _watch(self, child: subprocess.Popen[bytes], stamps: Stamps) -> None:
        while not self._stopping and child.poll() is None and self._stamps() == stamps:
            time.sleep(EVERY)

    def _wait_for_change(self, stamps: Stamps) -> None:
        """After a child that could not start: until the file is corrected."""
        while not self._stopping and self._stamps() == stamps:
            time.sleep(EVERY)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        try:
            child.wait(self._patience)
        except subprocess.TimeoutExpired:
            child.kill()

    def _stamps(self) -> Stamps:
        return tuple(_modified_at(path) for path in self._files)


def _modified_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
