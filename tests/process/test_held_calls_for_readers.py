"""What a call that waits holds is told as its tool says, at every door: in full to who decides, or manages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from tests.patience import PATIENCE
from tests.process.callers import SECRET, TENANT
from tests.process.served import Served, served
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.principals import Scope
from turnkeep.doors.http.agui import word_of
from turnkeep.doors.http.openai.conversation_key import AnswerName
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.values import Decision, HeldCall
from turnkeep.tools.execution import arguments_digest

CHANNEL, RUN = "c1", "run_0123456789abcdef01234567"


def calls() -> Iterator[HeldCall]:
    """Those whose arguments nobody may see come first: where the others are told, these were left out."""
    for show in ("name", "arguments", "all"):
        for kind in ("approval", "output"):
            arguments = json.dumps({"word": f"{show}-of-{kind}"})
            digest = arguments_digest(arguments)
            yield HeldCall(f"call_{show}_{kind}", "pay", arguments, digest, kind, show=show)


class Door:
    """A house in which a turn is held, as one credential sees it."""

    def __init__(self, house: Served, key: str, thread_id: str, run_id: str) -> None:
        self._house, self._headers = house, {"Authorization": f"Bearer {key}"}
        self.thread_id, self.run_id = thread_id, run_id

    async def get(self, path: str, *, until: str | None = None) -> str:
        """The whole of an answer, or of a stream so far as this is in it."""
        text = ""
        async with (
            asyncio.timeout(PATIENCE),
            self._house.http.get(self._house.url + path, headers=self._headers) as told,
        ):
            assert told.status == 200, await told.text()
            async for line in told.content:
                text += line.decode()
                if until is not None and until in text:
                    return text
        return text

    async def subscribe(self, until: str) -> str:
        frame = {"action": "subscribe", "channel": CHANNEL, "offset": 0, "events": "all"}
        text = ""
        async with asyncio.timeout(PATIENCE), self._house.socket(additional_headers=self._headers) as socket:
            await socket.send(json.dumps(frame))
            while until not in text:
                text += str(await socket.recv())
        return text


LAST_HELD, LAST_DECIDED = "call_all_output", '"status":"decided"'
DOORS: dict[str, Callable[[Door], Awaitable[str]]] = {
    "channel": lambda door: door.get(f"/api/channels/{CHANNEL}"),
    "messages": lambda door: door.get(f"/api/channels/{CHANNEL}/messages"),
    "life of a run": lambda door: door.get(f"/api/channels/{CHANNEL}/runs/{door.run_id}"),
    "events": lambda door: door.get(f"/api/channels/{CHANNEL}/events?events=all&after=x:0", until=LAST_DECIDED),
    "socket": lambda door: door.subscribe(until=LAST_DECIDED),
    "chat": lambda door: door.get(f"/api/chat/{CHANNEL}/stream?level=6"),
    "agent": lambda door: door.get(f"/api/agui?threadId={CHANNEL}"),
    "run of an agent": lambda door: door.get(f"/api/agui?offset=-1&runId={door.run_id}.{word_of(CHANNEL)}"),
    "response": lambda door: door.get(f"/v1/responses/{AnswerName(door.thread_id, RUN).id('resp')}"),
    "stream of a response": lambda door: door.get(
        f"/v1/responses/{AnswerName(door.thread_id, RUN).id('resp')}?stream=true"
    ),
    "run": lambda door: door.get(f"/v1/threads/{door.thread_id}/runs/{RUN}"),
    "steps": lambda door: door.get(f"/v1/threads/{door.thread_id}/runs/{RUN}/steps"),
}


@asynccontextmanager
async def held() -> AsyncIterator[Callable[..., Awaitable[Door]]]:
    """Nobody answers here: what waits stays as it is."""
    async with served(auth="on", jwt_secret=SECRET, role="gateway", window=0.0) as house:
        store, address = house.queue.store, Address(TENANT, house.queue.name, CHANNEL)
        await house.queue.accept([Message(address, RUN, text_content("hi"))])
        await store.flush(address)
        [claim] = await store.claim(owner="tests", limit=1, lease=30.0, queues=(house.queue.name,))
        await store.hold(claim, [*calls(), HeldCall("call_decided", "ask", "{}", "d", "output")], expires_in=600.0)
        await store.decide(address, "call_decided", "d", Decision("output", "output-of-name"))
        record = await store.thread(address)
        assert record is not None
        thread_id = record.thread_id

        async def door(*scopes: Scope) -> Door:
            key, _ = await ApiKeys(store).create(tenant=TENANT, scopes=scopes)
            return Door(house, key, thread_id, claim.run_id)

        yield door


async def test_what_a_tool_keeps_to_itself_is_told_to_who_decides_alone() -> None:
    async with held() as door:
        reader = await door("read", "send")
        deciders = [await door("read", "approve"), await door("read", "manage")]
        for name, look in DOORS.items():
            text = await look(reader)
            assert "name-of-" not in text, name
            assert "output-of-name" not in text, name
            assert arguments_digest(json.dumps({"word": "name-of-approval"})) not in text, name
            assert "arguments-of-" in text, name
            for decider in deciders:
                assert "name-of-" in await look(decider), name
