"""`turnkeep repartition`: a Redis store cut into another number of partitions."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False)

Alone = Annotated[
    bool, typer.Option("--alone", help="Nobody else uses this store, whoever else is connected to its Redis.")
]


@app.command()
def repartition(
    partitions: Annotated[int, typer.Argument(metavar="N", help="A power of two from 16 to 1024.")],
    *,
    alone: Alone = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the Redis store into N partitions, while no other program uses it.

    The old ones count until all is copied and counted. Interrupted, the same again goes on; with
    the number of before it is undone.
    """
    outcome = asyncio.run(_copy(context.settings(), partitions, alone=alone))
    if as_json:
        output.emit(outcome)
    else:
        output.say(
            f"{outcome['threads']} threads and {outcome['dead_letters']} dead letters are in {outcome['partitions']}"
            f" partitions now ({outcome['before']} before)"
        )


def _tell(count: int, total: int) -> None:
    output.note(f"copied {count} of {total} parts")


async def _copy(settings: Settings, partitions: int, *, alone: bool) -> dict[str, int]:
    if settings.store_url.startswith(("memory:", "sqlite:")):
        raise ConfigurationError("only a Redis store is cut into partitions")
    from turnkeep.store.redis import RedisStore
    from turnkeep.store.redis.partition_copy import PartitionCopy

    store = RedisStore(
        settings.store_url, prefix=settings.redis_prefix, durability=settings.durability,
        replicas=settings.replicas, allow_unsafe=settings.allow_unsafe_redis,
    )  # fmt: skip
    store.may_be_changing = True
    await store.open()
    try:
        outcome = await PartitionCopy(store, partitions).run(is_alone=alone, progress=_tell)
    finally:
        await store.close()
    holdings = outcome.holdings
    return {
        "before": outcome.before, "partitions": outcome.partitions, "threads": holdings.threads,
        "keys": holdings.keys, "dead_letters": holdings.dead_letters,
    }  # fmt: skip
