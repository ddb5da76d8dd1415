"""Acts on threads that callers ask for in the same turn of the loop, in few scripts.

A script costs the same for its definitions, keys and round trip however much it does. So whoever
asks first waits for the end of the turn and acts for all; who asks alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import Any

from turnkeep.errors import TurnkeepError
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.redis.client.pipe import Argument
from turnkeep.store.redis.key_names import PartitionKeys, ThreadKeys

AT_ONCE = 16
"""Threads that one script acts on: it holds up everybody else on its server."""
MOST_ROWS = 256

Answer = Any
"""What the script tells of one thread, or the error that it met."""

Run = Callable[[Sequence[ThreadKeys], Sequence[Argument]], Awaitable[list[Answer]]]
"""Runs the script on threads: keys and rows of arguments of each, in order."""


@dataclass(frozen=True, slots=True)
class ThreadAct:
    """One act on one thread: its rows of arguments, and what stands in the first of them alone.

    Acts on the same thread with the same `terms` are one; None: never. A script that answers 'ok'
    and a part for each row is told apart again.
    """

    keys: ThreadKeys
    rows: tuple[tuple[Argument, ...], ...]
    head: tuple[Argument, ...] = ()
    terms: tuple[object, ...] | None = None


@dataclass(slots=True)
class _Bundle:
    """Acts that are one for the script, with the places of their answers."""

    act: ThreadAct
    places: list[tuple[int, int]]
    """Of each act, and how many rows it has."""
    rows: list[tuple[Argument, ...]]

    def arguments(self) -> list[Argument]:
        if self.act.terms is None:
            return [value for row in self.rows for value in row]
        blank = (b"",) * (1 + len(self.act.head))
        first, *others = self.rows
        return [b"1", *self.act.head, *first, *(value for row in others for value in (*blank, *row))]


@dataclass(slots=True)
class _Entry:
    acts: Sequence[ThreadAct]
    answers: asyncio.Future[list[Answer] | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class TickGroup:
    """One operation of an engine, for all who ask in one turn of the loop."""

    def __init__(self, run: Run, shelf: Callable[[PartitionKeys], int]) -> None:
        """`shelf`: partitions with the same one may be touched by one script."""
        self._run = run
        self._shelf = shelf
        self._lines: dict[int, _Line] = {}

    async def do(self, acts: Sequence[ThreadAct]) -> list[Answer]:
        """The answer to each; an error of one of them is its answer."""
        places: dict[int, list[int]] = {}
        for place, act in enumerate(acts):
            places.setdefault(self._shelf(act.keys.partition), []).append(place)
        if len(places) == 1:
            return await self._line(next(iter(places))).do(acts)
        answers: list[Answer] = [None] * len(acts)
        async with asyncio.TaskGroup() as group:
            for shelf, own in places.items():
                group.create_task(self._do_some(self._line(shelf), acts, own, answers))
        return answers

    async def _do_some(
        self, line: _Line, acts: Sequence[ThreadAct], places: Sequence[int], answers: list[Answer]
    ) -> None:
        for place, answer in zip(places, await line.do([acts[place] for place in places]), strict=True):
            answers[place] = answer

    def _line(self, shelf: int) -> _Line:
        if (line := self._lines.get(shelf)) is None:
            line = self._lines[shelf] = _Line(self._run)
        return line


class _Line:
    """Who asks for acts on one shelf. Each shelf has its own: a server that is away, or a slot on
    its way, holds up nobody else.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._entries: list[_Entry] = []

    async def do(self, acts: Sequence[ThreadAct]) -> list[Answer]:
        """Wait for the end of this turn of the loop, and act for all who have come until then; or
        be acted for.
        """
        entry = _Entry(acts)
        self._entries.append(entry)
        if len(self._entries) > 1:
            answers = await entry.answers
            # Whoever acted for all was cancelled, perhaps in the middle: again is the same.
            return await self._act(acts) if answers is None else answers
        entries: list[_Entry] = []
        try:
            await asyncio.sleep(0)
            entries, self._entries = self._entries, []
            answers = await self._act([act for one in entries for act in one.acts])
        except BaseException:
            if not entries:
                entries, self._entries = self._entries, []
            for one in entries:
                _tell(one, None)
            raise
        start = 0
        for one in entries:
            _tell(one, answers[start : start + len(one.acts)])
            start += len(one.acts)
        return answers[: len(acts)]

    async def _act(self, acts: Sequence[ThreadAct]) -> list[Answer]:
        answers: list[Answer] = [None] * len(acts)
        scripts = _in_scripts(acts)
        if len(scripts) == 1:
            await self._do_together(scripts[0], answers)
            return answers
        async with asyncio.TaskGroup() as group:
            for bundles in scripts:
                group.create_task(self._do_together(bundles, answers))
        return answers

    async def _do_together(self, bundles: Sequence[_Bundle], answers: list[Answer]) -> None:
        replies = await self._try(bundles)
        for bundle, reply in zip(bundles, replies, strict=True):
            # Of one that failed beside others is found out by itself what is wrong.
            if len(bundles) > 1 and isinstance(reply, list) and reply[0] == b"alone":
                [reply] = await self._try([bundle])  # noqa: PLW2901
            start = 1
            for place, count in bundle.places:
                is_whole = isinstance(reply, list) and reply[0] == b"ok"
                answers[place] = reply[start : start + count] if is_whole else reply
                start += count

    async def _try(self, bundles: Sequence[_Bundle]) -> list[Answer]:
        threads = [bundle.act.keys for bundle in bundles]
        arguments = [value for bundle in bundles for value in bundle.arguments()]
        try:
            return await self._run(threads, arguments)
        except TurnkeepError as error:
            return [error] * len(bundles)


def _tell(entry: _Entry, answers: list[Answer] | None) -> None:
    if not entry.answers.done():
        entry.answers.set_result(answers)


def _in_scripts(acts: Sequence[ThreadAct]) -> list[list[_Bundle]]:
    """A bounded number in each script, those of one thread in their order."""
    scripts: list[list[_Bundle]] = []
    by_name: dict[object, _Bundle] = {}
    order: Sequence[int] = range(len(acts))
    # Those of a partition in the same script, which reads and writes what they share once.
    if len(acts) > AT_ONCE:
        order = sorted(order, key=lambda place: acts[place].keys.partition.index)
    for place in order:
        act = acts[place]
        name = None if act.terms is None else (act.keys.address, act.terms)
        if name is not None and (bundle := by_name.get(name)) and len(bundle.rows) + len(act.rows) <= MOST_ROWS:
            bundle.places.append((place, len(act.rows)))
            bundle.rows += act.rows
            continue
        if not scripts or len(scripts[-1]) >= AT_ONCE:
            by_name = {}
            scripts.append([])
        bundle = _Bundle(act, [(place, len(act.rows))], list(act.rows))
        scripts[-1].append(bundle)
        if name is not None:
            by_name[name] = bundle
    return scripts
