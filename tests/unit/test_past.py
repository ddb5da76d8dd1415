"""What is remembered of a past is told word for word as if it were put into words anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest

from turnkeep.messages import (
    AssistantItem,
    CallItem,
    HostedItem,
    Item,
    OutputItem,
    Part,
    ProviderData,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.models.anthropic import AnthropicModel
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.chat import ChatModel
from turnkeep.models.fit import PastForm
from turnkeep.models.model import ModelRequest, ToolSpec
from turnkeep.models.past import Past, PastTurn, pair
from turnkeep.models.provider import Provider
from turnkeep.models.reading import PLACE_OF_PAST, json_bytes
from turnkeep.models.responses import ResponsesModel

SITE = "models.example/v1"
PROTOCOLS = {"responses": ResponsesModel, "chat": ChatModel, "anthropic": AnthropicModel}
NAMES = ["look_up", "look up", "look.up", "pay", "f" * 70]
TOOLS = [(), (ToolSpec("pay", "Pays.", {"type": "object"}),), tuple(ToolSpec(n, "", {"type": "object"}) for n in NAMES)]
SWITCHES = [f.name for f in fields(Capabilities) if f.name.startswith(("takes_", "wants_"))]


def some_turn(chance: random.Random, n: int) -> Iterator[Item]:
    """Mostly as runs make them; now and then as nobody should."""
    odd = chance.random() < 0.15
    if not (odd and chance.random() < 0.3):
        for _ in range(chance.choice([1, 1, 1, 3])):
            yield UserItem(chance.choice([text_content(f"q{n}"), (Part("text", " "),), picture(), half()]), f"m{n}")
    if chance.random() < 0.4:
        yield from called(chance, n, odd=odd)
    if chance.random() < 0.2:
        yield ReasoningItem({"id": "rs", "encrypted_content": "x"}, chance.choice([SITE, "elsewhere", None]))
    if odd and chance.random() < 0.4:
        odd_ones: list[Item] = [
            SystemItem("rules"),
            ReasoningItem({"reasoning_content": "hm"}, SITE),
            AssistantItem(""),
        ]
        yield chance.choice(odd_ones)
    if not (odd and chance.random() < 0.5):
        yield AssistantItem(f"a{n}", phase=chance.choice([None, "final_answer"]), provider_data=signed(chance))


def called(chance: random.Random, n: int, *, odd: bool) -> Iterator[Item]:
    name, place = chance.choice(NAMES), chance.choice([f"call_{n}", f"call_{n}", f"{n} é", "x" * 50])
    call_id = chance.choice(["call_0", "call_1", place]) if odd else place
    if chance.random() < 0.3:
        yield ReasoningItem({"reasoning_content": "hm"}, SITE)
    if chance.random() < 0.2:
        yield HostedItem("web_search", {"type": "web_search_call", "id": f"ws{n}"}, "x", SITE)
    yield CallItem(call_id, name, chance.choice(["{}", '{"a": 1}', "{"]), signed(chance))
    if not (odd and chance.random() < 0.5):
        yield OutputItem(call_id, chance.choice(["done", " "]), chance.choice(["ok", "error"]))


def picture() -> tuple[Part, ...]:
    return (Part("text", "look"), Part("image", data={"image_url": "https://x.example/a.png"}))


def half() -> tuple[Part, ...]:
    return text_content("half of \ud83d")


def signed(chance: random.Random) -> ProviderData | None:
    return ProviderData(SITE, {"extra": {"n": 1}}) if chance.random() < 0.2 else None


def some_past(chance: random.Random) -> Past:
    past = Past.of([PastTurn(some_turn(chance, n), 5) for n in range(chance.randrange(5))])
    for n in range(5, 5 + chance.randrange(4)):
        past = past.plus(PastTurn(some_turn(chance, n), 5))
    return past.without_oldest(chance.randrange(len(past.turns) + 1))


def some_caps(chance: random.Random) -> Capabilities:
    caps = Capabilities(call_ids=chance.choice(["any", "word", "nine"]))
    flips = chance.sample(SWITCHES, chance.choice([0, 1, 1, 2]))
    switched: dict[str, Any] = {name: not getattr(caps, name) for name in flips}
    return replace(caps, **switched)


def some_request(chance: random.Random, past: Past) -> ModelRequest:
    current: list[Item] = [UserItem(chance.choice([picture(), text_content("now")]), "now")]
    if chance.random() < 0.3:
        current += called(chance, 99, odd=False)
    return ModelRequest(
        "model",
        [*past.items, *pair(current)],
        instructions=chance.choice([None, "be kind"]),
        tools=chance.choice(TOOLS),
        current=len(pair(current)),
        past=past,
    )


def asked(model: Any, request: ModelRequest, caps: Capabilities, *, whole: bool) -> Any:
    asking = model._put(request, caps, whole=whole)
    return orjson.loads(json_bytes(asking.body).replace(PLACE_OF_PAST, asking.past))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_remembered_past_is_told_as_one_that_is_put_into_words_anew(protocol: str) -> None:
    endpoint = Provider(f"https://{SITE}", "key")
    chance, remembered = random.Random(protocol), 0
    model: Any = PROTOCOLS[protocol](endpoint)
    pasts = [some_past(chance) for _ in range(60)]
    for _ in range(600):
        past, caps = chance.choice(pasts), some_caps(chance)
        if not past.is_divisible:
            continue
        request = some_request(chance, past)

        assert asked(model, request, caps, whole=False) == asked(model, request, caps, whole=True)
        remembered += model._past.excerpt(request, caps) is not None

    assert remembered > 100


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_of_a_past_that_goes_on_what_is_new_alone_is_put_into_words(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows at its end and loses its beginning, as that of a thread does, with turns that say nothing between."""
    model: Any = PROTOCOLS[protocol](Provider(f"https://{SITE}", "key"))
    caps, chance, turns_in_words = Capabilities(), random.Random(protocol), list[PastTurn]()
    own_words = PastForm._own_words

    def note(form: PastForm, turn: PastTurn) -> bytes | None:
        turns_in_words.append(turn)
        return own_words(form, turn)

    monkeypatch.setattr(PastForm, "_own_words", note)
    past, all_turns = Past(), list[PastTurn]()
    for n in range(200):
        said: list[Item] = [UserItem(text_content(f"q{n}" * chance.choice([1, 40])), f"m{n}"), AssistantItem(f"a{n}")]
        is_silent = protocol != "anthropic" and chance.random() < 0.3
        all_turns.append(PastTurn([UserItem((), f"m{n}")] if is_silent else said, 5))
        past = past.plus(all_turns[-1])
        past = past.without_oldest(chance.choice([0, 0, 1, 3]) if len(past.turns) > 5 else 0)
        request = ModelRequest("model", [*past.items, UserItem(text_content("now"), "now")], current=1, past=past)

        assert asked(model, request, caps, whole=False) == asked(model, request, caps, whole=True)

    open_turns = 1 if protocol == "anthropic" else 0
    assert turns_in_words == all_turns[: len(all_turns) - open_turns]


def test_a_past_that_goes_on_in_two_ways_is_told_in_each_as_it_is() -> None:
    """Of a run that failed behind its answer, and of the one after it; with the one before it asked for again."""
    model: Any = ResponsesModel(Provider(f"https://{SITE}", "key"))
    chance = random.Random(3)
    pasts = [Past.of([PastTurn([UserItem(text_content("q"), "m"), AssistantItem("a")], 5)])]
    for n in range(300):
        turn = PastTurn([UserItem(text_content(f"q{n}"), f"m{n}"), AssistantItem(f"a{n}")], 5)
        past = chance.choice(pasts).plus(turn).newest(chance.choice([15, 60, 1000]))
        pasts = [*pasts[-5:], past]
        one = chance.choice(pasts)
        request = ModelRequest("model", [*one.items, UserItem(text_content("now"), "now")], current=1, past=one)
        caps = replace(Capabilities(), takes_images=chance.random() < 0.5)

        assert asked(model, request, caps, whole=False) == asked(model, request, caps, whole=True)


def test_a_divisible_past_is_paired_already() -> None:
    chance = random.Random(1)
    pasts = [some_past(chance) for _ in range(500)]
    divisible = [past for past in pasts if past.is_divisible and past.leads_to([UserItem(text_content("now"))])]

    assert all(pair([*past.items, UserItem(text_content("now"))])[:-1] == list(past.items) for past in divisible)
    assert len(divisible) > 100


def test_what_is_added_and_dropped_is_counted_as_if_it_were_made_anew() -> None:
    chance = random.Random(2)
    for _ in range(300):
        past = some_past(chance)
        anew = Past.of(past.turns)

        assert (past.items, past.tokens, past.has_system) == (anew.items, anew.tokens, anew.has_system)
        assert past.is_divisible <= anew.is_divisible
        assert past.call_ids >= anew.call_ids


@pytest.mark.parametrize(("tokens", "told"), [(16, "0123"), (15, "123"), (6, "123"), (5, "23"), (2, ""), (0, "")])
def test_the_newest_whole_turns_that_fit_are_told(tokens: int, told: str) -> None:
    past = Past.of([PastTurn([AssistantItem(str(n))], tokens) for n, tokens in enumerate([10, 1, 2, 3])])

    assert past.newest(tokens).items == tuple(map(AssistantItem, told))
