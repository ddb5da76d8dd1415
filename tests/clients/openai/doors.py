"""Drives OpenAI's client for Python: the acts of `doors.mjs`, of whichever version is found first."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

warnings.simplefilter("ignore")

import openai  # noqa: E402 - warnings of old clients are theirs

PROGRESS: Counter[str] = Counter()


def client(url: str, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="sk-any", base_url=f"{url}/v1", max_retries=retries, timeout=60.0)


async def until_done(act: Callable[[], Awaitable[Any]], patient: bool) -> Any:
    """A program whose server dies asks again until it is there."""
    while True:
        try:
            return await act()
        except openai.APIStatusError as error:
            if not patient or error.status_code < 500:
                raise
        except Exception:  # old clients raise what their HTTP library raises
            if not patient:
                raise
        await asyncio.sleep(0.05)


async def chat(
    url: str, model: str, messages: list[Any], *, key: str = "", stream: bool = False, tools: Any = None,
    mark: str = "", patient: bool = False, major: int = 0,
) -> dict[str, Any]:  # fmt: skip
    options: dict[str, Any] = {"extra_headers": {"X-Conversation-Id": key}} if key else {}
    if tools:
        options["tools"] = tools
    completions = client(url).chat.completions

    async def once() -> dict[str, Any]:
        if not stream:
            whole = (await completions.create(model=model, messages=messages, **options)).to_dict()
            message = whole["choices"][0]["message"]
            return {"text": message["content"] or "", "thoughts": message.get("reasoning_content", ""),
                    "reason": whole["choices"][0]["finish_reason"], "calls": message.get("tool_calls", []),
                    "metadata": whole.get("metadata")}  # fmt: skip
        told: dict[str, Any] = {"text": "", "thoughts": "", "reason": None, "calls": [], "metadata": None}
        async for chunk in await completions.create(model=model, messages=messages, stream=True, **options):
            data = chunk.to_dict()
            told["metadata"] = data.get("metadata") or told["metadata"]
            for choice in data["choices"]:
                delta = choice["delta"]
                told["text"] += delta.get("content") or ""
                told["thoughts"] += delta.get("reasoning_content") or ""
                told["reason"] = choice.get("finish_reason") or told["reason"]
                told["calls"] += delta.get("tool_calls") or []
                PROGRESS[mark] += bool(delta.get("content"))
        return told

    return dict(await until_done(once, patient))


def read(told: dict[str, Any], event: Any, mark: str) -> None:
    data = event.to_dict()
    told["sequence"] = data["sequence_number"]
    if data["type"] == "response.output_text.delta":
        told["text"] += data["delta"]
        PROGRESS[mark] += 1
    if data["type"] == "response.reasoning_summary_text.delta":
        told["thoughts"] += data["delta"]
    if "response" in data:
        told |= {name: data["response"][name] for name in ("id", "status", "metadata")}
    if data["type"] == "response.output_item.done" and data["item"]["type"] == "function_call":
        told["calls"].append(data["item"])


async def respond(
    url: str, model: str, input: Any, *, key: str = "", previous: str = "", stream: bool = False, tools: Any = None,
    mark: str = "", background: bool = False, patient: bool = False, major: int = 0,
) -> dict[str, Any]:  # fmt: skip
    options: dict[str, Any] = {"metadata": {"channel": key}} if key else {}
    options |= {"tools": tools} if tools else {}
    options |= {"previous_response_id": previous} if previous else {}
    options |= {"background": True} if background else {}
    responses = client(url).responses
    if not stream:
        whole = (await responses.create(model=model, input=input, **options)).to_dict()
        texts = [item["content"][0]["text"] for item in whole["output"] if item["type"] == "message"]
        calls = [item for item in whole["output"] if item["type"] == "function_call"]
        return {"id": whole["id"], "status": whole["status"], "text": "".join(texts), "calls": calls,
                "metadata": whole["metadata"]}  # fmt: skip
    told: dict[str, Any] = {"text": "", "thoughts": "", "calls": [], "sequence": -1}
    try:
        async for event in await responses.create(model=model, input=input, stream=True, **options):
            read(told, event, mark)
        return told
    except Exception:
        if not patient or "id" not in told:
            raise

    async def rest() -> dict[str, Any]:  # what the background mode is for
        async for event in await responses.retrieve(told["id"], stream=True, starting_after=told["sequence"]):
            read(told, event, mark)
        return told

    return dict(await until_done(rest, patient=True))


class Listener(openai.AsyncAssistantEventHandler):
    def __init__(self, told: dict[str, Any], mark: str) -> None:
        super().__init__()
        self.told, self.mark = told, mark

    async def on_event(self, event: Any) -> None:
        self.told["events"].append(event.event.removeprefix("thread."))

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.told["streamed"] += delta.value
        PROGRESS[self.mark] += 1

    async def on_tool_call_done(self, tool_call: Any) -> None:
        self.told["calls"].append(tool_call.to_dict()["function"])


async def assist(
    url: str, assistant: str, texts: list[str], *, thread: str = "", outputs: Any = None, stream: bool = False,
    mark: str = "", patient: bool = False, major: int = 0,
) -> dict[str, Any]:  # fmt: skip
    threads = client(url).beta.threads
    thread = thread or (await threads.create()).id
    for text in texts:
        await threads.messages.create(thread, role="user", content=text)
    told: dict[str, Any] = {"thread": thread, "events": [], "calls": [], "streamed": ""}
    runs = threads.runs

    async def listen(manager: Any) -> Any:
        async with manager as events:
            await events.until_done()
            return await events.get_final_run() if hasattr(events, "get_final_run") else events.current_run

    try:
        if stream:
            handler = Listener(told, mark)
            run = await listen(runs.stream(thread_id=thread, assistant_id=assistant, event_handler=handler))
        else:
            run = await runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    except Exception:
        if not patient:
            raise
        run = (await until_done(lambda: runs.list(thread), patient=True)).data[0]
    run_id = run.id
    while True:
        while run.status in ("queued", "in_progress"):
            await asyncio.sleep(0.05)
            run = await until_done(lambda: runs.retrieve(run_id, thread_id=thread), patient)
        if run.status != "requires_action":
            break
        calls = run.required_action.submit_tool_outputs.tool_calls
        given = [{"tool_call_id": call.id, "output": outputs[call.function.name]} for call in calls]
        about: Any = {"thread_id": thread, "run_id": run.id, "tool_outputs": given}
        if stream:
            run = await listen(runs.submit_tool_outputs_stream(**about, event_handler=Listener(told, mark)))
        else:
            run = await runs.submit_tool_outputs_and_poll(**about)
    messages = await until_done(lambda: threads.messages.list(thread, order="asc", limit=100), patient)
    said = [(one.role, one.content[0].text.value if one.content else "") for one in messages.data]
    return {**told, "status": run.status, "messages": said}


async def models(url: str, major: int = 0) -> list[str]:
    return [model.id for model in (await client(url).models.list()).data]


async def progress(mark: str, url: str = "", major: int = 0) -> int:
    return PROGRESS[mark]


async def stop(url: str, id: str, major: int = 0) -> str:
    return str((await client(url).responses.cancel(id)).status)


ACTS: dict[str, Any] = {
    "chat": chat, "respond": respond, "assist": assist, "models": models, "progress": progress, "stop": stop,
}  # fmt: skip


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def act(line: bytes) -> None:
        about = json.loads(line)
        number, name = about.pop("number"), about.pop("act")
        try:
            reply = {"number": number, "answer": await ACTS[name](**about)}
        except Exception as error:
            reply = {"number": number, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)

    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            group.create_task(act(line))


asyncio.run(main())
