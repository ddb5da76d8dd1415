"""Callers of a chat of Chainlit, by the protocol of its own page. JSON on the output: tokens, and seconds to the first.

chainlit_caller.py PORT SESSIONS
"""

import asyncio
import json
import sys
import time
import uuid

import socketio

PORT, SESSIONS = map(int, sys.argv[1:3])
AUTH = {"clientType": "webapp", "userEnv": "{}", "chatProfile": "", "threadId": "", "userId": ""}


async def session() -> dict[str, float]:
    client, done = socketio.AsyncClient(), asyncio.Event()
    said = {"tokens": 0, "first": 0.0}
    begun_at = 0.0

    @client.on("*")
    async def hear(event: str, *_: object) -> None:
        if event == "stream_token":
            said["tokens"] += 1
            said["first"] = said["first"] or time.perf_counter() - begun_at
        elif event == "task_end" and said["tokens"]:
            done.set()

    url = f"http://127.0.0.1:{PORT}"
    auth = {"sessionId": str(uuid.uuid4()), **AUTH}
    await client.connect(url, socketio_path="/ws/socket.io", transports=["websocket"], auth=auth)
    await client.emit("connection_successful")
    await asyncio.sleep(1.0)
    begun_at = time.perf_counter()
    message = {"id": str(uuid.uuid4()), "threadId": "", "name": "user", "type": "user_message", "output": "hi",
               "createdAt": "2026-11-20T00:00:00Z"}  # fmt: skip
    await client.emit("client_message", {"message": message, "fileReferences": []})
    await asyncio.wait_for(done.wait(), 60)
    await client.disconnect()
    return said


async def main() -> None:
    print(json.dumps(await asyncio.gather(*[session() for _ in range(SESSIONS)])), flush=True)


asyncio.run(main())
