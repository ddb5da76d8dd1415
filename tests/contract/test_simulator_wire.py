"""The simulator as other processes meet it: bytes on a socket, control routes, a ledger that survives."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.conversations import Conversation, ConversationItemList
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseItemList, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import TypeAdapter

from tests.patience import PATIENCE
from turnkeep.clock import SystemClock
from turnkeep.simulator import ExchangeLedger, Options, Simulator, StreamPace, serve

MODEL = "gpt-4o-mini"
Json = dict[str, Any]
BEARER = {"Authorization": "Bearer k"}


class Caller:
    """A client that knows nothing."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def json(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        async with self.session.request(method, self.base + path, data=data, **more) as reply:
            return reply.status, orjson.loads(await reply.read())

    async def stream(self, body: Json, path: str = "/v1/responses") -> aiohttp.ClientResponse:
        full = {"model": MODEL, "stream": True, "store": False, **body}
        return await self.session.post(self.base + path, data=orjson.dumps(full))


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(seed=1)


@pytest.fixture
async def caller(simulator: Simulator) -> AsyncIterator[Caller]:
    async with serve(simulator) as url, aiohttp.ClientSession() as session:
        yield Caller(session, url.removesuffix("/v1"))


async def test_frames_have_event_and_data_lines(caller: Caller) -> None:
    async with await caller.stream({"input": "hello"}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        raw = await reply.read()
    frames = raw.split(b"\n\n")
    assert frames.pop() == b""
    for frame in frames:
        first, second = frame.split(b"\n")
        assert first == b"event: " + orjson.loads(second.removeprefix(b"data: "))["type"].encode()
    assert b"[DONE]" not in raw


TYPES: dict[str, Any] = {
    "event": ResponseStreamEvent,
    "response": OpenAIResponse,
    "chunk": ChatCompletionChunk,
    "completion": ChatCompletion,
    "conversation": Conversation,
    "items": ConversationItemList,
    "given": ResponseItemList,
    "counted": InputTokenCountResponse,
}


async def test_every_reply_has_all_the_fields_of_its_published_type(caller: Caller) -> None:
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    texts = ("[[reason]] hi", "[[call:f]] [[call:f]]", "[[refuse]]", "[[length]]", "x [[fault:early-error]]")
    for text in texts:
        asked = {"input": text, "tools": [tool], "reasoning": {"summary": "auto"}, "stream": True}
        async with await caller.stream(asked) as reply:
            frames = (await reply.read()).split(b"\n\n")[:-1]
        for frame in frames:
            _check("event", orjson.loads(frame.split(b"\ndata: ")[1]))
        chat = {"messages": [{"role": "user", "content": text}], "stream_options": {"include_usage": True}}
        async with await caller.stream(chat, "/v1/chat/completions") as reply:
            frames = (await reply.read()).split(b"\n\n")[:-1]
        for frame in frames:
            if frame != b"data: [DONE]" and b'"error"' not in frame:
                _check("chunk", orjson.loads(frame.removeprefix(b"data: ")))
        del chat["stream_options"]
        _check("completion", (await caller.json("POST", "/v1/chat/completions", {"model": MODEL, **chat}))[1])
    _, talk = await caller.json("POST", "/v1/conversations", {"items": [{"role": "user", "content": "x"}]})
    _check("conversation", talk)
    _check("items", (await caller.json("GET", f"/v1/conversations/{talk['id']}/items"))[1])
    asked = {"model": MODEL, "input": "[[reason]] y", "conversation": talk["id"]}
    _, response = await caller.json("POST", "/v1/responses", asked)
    _check("response", response)
    _check("given", (await caller.json("GET", f"/v1/responses/{response['id']}/input_items"))[1])
    _check("counted", (await caller.json("POST", "/v1/responses/input_tokens", {"model": MODEL, "input": "x"}))[1])


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(TYPES[name])


def _check(name: str, value: Any) -> None:
    _adapter(name).validate_python(value)


async def test_some_clones_end_responses_with_done(caller: Caller) -> None:
    async with await caller.stream({"input": "x"}, "/quirk/vllm/v1/responses") as reply:
        assert (await reply.read()).endswith(b"data: [DONE]\n\n")


async def test_line_ends_can_be_crlf(caller: Caller) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    async with await caller.stream(body, "/quirk/crlf/v1/chat/completions") as reply:
        raw = await reply.read()
    assert raw.count(b"\n") == raw.count(b"\r\n") > 0


async def test_equal_seeds_and_requests_give_equal_bytes() -> None:
    async def taken(seed: int) -> bytes:
        from turnkeep.testing.fake_clock import FakeClock

        async with serve(Simulator(seed=seed, clock=FakeClock())) as url, aiohttp.ClientSession() as session:
            parts = []
            for text in ("one", "[[call:f]]", "[[reason]] two"):
                async with await Caller(session, url.removesuffix("/v1")).stream({"input": text}) as reply:
                    parts.append(await reply.read())
        return b"".join(parts)

    assert await taken(3) == await taken(3)
    assert await taken(3) != await taken(4)


# ---------------------------------------------------------------- the client leaves


async def test_a_client_that_leaves_is_noticed_and_timed(caller: Caller, simulator: Simulator) -> None:
    simulator.pace = StreamPace(token=3600)
    reply = await caller.stream({"input": "x", "metadata": {"turnkeep_thread": "t", "turnkeep_run": "r"}})
    await reply.content.readline()
    assert (await caller.json("GET", "/_sim/open"))[1]["open"] == 1
    reply.close()
    await _quiet(simulator)
    (exchange,) = simulator.ledger.closed_by_client
    assert (exchange.thread, exchange.run) == ("t", "r")
    assert exchange.finished is not None
    assert exchange.finished >= exchange.arrived


async def test_a_client_that_leaves_while_nothing_is_streamed_is_noticed(caller: Caller, simulator: Simulator) -> None:
    simulator.pace = StreamPace(first=3600)
    with pytest.raises(TimeoutError):
        await caller.json(
            "POST", "/v1/responses", {"model": MODEL, "input": "x"}, timeout=aiohttp.ClientTimeout(total=0.2)
        )
    await _quiet(simulator)
    assert len(simulator.ledger.closed_by_client) == 1


async def test_leaving_after_the_end_is_no_disconnect(caller: Caller, simulator: Simulator) -> None:
    reply = await caller.stream({"input": "x"})
    while b"response.completed" not in await reply.content.readline():
        pass
    reply.close()
    assert [exchange.outcome for exchange in simulator.ledger] == ["completed"]


async def test_two_requests_of_a_thread_at_once_are_told(caller: Caller, simulator: Simulator) -> None:
    simulator.pace = StreamPace(token=3600)
    labels = {"turnkeep_thread": "t"}
    first = await caller.stream({"input": "a", "metadata": labels})
    second = await caller.stream({"input": "b", "metadata": labels})
    await first.content.readline()
    await second.content.readline()
    _, told = await caller.json("GET", "/_sim/ledger?thread=t")
    assert told["overlaps"] == [[1, 2]]
    first.close()
    second.close()


# ---------------------------------------------------------------- faults on the wire


async def test_a_cut_arrives_within_a_frame(caller: Caller) -> None:
    chunks: list[bytes] = []
    async with await caller.stream({"input": "[[words:9]] [[fault:cut after=3]]"}) as reply:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _collect(reply, chunks)
    raw = b"".join(chunks)
    assert raw.count(b"event: response.output_text.delta\n") in (3, 4)
    assert not raw.endswith(b"\n\n")


async def test_a_reset_is_a_reset(caller: Caller) -> None:
    async with await caller.stream({"input": "[[words:9]] [[fault:cut how=reset]]"}) as reply:
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):
            await reply.read()


async def test_a_stall_ends_when_told(caller: Caller, simulator: Simulator) -> None:
    simulator.options = simulator.options.but({"ping": 0.01})
    async with await caller.stream({"input": "[[fault:stall after=1 seconds=0.1]]"}) as reply:
        raw = await reply.read()
    assert b": ping\n\n" in raw
    assert b"response.completed" in raw


async def test_html_with_200(caller: Caller) -> None:
    async with await caller.stream({"input": "[[fault:html]]"}) as reply:
        assert (reply.status, reply.content_type) == (200, "text/html")


async def test_malformed_json_in_both_forms(caller: Caller) -> None:
    async with await caller.stream({"input": "a [[fault:garbage]]"}) as reply:
        assert b'"unfin\n\n' in await reply.read()
    async with await caller.stream({"input": "b [[fault:garbage]]", "stream": False}) as reply:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(await reply.read())


async def test_a_lost_reply_was_seen(caller: Caller, simulator: Simulator) -> None:
    with pytest.raises(aiohttp.ClientError):
        await caller.stream({"input": "x [[fault:accepted-then-lost]]"})
    (exchange,) = simulator.ledger
    assert (exchange.outcome, exchange.new) == ("lost", ["x [[fault:accepted-then-lost]]"])
    async with await caller.stream({"input": "x [[fault:accepted-then-lost]]"}) as reply:
        assert b"response.completed" in await reply.read()


async def test_connections_are_refused_for_a_while(caller: Caller) -> None:
    assert (await caller.json("POST", "/_sim/refuse", {"seconds": 0.3}))[0] == 200

    async def answers() -> bool:
        try:
            return (await caller.json("GET", "/_sim/"))[0] == 200
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.01)
            return False

    async with asyncio.timeout(PATIENCE):
        while await answers():
            pass
        while not await answers():
            pass


# ---------------------------------------------------------------- nonsense


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"model": NaN}', b'{"model":"m","input":"\\ud800"}'),
        *(b'{"model":"m","input":[[]]}', b'{"model":"m","input":{"a":1}}', b'{"model":[],"input":"x"}'),
        *(b'{"model":"m","input":"x","tools":[1]}', b'{"model":"m","input":"x","conversation":5}'),
        b'{"model":"m","input":"x","tool_choice":7,"text":{"format":{"type":"json_schema"}},"reasoning":{"effort":{}}}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/conversations"])
async def test_nonsense_is_refused_politely(caller: Caller, simulator: Simulator, path: str, body: bytes) -> None:
    status, reply = await caller.json("POST", path, body)
    if path == "/v1/conversations" and body == b"":
        assert status == 200
    else:
        assert status in (400, 404)
        assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert simulator.ledger.open_count == 0


async def test_too_large_bodies_are_refused(caller: Caller, simulator: Simulator) -> None:
    simulator.options = simulator.options.but({"max_body": 1000})
    status, reply = await caller.json("POST", "/v1/responses", {"model": MODEL, "input": "x" * 2000})
    assert (status, reply["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("POST", "/v1/threads"), ("PUT", "/v1/models")])
async def test_unknown_addresses_have_the_platforms_shape(caller: Caller, method: str, path: str) -> None:
    status, reply = await caller.json(method, path)
    assert status in (404, 405)
    assert reply["error"]["message"] == f"Invalid URL ({method} {path})"
    assert (await caller.json("GET", "/quirk/nonsense/v1/models"))[0] == 200
    assert (await caller.json("POST", "/quirk/nonsense/v1/responses", {}))[0] == 404


# ---------------------------------------------------------------- control


async def test_another_process_can_steer(caller: Caller) -> None:
    post = "POST"
    assert (await caller.json(post, "/_sim/script", {"replies": ["[[say:scripted]]"], "default": "[[say:rest]]"}))[
        0
    ] == 200
    texts = []
    for _ in range(2):
        _, reply = await caller.json(post, "/v1/responses", {"model": MODEL, "input": "x"})
        texts.append(reply["output"][0]["content"][0]["text"])
    assert texts == ["scripted", "rest"]
    await caller.json(post, "/_sim/faults", [{"kind": "500", "match": "x"}, {"kind": "429", "times": 2}])
    statuses = [(await caller.json(post, "/v1/responses", {"model": MODEL, "input": "x"}))[0] for _ in range(4)]
    assert statuses == [500, 429, 429, 200]
    await caller.json(post, "/_sim/faults", {"kind": "503", "times": None})
    assert len((await caller.json("DELETE", "/_sim/faults"))[1]["faults"]) == 0
    assert (await caller.json(post, "/_sim/pace", {"token": 0.5}))[1] == {"first": 0.0, "token": 0.5}
    assert (await caller.json(post, "/_sim/options", {"region": "eu"}))[0] == 200
    _, told = await caller.json("GET", "/_sim/ledger?after=2&limit=2")
    assert [exchange["status"] for exchange in told["exchanges"]] == [429, 200]
    assert (await caller.json(post, "/_sim/reset"))[0] == 200
    assert (await caller.json("GET", "/_sim/ledger"))[1]["exchanges"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("script", {"replies": "x"}),
        ("faults", {"kind": "nonsense"}),
        ("faults", {"kind": "500", "colour": 1}),
        ("faults", [5]),
        ("pace", {"first": "soon"}),
        ("options", {"colour": 1}),
        ("refuse", {"seconds": -1}),
        ("options", []),
    ],
)
async def test_wrong_orders_are_refused(caller: Caller, path: str, body: Any) -> None:
    status, reply = await caller.json("POST", f"/_sim/{path}", body)
    assert status == 400
    assert reply["error"]["message"]


async def test_labels_of_both_protocols_are_recorded(caller: Caller) -> None:
    labels = {f"turnkeep_{name}": name for name in ("run", "thread", "attempt", "tenant")}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "metadata": labels}
    await caller.json("POST", "/v1/chat/completions", body, headers={"X-Client-Request-Id": "abc"})
    del body["metadata"]
    headers = {f"X-Turnkeep-{name.title()}": name for name in ("run", "thread", "attempt", "tenant")}
    await caller.json("POST", "/v1/chat/completions", body, headers=headers)
    _, told = await caller.json("GET", "/_sim/ledger?text=x")
    seen = [[exchange[name] for name in ("run", "thread", "attempt", "tenant")] for exchange in told["exchanges"]]
    assert seen == [["run", "thread", "attempt", "tenant"]] * 2
    assert told["exchanges"][0]["client_request_id"] == "abc"


async def test_bodies_are_kept_when_asked(caller: Caller, simulator: Simulator) -> None:
    simulator.options = simulator.options.but({"keep_bodies": True})
    await caller.json("POST", "/v1/responses", {"model": MODEL, "input": "x"})
    assert [exchange.body for exchange in simulator.ledger] == [{"model": MODEL, "input": "x"}]


async def test_hundreds_of_streams_at_once(caller: Caller, simulator: Simulator) -> None:
    simulator.pace = StreamPace(token=0.001)

    async def one(n: int) -> bool:
        reply = await caller.stream({"input": f"[[words:10]] {n}", "metadata": {"turnkeep_thread": str(n)}})
        async with reply:
            return b"response.completed" in await reply.read()

    caller.session._connector._limit = 0  # type: ignore[union-attr]
    assert all(await asyncio.gather(*(one(n) for n in range(300))))
    assert simulator.ledger.overlaps() == []
    assert {exchange.outcome for exchange in simulator.ledger} == {"completed"}


# ---------------------------------------------------------------- its own process


async def test_a_killed_simulator_leaves_its_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "turnkeep.simulator",
            "--port",
            "0",
            "--key",
            "k",
            "--ledger",
            str(file),
            "--token",
            "1000",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        base = line.decode().split()[-1].removesuffix("/v1")
        async with (
            aiohttp.ClientSession(headers=BEARER) as session,
            await Caller(session, base).stream({"input": "seen"}) as reply,
        ):
            await reply.content.readline()
            process.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await reply.read()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    (exchange,) = ExchangeLedger.load(file, SystemClock())
    assert (exchange.outcome, exchange.new) == ("open", ["seen"])


async def test_clients_that_leave_all_at_once_are_told_apart_and_nothing_breaks(tmp_path: Path) -> None:
    with (tmp_path / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "turnkeep.simulator", "--port", "0", "--key", "k", "--first", "0", "--token", "5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(headers=BEARER) as session:
            caller = Caller(session, (await process.stdout.readline()).decode().split()[-1].removesuffix("/v1"))

            async def leave(n: int) -> None:
                reply = await caller.stream({"input": f"[[words:3000]] {n}"})
                await reply.content.readany()
                reply.close()

            await asyncio.gather(*(leave(n) for n in range(60)))
            while (await caller.json("GET", "/_sim/open"))[1]["open"]:
                pass
            _, told = await caller.json("GET", "/_sim/ledger")
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    assert {exchange["outcome"] for exchange in told["exchanges"]} == {"closed_by_client"}
    assert (tmp_path / "errors").read_bytes() == b""


async def test_it_stops_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "turnkeep.simulator", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            assert b"http://127.0.0.1:" in await process.stdout.readline()
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def test_what_memory_forgets_the_file_keeps(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    simulator = Simulator(options=Options(ledger_file=file, ledger_limit=1))
    async with serve(simulator) as url, aiohttp.ClientSession() as session:
        caller = Caller(session, url.removesuffix("/v1"))
        for n in range(3):
            await caller.json("POST", "/v1/responses", {"model": MODEL, "input": str(n)})
        assert len((await caller.json("GET", "/_sim/ledger"))[1]["exchanges"]) == 1
    assert len(ExchangeLedger.load(file, SystemClock())) == 3


async def _quiet(simulator: Simulator) -> None:
    async with asyncio.timeout(PATIENCE):
        await simulator.ledger.quiet()


async def _collect(reply: aiohttp.ClientResponse, chunks: list[bytes]) -> None:
    async for chunk in reply.content.iter_any():
        chunks.append(chunk)
