"""How long an answer may be is learned from the refusal that says it, and remembered for the model at the endpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.contract.asking import HELLO, PROTOCOLS, TEXT, opened, parts_of, server_that, text_of
from tests.contract.canned import Canned
from tests.rows import each_row
from turnkeep.errors import ContextTooLong, ModelRefused
from turnkeep.models.refusals import lessons_in

FIELD = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "anthropic": "max_tokens"}
MUCH = replace(HELLO, parameters={"max_tokens": 20_000})


def limits(server: Canned, kind: str) -> list[Any]:
    return [visit.body.get(FIELD[kind]) for visit in server.visits]


LARGE = "max_tokens is too large: {}. This model supports at most {} completion tokens"


def at_most(most: int, kind: str, said: str = LARGE) -> Any:
    def refuses(body: dict[str, Any]) -> str | None:
        asked = body.get(FIELD[kind]) or 0
        return said.format(asked, most) if asked > most else None

    return refuses


@PROTOCOLS
async def test_a_limit_above_the_servers_is_lowered_once_and_remembered(kind: str) -> None:
    async with server_that(at_most(4096, kind), kind) as server:
        model = opened(server, kind)
        for parameters in ({"max_tokens": 20_000}, {"max_tokens": 9_000}, {"max_tokens": 500}):
            assert text_of(await parts_of(model, replace(HELLO, parameters=parameters))) == TEXT[kind]
        await model.close()
    assert limits(server, kind) == [20_000, 4096, 4096, 500]


@PROTOCOLS
async def test_the_limit_of_one_model_is_not_believed_of_another(kind: str) -> None:
    async with server_that(at_most(4096, kind), kind) as server:
        model = opened(server, kind)
        for name in ("m", "n"):
            await parts_of(model, replace(MUCH, model=name))
        await model.close()
    assert limits(server, kind) == [20_000, 4096, 20_000, 4096]


async def test_the_room_that_is_asked_for_by_default_is_lowered_too() -> None:
    said = "max_tokens: {} > {}, which is the maximum allowed number of output tokens for m"
    async with server_that(at_most(4096, "anthropic", said), "anthropic") as server:
        model = opened(server, "anthropic")
        for _ in range(2):
            assert text_of(await parts_of(model)) == TEXT["anthropic"]
        await model.close()
    assert limits(server, "anthropic")[1:] == [4096, 4096]


async def test_thoughts_keep_within_a_lowered_limit() -> None:
    thinking = {"type": "enabled", "budget_tokens": 10_000}
    asked = replace(HELLO, parameters={"max_tokens": 20_000, "thinking": thinking})
    async with server_that(at_most(8_000, "anthropic"), "anthropic") as server:
        model = opened(server, "anthropic")
        await parts_of(model, asked)
        await model.close()
    assert [visit.body["thinking"]["budget_tokens"] for visit in server.visits] == [10_000, 4_000]


@PROTOCOLS
async def test_a_limit_that_crowds_out_the_question_is_lowered_for_it_alone(kind: str) -> None:
    said = (
        "'max_tokens' or 'max_completion_tokens' is too large: {}. This model's maximum context length is 32768 tokens "
        "and your request has 300 input tokens ({} > 32768 - 300)."
    )
    async with server_that(at_most(32_468, kind, said), kind) as server:
        model = opened(server, kind)
        for _ in range(2):
            await parts_of(model, replace(HELLO, parameters={"max_tokens": 32_768}))
        await model.close()
    assert limits(server, kind) == [32_768, 32_468, 32_768, 32_468]


SENTENCES = {
    "max_completion_tokens is too large: 262144. This model supports at most 256000 completion tokens.": 256_000,
    "AiError: max_completion_tokens is too large: 1298829. This model supports at most 1048576": 1_048_576,
    "max_tokens is too large: 1,048,576. This model supports at most 131,072 completion tokens": 131_072,
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]": 8_192,
    "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 65536]": 65_536,
    "max_tokens参数非法：限制数值范围[1,131072]": 131_072,
    "`max_tokens` must be less than or equal to `16384`, the maximum value for `max_tokens` is less than the "
    "`context_window` for this model": 16_384,
    "`max_completion_tokens` must be less than or equal to `40960`": 40_960,
    "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum value, "
    "expected a value <= 12288, but got 900000 instead.": 12_288,
    "Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 16384, but got 900000.": 16_384,
    "max_tokens: 2000000 > 64000, which is the maximum allowed number of output tokens for claude-sonnet-4": 64_000,
    "The maximum tokens you requested exceeds the model limit of 32768": 32_768,
    # what the window leaves: the question is not what takes the room
    "This model's maximum context length is 131072 tokens. However, you requested 131329 tokens (3137 in the messages, "
    "128192 in the completion). Please reduce the length of the messages or completion.": 127_935,
    "input length and `max_tokens` exceed context limit: 90402 + 116650 > 204648, decrease input length or "
    "`max_tokens` and try again": 114_246,
    "This model's maximum context length is 131072 tokens. However, you requested 128000 output tokens and your prompt "
    "contains at least 3073 input tokens, for a total of at least 131073 tokens.": 32_768,
}


@each_row("said", SENTENCES)
@each_row("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_every_server_says_it_in_its_own_words(said: str, field: str) -> None:
    lesson = next(lessons_in(f"the provider answered 400: {said}", {"model": "m", field: 2_000_000}), None)
    assert lesson is not None
    assert lesson.changes == {"most_output_tokens": SENTENCES[said]}


@pytest.mark.parametrize(
    "said",
    [
        # the past takes the room: it is cut
        "This model's maximum context length is 131072 tokens. However, you requested 131329 tokens (123137 in the "
        "messages, 8192 in the completion). Please reduce the length of the messages or completion.",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length",
        "This model's maximum context length is 131072 tokens. However, you requested 4000 output tokens and your "
        "prompt contains at least 127073 input tokens, for a total of at least 131073 tokens.",
        # a least, not a most
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 8 instead.",
        "max_tokens must be greater than thinking.budget_tokens",
        "max_tokens: 0 is too small",
        "the limit of max_tokens per minute is 8000",
        # not lower than what was asked for
        "max_tokens is too large: 300. This model supports at most 4096 completion tokens",
    ],
)
def test_other_words_about_tokens_lower_nothing(said: str) -> None:
    asked = int(found[1]) if (found := re.search(r"(\d+) (?:output tokens|in the completion)", said)) else 3_000
    assert not list(lessons_in(said, {"model": "m", "max_tokens": asked}))


async def test_a_sentence_that_stands_in_the_place_of_the_parameter_is_read() -> None:
    param = "max_tokens is too large: 20000. This model supports at most 4096 completion tokens."

    def refuses(body: dict[str, Any]) -> bytes | None:
        error = {"message": "Param Incorrect", "type": "upstream_error", "param": param, "code": "400"}
        return orjson.dumps({"error": error}) if body[FIELD["chat"]] > 4096 else None

    async with server_that(refuses, "chat") as server:
        model = opened(server, "chat")
        await parts_of(model, MUCH)
        await model.close()
    assert limits(server, "chat") == [20_000, 4096]


@pytest.mark.parametrize("said", ["This model's maximum context length is 4096 tokens", "no"])
async def test_what_teaches_nothing_is_told_as_it_is(said: str) -> None:
    async with server_that(lambda _: said, "chat") as server:
        model = opened(server, "chat")
        with pytest.raises((ContextTooLong, ModelRefused)):
            await parts_of(model, MUCH)
        await model.close()
    assert len(server.visits) == 1
