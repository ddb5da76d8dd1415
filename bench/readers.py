"""What one streamed token costs in a model client, beside a pump that only counts the bytes of the same stream.

    python bench/readers.py [--deltas 2000] [--rounds 5] [--paced] [--steps]

A server in a process of its own says a rendered stream, many events per write (or, paced, one event per write every
10 ms on 50 streams at once). Client and pump take turns in one process; figures are CPU of that process, and only the
ratios mean anything on another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import ClassVar, Literal, cast
from urllib.parse import urlsplit

import aiohttp
import uvloop
from baton import Baton, spare_collector

from turnkeep.messages import UserItem, text_content
from turnkeep.models import Provider, open_model
from turnkeep.models.model import Delta, Model, ModelRequest

WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " lazy", " dogs", " and", " runs")
REQUEST = ModelRequest("gpt-6-luna", [UserItem(text_content("hello"))])
STREAMS = 50
PAUSE = 0.01
Client = Callable[[], Awaitable[int]]
Kind = Literal["responses", "chat", "anthropic"]
KINDS: tuple[Kind, ...] = ("responses", "chat", "anthropic")
PATHS = {"responses": "/responses", "chat": "/chat/completions", "anthropic": "/messages"}
MARKS = {"responses": b'"delta":"', "chat": b'"content":"', "anthropic": b'"text":"'}
"""What the pump counts: once in each token."""


# ---------------------------------------------------------------- the server


def chunked(name: str, data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    event = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
    return f"{len(event):x}\r\n{event}\r\n".encode()


def responses_events(deltas: int) -> list[bytes]:
    item = {"id": "msg_" + "b" * 48, "type": "message", "role": "assistant", "status": "completed"}
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}

    def event(kind: str, number: int, **fields: object) -> bytes:
        return chunked(kind, {"type": kind, "sequence_number": number, **fields})

    words = [WORDS[i % 10] for i in range(deltas)]
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(words)}
    done = {**item, "content": [text]}
    usage = {"input_tokens": 20, "output_tokens": deltas}
    return [
        event("response.created", 0, response={"id": "resp_" + "a" * 48, "status": "in_progress"}),
        event("response.output_item.added", 1, output_index=0, item=item),
        *(event("response.output_text.delta", n, **place, delta=word, logprobs=[]) for n, word in enumerate(words, 2)),
        event("response.output_item.done", deltas + 2, output_index=0, item=done),
        event("response.completed", deltas + 3, response={"id": "resp_a", "output": [done], "usage": usage}),
        b"0\r\n\r\n",
    ]


def chat_events(deltas: int) -> list[bytes]:
    def event(delta: object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-" + "c" * 29, "object": "chat.completion.chunk", "created": 1790000000}
        return chunked("", {**head, "model": "gpt-6-luna", "service_tier": "default", "choices": [choice]})

    words = (event({"content": WORDS[i % 10]}) for i in range(deltas))
    return [event({"role": "assistant", "content": ""}), *words, event({}, "stop"), chunked("", "[DONE]"), b"0\r\n\r\n"]


def anthropic_events(deltas: int) -> list[bytes]:
    def event(kind: str, **fields: object) -> bytes:
        return chunked(kind, {"type": kind, **fields})

    usage = {"input_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": "msg_01" + "d" * 22, "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    words = (WORDS[i % 10] for i in range(deltas))
    return [
        event("message_start", message=begun),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        event("content_block_stop", index=0),
        event("message_delta", delta=ended, usage={"output_tokens": deltas}),
        event("message_stop"),
        b"0\r\n\r\n",
    ]


RENDERERS = {"responses": responses_events, "completions": chat_events, "messages": anthropic_events}
"""By the last word of the path."""


class Server(asyncio.Protocol):
    """Path: ``/<deltas>/<burst|paced>/v1/…``."""

    rendered: ClassVar[dict[tuple[str, int], list[bytes]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = cast("asyncio.Transport", transport), b""
        self.writable = asyncio.Event()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, rest = self.data.partition(b"\r\n\r\n")
        size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        if not end or len(rest) < size:
            return
        self.data = rest[size:]
        _, deltas, way, *_, last = head.split(b" ", 2)[1].decode().split("/")
        key = (last, int(deltas))
        if key not in self.rendered:
            self.rendered[key] = RENDERERS[last](key[1])
        self.task = asyncio.get_running_loop().create_task(self.say(self.rendered[key], way == "paced"))

    async def say(self, events: list[bytes], paced: bool) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        size = 1 if paced else 16
        for place in range(0, len(events), size):
            await (asyncio.sleep(PAUSE) if paced else self.writable.wait())
            if self.transport.is_closing():
                return
            self.transport.write(b"".join(events[place : place + size]))


def serve(say: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        say.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


# ---------------------------------------------------------------- the clients


class Pump(asyncio.Protocol):
    """Asks once and counts tokens in the raw bytes: the floor."""

    def __init__(self, mark: bytes) -> None:
        self.mark, self.count = mark, 0
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.count += data.count(self.mark)
        if data.endswith(b"0\r\n\r\n"):
            self.done.set_result(self.count)


def pump(port: int, path: str, mark: bytes) -> Client:
    async def ask() -> int:
        transport, protocol = await asyncio.get_running_loop().create_connection(lambda: Pump(mark), "127.0.0.1", port)
        transport.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        count = await protocol.done
        transport.close()
        return count

    return ask


def bytes_of(session: aiohttp.ClientSession, url: str, mark: bytes) -> Client:
    """aiohttp alone, counting: what is left to us is what we add to it."""

    async def ask() -> int:
        count = 0
        async with session.post(url, data=b"{}") as response:
            while data := await response.content.readany():
                count += data.count(mark)
        return count

    return ask


def client(model: Model) -> Client:
    async def ask() -> int:
        count = 0
        async for part in model.stream(REQUEST):
            if type(part) is Delta:
                count += 1
        return count

    return ask


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def cost(ask: Client, deltas: int, streams: int) -> float:
    """Microseconds of CPU per token."""
    before = cpu()
    counts = await asyncio.gather(*(ask() for _ in range(streams)))
    assert min(counts) >= deltas * 0.98, f"{min(counts)} of {deltas} tokens arrived"  # the pump misses marks cut in two
    return (cpu() - before) / (deltas * streams) * 1e6


async def compare(port: int, kind: Kind, deltas: int, rounds: int, paced: bool) -> None:
    base = f"http://127.0.0.1:{port}/{deltas}/{'paced' if paced else 'burst'}/v1"
    mark = MARKS[kind]
    model = open_model(Provider(base, is_simulated=True), kind)
    async with aiohttp.ClientSession() as session:
        clients = {
            "byte pump": pump(port, urlsplit(base).path + PATHS[kind], mark),
            "aiohttp, bytes": bytes_of(session, base + PATHS[kind], mark),
            "turnkeep": client(model),
        }
        figures: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(rounds + 1):
            for name, ask in clients.items():
                figure = await cost(ask, deltas, STREAMS if paced else 4)
                if number:  # the first round warms up
                    figures[name].append(figure)
    await model.close()
    tell(f"{kind}, {'paced' if paced else 'burst'}", {name: statistics.median(told) for name, told in figures.items()})


def tell(what: str, figures: dict[str, float]) -> None:
    floor = figures["byte pump"]
    for name, figure in figures.items():
        print(f"{what:17} {name:15} {figure:6.2f} us CPU per token, {figure / floor:5.1f}x the pump")


async def run_steps(port: int, kinds: Sequence[Kind], deltas: int, paced: bool) -> None:
    """Only the readers: one step for each."""
    baton = Baton()
    base = f"http://127.0.0.1:{port}/{deltas}/{'paced' if paced else 'burst'}/v1"
    models = {kind: open_model(Provider(base, is_simulated=True), kind) for kind in kinds}
    spare_collector()
    while True:
        for kind, model in models.items():
            figure = await cost(client(model), deltas, STREAMS if paced else 8)
            await baton.pass_on(kind, {"CPU us": figure})
        await baton.end_round()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--deltas", type=int)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--paced", action="store_true")
    arguments.add_argument("--steps", action="store_true", help="take turns with another program (baton.py)")
    chosen = arguments.parse_args()
    deltas = chosen.deltas or (120 if chosen.paced else 2000)
    hear, say = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(say,), daemon=True)
    server.start()
    try:
        port = hear.recv()
        kinds = [kind for kind in KINDS if kind != "anthropic" or find_spec("turnkeep.models.anthropic")]
        if chosen.steps:
            uvloop.run(run_steps(port, kinds, deltas, chosen.paced))
        for kind in kinds:
            uvloop.run(compare(port, kind, deltas, chosen.rounds, chosen.paced))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
