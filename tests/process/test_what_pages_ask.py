"""What a page can ask: why something waits, what has died, who works, what it cost, and threads by their activity."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.served import Served, served
from tests.scenario.house import gate_answers
from turnkeep.messages import Address
from turnkeep.runs.budget import read_balances
from turnkeep.store.values import ThreadRecord


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.only_in_prove),  # daily in the contract
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    store = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'turnkeep.db'}"}.get(request.param)
    async with served(store or request.getfixturevalue("redis_server").url(), max_attempts=1) as house:
        yield house


async def get(house: Served, path: str, *, answers: int = 200, **query: Any) -> Any:
    async with house.http.get(f"{house.url}/api/{path}", params=query) as answer:
        body = await answer.json()
        assert answer.status == answers, body
        return body


async def post(house: Served, path: str, body: Any = None, *, status: int = 200) -> Any:
    async with house.http.post(f"{house.url}/api/{path}", json=body) as answer:
        told = await answer.json()
        assert answer.status == status, told
        return told


async def say(house: Served, channel: str, text: str) -> str:
    receipt = await post(house, f"channels/{channel}/messages", {"message": text}, status=202)
    return str(receipt["message_id"])


async def transcript(house: Served, channel: str, fits: Any, **query: Any) -> Any:
    """The transcript as soon as it fits."""
    async with asyncio.timeout(PATIENCE):
        while True:
            body = await get(house, f"channels/{channel}/messages", **query)
            if fits(body):
                return body
            await asyncio.sleep(0.05)


def is_answered(body: Any) -> bool:
    return not body["open"] and any(item["kind"] == "assistant" for item in body["items"])


async def test_a_refused_key_is_named_on_every_channel_and_at_every_attempt(house: Served) -> None:
    await say(house, "one", "[[fault:401 times=99]] hello")
    first = await transcript(house, "one", lambda body: body["waiting"])
    await say(house, "two", "hello")
    second = await transcript(house, "two", lambda body: body["waiting"])

    for body in (first, second):
        cause = body["waiting"]
        assert (cause["phase"], cause["reason"]) == ("waiting", "credentials_refused")
        assert "OPENAI_API_KEY" in cause["remedy"]
        assert cause["error_details"]
        assert body["thread"]["state"] == "retry"
    log = await house.queue.store.read(house.queue.address("two"))
    assert [event.error.code for event in log.events if event.kind == "waiting" and event.error] == [
        "credentials_refused"
    ]
    [circuit] = (await get(house, "queue"))["details"]["circuits"]
    assert circuit["code"] == "credentials_refused"
    assert circuit["endpoint"]
    assert circuit["remedy"] == first["waiting"]["remedy"]


async def test_a_dead_message_stays_in_its_transcript_until_it_is_tried_again_or_forgotten(house: Served) -> None:
    ids = {channel: await say(house, channel, f"[[fault:400 times=1]] hello {channel}") for channel in ("a", "b")}
    letters = {}
    for channel, message_id in ids.items():
        body = await transcript(house, channel, lambda body: body["dead"])
        [letters[channel]] = body["dead"]
        assert letters[channel]["message_id"] == message_id
        assert letters[channel]["error"]["code"] == "model_refused"
        assert letters[channel]["remedy"]
    dead_id = letters["a"]["dead_id"]

    await post(house, f"channels/b/dead/{dead_id}/redrive", status=404)
    receipt = await post(house, f"channels/a/dead/{dead_id}/redrive", status=202)
    assert receipt["message_id"] == ids["a"]
    assert await post(house, f"channels/a/dead/{dead_id}/redrive", status=202) == receipt
    assert (await transcript(house, "a", is_answered))["dead"] == []
    async with house.http.delete(f"{house.url}/api/channels/b/dead/{letters['b']['dead_id']}") as answer:
        assert answer.status == 204
    assert (await get(house, "channels/b/messages"))["dead"] == []


async def test_threads_come_newest_first_in_pages_and_are_found(house: Served) -> None:
    await house.queue.drain()
    for n in range(5):
        await say(house, f"c{n}", "hello")
    await say(house, "c1", "once more")
    await house.queue.change_thread("c3", metadata={"title": "A trip to Paris"})
    await post(house, "channels/c4/pause")

    async def channels(**query: Any) -> tuple[list[str], str | None]:
        page = await get(house, "threads", **query)
        return [thread["channel"] for thread in page["threads"]], page["next"]

    everything, after = await channels()
    assert after is None
    assert everything[-2:] == ["c2", "c0"]
    first, after = await channels(limit=3)
    assert after is not None
    rest, end = await channels(limit=3, after=after)
    assert (first + rest, end) == (everything, None)
    assert (await channels(q="paris"))[0] == ["c3"]
    assert (await channels(state="paused"))[0] == ["c4"]
    assert (await channels(state="held"))[0] == []
    await get(house, "threads", answers=400, state="sleepy")
    for cursor in ("x", "nan:thread_1", "1.5"):
        await get(house, "threads", answers=400, after=cursor)


async def test_a_long_transcript_is_read_backwards_turn_by_turn(house: Served) -> None:
    address = house.queue.address("c")
    for n in range(6):
        await house.queue.say(address, f"answer {n}", author="ann")

    newest = await get(house, "channels/c/messages", limit=2)
    older = await get(house, "channels/c/messages", limit=2, before=newest["items"][0]["turn"])

    assert [item["text"] for item in [*older["items"], *newest["items"]]] == [f"answer {n}" for n in range(2, 6)]
    assert (older["complete"], newest["complete"]) == (False, False)


async def test_a_person_answers_in_the_assistants_place(house: Served) -> None:
    await say(house, "c", "hello")
    await transcript(house, "c", is_answered)
    await post(house, "channels/c/pause")
    await say(house, "c", "a human, please")

    told = await post(house, "channels/c/answers", {"message": "Here I am.", "author": "Olga"}, status=201)

    assert told == {"message": "Here I am.", "author": "Olga"}
    body = await get(house, "channels/c/messages")
    assert (body["items"][-1]["text"], body["items"][-1]["author"]) == ("Here I am.", "Olga")
    assert body["thread"]["paused"] is True
    assert (body["open"], body["thread"]["state"]) == ([], "idle")
    assert body["items"][-2]["kind"] == "user"
    assert body["items"][-2]["turn"] == body["items"][-1]["turn"]
    await post(house, "channels/c/answers", {"message": ""}, status=400)
    await post(house, "channels/c/answers", {"message": "x", "role": "system"}, status=400)
    await post(house, "channels/unknown/answers", {"message": "x"}, status=404)


async def test_who_waits_for_an_answer_is_given_that_of_a_person(house: Served) -> None:
    await post(house, "channels/c/messages", {"message": "first", "window": 600, "max_wait": 3_000}, status=202)
    await post(house, "channels/c/pause")
    await say(house, "c", "second")
    async with house.http.get(f"{house.url}/api/channels/c/events", params={"after": 0}) as stream:
        await post(house, "channels/c/answers", {"message": "Both.", "author": "Olga"}, status=201)

        async with asyncio.timeout(PATIENCE):
            frames = [json.loads(line[5:]) async for line in _until_settled(stream)]

    [end] = [frame for frame in frames if frame["type"] == "response" and frame["status"] == "completed"]
    assert (end["message"], end["author"], end["outcome"]) == ("Both.", "Olga", "completed")
    assert len(end["message_ids"]) == 2
    [run] = (await get(house, "channels/c/runs"))["runs"]
    assert (run["run_id"], run["message_ids"], run["model"]) == (end["run_id"], end["message_ids"], None)
    await post(house, "channels/c/resume")
    await say(house, "c", "third")
    body = await transcript(house, "c", lambda body: not body["open"] and body["items"][-1].get("author") is None)
    assert [item["turn"] for item in body["items"]] == [1, 1, 1, 2, 2]


async def _until_settled(stream: Any) -> AsyncIterator[bytes]:
    """The data of a stream, until the older of two messages is settled too: after that nothing more is said of them."""
    async for line in stream.content:
        if line.startswith(b"data:"):
            yield line
            if b'"final_message":true' in line and b'"more":true' not in line:
                return


async def test_nobody_answers_over_a_run_in_progress(house: Served) -> None:
    gate_answers(house.simulator)
    await say(house, "c", "tell me all [[words:3]] [[pace:1]]")
    await transcript(house, "c", lambda body: body["thread"]["state"] == "leased")

    told = await post(house, "channels/c/answers", {"message": "Here I am."}, status=409)

    assert told["error"]["code"] == "thread_busy"
    await post(house, "channels/c/cancel")
    await transcript(house, "c", lambda body: not body["open"])
    await post(house, "channels/c/answers", {"message": "Here I am."}, status=201)


async def test_who_works_and_what_it_cost_is_told(house: Served) -> None:
    await say(house, "c", "hello")
    await transcript(house, "c", is_answered)
    await say(house, "d", "[[fault:400 times=1]] hello")
    await transcript(house, "d", lambda body: body["dead"])
    await house.queue.drain()  # what was noted is written down at the end at the latest

    [process] = (await get(house, "workers"))["processes"]
    assert (process["role"], process["slots"], process["silent"]) == ("all", 64, False)
    hour = await get(house, "activity")
    assert sum(one["runs"] for one in hour["series"]) == 2
    ends = [one["ends"] for one in hour["series"]]
    assert sum(one.get("completed", 0) for one in ends) == sum(one.get("dead", 0) for one in ends) == 1
    assert sum(sum(one["waits"]["whole"]) for one in hour["series"] if "waits" in one and "whole" in one["waits"]) == 1
    month = await get(house, "activity", span="month")
    assert sum(one["runs"] for one in month["series"]) == 2
    days = (await get(house, "usage"))["days"]  # two, where midnight comes between them
    record: ThreadRecord | None = await house.queue.store.thread(Address("default", "assistant", "c"))
    assert record is not None
    assert sum(day["total"].get("usage", {}).get("output_tokens", 0) for day in days) == record.usage.output_tokens > 0
    assert {model for day in days for model in day["models"]} == {house.queue.model_name}
    assert sum(day["total"]["runs"] for day in days) == 2
    await get(house, "activity", answers=400, span="year")


async def test_what_is_left_of_a_budget_is_told() -> None:
    async with served("memory:", tenant_budget=5.0, thread_budget=1.0) as house:
        await say(house, "c", "hello")
        await transcript(house, "c", is_answered)
        [run] = await house.queue.store.runs(Address("default", "assistant", "c"))
        read = partial(read_balances, house.queue.store, house.queue.settings, "default", now=run.started_at)
        async with asyncio.timeout(PATIENCE):
            while (tenant := (await read())[0].to_json())["reserved"]:
                await asyncio.sleep(0.01)
        told = (await get(house, "usage"))["budgets"]

    assert tenant == {"of": "tenant", "period": "day", "dollars": 5.0, "spent": run.usage.cost, "reserved": 0.0}
    assert run.usage.cost
    assert [one.keys() for one in told] == [tenant.keys(), {"of", "period", "dollars"}]
    assert told[0]["spent"] in (run.usage.cost, 0)  # a new day may have begun


async def test_runs_are_listed_newest_first_and_one_is_told_step_by_step(house: Served) -> None:
    await say(house, "c", "hello")
    await transcript(house, "c", is_answered)
    await say(house, "d", "[[fault:400 times=1]] hello")
    await transcript(house, "d", lambda body: body["dead"])

    runs = (await get(house, "runs"))["runs"]
    assert [(run["channel"], run["status"]) for run in runs] == [("d", "failed"), ("c", "completed")]
    assert [run["channel"] for run in (await get(house, "runs", status="completed"))["runs"]] == ["c"]
    assert [run["channel"] for run in (await get(house, "runs", q="d", limit=1))["runs"]] == ["d"]
    life = await get(house, f"channels/c/runs/{runs[1]['run_id']}")
    kinds = [event["kind"] for event in life["events"]]
    assert [kind for kind in kinds if kind != "step"] == ["accepted", "started", "responding", "delta", "completed"]
    moments = [event["at"] for event in life["events"]]
    assert moments == sorted(moments)
    [text] = [event for event in life["events"] if event["kind"] == "delta"]
    assert text["characters"] == life["events"][-1]["characters"] > 0
    assert "text" not in text
    await get(house, "channels/c/runs/run_unknown", answers=404)


async def test_runs_of_all_threads_come_page_by_page_each_once(house: Served) -> None:
    for n in range(5):
        for channel in ("a", "b"):
            await say(house, channel, f"hello {n}")
            await transcript(house, channel, is_answered)
    runs, after = [], None
    while True:
        page = await get(house, "runs", limit=3, **({"after": after} if after else {}))
        runs += page["runs"]
        if (after := page["next"]) is None:
            break

    assert len({run["run_id"] for run in runs}) == len(runs) == 10
    assert [run["started_at"] for run in runs] == sorted((run["started_at"] for run in runs), reverse=True)
    await get(house, "runs", answers=400, after="yesterday")


async def test_what_was_said_is_found(house: Served) -> None:
    await say(house, "c", "hello from Vienna")
    await transcript(house, "c", is_answered)

    passages = (await get(house, "search", q="vienna"))["passages"]
    assert [(one["channel"], one["kind"]) for one in passages if one["kind"] == "user"] == [("c", "user")]
    assert "hello from Vienna" in [one["excerpt"] for one in passages]
    assert (await get(house, "search", q="nowhere"))["passages"] == []
    for q in ("", "v", "v" * 201):
        await get(house, "search", answers=400, q=q)


async def test_an_overview_is_pushed_when_something_changes(house: Served) -> None:
    async with house.http.get(f"{house.url}/api/overview/events") as stream:
        async with asyncio.timeout(PATIENCE):
            first = await next_overview(stream.content)
            await say(house, "c", "hello")
            while first["queue"]["completedCount"] == 0:
                first = await next_overview(stream.content)

    assert first["processes"][0]["role"] == "all"
    assert first["queue"]["details"]["threads"] == 1


async def next_overview(content: Any) -> Any:
    async for line in content:
        if line.startswith(b"data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream has ended")
