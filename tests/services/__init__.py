"""Real servers for tests: started on free loopback ports, with directories of their own, and surely killed.

Guarantees: `start` returns when the server answers; nothing outlives the test process, however that dies (a keeper
process holds the other end of a pipe and kills what is left); two test processes on one machine never share a port.
Calls block: in a coroutine use `async with`, or `await asyncio.to_thread(server.restart)`.
"""

from pathlib import Path

from tests.services.nginx import NginxServer
from tests.services.process import HOST, Server, eventually, free_port, hold_port, lives
from tests.services.rabbit import RabbitServer, rabbit_program
from tests.services.redis import RedisServer, redis_program, valkey_program
from tests.services.topologies import RedisCluster, RedisSentinel

__all__ = [
    "CHECKOUT",
    "HOST",
    "NginxServer",
    "RabbitServer",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "Server",
    "eventually",
    "free_port",
    "hold_port",
    "lives",
    "rabbit_program",
    "redis_program",
    "valkey_program",
]

CHECKOUT = Path(__file__).parents[2]
"""Where a process has to look for `tests`, wherever it is started."""
