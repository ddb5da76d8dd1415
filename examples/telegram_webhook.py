"""A Telegram bot by webhook: `uvicorn telegram_webhook:app --app-dir examples`.

People write to bots in bursts: the window makes one turn of them, and one answer. Telegram repeats an update until it
hears 200; the update's number is the message's id, so a repeat changes nothing.

Set TELEGRAM_TOKEN, and TELEGRAM_SECRET to what setWebhook was given as `secret_token`. An answer is sent by the process
that took the message in; one that is finished after a restart waits in the transcript. Where that is not enough, let
TURNKEEP_WEBHOOK_URL deliver answers: it stores how far it has come.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Header, HTTPException

import turnkeep.asgi
from turnkeep import AssistantMessageQueue, Event

API = os.environ.get("TELEGRAM_API", "https://api.telegram.org")
TOKEN = os.environ.get("TELEGRAM_TOKEN", "")
SECRET = os.environ.get("TELEGRAM_SECRET", "")

queue = AssistantMessageQueue(window=2.0, max_wait=10.0, adaptive=True)


async def reply(channel: str, event: Event) -> None:
    """The answer to a whole burst, in one message of at most what Telegram takes."""
    text = event.text if event.kind == "completed" else "Something went wrong, please write again."
    body = {"chat_id": int(channel.removeprefix("telegram:")), "text": text[:4096]}
    async with app.state.http.post(f"{API}/bot{TOKEN}/sendMessage", json=body) as told:
        told.raise_for_status()


queue.on("completed", reply)
queue.on("dead", reply)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as app.state.http, turnkeep.asgi.running(queue) as state:
        yield state


app = FastAPI(lifespan=lifespan)


@app.post("/telegram")
async def updated(update: dict[str, Any], x_telegram_bot_api_secret_token: str = Header("")) -> dict[str, bool]:
    if not SECRET or not hmac.compare_digest(x_telegram_bot_api_secret_token.encode(), SECRET.encode()):
        raise HTTPException(403, "this did not come from Telegram")
    message = update.get("message", {})
    if text := message.get("text"):
        await queue.add_message_to_thread(
            f"telegram:{message['chat']['id']}", text, message_id=f"update-{update['update_id']}"
        )
    return {"ok": True}
