"""The client in Python: every act of HTTP, and a server that is killed while it is spoken to."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.patience import PATIENCE
from tests.process.programs import Server
from tests.process.served import served
from tests.services.tcp_proxy import TcpProxy
from turnkeep.background_loop import Blocking
from turnkeep.client import SyncTurnkeepClient, TurnkeepClient, position_of
from turnkeep.client.server_link import CALLS
from turnkeep.doors.http.routes import CHANNEL_ENDPOINTS, TENANT_ENDPOINTS
from turnkeep.errors import (
    ConfigurationError,
    MessageConflict,
    NoAnswer,
    NotAuthenticated,
    NotFound,
    StoreUnavailable,
    ThreadNotFound,
    TurnkeepError,
)
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.tools import tool

NAMES = {
    "stream_events": "stream",
    "show_message": "get_message",
    "edit_message": "edit",
    "withdraw_message": "withdraw",
    "act": "decide",
    "answer": "answer_as",
    "show_channel": "get_thread",
    "change_channel": "change_thread",
    "forget_channel": "forget",
    "show_queue": "get_queue_status",
    "show_usage": "get_daily_usage",
    "list_dead": "list_dead_letters",
    "show_run_life": "get_run",
}
"""Where the method has another name than the act."""
BY_CALL = {
    *("show_metrics", "show_activity", "stream_overview", "show_dead", "show_assistant"),
    *("redrive_dead", "discard_dead"),
}
"""Acts that go by `call`, or have a method for all channels."""


def test_every_act_of_http_has_a_method() -> None:
    acts = {endpoint.handler.__name__ for endpoint in (*CHANNEL_ENDPOINTS, *TENANT_ENDPOINTS)} - BY_CALL
    assert [act for act in acts if not inspect.getdoc(getattr(TurnkeepClient, NAMES.get(act, act), None))] == []


def test_the_synchronous_client_has_every_method() -> None:
    def methods(face: type) -> set[str]:
        return {
            name for name, one in vars(face).items()
            if not name.startswith("_") and (inspect.isfunction(one) or isinstance(one, Blocking))
        }  # fmt: skip

    assert methods(SyncTurnkeepClient) == methods(TurnkeepClient)


@tool(needs_approval=True, self_approval=True)
def send_invoice(to: str) -> str:
    """Send an invoice."""
    return f"sent to {to}"


async def test_one_conversation_with_all_that_can_be_done_to_it() -> None:
    async with served(tools=[send_invoice]) as there, TurnkeepClient(there.url) as client:
        assert await client.ask("a.b/c", "hello [[say:fine]]", message_id="m1") == "fine"
        assert await client.ask("a.b/c", "hello [[say:fine]]", message_id="m1") == "fine"  # answered before
        with pytest.raises(MessageConflict):
            await client.send("a.b/c", "other words", message_id="m1")
        assert [item["kind"] for item in (await client.list_messages("a.b/c"))["items"]] == ["user", "assistant"]

        await client.pause("a.b/c")
        await client.send("a.b/c", [{"type": "text", "text": "two"}], message_id="m2")
        assert (await client.edit("a.b/c", "m2", "zwei"))["content"][0]["text"] == "zwei"
        assert (await client.withdraw("a.b/c", "m2"))["status"] == "withdrawn"
        await client.answer_as("a.b/c", "A person here.", author="bob")
        await client.resume("a.b/c")
        assert not await client.flush("a.b/c")
        assert not await client.cancel("a.b/c", drop_inbox=True)
        assert (await client.get_message("a.b/c", "m1"))["status"] == "answered"
        assert (await client.change_thread("a.b/c", {"metadata": {"k": "v"}}) or {})["metadata"] == {"k": "v"}
        assert len(await client.list_runs("a.b/c")) == 1

        async with aclosing(client.stream("d")) as frames:
            await anext(frames)
            await client.send("d", 'go [[call:send_invoice {"to": "ann"}]]', flush=True)
            held = [frame async for frame in _until(frames, lambda frame: "calls" in frame)][-1]
            await client.decide("d", held["calls"][0], "approved")
            final = [frame async for frame in _until(frames, lambda frame: frame["final_message"])][-1]
        assert "sent to ann" in final["message"]
        assert len(await client.regenerate("a.b/c")) == 1

        assert (await client.list_threads(search="a.b"))["threads"][0]["channel"] == "a.b/c"
        assert (await client.create_thread(metadata={"k": "v"}))["metadata"] == {"k": "v"}
        assert (await client.get_queue_status())["completedCount"] >= 2
        assert isinstance(await client.list_workers(), list)
        assert isinstance(await client.get_daily_usage(2), list)
        assistant = await client.create_assistant({"name": "second"})
        await client.change_assistant(assistant["id"], {"instructions": "Be brief."})
        await client.use_assistant(assistant["id"])
        assert (await client.list_assistants())["default"] == assistant["id"]
        await client.forget("a.b/c", force=True)
        for act in (client.get_thread, client.list_runs, client.pause):
            with pytest.raises(ThreadNotFound):
                await act("a.b/c")


async def test_only_a_message_that_was_sent_before_is_asked_after() -> None:
    async with (
        served() as there,
        TcpProxy("127.0.0.1", URL(there.url).port or 0) as proxy,
        TurnkeepClient(f"http://127.0.0.1:{proxy.port}") as client,
    ):
        proxy.cut_before_reply(b"GET /api/channels/c1/messages")  # each such request is a cut
        assert await client.ask("c1", "hello [[say:fine]]", message_id="m1") == "fine"
        assert proxy.cuts == 0
        assert await client.ask("c1", "hello [[say:fine]]", message_id="m1") == "fine"
        assert proxy.cuts == 1
        assert not (await client.send("c1", "hello", message_id="m2"))["repeated"]
        assert (await client.send("c1", "hello", message_id="m2"))["repeated"]


async def test_however_many_streams_leave_room_for_a_call() -> None:
    async with served() as there, TurnkeepClient(there.url) as client, AsyncExitStack() as streams:
        async with asyncio.timeout(PATIENCE):
            for number in range(CALLS + 1):
                frames = await streams.enter_async_context(aclosing(client.stream(f"c{number}")))
                await anext(frames)
            assert (await client.send("c0", "hello"))["status"] == "accepted"


async def test_what_was_said_and_done_is_found() -> None:
    async with served() as there, TurnkeepClient(there.url) as client:
        await client.ask("c", "where is the needle?")
        assert {passage["channel"] for passage in await client.search("needle")} == {"c"}
        [run] = (await client.list_recent_runs())["runs"]
        assert (await client.get_run(run["channel"], run["run_id"]))["run"]["run_id"] == run["run_id"]
        assert await client.list_sinks() == []


async def test_dead_letters_are_redriven_and_discarded() -> None:
    async with served(max_attempts=1) as there, TurnkeepClient(there.url) as client:
        from turnkeep.simulator import Fault

        there.simulator.faults.append(Fault("400", times=2))
        for message_id in ("m1", "m2"):
            with pytest.raises(TurnkeepError):
                await client.ask("c", "hello [[say:fine]]", message_id=message_id)
        first, second = await client.list_dead_letters()
        assert (await client.redrive(first["dead_id"]))["message_id"] == "m1"
        await client.discard(second["dead_id"])
        with pytest.raises(NotFound):
            await client.redrive(second["dead_id"])


async def test_a_stream_goes_on_where_it_was_left() -> None:
    async with served() as there, TurnkeepClient(there.url) as client:
        async with aclosing(client.stream("c")) as frames:
            subscribed = await anext(frames)
            await client.ask("c", "one [[say:fine]]", message_id="m1")
        async with aclosing(client.stream("c", after=position_of(subscribed))) as frames:
            seen = [frame async for frame in _until(frames, lambda frame: frame["final_message"])]
        assert seen[-1]["message"] == "fine"
        assert seen[1]["status"] == "started"


async def test_what_the_server_says_is_raised_as_what_it_is() -> None:
    async with (
        served(auth="on", start_token=secrets.token_hex(16)) as there,
        TurnkeepClient(there.url, "no-key") as client,
    ):
        with pytest.raises(NotAuthenticated):
            await client.send("c", "hello")
        with pytest.raises(NotAuthenticated):
            await client.ask("c", "hello")
    async with served(role="gateway") as there, TurnkeepClient(there.url) as client:
        with pytest.raises(NoAnswer, match="is safe"):
            await client.ask("c", "hello", timeout=2.0)


async def test_a_server_that_is_away_is_waited_for_and_then_told() -> None:
    async with TurnkeepClient("http://127.0.0.1:1", patience=0.5) as client:
        for act in (client.get_queue_status(), anext(client.stream("c")), client.ask("c", "hello")):
            with pytest.raises(StoreUnavailable, match="was not reached within"):
                await act
    async with TurnkeepClient("http://ann:hidden-word@127.0.0.1:1", patience=0.1) as client:
        with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:1 was") as refused:
            await client.get_queue_status()
    assert "hidden-word" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="no address"):
        TurnkeepClient("127.0.0.1:8080")
    with pytest.raises(ConfigurationError, match="write patience=30"):
        TurnkeepClient(patience=30_000)


async def test_a_stream_says_when_its_server_goes_and_comes_back() -> None:
    states: list[str] = []
    async with (
        asyncio.timeout(90),
        served() as there,
        TcpProxy("127.0.0.1", URL(there.url).port or 0) as proxy,
        TurnkeepClient(f"http://127.0.0.1:{proxy.port}", patience=0.5) as client,
        aclosing(client.stream("c", on_state=states.append)) as frames,
    ):
        await anext(frames)
        reading = asyncio.ensure_future(anext(frames))
        await proxy.refuse()
        proxy.cut_all()
        while states.count("away") < 3:  # longer than its patience: that is for the first connection
            await asyncio.sleep(0.01)
        await proxy.accept()
        while states[-1] != "live":
            await asyncio.sleep(0.01)
        await client.send("c", "hello", flush=True)
        assert (await reading)["status"] in ("accepted", "started")
    assert (states[0], states[-1]) == ("live", "live")


async def test_without_an_event_loop() -> None:
    async with served() as there:

        def talk() -> tuple[str, list[str]]:
            with SyncTurnkeepClient(there.url) as client:
                answer = client.ask("c", "hello [[say:fine]]")
                seen = []
                for frame in client.stream("c", after=f"{client.get_thread('c')['epoch']}:0"):
                    seen.append(frame["status"])
                    if frame["final_message"]:
                        break
                return answer, seen

        answer, seen = await asyncio.to_thread(talk)
    assert answer == "fine"
    assert seen[-1] == "completed"


async def _until(frames: Any, holds: Callable[[dict[str, Any]], Any]) -> Any:
    async for frame in frames:
        yield frame
        if holds(frame):
            return


# ---------------------------------------------------------------- a server that is killed


class Channel:
    """What one channel was told: how often each message was settled, and which answers were shown otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settled = Counter[str]()
        self.torn = 0
        self._text, self._position = "", ""

    def take(self, frame: dict[str, Any]) -> None:
        if "offset" in frame and not frame.get("more"):
            assert position_of(frame) != self._position, "told twice"
            self._position = position_of(frame)
        if frame["status"] in ("started", "subscribed"):
            self._text = ""
        elif frame["status"] == "in_progress":
            self._text = frame["delta"] if frame.get("snapshot") else self._text + frame["delta"]
        elif frame["status"] == "completed":
            self.settled[frame["message_id"]] += 1
            self.torn += frame["type"] == "response" and self._text not in ("", frame["message"])


@dataclass
class Crowd:
    """Who writes on so many channels, in bursts, spread over all kills; by either face of the client."""

    kills: int
    bursts: int
    channels: list[Channel]
    kill_count: int = 0
    source: random.Random = field(default_factory=lambda: random.Random(5))

    def messages(self, channel: Channel) -> Iterator[tuple[int, float, str, str]]:
        """The kill that each waits for, a pause, text and id."""
        for burst in range(self.bursts):
            for place in range(BURST):
                pause = self.source.uniform(0, 0.05 if place else 3)
                yield self.kills * burst // self.bursts, pause, f"{burst}.{place} [[words:20]]", f"m{burst}-{place}"

    @property
    def each(self) -> int:
        return self.bursts * BURST

    def has_settled(self, kill: int) -> bool:
        """All that waited for an earlier kill than this one."""
        due = BURST * sum(self.kills * burst // self.bursts < kill for burst in range(self.bursts))
        return all(len(channel.settled) >= due for channel in self.channels)

    async def use(self, client: TurnkeepClient) -> None:
        async with asyncio.TaskGroup() as group:
            for channel in self.channels:
                group.create_task(self._write(client, channel))
                group.create_task(self._read(client, channel))

    async def _write(self, client: TurnkeepClient, channel: Channel) -> None:
        for kill, pause, text, message_id in self.messages(channel):
            while self.kill_count < kill:
                await asyncio.sleep(0.05)
            await asyncio.sleep(pause)
            await client.send(channel.name, text, message_id=message_id)

    async def _read(self, client: TurnkeepClient, channel: Channel) -> None:
        async with aclosing(client.stream(channel.name, after=":0", deltas=True)) as frames:
            async for frame in frames:
                channel.take(frame)
                if len(channel.settled) == self.each:
                    return

    def use_sync(self, client: SyncTurnkeepClient) -> None:
        with ThreadPoolExecutor(2 * len(self.channels)) as threads:
            acts = [threads.submit(act, client, one) for one in self.channels for act in (self._post, self._follow)]
            for act in acts:
                act.result()

    def _post(self, client: SyncTurnkeepClient, channel: Channel) -> None:
        for kill, pause, text, message_id in self.messages(channel):
            while self.kill_count < kill:
                time.sleep(0.05)
            time.sleep(pause)
            client.send(channel.name, text, message_id=message_id)

    def _follow(self, client: SyncTurnkeepClient, channel: Channel) -> None:
        for frame in client.stream(channel.name, after=":0", deltas=True):
            channel.take(frame)
            if len(channel.settled) == self.each:
                return


BURST = 5
MOST_DEATHS = 5
"""Kills that a message lives through: far from where it is taken for what kills, however slow the machine is."""


@pytest.mark.prove
@pytest.mark.timeout(3000)
async def test_each_message_is_answered_once_and_each_stream_is_whole_through_every_kill(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    kills, count, bursts = size(1, 50), size(2, 100), size(2, 20)
    crowds = {
        name: Crowd(kills, bursts, [Channel(f"{name}{number}") for number in range(count)])
        for name in ("async", "sync")
    }
    quick = {f"TURNKEEP_{name}_RATE": "0" for name in ("CHANNEL", "USER", "TENANT", "REQUEST", "TENANT_REQUEST")}
    async with serve(Simulator(pace=StreamPace(first=0.02, token=0.02))) as model, aiohttp.ClientSession() as http:
        environment = {**quick, "TURNKEEP_WINDOW": "0.2", "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test",
                       "TURNKEEP_MODEL_API": "responses", "TURNKEEP_SOCKETS_PER_USER": "2000"}  # fmt: skip
        server = Server(["dev"], tmp_path, environment)
        server.start()

        async def kill() -> None:
            try:
                for number in range(kills):
                    await asyncio.sleep(random.uniform(1, size(2, 5)))
                    while not all(crowd.has_settled(number - MOST_DEATHS) for crowd in crowds.values()):
                        await asyncio.sleep(0.05)
                    await asyncio.to_thread(server.kill9)
                    server.start()
                    await server.answers(http)
                    for crowd in crowds.values():
                        crowd.kill_count += 1
            finally:  # a thread that waits for a kill is not ended by what failed elsewhere
                for crowd in crowds.values():
                    crowd.kill_count = kills

        try:
            await server.answers(http)
            async with TurnkeepClient(server.url, patience=300.0) as client, asyncio.timeout(size(110, 2900)):
                with SyncTurnkeepClient(server.url, patience=300.0) as sync_client:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(crowds["async"].use(client))
                        group.create_task(asyncio.to_thread(crowds["sync"].use_sync, sync_client))
                        group.create_task(kill())
        finally:
            server.kill9()

    for name, crowd in crowds.items():
        counts = [count for channel in crowd.channels for count in channel.settled.values()]
        sent, torn = len(crowd.channels) * crowd.each, sum(channel.torn for channel in crowd.channels)
        proof(
            f"python client, {name}",
            f"kills {kills} | sent {sent} | settled once {counts.count(1)} | lost {sent - len(counts)} "
            f"| twice {sum(count > 1 for count in counts)} | streams torn {torn}",
        )
        assert (len(counts), set(counts), torn) == (sent, {1}, 0)
