"""A constructor that does not understand says so in the words that were typed, with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

from turnkeep import AssistantMessageQueue, ConversationManager, OpenAIService, Settings, create_openai_config
from turnkeep.client import SyncTurnkeepClient, TurnkeepClient
from turnkeep.errors import ConfigurationError
from turnkeep.service import RetryConfig
from turnkeep.setting_types import QueueSettings, ServiceSettings
from turnkeep.spelling import meant_name

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(make: Make, *place: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        make(*place, **options)
    return str(refused.value)


# ---------------------------------------------------------------- names


def test_every_name_of_the_seeds_is_told_with_its_name_here_and_all_at_once() -> None:
    said = refusal(
        AssistantMessageQueue,
        redisUrl="redis://localhost:6379",
        openAIApiKey="sk-x",
        assistantId="asst_1",
        queuePrefix="assistant",
        messageDelay=10_000,
        maxAttempts=3,
        defaultInstructions="Reply.",
        lockDuration=300_000,
        removeOnComplete=True,
        handleRequiresAction=None,
        nonsense=1,
    )
    assert said.splitlines() == [
        "AssistantMessageQueue has no option of these names:",
        "  redisUrl: use redis_url",
        "  openAIApiKey: use openai_api_key",
        "  assistantId: use assistant_id",
        "  queuePrefix: use queue_prefix",
        "  messageDelay: use message_delay",
        "  maxAttempts: use max_attempts",
        "  defaultInstructions: use default_instructions",
        "  lockDuration: use lock_duration",
        "  removeOnComplete: use remove_on_complete",
        "  handleRequiresAction: use handle_requires_action",
        "  nonsense: there is none with a name like it",
        "Times are seconds here, not milliseconds.",
    ]


@pytest.mark.parametrize(
    ("make", "options", "meant"),
    [
        (AssistantMessageQueue, {"redis_ur": "x"}, "did you mean redis_url?"),
        (AssistantMessageQueue, {"apiKey": "x"}, "did you mean openai_api_key?"),
        (AssistantMessageQueue, {"worksapce": "x"}, "did you mean workspace?"),
        (AssistantMessageQueue, {"TURNKEEP_WINDO": 1}, "there is none with a name like it"),
        (create_openai_config, {"apiKey": "x"}, "apiKey: use api_key"),
        (create_openai_config, {"maxTokens": 4}, "maxTokens: use max_tokens"),
        (create_openai_config, {"presencePenalty": 4}, "presencePenalty: use presence_penalty"),
        (create_openai_config, {"retries": {"maxRetries": 3}}, "maxRetries: use max_retries"),
        (ConversationManager, {"maxMessages": 4}, "maxMessages: use max_messages"),
        (ConversationManager, {"redis": {"hostname": "x"}}, "redis has no option of this name:\n  hostname: "),
        (TurnkeepClient, {"baseUrl": "http://x", "apiKey": "x"}, "baseUrl: use base_url\n  apiKey: use api_key"),
        (SyncTurnkeepClient, {"timeout": 4}, "timeout: there is none with a name like it\nIt takes base_url, "),
        (Settings.load, {"redisUrl": "x"}, "redisUrl: use redis_url"),
        (Settings.load, {"WINDOW": 1}, "WINDOW: use window"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_told_with_the_one_that_was_meant(
    make: Make, options: dict[str, Any], meant: str
) -> None:
    assert meant in refusal(make, **options)


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (AssistantMessageQueue, {"redisUrl": "redis://localhost"}),
        (create_openai_config, {"apiKey": "sk-x"}),
        (ConversationManager, {"redis": {"host": "localhost"}, "ttl": 3600, "maxMessages": 100}),
        (OpenAIService, {"apiKey": "sk-x"}),
        (TurnkeepClient, {"baseUrl": "http://x"}),
        (SyncTurnkeepClient, {"baseUrl": "http://x"}),
    ],
)
def test_one_object_of_options_is_refused_with_how_to_write_it(make: Make, place: dict[str, Any]) -> None:
    said = refusal(make, place)
    assert "takes keywords" in said or "takes what create_openai_config(" in said


def test_settings_go_by_their_variables_too() -> None:
    queue = AssistantMessageQueue(TURNKEEP_MAX_INBOX=7)  # type: ignore[call-arg]
    assert queue.settings.max_inbox == 7


@pytest.mark.parametrize("name", ["x", "a", "_", "", "key"])
def test_a_short_name_is_not_guessed_at(name: str) -> None:
    assert meant_name(name, ["redis_url", "openai_api_key"]) is None


@pytest.mark.parametrize(("make", "types"), [(AssistantMessageQueue.__init__, QueueSettings),
                                             (create_openai_config, ServiceSettings)])  # fmt: skip
def test_every_setting_is_a_typed_keyword_once(make: Make, types: type) -> None:
    own = inspect.signature(make).parameters.keys() - {"self", "settings"}
    keywords = get_type_hints(types).keys()
    assert keywords & own == set()
    assert keywords | own >= Settings.model_fields.keys()
    assert keywords <= Settings.model_fields.keys()


# ---------------------------------------------------------------- milliseconds


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (AssistantMessageQueue, {"message_delay": 2_000},
         "message_delay=2000 is 33 minutes: times are seconds here, not milliseconds; write message_delay=2; "
         "for 33 minutes write window=2000"),
        (AssistantMessageQueue, {"message_delay": 10_000}, "not milliseconds; write message_delay=10"),
        (AssistantMessageQueue, {"lock_duration": 300_000}, "write lock_duration=300; for 3 days write run_deadline="),
        (AssistantMessageQueue, {"backoff": {"type": "exponential", "delay": 5_000}}, "delay=5000 is 83 minutes"),
        (AssistantMessageQueue, {"backoff": {"cap": 60_000}}, "cap=60000 is 17 hours"),
        (create_openai_config, {"timeout": 30_000}, "write timeout=30;"),
        (create_openai_config, {"retries": {"initial_delay": 1_000}}, "write initial_delay=1"),
        (RetryConfig, {"max_delay": 30_000}, "write max_delay=30"),
    ],
)  # fmt: skip
def test_milliseconds_are_recognised(make: Make, options: dict[str, Any], said: str) -> None:
    assert said in refusal(make, **options)


def test_a_long_time_can_be_meant() -> None:
    queue = AssistantMessageQueue(window=2_000, run_deadline=300_000.0, backoff_delay=400.0, backoff_cap=86_400.0)
    assert (queue.settings.window, queue.settings.run_deadline) == (2_000, 300_000)


async def test_times_of_a_call_are_seconds_too(tmp_path: Path) -> None:
    async with AssistantMessageQueue(store="memory:") as queue:
        with pytest.raises(ConfigurationError, match="write timeout=30"):
            await queue.ask("c", "hello", timeout=30_000)
    service = OpenAIService()
    with pytest.raises(ConfigurationError, match="write wait=5"):
        await service.complete([{"role": "user", "content": "hello"}], "s", wait=5_000)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"message_delay": "soon"}, ["message_delay = 'soon': Input should be a valid number, unable to parse string"]),
        ({"message_delay": -1}, ["message_delay = -1: Input should be greater than or equal to 0"]),
        ({"window": "x"}, ["window = 'x': "]),
        ({"base_url": "x", "concurrency": 0}, ["base_url = ***: expected a URL", "concurrency = 0: "]),
        ({"assistant_id": 5, "queue_prefix": ""}, ["assistant_id = 5: ", "queue_prefix = '': "]),
        ({"lock_duration": 0}, ["lock_duration = 0: "]),
        ({"default_instructions": 5}, ["default_instructions = 5: "]),
        ({"backoff": {"type": "linear"}}, ["backoff = 'linear': Input should be 'exponential' or 'fixed'"]),
    ],
)
def test_what_was_passed_is_what_the_error_names(options: dict[str, Any], lines: list[str]) -> None:
    head, *told = refusal(AssistantMessageQueue, **options).splitlines()
    assert head == "wrong settings:"
    assert len(told) == len(lines)
    assert all(line.strip().startswith(expected) for line, expected in zip(sorted(told), sorted(lines), strict=True))


@pytest.mark.parametrize(
    ("present", "told"),
    [
        ("WEBSOCKET_URI", "WEBSOCKET_URI = ***"),
        ("WEBSOCKET_URL", "WEBSOCKET_URL = ***"),
        ("TURNKEEP_THREAD_EXPIRY", "TURNKEEP_THREAD_EXPIRY = "),
        ("REDIS_THREAD_EXPIRY", "REDIS_THREAD_EXPIRY = "),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_of_two_variables_the_one_that_is_set_is_told(
    present: str, told: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if place == "file":
        (tmp_path / ".env").write_text(f"{present}=x://y\n")
    else:
        monkeypatch.setenv(present, "x://y")
    assert told in refusal(Settings.load)


def test_the_secret_is_masked_under_whatever_name() -> None:
    assert "hidden-word" not in refusal(Settings.load, WEBSOCKET_URI="http://:hidden-word@host")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (AssistantMessageQueue, {"model": "a", "openai_model": "b"}),
        (AssistantMessageQueue, {"base_url": "http://a/", "openai_base_url": "http://b/"}),
        (create_openai_config, {"api_key": "sk-a", "openai_api_key": "sk-b"}),
        (create_openai_config, {"timeout": 5, "run_deadline": 6}),
    ],
)
def test_two_names_of_one_setting_are_not_chosen_from(make: Make, options: dict[str, Any]) -> None:
    assert " and ".join(options) in refusal(make, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"store": 5}, "store is of type int: give the path"),
        ({"backoff": 5}, "backoff=5: it takes an object"),
        ({"handle_requires_action": 5}, "handle_requires_action is of type int, it must be a function"),
        ({"handle_requires_action": lambda call: call}, "write async def handle_requires_action(thread_id, run_id, "),
        ({"tools": [5]}, "is of type int, it must be a function"),
        ({"tools": 5}, "tools is of type int, it must be a list of tools"),
        ({"tools": refusal}, "tools is of type function, it must be a list of tools"),
        ({"tools": {"type": "function"}}, "tools is of type dict, it must be a list of tools"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(options: dict[str, Any], said: str) -> None:
    assert said in refusal(AssistantMessageQueue, **options)


# ---------------------------------------------------------------- tools


def yields(arguments: dict[str, Any]) -> Any:
    yield arguments


class Handler:
    def __call__(self, arguments: dict[str, Any]) -> str:
        return "called"


def definition(handler: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "description": "Look."}, "handler": handler, **more}


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("look", "the handler of tool 'look' is of type str, it must be a function"),
        (yields, "the handler of tool 'look' yields, it must return its result"),
        (lambda: "x", "the handler of tool 'look' is called with other arguments than it takes: write def handler("),
        (lambda one, two: "x", "the handler of tool 'look' is called with other arguments than it takes"),
        (lambda *, one: "x", "the handler of tool 'look' is called with other arguments than it takes"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused(handler: Any, said: str) -> None:
    service = OpenAIService(create_openai_config(store="memory:"))
    assert said in refusal(service.register_tool, definition(handler))


@pytest.mark.parametrize("handler", [len, Handler(), lambda *all: "x", lambda one, two=2: "x", dict, None])
def test_a_handler_that_can_be_called_is_taken(handler: Any) -> None:
    service = OpenAIService(create_openai_config(store="memory:"))
    assert service.register_tool(definition(handler)).name == "look"


def test_a_definition_has_no_other_parts() -> None:
    service = OpenAIService(create_openai_config(store="memory:"))
    assert "handlr: did you mean handler?" in refusal(service.register_tool, definition(None, handlr=len))


# ---------------------------------------------------------------- what is allowed aloud


@pytest.mark.parametrize("name", ["allow_unsafe_redis", "insecure_no_auth", "allow_network_filesystem"])
def test_what_is_allowed_aloud_is_a_keyword_a_variable_and_an_option(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = AssistantMessageQueue(store="memory:", **{name: True})  # type: ignore[arg-type]
    assert getattr(queue.settings, name) is True
    monkeypatch.setenv(f"TURNKEEP_{name.upper()}", "1")
    assert getattr(Settings.load(), name) is True
    command = typer.main.get_command(import_module("turnkeep.cli.serve").app)
    assert f"--{name.replace('_', '-')}" in {option for one in command.params for option in one.opts}
