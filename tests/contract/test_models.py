"""What every model promises, kept over real sockets against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from tests.collector import nothing_left
from tests.contract import asking
from tests.contract.asking import (
    GOOD,
    HELLO,
    KEY,
    PROTOCOLS,
    TEXT,
    ask,
    finish_of,
    items_of,
    opened,
    push,
    recorded,
    stream_of,
    text_of,
    told_by,
)
from tests.contract.canned import Visit, canned
from tests.patience import PATIENCE
from turnkeep.errors import (
    AnswerMalformed,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    QuotaExhausted,
)
from turnkeep.messages import (
    AssistantItem,
)
from turnkeep.models.http_client import Reply
from turnkeep.models.model import Began, Delta, StreamPart

# ---------------------------------------------------------------- the contract, in each protocol


@pytest.fixture(autouse=True, params=[False, True], ids=["stream", "push"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which text comes out of a model."""
    monkeypatch.setattr(asking, "IS_PUSHED", request.param)


@PROTOCOLS
async def test_an_answer_begins_once_then_gives_text_and_items_and_finishes_last(kind: str) -> None:
    parts = await told_by(recorded(GOOD[kind]), kind)
    assert isinstance(parts[0], Began)
    assert sum(isinstance(part, Began) for part in parts) == 1
    assert text_of(parts) == TEXT[kind]
    (item,) = items_of(parts)
    assert isinstance(item, AssistantItem)
    assert item.text == TEXT[kind]
    assert finish_of(parts).reason == "stop"
    named = ("claude-sonnet-5-5", "standard") if kind == "anthropic" else ("gpt-6-luna-2026-09-22", "default")
    assert (finish_of(parts).model, finish_of(parts).tier) == named


@PROTOCOLS
@pytest.mark.parametrize(("left", "wait"), [("99", None), ("0", 7.5)], ids=["something is left", "nothing is left"])
async def test_the_beginning_carries_the_names_that_the_provider_gave_and_its_wait(
    kind: str, left: str, wait: float | None
) -> None:
    limits: dict[str, Any] = {"X_RateLimit_Remaining_Tokens": left, "X_RateLimit_Reset_Tokens": "7.5s"}

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]), X_Request_Id="req_7", **limits)

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
    began = parts[0]
    assert isinstance(began, Began)
    assert began.request_id == "req_7"
    assert began.wait == wait
    names = {
        "responses": "resp_68f1c0de7b1c8191a6d0b1f2c3d4e5f60a1b2c3d4e5f6071",
        "chat": "chatcmpl-CqZ0kTq4uS1mX",
        "anthropic": "msg_01Xk3f9QvT",
    }
    assert began.response_id == names[kind]


@PROTOCOLS
async def test_every_token_is_given_as_soon_as_it_is_here(kind: str) -> None:
    """The server says the next piece only after the client has shown the one before."""
    shown = asyncio.Event()
    pieces = recorded(GOOD[kind]).split(b"\n\n")

    async def answer(visit: Visit) -> None:
        visit.begin()
        for piece in pieces[:-1]:
            visit.say(piece + b"\n\n")
            if b'"content":"The"' in piece or b'delta":"Gr"' in piece:
                await shown.wait()
        visit.end()

    async with canned(answer) as server:
        model = opened(server, kind)
        async for _ in push(model, HELLO, lambda _: shown.set()):
            pass
        await model.close()
    assert shown.is_set()


class _NoRoom(Exception): ...


@PROTOCOLS
async def test_an_error_of_whoever_is_told_text_ends_the_stream_and_the_connection(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        for event in recorded(GOOD[kind]).split(b"\n\n")[:-1]:
            visit.say(event + b"\n\n")
            await asyncio.sleep(0.01)
        visit.end()

    def refuse(_: str) -> None:
        raise _NoRoom

    async with canned(answer) as server:
        model = opened(server, kind)
        with pytest.raises(_NoRoom):
            async for _ in push(model, HELLO, refuse):
                pass
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)
        await model.close()


@PROTOCOLS
async def test_text_waits_while_its_reader_is_busy_with_the_part_before_it(kind: str) -> None:
    """What is told first is done first, though text needs no reader."""
    texts: list[str] = []
    said = asyncio.Event()

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))
        said.set()

    async with canned(answer) as server:
        model = opened(server, kind)
        async with aclosing(push(model, HELLO, texts.append)) as parts:
            assert isinstance(await anext(parts), Began)
            await said.wait()
            await asyncio.sleep(0.2)
            assert texts == []
            rest = [part async for part in parts]
        await model.close()
    assert "".join(texts) == TEXT[kind]
    assert finish_of(rest).reason == "stop"


@PROTOCOLS
async def test_an_answer_cut_into_single_bytes_is_the_same_answer(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        stream = recorded(GOOD[kind])
        for place in range(len(stream)):
            visit.say(stream[place : place + 1])
            if place % 512 == 0:
                await asyncio.sleep(0)
        visit.end()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
    assert parts[1:] == (await told_by(recorded(GOOD[kind]), kind))[1:]


@PROTOCOLS
async def test_a_connection_serves_again_after_a_finished_answer(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))

    async with canned(answer) as server:
        model = opened(server, kind)
        for _ in range(3):
            finish_of([part async for part in stream_of(model)])
        await model.close()
        assert [visit.connection for visit in server.visits] == [1, 1, 1]


@PROTOCOLS
async def test_an_answer_leaves_nothing_to_the_collector(kind: str) -> None:
    """Which looks at what is old once in some million objects: a server would grow with each answer until then."""

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))

    async with canned(answer) as server:
        model = opened(server, kind)
        with nothing_left(Reply):
            for _ in range(2):
                finish_of([part async for part in stream_of(model)])
        await model.close()


@PROTOCOLS
async def test_a_connection_whose_end_comes_a_moment_late_serves_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.models.http_client.TAIL_TIME", 20.0)

    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind]))
        await asyncio.sleep(0.05)
        visit.end()

    async with canned(answer) as server:
        model = opened(server, kind)
        for _ in range(2):
            finish_of([part async for part in stream_of(model)])
        await model.close()
        assert [visit.connection for visit in server.visits] == [1, 1]


@PROTOCOLS
async def test_a_server_that_keeps_the_connection_open_after_the_end_holds_nobody_up(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind]))
        await visit.left.wait()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)
    assert finish_of(parts).reason == "stop"


@PROTOCOLS
async def test_closing_the_iterator_closes_the_connection(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:-300])
        await visit.left.wait()

    async with canned(answer) as server:
        model = opened(server, kind)
        async with aclosing(model.stream(HELLO)) as stream:
            async for part in stream:
                if isinstance(part, Delta):
                    break
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)
        await model.close()


@PROTOCOLS
@pytest.mark.parametrize("moment", ["before the head", "between events"])
async def test_cancelling_the_reader_closes_the_connection(kind: str, moment: str) -> None:
    arrived = asyncio.Event()

    async def answer(visit: Visit) -> None:
        if moment == "between events":
            visit.begin()
            visit.say(recorded(GOOD[kind])[:-300])
        arrived.set()
        await visit.left.wait()

    async def read(stream: AsyncGenerator[StreamPart, None]) -> None:
        async for _ in stream:
            pass

    async with canned(answer) as server:
        model = opened(server, kind)
        task = asyncio.create_task(read(stream_of(model)))
        await arrived.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)
        await model.close()


@PROTOCOLS
async def test_nothing_is_sent_twice(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"", status=500)

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable):
            await ask(opened(server, kind))
        assert len(server.visits) == 1


# ---------------------------------------------------------------- failures, in each protocol

ERROR = orjson.dumps({"error": {"message": f"bad key {KEY}", "type": "invalid_request_error", "code": "bad"}})


@PROTOCOLS
async def test_a_refusal_is_classified_and_scrubbed(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(ERROR, status=400, content_type="application/json", x_request_id="req_9")

    async with canned(answer) as server:
        with pytest.raises(ModelRefused, match="req_9") as caught:
            await ask(opened(server, kind))
    assert KEY not in str(caught.value)


@PROTOCOLS
async def test_a_rate_limit_says_when_to_come_back(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"{}", status=429, content_type="application/json", Retry_After="12")

    async with canned(answer) as server:
        with pytest.raises(ModelRateLimited) as caught:
            await ask(opened(server, kind))
    assert caught.value.retry_after == 12.0


@PROTOCOLS
async def test_an_error_page_that_never_ends_does_not_hold_up_the_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.models.http_client.ERROR_BODY_TIME", 0.1)

    async def answer(visit: Visit) -> None:
        visit.begin(503, "text/html")
        visit.say(b"<html>")
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable):
            await ask(opened(server, kind))
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)


@PROTOCOLS
async def test_a_redirect_is_not_followed(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"", status=307, Location="http://127.0.0.1:9/other")

    async with canned(answer) as server:
        with pytest.raises(ModelError, match="redirect") as caught:
            await ask(opened(server, kind))
        assert caught.value.code == "endpoint_blocked"


@PROTOCOLS
async def test_a_clean_end_without_a_terminal_event_is_a_failure(kind: str) -> None:
    stream = recorded(GOOD[kind])
    ends = {
        "responses": b"event: response.completed",
        "chat": b'"finish_reason":"stop"',
        "anthropic": b"event: message_d",
    }
    end = stream.index(ends[kind])
    with pytest.raises(AnswerMalformed, match="ended without"):
        await told_by(stream[:end], kind)


@PROTOCOLS
async def test_an_empty_stream_is_a_failure(kind: str) -> None:
    with pytest.raises(AnswerMalformed):
        await told_by(b"data: [DONE]\n\n", kind)


@PROTOCOLS
async def test_a_connection_that_breaks_in_the_middle_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:900])
        await asyncio.sleep(0.05)
        visit.cut()

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable, match="lost the connection"):
            await ask(opened(server, kind))


@PROTOCOLS
async def test_nobody_listening_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None: ...

    async with canned(answer) as server:
        model = opened(server, kind)
    with pytest.raises(ModelUnavailable, match="no connection to 127"):
        await ask(model)


@PROTOCOLS
async def test_something_that_is_not_http_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with canned(answer) as server:
        with pytest.raises(AnswerMalformed, match="does not speak HTTP"):
            await ask(opened(server, kind))


@PROTOCOLS
@pytest.mark.parametrize(
    "said",
    [
        "data: {broken\n\n",
        "data: 17\n\n",
        "data: \xff\xfe\n\n",
        'data: {"type":"response.output_text.delta","choices":7}\n\n',
        'data: {"type":"response.output_item.done","item":3,"choices":[4]}\n\n',
    ],
    ids=["no json", "a number", "no utf-8", "delta without text", "item that is none"],
)
async def test_garbage_in_the_stream_is_a_failure(kind: str, said: str) -> None:
    with pytest.raises(AnswerMalformed):
        await told_by(recorded(GOOD[kind])[:900].rpartition(b"\n\n")[0] + b"\n\n" + said.encode("latin-1"), kind)


@PROTOCOLS
async def test_an_error_in_a_stream_that_began_well_is_raised(kind: str) -> None:
    stream = recorded(GOOD[kind])[:1500].rpartition(b"\n\n")[0]
    said = b'\n\ndata: {"error":{"code":"insufficient_quota","message":"no credit"}}\n\n'
    with pytest.raises(QuotaExhausted, match="no credit"):
        await told_by(stream + said, kind)


@PROTOCOLS
async def test_a_page_instead_of_a_stream_is_a_failure(kind: str) -> None:
    with pytest.raises(AnswerMalformed, match="a page instead of a stream"):
        await told_by(b"<!doctype html><title>Sign in</title>", kind)


@PROTOCOLS
async def test_an_error_body_under_status_200_is_the_error_that_it_names(kind: str) -> None:
    with pytest.raises(ModelRateLimited):
        await told_by(b'{"error":{"code":429,"message":"wait"}}', kind)


# ---------------------------------------------------------------- watchdogs


@PROTOCOLS
@pytest.mark.parametrize("head", [False, True], ids=["no head", "head only"])
async def test_a_server_that_never_answers_is_given_up(kind: str, head: bool) -> None:
    async def answer(visit: Visit) -> None:
        if head:
            visit.begin()
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelTimedOut, match="no answer from"):
            await ask(opened(server, kind, first_event_timeout=0.2))
        for visit in server.visits:  # none where a busy machine has not even connected by then
            await asyncio.wait_for(visit.left.wait(), PATIENCE)


@PROTOCOLS
async def test_a_server_that_falls_silent_is_given_up(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:900])
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelTimedOut, match=r"fell silent for 0\.2 s"):
            await ask(opened(server, kind, idle_timeout=0.2))
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)


@pytest.mark.daily(rows=3)  # five seconds of waiting each
@PROTOCOLS
async def test_pings_are_a_sign_of_life(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        for _ in range(50):
            visit.say(": ping\n\n")
            await asyncio.sleep(0.1)
        visit.say(recorded(GOOD[kind]))
        visit.end()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind, idle_timeout=4.5))
    assert finish_of(parts).reason == "stop"


@PROTOCOLS
async def test_a_slow_reader_is_not_taken_for_a_silent_server(kind: str) -> None:
    gate = asyncio.Event()

    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:1500])
        await gate.wait()
        visit.say(recorded(GOOD[kind])[1500:])
        visit.end()

    async with canned(answer) as server:
        model = opened(server, kind, idle_timeout=0.4)
        parts: list[StreamPart] = []
        async for part in stream_of(model):
            if not parts:
                await asyncio.sleep(1.0)
                gate.set()
            parts.append(part)
        await model.close()
    assert finish_of(parts).reason == "stop"
