"""How programs that measure take turns: one step at a time, whoever has the baton.

A program with a baton (`--steps`) measures round after round. It writes the figures of each step as one line of JSON,
and goes on when a line comes back. Two that run beside each other so share every disturbance of the machine
(`comparison.py`).
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Mapping


def spare_collector() -> None:
    """As `turnkeep serve` does once it runs: else a program pays 10 to 30 ms for what it has imported, each at another
    step, which looks like a cost of that step.
    """
    gc.collect()
    gc.freeze()


class Baton:
    """Held by the program that may measure now."""

    async def pass_on(self, step: str, figures: Mapping[str, float]) -> None:
        """Give the figures of a step away, by unit, and return when it is this program's turn again."""
        await self._say({"step": step, "figures": figures})

    async def end_round(self) -> None:
        await self._say({"step": None, "figures": {}})

    async def _say(self, line: Mapping[str, object]) -> None:
        print(json.dumps(line), flush=True)
        if not await asyncio.to_thread(sys.stdin.readline):
            raise SystemExit(0)
