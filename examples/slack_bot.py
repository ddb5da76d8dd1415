"""A Slack bot that can be interrupted: `uvicorn slack_bot:app --app-dir examples`.

Whoever writes again while the bot still answers is heard at once: `interrupt` stops the answer, and the next one knows
both messages and what was said so far. Every thread of a Slack channel is a conversation of its own.

Set SLACK_TOKEN and SLACK_SIGNING_SECRET, and give Slack the URL of `/slack/events`.
"""

import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, HTTPException, Request

import turnkeep.asgi
from turnkeep import AssistantMessageQueue, Event

API = os.environ.get("SLACK_API", "https://slack.com/api")
TOKEN = os.environ.get("SLACK_TOKEN", "")
SECRET = os.environ.get("SLACK_SIGNING_SECRET", "")

queue = AssistantMessageQueue(window=0.5, max_wait=5.0, on_busy="interrupt")


async def reply(conversation: str, event: Event) -> None:
    """Only answers that were not cut off are posted."""
    if event.outcome == "cancelled":
        return
    channel, thread = conversation.split("/")
    body = {"channel": channel, "thread_ts": thread, "text": event.text}
    async with app.state.http.post(f"{API}/chat.postMessage", json=body) as told:
        told.raise_for_status()


queue.on("completed", reply)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
    options = {"timeout": aiohttp.ClientTimeout(total=30), "headers": {"Authorization": f"Bearer {TOKEN}"}}
    async with aiohttp.ClientSession(**options) as app.state.http, turnkeep.asgi.running(queue) as state:
        yield state


app = FastAPI(lifespan=lifespan)


@app.post("/slack/events")
async def told(request: Request) -> dict[str, Any]:
    raw = await request.body()
    if not is_signed(raw, request):
        raise HTTPException(403, "this did not come from Slack")
    body = json.loads(raw)
    if body["type"] == "url_verification":
        return {"challenge": body["challenge"]}
    event = body["event"]
    if event["type"] in ("message", "app_mention") and "bot_id" not in event and event.get("text"):
        conversation = f"{event['channel']}/{event.get('thread_ts') or event['ts']}"
        await queue.add_message_to_thread(conversation, event["text"], message_id=f"slack-{event['ts']}")
    return {}


def is_signed(body: bytes, request: Request) -> bool:
    """By Slack, within the last five minutes."""
    at = request.headers.get("x-slack-request-timestamp", "")
    if not SECRET or not at.isdigit() or abs(queue.clock.now() - int(at)) > 300:
        return False
    expected = hmac.new(SECRET.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"v0={expected}", request.headers.get("x-slack-signature", ""))
