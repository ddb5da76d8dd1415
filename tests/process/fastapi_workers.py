"""Somebody's FastAPI application, served by several processes: uvicorn fastapi_workers:app --workers 4."""

from __future__ import annotations

import os

from fastapi import FastAPI

import turnkeep.asgi
from turnkeep import AssistantMessageQueue

queue = AssistantMessageQueue(window=0.2, max_wait=1.0)
app = FastAPI(lifespan=turnkeep.asgi.lifespan(queue))
app.mount("/chat", turnkeep.asgi.app(queue))


@app.get("/pid")
async def pid() -> int:
    return os.getpid()
