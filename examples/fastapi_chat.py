"""A chat backend on FastAPI: `uvicorn fastapi_chat:app --app-dir examples`.

People sign in, write into rooms of their own, and read the answer while it grows: over a WebSocket at
`/turnkeep/ws`, or as server-sent events at `/turnkeep/api/channels/{channel}/events`.
"""

import secrets
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

import turnkeep.asgi
from turnkeep import AssistantMessageQueue
from turnkeep.asgi import Principal
from turnkeep.errors import ThreadNotFound
from turnkeep.messages import item_to_json

queue = AssistantMessageQueue(preset="web")
app = FastAPI(lifespan=turnkeep.asgi.lifespan(queue))

signed_in: dict[str, str] = {}
"""Session to user; yours are in a database."""


def user_of(session: Annotated[str, Cookie()] = "") -> str:
    if session not in signed_in:
        raise HTTPException(401, "sign in first")
    return signed_in[session]


async def who(connection: HTTPConnection) -> Principal | None:
    """Everybody sends and reads on the channels that begin with their name."""
    user = signed_in.get(connection.cookies.get("session", ""))
    return Principal(subject=user, scopes=frozenset({"send", "read"}), channels=(f"{user}:*",)) if user else None


app.mount("/turnkeep", turnkeep.asgi.app(queue, access=who))

User = Annotated[str, Depends(user_of)]
Queue = Annotated[AssistantMessageQueue, Depends(turnkeep.asgi.queue_of)]


class Text(BaseModel):
    text: str
    message_id: str | None = None


@app.post("/login/{user}")
async def login(user: str, response: Response) -> dict[str, str]:
    """Yours asks for more than a name."""
    session = secrets.token_urlsafe(32)
    signed_in[session] = user
    response.set_cookie("session", session, httponly=True, samesite="strict")
    return {"user": user}


@app.post("/rooms/{room}", status_code=202)
async def say(room: str, body: Text, user: User, queue: Queue) -> dict[str, Any]:
    """The message is kept once this has answered; the answer comes over the stream of its channel."""
    receipt = await queue.add_message_to_thread(f"{user}:{room}", body.text, message_id=body.message_id)
    return receipt.to_json()


@app.get("/rooms/{room}")
async def read(room: str, user: User, queue: Queue) -> list[dict[str, Any]]:
    try:
        await queue.get_thread(f"{user}:{room}")
    except ThreadNotFound as error:
        raise HTTPException(404, str(error)) from None
    return [item_to_json(item) for item in await queue.list_messages(f"{user}:{room}")]


@app.post("/rooms/{room}/stop")
async def stop(room: str, user: User, queue: Queue) -> dict[str, bool]:
    return {"stopped": await queue.cancel_run(f"{user}:{room}")}
