"""Makes what Redis holds in the current layout: python tests/data/layouts/make_redis.py URL, once, when one is made.

The file is never made again after that: it stands for what people have in their servers. A command a line, by which an
empty server gets all of it: readable, and the same for every server.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from tests.contract.suite.desk import POLICY
from tests.data.layouts.sample_threads import fill
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import LAYOUT, Policies
from turnkeep.testing import FakeClock, counting_ids

PREFIX = "old:"


async def make(url: str) -> None:
    clock = FakeClock()
    store = RedisStore(url, Policies(POLICY), prefix=PREFIX, allow_unsafe=True, ids=counting_ids(), now=clock)
    await fill(store, clock)


async def commands(redis: Any) -> list[list[str]]:
    rows: list[list[Any]] = []
    for key in sorted(await redis.keys(f"{PREFIX}*")):
        kind = await redis.type(key)
        if kind == b"hash":
            rows.append(["HSET", key, *(part for pair in sorted((await redis.hgetall(key)).items()) for part in pair)])
        elif kind == b"list":
            rows.append(["RPUSH", key, *await redis.lrange(key, 0, -1)])
        elif kind == b"zset":
            rows.append(
                [
                    "ZADD",
                    key,
                    *(
                        p
                        for name, score in await redis.zrange(key, 0, -1, withscores=True)
                        for p in (repr(score), name)
                    ),
                ]
            )
        elif kind == b"string":
            rows.append(["SET", key, await redis.get(key)])
        else:
            rows += [
                ["XADD", key, place, *(p for pair in fields.items() for p in pair)]
                for place, fields in await redis.xrange(key)
            ]
    return [[part if isinstance(part, str) else part.decode("latin-1") for part in row] for row in rows]


async def main(url: str) -> None:
    redis = Redis.from_url(url)
    await redis.flushall()
    await make(url)
    lines = b"\n".join(orjson.dumps(row) for row in await commands(redis))
    await redis.aclose()
    Path(__file__).with_name(f"redis-{LAYOUT}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
