"""The rows of the ladder, and the file that measures each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.ladder.figures import Figure
from bench.ladder.sizes import Size


@dataclass(frozen=True, slots=True)
class Program:
    """A file of this folder with `measure`."""

    name: str
    rows: tuple[int, ...]
    summary: str
    is_checked: bool = False
    """Has figures that are robust enough for `--check`."""

    @property
    def measure(self) -> Callable[[Size], Coroutine[Any, Any, Sequence[Figure]]]:
        measure: Callable[[Size], Coroutine[Any, Any, Sequence[Figure]]] = import_module(
            f"bench.ladder.{self.name}"
        ).measure
        return measure


PROGRAMS = (
    Program("first_event", (1, 2), "how much later the first token comes than from the model itself"),
    Program("tokens", (3, 4, 5, 7, 8), "a token on the whole path, with a thousand streams, by a pump of bytes", True),
    Program("fanout", (6, 15), "one thread to a thousand subscribers, by prepared frames; and idle sockets", True),
    Program("queue_life", (9,), "the life of a message on Redis, by BullMQ and by lean scripts", True),
    Program("sqlite_rates", (10,), "what SQLite takes in and ends a second, and its CPU by bare inserts"),
    Program("http_runs", (11,), "runs a second over HTTP, by a bare ASGI program that streams the same", True),
    Program("growth", (12, 13), "whether a message costs the same with more entries, threads, workers, partitions"),
    Program("processes", (12,), "what a run costs with 1, 2 and 4 processes on one port"),
    Program("idle_threads", (13,), "whether a message costs the same beside a million idle threads (minutes)"),
    Program("shards", (13,), "whether a message costs the same on a Redis Cluster of 1, 4 and 16 shards"),
    Program("commands", (2, 9), "what a turn asks of Redis, counted", True),
    Program("start", (8, 14, 15), "an empty process: its memory, its start, and what it costs idle", True),
)

PEERS = Program("peers", (1, 3, 9), "others that do the same work, each installed the first time (minutes)")


def chosen(words: Sequence[str]) -> list[Program]:
    """Those named, or with a row of that number; all, when none is. LookupError with the word that is neither."""
    for word in words:
        if not any(matches(program, word) for program in (*PROGRAMS, PEERS)):
            raise LookupError(word)
    named = [PEERS] if PEERS.name in words else []
    return [*(one for one in PROGRAMS if not words or any(matches(one, word) for word in words)), *named]


def matches(program: Program, word: str) -> bool:
    return word == program.name or (word.isdigit() and int(word) in program.rows)
