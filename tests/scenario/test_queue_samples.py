"""The code samples of the message queue's documents, line by line in Python, embedded and on Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import RedisServer
from turnkeep import AssistantMessageQueue
from turnkeep.events import Event
from turnkeep.messages import AssistantItem, UserItem
from turnkeep.simulator import Simulator, serve

Options = dict[str, Any]


@pytest.fixture
async def simulator() -> AsyncIterator[tuple[Simulator, str]]:
    simulator = Simulator()
    async with serve(simulator) as url:
        yield simulator, url


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def options(request: pytest.FixtureRequest, simulator: tuple[Simulator, str], tmp_path: Path) -> Options:
    """Where the sample's queue keeps its state, and who answers it."""
    common: Options = {"openai_api_key": "your-openai-api-key", "base_url": simulator[1], "model_api": "responses"}
    if request.param == "embedded":
        return {**common, "store": tmp_path / "turnkeep.db"}
    server: RedisServer = request.getfixturevalue("redis_server")
    return {**common, "redis_url": server.url()}


async def test_basic_usage(options: Options, simulator: tuple[Simulator, str]) -> None:
    # Initialize the queue manager
    assistant_queue = AssistantMessageQueue(
        assistant_id="your-assistant-id",
        message_delay=0.1,  # the sample's default is 10 s
        **options,
    )

    # Add a message to a thread
    await assistant_queue.add_message_to_thread("thread-123", "Hello, assistant!")

    # Start the worker to process messages
    assistant_queue.start_worker()
    async with assistant_queue.events("thread-123", after=0, epoch="") as events:
        async for event in events:
            if event.kind == "completed":
                break

    # When shutting down
    await assistant_queue.close()

    assert [exchange.new for exchange in simulator[0].ledger] == [["Hello, assistant!"]]


async def test_closing_at_once_keeps_the_message_for_the_next_worker(options: Options) -> None:
    first = AssistantMessageQueue(assistant_id="your-assistant-id", **options)
    await first.add_message_to_thread("thread-123", "Hello, assistant!", message_id="m")
    first.start_worker()
    await first.close()

    async with AssistantMessageQueue(assistant_id="your-assistant-id", **options) as second:
        [waiting] = await second.store.open_messages(second.address("thread-123"))
        assert waiting.message_id == "m"


async def test_configuration_options(options: Options) -> None:
    async def handle_requires_action(thread_id: str, run_id: str, tool_calls: list[Any]) -> list[Any]:
        # Handle tool calls and return outputs
        return []

    assistant_queue = AssistantMessageQueue(
        # Required options
        assistant_id="your-assistant-id",
        # Optional configuration with defaults
        queue_prefix="assistant",  # Prefix for queue names
        message_delay=10.0,  # Delay before processing (s)
        max_attempts=3,  # Maximum retry attempts
        backoff={"type": "exponential", "delay": 5.0},  # Backoff strategy for retries
        concurrency=5,  # Maximum concurrent jobs
        default_instructions="Reply to all messages logically.",
        lock_duration=300,  # Run deadline (s)
        remove_on_complete=True,  # Remove completed jobs
        # Function calling support
        handle_requires_action=handle_requires_action,
        **options,
    )

    receipt = await assistant_queue.add_message_to_thread("thread-123", "Hello")
    await assistant_queue.close()

    assert receipt.due_in == 10.0


async def test_getting_queue_status(options: Options) -> None:
    assistant_queue = AssistantMessageQueue(assistant_id="your-assistant-id", **options)
    await assistant_queue.add_message_to_thread("thread-123", "Hello")

    status = await assistant_queue.get_queue_status()
    print(status)
    await assistant_queue.close()

    assert status.to_json() == {
        "activeCount": 0,
        "waitingCount": 0,
        "delayedCount": 1,
        "completedCount": 0,
        "failedCount": 0,
    }


async def test_function_calling_support(options: Options) -> None:
    async def get_weather_data(location: str) -> dict[str, Any]:
        return {"location": location, "temperature": 21}

    async def handle_requires_action(thread_id: str, run_id: str, tool_calls: list[Any]) -> list[Any]:
        outputs = []
        for tool_call in tool_calls:
            args = json.loads(tool_call["function"]["arguments"])

            # Handle different functions
            match tool_call["function"]["name"]:
                case "get_weather":
                    result = await get_weather_data(args["location"])
                case _:
                    result = {"error": "Unknown function"}

            outputs.append({"tool_call_id": tool_call["id"], "output": json.dumps(result)})
        return outputs

    async with AssistantMessageQueue(
        assistant_id="your-assistant-id", message_delay=0.1, handle_requires_action=handle_requires_action, **options
    ) as assistant_queue:
        assistant_queue.start_worker()
        answer = await assistant_queue.ask(
            "thread-123", 'What is it like? [[call:get_weather {"location": "Paris"}]] [[call:something_else {}]]'
        )

    assert "21" in answer
    assert "Unknown function" in answer


def stumbles(channel: str, event: Event) -> None:
    raise RuntimeError("a hook that fails keeps nobody from anything")


async def test_hooks_are_called_in_order_for_channels_sent_to_from_here(options: Options) -> None:
    heard: list[tuple[str, str]] = []
    async with AssistantMessageQueue(message_delay=0.05, **options) as queue:
        queue.on("*", lambda channel, event: heard.append((channel, event.kind)))
        queue.on("completed", stumbles)
        queue.start_worker()
        await queue.ask("one", "hello [[say:a]]")
        await queue.ask("one", "again [[say:b]]")

    kinds = [kind for channel, kind in heard if channel == "one" and kind != "delta"]
    assert kinds[:4] == ["accepted", "started", "responding", "completed"]
    assert kinds.count("completed") >= 1


async def test_the_last_answer_can_be_made_again(options: Options) -> None:
    async with AssistantMessageQueue(message_delay=0.05, **options) as queue:
        queue.start_worker()
        await queue.ask("c", "first [[say:one]]")
        await queue.ask("c", "second [[say:two]]")
        async with queue.events("c") as events:
            [receipt] = await queue.regenerate("c")
            async for event in events:
                if event.is_final and receipt.message_id in event.message_ids:
                    break
        items = await queue.list_messages("c")

    assert [i.content[0].text for i in items if isinstance(i, UserItem)] == ["first [[say:one]]", "second [[say:two]]"]
    assert [i.text for i in items if isinstance(i, AssistantItem)] == ["one", "two"]


async def test_a_worker_started_before_the_queue_is_used_works_when_it_is(options: Options) -> None:
    queue = AssistantMessageQueue(message_delay=0.05, **options)
    queue.start_worker()
    try:
        assert await queue.ask("c", "hello [[say:hi]]") == "hi"
    finally:
        await queue.close()
