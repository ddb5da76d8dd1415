"""A model server that costs next to nothing: answers of OpenAI's two protocols in bytes that are rendered once.

    model_server.py PORT

The last `mode=…` in a request chooses what comes: `burst-20`, twenty tokens as fast as they are read, or
`trickle-60-100`, sixty of them, one every 100 ms, all streams on one clock. Without one the path says it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import uvloop

WORDS = [" the", " quick", " brown", " fox", " jumps", " over", " lazy", " dogs", " and", " runs"]
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\nx-request-id: req_fake\r\n\r\n"
)
MODE = re.compile(rb"mode=(\w+-\d+(?:-\d+)?)")
END = b"0\r\n\r\n"
TOGETHER = 16
"""Tokens of a burst that are written at once."""

Rendering = tuple[bytes, list[bytes], bytes]
"""What comes before the tokens, each token, and what comes after them."""


def event(data: dict[str, Any] | str, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    first = f"event: {name}\n" if name else ""
    block = f"{first}data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(block), block)


@functools.cache
def responses(count: int) -> Rendering:
    """An answer of the Responses API."""
    words = [WORDS[n % 10] for n in range(count)]
    text, message_id = "".join(words), "msg_" + "b" * 48
    numbers = iter(range(10_000_000))

    def part(kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    def message(status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": message_id, "type": "message", "status": status, "role": "assistant", "content": content}

    place = {"item_id": message_id, "output_index": 0, "content_index": 0}
    whole = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    head = [
        part("response.created", response=response("in_progress", [], None)),
        part("response.in_progress", response=response("in_progress", [], None)),
        part("response.output_item.added", output_index=0, item=message("in_progress", [])),
        part("response.content_part.added", **place, part={**whole, "text": ""}),
    ]
    tokens = [
        part("response.output_text.delta", **place, delta=word, logprobs=[], obfuscation="x" * (16 - len(word)))
        for word in words
    ]
    usage = {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": count,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": count + 20,
    }
    tail = [
        part("response.output_text.done", **place, text=text, logprobs=[]),
        part("response.content_part.done", **place, part=whole),
        part("response.output_item.done", output_index=0, item=message("completed", [whole])),
        part("response.completed", response=response("completed", [message("completed", [whole])], usage)),
        END,
    ]
    return b"".join(head), tokens, b"".join(tail)


def response(status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "resp_" + "a" * 48, "object": "response", "created_at": 1_790_000_000, "status": status, "error": None,
        "incomplete_details": None, "instructions": None, "max_output_tokens": None,
        "model": "gpt-4o-mini-2024-07-18", "output": output, "parallel_tool_calls": True,
        "previous_response_id": None, "reasoning": {"effort": None, "summary": None}, "store": True,
        "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "usage": usage, "user": None, "metadata": {},
    }  # fmt: skip


@functools.cache
def chat(count: int) -> Rendering:
    """An answer of Chat Completions, for peers that speak it."""

    def chunk(delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}] if usage is None else []
        return event({
            "id": "chatcmpl-" + "c" * 29, "object": "chat.completion.chunk", "created": 1_790_000_000,
            "model": "gpt-4o-mini-2024-07-18", "service_tier": "default", "system_fingerprint": "fp_0123456789",
            "choices": choices, "usage": usage,
        })  # fmt: skip

    usage = {"prompt_tokens": 20, "completion_tokens": count, "total_tokens": count + 20}
    head = chunk({"role": "assistant", "content": "", "refusal": None})
    tail = chunk({}, "stop") + chunk({}, usage=usage) + event("[DONE]") + END
    return head, [chunk({"content": WORDS[n % 10]}) for n in range(count)], tail


class Pace:
    """One clock for all streams of one interval: a timer per stream would measure timers."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._streams: dict[Server, tuple[Iterator[bytes], bytes]] = {}
        self._running: asyncio.Task[None] | None = None

    def add(self, server: Server, tokens: list[bytes], tail: bytes) -> None:
        self._streams[server] = (iter(tokens), tail)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        due = time.monotonic()
        while self._streams:
            due += self._seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for server, (tokens, tail) in list(self._streams.items()):
                token = next(tokens, None)
                if token is None or server.is_closing:
                    self._streams.pop(server)
                server.write(tail if token is None else token)
        self._running = None


PACES: dict[int, Pace] = {}


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = cast(asyncio.Transport, transport), b""
        self._may_write = asyncio.Event()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._may_write.set()

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(found[1]) if (found := re.search(rb"content-length: *(\d+)", head)) else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path.endswith("/models"):
            models = b'{"object":"list","data":[{"id":"gpt-4o-mini","object":"model","created":1,"owned_by":"x"}]}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(models)
            self.write(head + models)
            return
        modes = MODE.findall(body)
        kind, count, *interval = (modes[-1].decode() if modes else path.split("/")[1]).split("-")
        rendering = (responses if "responses" in path else chat)(int(count))
        if kind == "burst":
            asyncio.get_running_loop().create_task(self._burst(*rendering))
            return
        head, tokens, tail = rendering
        self.write(HEAD + head)
        PACES.setdefault(int(interval[0]), Pace(int(interval[0]) / 1000)).add(self, tokens, tail)

    async def _burst(self, head: bytes, tokens: list[bytes], tail: bytes) -> None:
        self.write(HEAD + head)
        for place in range(0, len(tokens), TOGETHER):
            await self._may_write.wait()
            if self.is_closing:
                return
            self.write(b"".join(tokens[place : place + TOGETHER]))
        self.write(tail)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
