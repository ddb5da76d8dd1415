"""The states that a conversation can be in, each brought about over HTTP, and how one sees that it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from playwright.async_api import Page, expect

from tests.patience import PATIENCE

MARKDOWN = """Plan three days in Paris for me, please. [[say:# A plan for Paris

Three days are enough for **the essentials**; take `line 1` of the metro.

- the Louvre, early
- the Seine, late
  - by boat

| day | where | how |
|---|---|---|
| 1 | Louvre | on foot |
| 2 | Versailles | by train |

```python
def days(budget: float) -> int:
    return int(budget // 120)  # a room and two meals
```

Each day costs $c_d \\le 120$ euros, so all of them

$$\\sum_{d=1}^{3} c_d \\le 3 \\cdot 120 = \\frac{720}{2}$$

> More under [the city](https://example.org/paris).]]"""


class Talk:
    """Acts on one channel over HTTP, as any client could."""

    def __init__(self, http: aiohttp.ClientSession, url: str, channel: str) -> None:
        self.http = http
        self.base = f"{url}/api/channels/{channel}"

    async def post(self, path: str, body: Any = None) -> Any:
        async with self.http.post(f"{self.base}/{path}", json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def say(self, text: str, **wishes: Any) -> str:
        receipt = await self.post("messages", {"message": text, "flush": True, **wishes})
        return str(receipt["message_id"])

    async def look(self) -> Any:
        async with self.http.get(f"{self.base}/messages") as answer:
            return await answer.json() if answer.status == 200 else None

    async def until(self, holds: Callable[[Any], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not ((body := await self.look()) and holds(body)):
                await asyncio.sleep(0.05)
        return body

    async def answered(self) -> Any:
        return await self.until(lambda body: not body["open"] and not body["dead"] and body["items"])


async def _empty(_: Talk) -> None:
    return


async def _gathering(talk: Talk) -> None:
    await talk.post("messages", {"message": "Hi, I have a question", "window": 600, "max_wait": 3_000})
    await talk.post("messages", {"message": "about trains", "window": 600, "max_wait": 3_000})


async def _running(talk: Talk) -> None:
    await talk.say("Tell me a long story. [[words:4000]]")
    await talk.until(lambda body: body["thread"]["state"] == "leased")


async def _answered(talk: Talk) -> None:
    await talk.say(MARKDOWN)
    await talk.answered()


async def _used_tool(talk: Talk) -> None:
    await _held(talk)
    await _decide(talk, "approved")


async def _denied(talk: Talk) -> None:
    await _held(talk)
    await _decide(talk, "denied")


async def _decide(talk: Talk, decision: str) -> None:
    [call] = (await talk.look())["thread"]["calls"]
    await talk.post(f"actions/{call['call_id']}", {"digest": call["digest"], "decision": decision})
    await talk.answered()


async def _held(talk: Talk) -> None:
    await talk.say('Please write to Ada. [[call:send_letter {"to": "Ada"}]]')
    await talk.until(lambda body: body["thread"]["state"] == "held")


async def _dead(talk: Talk) -> None:
    await talk.say("This one is refused. [[fault:400 times=99]]")
    await talk.until(lambda body: body["dead"])


async def _retrying(talk: Talk) -> None:
    await talk.say("This one fails for now. [[fault:500 times=99]]")
    await talk.until(lambda body: body["waiting"])


async def _paused(talk: Talk) -> None:
    await talk.say("Hello")
    await talk.answered()
    await talk.post("pause")
    await talk.say("A person, please")


async def _person(talk: Talk) -> None:
    await _paused(talk)
    await talk.post("answers", {"message": "Good morning, this is Olga.", "author": "Olga"})


async def _refused_key(talk: Talk) -> None:
    await talk.say("Hello? [[fault:401 times=99]]")
    await talk.until(lambda body: body["waiting"])


async def _asked(talk: Talk) -> None:
    await talk.say("Is anybody there? [[say:I am back.]]")
    await talk.until(lambda body: body["waiting"])


@dataclass(frozen=True, slots=True)
class PageState:
    name: str
    bring: Callable[[Talk], Awaitable[None]]
    sign: str
    """What is on the page then."""
    words: str = ""
    """And what it says."""
    is_steady: bool = True
    """It stays as it is while nobody acts."""


STATES = (
    PageState("empty", _empty, "#empty", "Say something"),
    PageState("gathering", _gathering, "#gathering", "2 messages gather in one turn"),
    PageState("running", _running, ".assistant.live .text", is_steady=False),
    PageState("answered", _answered, ".assistant .text:has(math) .code", "days"),
    PageState("tool", _used_tool, ".step .state.good", "done"),
    PageState("denied", _denied, ".step .state.bad", "denied"),
    PageState("approval", _held, ".action .approve", "Approve"),
    PageState("dead", _dead, ".user.dead .card", "could not be answered"),
    PageState("retrying", _retrying, "#cause", "Trying again"),
    PageState("paused", _paused, "#paused", "A person has taken over"),
    PageState("person", _person, ".assistant .author", "Olga"),
    PageState("refused-key", _refused_key, "#cause .remedy", "OPENAI_API_KEY"),  # the last: its circuit is everybody's
)


UNREACHABLE = PageState("unreachable", _asked, "#cause .remedy", "OPENAI_BASE_URL")
"""Of a server whose model is not there: it has that one state."""


async def see(page: Page, state: PageState) -> None:
    """Wait until the page shows this state."""
    await expect(page.locator("#connection")).to_have_class("live")
    await expect(page.locator(state.sign).first).to_be_visible()
    await expect(page.locator(state.sign).first).to_contain_text(state.words)


async def shown_text(page: Page) -> str:
    """All that is said of the conversation on the page."""
    parts = [await page.locator(place).inner_text() for place in ("#transcript", "#standing")]
    return "\n".join(parts)
