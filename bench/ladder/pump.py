"""The floor of a stream: a relay of bytes between a caller and the model, which understands nothing.

pump.py PORT MODEL_PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class ModelSide(asyncio.Protocol):
    def __init__(self, caller: asyncio.Transport) -> None:
        self._caller = caller

    def data_received(self, data: bytes) -> None:
        self._caller.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._caller.close()


class CallerSide(asyncio.Protocol):
    model_port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._early = cast(asyncio.Transport, transport), b""
        self._model: asyncio.Transport | None = None
        self._dialing = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        self._model, _ = await loop.create_connection(lambda: ModelSide(self._transport), "127.0.0.1", self.model_port)
        if self._early:
            self._model.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._model is None:
            self._early += data
        else:
            self._model.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._model is not None:
            self._model.close()


async def main(port: int, model_port: int) -> None:
    CallerSide.model_port = model_port
    server = await asyncio.get_running_loop().create_server(CallerSide, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:3])))
