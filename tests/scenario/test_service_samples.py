"""Every sample of the streaming service's documents, line by line in Python, says what its text promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from turnkeep import ConversationManager, OpenAIService, create_openai_config
from turnkeep.service import OpenAIConfig, RetryConfig
from turnkeep.simulator import Fault, Options, Simulator, serve
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.tools.workspace import openat2_works

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello, how are you?"},
]


@pytest.fixture
async def simulator() -> AsyncIterator[tuple[Simulator, str]]:
    simulator = Simulator(options=Options(keep_bodies=True))
    async with serve(simulator) as url:
        yield simulator, url


@pytest.fixture
def config(simulator: tuple[Simulator, str]) -> Callable[..., OpenAIConfig]:
    """Basic setup."""

    def make(**more: Any) -> OpenAIConfig:
        given: dict[str, Any] = {
            "api_key": "your-openai-api-key",
            "model": "gpt-4o",
            "max_tokens": 4096,
            "temperature": 0.1,
            "base_url": simulator[1],
            "store": "memory:",
            **more,
        }
        return create_openai_config(**given)

    return make


Config = Callable[..., OpenAIConfig]


async def show(service: OpenAIService, messages: list[dict[str, Any]], session_id: str) -> None:
    """The loop of "Streaming Responses"."""
    async for chunk in service.stream_completion(messages, session_id):
        match chunk.type:
            case "content":
                print("Content:", chunk.content)
            case "tool_call":
                print("Tool called:", chunk.tool_call)
            case "done":
                print("Cost:", chunk.metadata.cost if chunk.metadata else None)
            case "error":
                print("Error:", chunk.error)


async def test_streaming_responses(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    async with OpenAIService(config()) as openai_service:
        await show(openai_service, MESSAGES, "session-123")
    printed = capsys.readouterr().out.splitlines()
    content = [line.removeprefix("Content: ") for line in printed[:-1]]
    assert len(content) > 10, "token by token"
    assert "".join(content).startswith("You asked: “Hello, how are you?”")
    assert printed[-1] == "Cost: 0.000235", "22 tokens in at 2.50, 18 out at 10.00 dollars per million"


async def test_streaming_errors_are_told_in_the_loop(
    config: Config, simulator: tuple[Simulator, str], capsys: pytest.CaptureFixture[str]
) -> None:
    simulator[0].faults.append(Fault("poison"))
    async with OpenAIService(config()) as openai_service:
        await show(openai_service, MESSAGES, "session-123")
    [printed] = capsys.readouterr().out.splitlines()
    assert printed.startswith("Error: the provider answered 400 invalid_prompt")


async def test_function_calling(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    async def handler(args: dict[str, Any]) -> dict[str, str]:
        return {"result": f"Processed: {args['input']}"}

    async with OpenAIService(config()) as openai_service:
        openai_service.register_tool(
            {
                "type": "function",
                "function": {
                    "name": "custom_tool",
                    "description": "A custom tool",
                    "parameters": {
                        "type": "object",
                        "properties": {"input": {"type": "string", "description": "Input parameter"}},
                        "required": ["input"],
                    },
                },
                "handler": handler,
            }
        )
        messages = [{"role": "user", "content": 'Please [[call:custom_tool {"input": "it"}]] now'}]
        tool_calls = await openai_service.complete_with_tools(messages, "session-123")
        await show(openai_service, [{"role": "user", "content": '[[call:custom_tool {"input": "x"}]]'}], "session-123")
    [call] = tool_calls
    assert (call.name, json.loads(call.arguments)) == ("custom_tool", {"input": "it"})
    assert json.loads(call.output or "") == {"result": "Processed: it"}
    assert capsys.readouterr().out.startswith("Tool called: ToolCall(id='call_")


@pytest.mark.usefixtures("bubblewrap")
@pytest.mark.skipif(not openat2_works(), reason="the file tools need Linux 5.6")
async def test_built_in_tools_are_registered_by_their_configuration(config: Config, tmp_path: Path) -> None:
    assert OpenAIService(config()).toolbox.names == (), "nothing may touch files unless it was configured"
    async with OpenAIService(config(workspace=tmp_path)) as openai_service:
        assert {"read_file", "write_file", "git_operation"} <= set(openai_service.toolbox.names)
        written = '[[call:write_file {"path": "a/b.txt", "content": "hello", "encoding": null}]]'
        read = '[[then:read_file {"path": "a/b.txt", "encoding": "utf-8"}]]'
        calls = await openai_service.complete_with_tools([{"role": "user", "content": written + read}])
    assert [call.name for call in calls] == ["write_file", "read_file"]
    assert calls[1].output == "hello"
    assert (tmp_path / "a/b.txt").read_text() == "hello"


@pytest.mark.usefixtures("bubblewrap")
@pytest.mark.skipif(not openat2_works() or not shutil.which("git"), reason="needs git and Linux 5.6")
async def test_git_operations(config: Config, tmp_path: Path) -> None:
    async with OpenAIService(config(workspace=tmp_path)) as openai_service:
        steps: list[dict[str, Any]] = [
            {"operation": "init"},
            {"operation": "commit", "arguments": ["--allow-empty"], "message": "first"},
            {"operation": "status", "arguments": ["--short", "--branch"]},
        ]
        nothing = {"arguments": None, "paths": None, "message": None}
        asked = "".join(f"[[then:git_operation {json.dumps({**nothing, **step})}]]" for step in steps)
        calls = await openai_service.complete_with_tools([{"role": "user", "content": asked}])
    assert calls[2].output == "## main\n"


# ---------------------------------------------------------------- conversation memory


@pytest.fixture
def memory_place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The Redis of the sample; without its extra, a store in memory."""
    try:
        from turnkeep.store.redis import RedisStore  # noqa: F401
    except ImportError:
        return {"store": "memory:"}
    server = request.getfixturevalue("redis_server")
    return {"redis": {"host": "localhost", "port": server.port}}


async def test_conversation_memory_management(memory_place: dict[str, Any]) -> None:
    memory_config = {
        **memory_place,
        "ttl": 3600,  # 1 hour
        "max_messages": 100,
        "max_tokens": 4000,
    }
    async with ConversationManager(**memory_config) as conversation_manager:
        # Add messages to conversation history
        await conversation_manager.add_message("session-123", {"role": "user", "content": "Hello!"}, "gpt-4o")

        # Get conversation history
        conversation = await conversation_manager.get_conversation("session-123")
    assert conversation.messages == [{"role": "user", "content": "Hello!"}]


async def test_what_the_manager_remembers_the_service_knows(config: Config, simulator: tuple[Simulator, str]) -> None:
    store: Store = MemoryStore()
    await store.open()
    conversation_manager = ConversationManager(store=store)
    await conversation_manager.add_message("session-123", {"role": "system", "content": "Be brief."}, "gpt-4o")
    await conversation_manager.add_message("session-123", {"role": "user", "content": "My name is Ada"}, "gpt-4o")
    await conversation_manager.add_message("session-123", {"role": "assistant", "content": "Hello Ada"}, "gpt-4o")
    async with OpenAIService(config(store=store)) as openai_service:
        answer = await openai_service.complete([{"role": "user", "content": "What is my name?"}], "session-123")
    assert answer.content == "Your name is Ada."
    assert {"role": "system", "content": "Be brief."} in next(iter(simulator[0].ledger)).body["messages"]
    conversation = await conversation_manager.get_conversation("session-123")
    assert [m["role"] for m in conversation.messages] == ["system", *["user", "assistant"] * 2]


# ---------------------------------------------------------------- configuration


def test_openai_configuration(config: Config) -> None:
    made = config(presence_penalty=0.5, frequency_penalty=-0.5, timeout=30, retries=2)
    assert (made.model, made.max_tokens, made.temperature) == ("gpt-4o", 4096, 0.1)
    assert (made.presence_penalty, made.frequency_penalty, made.timeout) == (0.5, -0.5, 30)
    assert made.retries.max_retries == 2


async def test_retry_configuration(config: Config, simulator: tuple[Simulator, str]) -> None:
    retry_config = RetryConfig(
        max_retries=3,
        initial_delay=0.01,
        max_delay=0.02,
        backoff_factor=2.0,
        retryable_errors=("rate_limit_exceeded", "server_error"),
    )
    simulator[0].faults.append(Fault("500", times=3))
    async with OpenAIService(config(retries=retry_config)) as openai_service:
        answer = await openai_service.complete(MESSAGES)
    assert answer.content.startswith("You asked")
    assert [exchange.fault for exchange in simulator[0].ledger] == ["500"] * 3 + [None]


# ---------------------------------------------------------------- what the features promise


async def test_rate_limits_and_server_errors_are_retried_with_exponential_backoff(
    config: Config, simulator: tuple[Simulator, str]
) -> None:
    simulator[0].faults.append(Fault("429", retry_after_ms=10.0))
    simulator[0].faults.append(Fault("503", retry_after_ms=10.0))
    async with OpenAIService(config()) as openai_service:
        assert (await openai_service.complete(MESSAGES)).metadata.finish_reason == "stop"
    assert len(simulator[0].ledger) == 3


async def test_performance_is_tracked_with_timing_information(config: Config) -> None:
    async with OpenAIService(config()) as openai_service:
        metadata = (await openai_service.complete(MESSAGES, "session-123")).metadata
    assert metadata.timings.first_token is not None
    assert 0 < metadata.timings.first_token <= metadata.timings.total
    assert metadata.timings.tokens_per_second is not None
    assert (metadata.usage.input_tokens, metadata.usage.output_tokens, metadata.model) == (22, 18, "gpt-4o")
