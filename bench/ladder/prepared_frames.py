"""The floor of a fan-out: one frame per token of the model, as long as ours, and its bytes written to every socket.

prepared_frames.py PORT MODEL_PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from typing import cast

import uvloop

TOKEN = b'{"message":"","status":"in_progress","delta":" token"' + b" " * 320 + b"}"
COMPLETED = b'{"status":"completed","type":"response"}'
SUBSCRIBERS: list[asyncio.Transport] = []


def frame(data: bytes) -> bytes:
    size = len(data)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + data


class ModelSide(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        frames = [frame(TOKEN)] * data.count(b"event: response.output_text.delta")
        if data.endswith(b"0\r\n\r\n"):
            frames.append(frame(COMPLETED))
        prepared = b"".join(frames)
        for subscriber in SUBSCRIBERS if prepared else ():
            subscriber.write(prepared)


class Subscriber(asyncio.Protocol):
    model_port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer, self._is_open = cast(asyncio.Transport, transport), b"", False

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport in SUBSCRIBERS:
            SUBSCRIBERS.remove(self._transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._buffer += data
            if b"\r\n\r\n" in self._buffer:
                self._greet()
            return
        text = unmasked(data)
        if b"subscribe" in text:
            SUBSCRIBERS.append(self._transport)
            self._transport.write(frame(b'{"status":"subscribed"}'))
        elif mode := re.search(rb"mode=([\w-]+)", text):
            self._asking = asyncio.ensure_future(self._ask(mode[1]))

    def _greet(self) -> None:
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", self._buffer)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
        head = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        self._transport.write(head + accept + b"\r\n\r\n")
        self._is_open = True

    async def _ask(self, mode: bytes) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(ModelSide, "127.0.0.1", self.model_port)
        transport.write(b"POST /%b/v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}" % mode)


def unmasked(data: bytes) -> bytes:
    size, start = data[1] & 127, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    mask = data[start : start + 4]
    return bytes(byte ^ mask[n % 4] for n, byte in enumerate(data[start + 4 : start + 4 + size]))


async def main(port: int, model_port: int) -> None:
    Subscriber.model_port = model_port
    server = await asyncio.get_running_loop().create_server(Subscriber, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:3])))
