"""Row 12: what a run costs when several processes share one port and one store (`serve --processes`).

Linear to the cores means: the CPU of a run stays the same. How many runs a second come of it depends on the cores that
are free beside the callers, the model and the Redis.
"""

from __future__ import annotations

from bench.ladder.figures import Figure, ratio
from bench.ladder.growth import FLAT
from bench.ladder.http_runs import Runs, clients
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack

COUNTS = (1, 2, 4)
WARM = 3
"""Rounds in which every process gets to load what its first run loads."""


async def measure(size: Size) -> list[Figure]:
    turns, figures = size.of(3, 20), list[Figure]()
    for engine in ("SQLite", "Redis"):
        found: dict[int, list[Runs]] = {count: [] for count in COUNTS}
        with Stack() as stack:
            model = stack.model()
            houses: dict[int, list[Part]] = {}
            for count in COUNTS:
                redis = stack.redis() if engine == "Redis" else None
                service = stack.service(model=model, redis=redis, TURNKEEP_PROCESSES=str(count))
                houses[count] = [service, *([redis] if redis else [])]
            for number in range(-WARM, size.rounds):
                for count, parts in houses.items():
                    runs = await clients(parts, parts[0].port, turns, f"n{number}-")
                    if number >= 0:
                        found[count].append(runs)
        one = [runs.cpu for runs in found[1]]
        for count in COUNTS[1:]:
            title = f"CPU of a run over HTTP, 1 to {count} processes, {engine}"
            figures.append(ratio(12, title, [runs.cpu for runs in found[count]], one, target=FLAT))
    return figures
