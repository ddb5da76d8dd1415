"""A program as people wrote them for the Assistants API: messages come by RabbitMQ, Redis knows the thread of each
channel, a streamed run is told word by word, and its functions are run here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections import defaultdict
from typing import Any

warnings.simplefilter("ignore")

import aio_pika  # noqa: E402 - as above
import openai  # noqa: E402
import redis.asyncio  # noqa: E402

FUNCTIONS = {"lookup": lambda q: f"found {q}"}


class Handler(openai.AsyncAssistantEventHandler):
    """Collects the text as it grows, and the outputs that the run asks for."""

    def __init__(self, text: list[str]) -> None:
        super().__init__()
        self.text = text
        self.run: Any = None
        self.outputs: list[Any] = []

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.text.append(delta.value or "")

    async def on_event(self, event: Any) -> None:
        if event.event.startswith("thread.run.") and not event.event.startswith("thread.run.step"):
            self.run = event.data
        if event.event == "thread.run.requires_action":
            for call in event.data.required_action.submit_tool_outputs.tool_calls:
                output = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
                self.outputs.append({"tool_call_id": call.id, "output": output})


class Program:
    def __init__(self, about: dict[str, Any]) -> None:
        self.client = openai.AsyncOpenAI(api_key="sk-any", base_url=f"{about['url']}/v1", timeout=120.0)
        self.assistant = about["assistant"]
        self.redis = redis.asyncio.from_url(about["redis_url"], db=1, decode_responses=True)
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def thread_of(self, channel: str) -> str:
        known = await self.redis.get(f"thread:{channel}")
        if known is None:
            known = (await self.client.beta.threads.create(metadata={"channel": channel})).id
            await self.redis.set(f"thread:{channel}", known)
        return str(known)

    async def answer(self, message: Any) -> None:
        async with message.process(requeue=True):
            body = json.loads(message.body)
            channel = body["channel"]
            async with self.locks[channel]:
                await self.redis.rpush(f"answers:{channel}", await self.stream(channel, body["message"]))

    async def stream(self, channel: str, text: str) -> str:
        threads = self.client.beta.threads
        thread = await self.thread_of(channel)
        await threads.messages.create(thread, role="user", content=text)
        heard: list[str] = []
        handler = Handler(heard)
        manager: Any = threads.runs.stream(thread_id=thread, assistant_id=self.assistant, event_handler=handler)
        while True:
            async with manager as events:
                await events.until_done()
            if not handler.outputs:
                break
            run_id, outputs, handler = handler.run.id, handler.outputs, Handler(heard)
            manager = threads.runs.submit_tool_outputs_stream(
                thread_id=thread, run_id=run_id, tool_outputs=outputs, event_handler=handler
            )
        if handler.run.status != "completed":
            raise RuntimeError(f"the run ended as {handler.run.status}")
        return "".join(heard)

    async def consume(self, amqp_url: str, queue_name: str) -> None:
        connection = await aio_pika.connect_robust(amqp_url)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=50)
        queue = await channel.declare_queue(queue_name, durable=True)
        await queue.consume(self.answer)

    async def look(self, channels: list[str]) -> dict[str, Any]:
        answers = {channel: await self.redis.lrange(f"answers:{channel}", 0, -1) for channel in channels}
        threads = {channel: await self.redis.get(f"thread:{channel}") for channel in channels}
        return {"answers": answers, "threads": threads}


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    program: Program | None = None
    while line := await reader.readline():
        about = json.loads(line)
        number, act = about.pop("number"), about.pop("act")
        try:
            answer = None
            if act == "start":
                program = Program(about)
                await program.consume(about["amqp_url"], about["queue"])
            elif program is not None:
                answer = await program.look(about["channels"])
            reply = {"number": number, "answer": answer}
        except Exception as error:
            reply = {"number": number, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


asyncio.run(main())
