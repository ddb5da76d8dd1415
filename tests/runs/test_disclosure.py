"""What people see of a run beside its text: as far as tools and assistant say, in order, again at each attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.runs.stage import HERE, MODEL, ONE, RULES, SOON, Line, Stage, asks, says
from turnkeep.errors import ModelUnavailable
from turnkeep.events import BESIDE_TEXT, CallDetail, Event, FileDetail, ResultDetail, StepDetail
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Citation,
    HostedItem,
    ReasoningItem,
    UserItem,
    item_to_json,
    text_content,
)
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.fit import fit
from turnkeep.models.model import Began, Delta, Finish, ItemDone, ModelRequest, ReasoningDelta
from turnkeep.runs.announcer import MOST_OF_A_FILE, MOST_SHOWN, MOST_THOUGHT, NO_SITE, PIECE, _output
from turnkeep.runs.answer_contract import AnswerRules
from turnkeep.store.values import Commit, Failure
from turnkeep.tools.tool import Tool, tool

BESIDE = ("reasoning", "tool_call", "tool_result", "source", "file", "step")
AMOUNT = '{"amount": 5}'


def look(show: Any = "name", **options: Any) -> Tool:
    @tool(name="look", effect="pure", show=show, **options)
    async def see(amount: int) -> str:
        """Look."""
        return f"saw {amount}"

    return see


async def parts(stage: Stage) -> list[tuple[str, int, Any]]:
    """Kind, place, and what it says of every event beside the text, in order."""
    return [(e.kind, e.place, e.detail or e.text) for e in await stage.events() if e.kind in BESIDE]


def thinking(*thoughts: str, text: str = "yes") -> list[Line]:
    """A step that thinks, then says something."""
    item = ReasoningItem({"reasoning": "".join(thoughts)})
    return [
        Began(None), *(ReasoningDelta(thought) for thought in thoughts), ItemDone(item),
        Delta(text), ItemDone(AssistantItem(text)), Finish("stop", ONE),
    ]  # fmt: skip


# ---------------------------------------------------------------- what a tool lets people see


@pytest.mark.parametrize(
    ("show", "arguments", "output"), [("name", None, None), ("arguments", AMOUNT, None), ("all", AMOUNT, "saw 5")]
)
async def test_a_tool_says_what_is_seen_of_its_calls(show: Any, arguments: str | None, output: str | None) -> None:
    stage = Stage(asks(("c1", "look", AMOUNT), text="Let me see."), says("five"), tools=[look(show)])
    await stage.play()

    assert await parts(stage) == [
        ("tool_call", 11, CallDetail("c1", "look", arguments)),
        ("step", 11, StepDetail(1, "calls", MODEL)),
        ("tool_result", 11, ResultDetail("c1", "look", "ok", output)),
        ("step", 17, StepDetail(2, "stop", MODEL)),
    ]
    [call] = [item for item in await stage.transcript() if isinstance(item, CallItem)]
    assert (call.arguments, call.show) == (AMOUNT, show)


async def test_a_call_that_no_tool_takes_is_seen_by_its_name_alone() -> None:
    stage = Stage(asks(("c1", "gone", AMOUNT)), says("well"))
    await stage.play()
    call, _, result, _ = await parts(stage)
    assert call[2] == CallDetail("c1", "gone")
    assert result[2] == ResultDetail("c1", "gone", "error")


async def test_what_is_long_is_cut_and_says_so() -> None:
    stage = Stage(asks(("c1", "look", '{"amount": 5' + " " * MOST_SHOWN + "}")), tools=[look("all")])
    await stage.play()
    [detail, *_] = [detail for kind, _, detail in await parts(stage) if kind == "tool_call"]
    assert (len(detail.arguments), detail.is_cut) == (MOST_SHOWN, True)


async def test_steps_tell_their_usage_and_a_turn_of_one_step_tells_it_at_its_end_alone() -> None:
    stage = Stage(asks(("c1", "look", AMOUNT)), says("five"), says("again"), tools=[look()])
    await stage.play("m1")
    first_turn = [e.usage for e in await stage.events() if e.kind == "step"]
    await stage.play("m2")
    assert [usage.output_tokens for usage in first_turn if usage] == [ONE.output_tokens] * 2
    assert len([e for e in await stage.events() if e.kind == "step"]) == 2


# ---------------------------------------------------------------- thoughts


@pytest.mark.parametrize("shows", [False, True])
async def test_an_assistant_says_whether_its_thoughts_are_seen(shows: bool) -> None:
    stage = Stage(thinking("hm", ", so"))
    await stage.assistant(model=MODEL, show_reasoning=shows)
    await stage.play()

    assert await parts(stage) == ([("reasoning", 0, "hm"), ("reasoning", 0, ", so")] if shows else [])
    [thought] = [item for item in await stage.transcript() if isinstance(item, ReasoningItem)]
    assert (thought.text, thought.is_public) == ("hm, so", shows)


async def test_many_small_pieces_of_a_thought_are_few_events_and_come_before_what_follows_them() -> None:
    stage = Stage(thinking(*["12345678"] * 1000))
    await stage.assistant(model=MODEL, show_reasoning=True)
    await stage.play()
    events = [e for e in await stage.events() if e.kind in ("reasoning", "delta")]
    assert [e.kind for e in events[-2:]] == ["reasoning", "delta"]
    assert "".join(e.text for e in events[:-1]) == "12345678" * 1000
    assert len(events) <= 8_000 / PIECE + 3
    assert max(len(e.text) for e in events) == PIECE, "nobody waits for more of it than a piece"


async def test_a_thought_without_an_end_is_shown_up_to_a_bound() -> None:
    stage = Stage(thinking(*["x" * 10_000] * 40))
    await stage.assistant(model=MODEL, show_reasoning=True)
    await stage.play()
    shown = [e.text for e in await stage.events() if e.kind == "reasoning"]
    assert sum(map(len, shown)) == MOST_THOUGHT
    assert all(shown), "of what is beyond the bound nothing is told, not even that it is empty"


async def test_the_bound_is_that_of_one_step_and_a_step_that_another_follows_tells_its_end_before_it() -> None:
    stage = Stage()
    await stage.assistant(model=MODEL, show_reasoning=True)
    lease = await stage.lease("m1")

    async def steer() -> None:
        await stage.say("m2", on_busy="steer")
        lease.wants_steering = True

    stage.model.script.extend([[*thinking("x" * MOST_THOUGHT, text="one")[:-1], steer, Finish("stop", ONE)],
                               thinking("so", text="two")])  # fmt: skip
    await stage.perform(lease)

    shown = await parts(stage)
    assert [(kind, place) for kind, place, _ in shown] == [("reasoning", 0), ("step", 3), ("reasoning", 3), ("step", 8)]
    assert [detail for _, _, detail in shown[1:]] == [StepDetail(1, "stop", MODEL), "so", StepDetail(2, "stop", MODEL)]


FOLLOWERS: dict[str, list[Line]] = {
    "text": [Delta("Sunny.")],
    "a search of the provider": [ItemDone(HostedItem("web_search", {"id": "ws_1"}, "q"))],
    "a source": [ItemDone(AssistantItem("Sunny.", citations=(Citation(0, 5, "https://a.example"),)))],
    "a call": [ItemDone(CallItem("c1", "look", AMOUNT))],
    "the end of the step": [],
}


@pytest.mark.parametrize("follower", FOLLOWERS.values(), ids=FOLLOWERS)
async def test_what_is_left_of_a_thought_is_shown_before_what_follows_it(follower: list[Line]) -> None:
    stage = Stage([Began(None), ReasoningDelta("hm"), ReasoningDelta(", so"), *follower, Finish("length", ONE)])
    await stage.assistant(model=MODEL, show_reasoning=True)
    await stage.play()

    events = [e for e in await stage.events() if e.kind in (*BESIDE, "delta")]
    assert [e.text for e in events[:2]] == ["hm", ", so"]
    assert "reasoning" not in [e.kind for e in events[2:]]


@pytest.mark.parametrize("said", ["", "half a"])
@pytest.mark.parametrize("stop", ["cancel", "interrupt", "rollback"])
@pytest.mark.parametrize("shows", [False, True])
async def test_a_stop_keeps_of_a_thought_what_was_shown_of_it(shows: bool, stop: Any, said: str) -> None:
    stage = Stage([Began(None), ReasoningDelta("hm"), *([Delta(said)] if said else []), 60.0])
    await stage.assistant(model=MODEL, show_reasoning=shows)
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop, stop)
    await stage.perform(lease)

    thought = [ReasoningItem({"reasoning": "hm"}, NO_SITE, is_public=True)] if shows else []
    kept = [*thought, *([AssistantItem(said, interrupted=True)] if said else [])]
    assert (await stage.transcript())[1:] == ([] if stop == "rollback" else kept)


async def test_a_stop_between_two_steps_keeps_each_thought_once() -> None:
    """The thought of a finished step is its own item, as its provider gave it."""
    hm = ReasoningItem({"reasoning": "hm"})
    first: list[Line] = [
        Began(None), ReasoningDelta("hm"), ItemDone(hm), ItemDone(CallItem("c1", "look", AMOUNT)), Finish("calls", ONE),
    ]  # fmt: skip
    stage = Stage(first, [Began(None), 60.0], tools=[look()])
    await stage.assistant(model=MODEL, show_reasoning=True)
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop)
    await stage.perform(lease)

    assert [item.text for item in await stage.transcript() if isinstance(item, ReasoningItem)] == ["hm"]


@pytest.mark.parametrize("site", ["", "https://models.example"])
def test_no_model_is_told_of_a_thought_that_was_cut_off(site: str) -> None:
    cut, said = ReasoningItem({"reasoning": "hm"}, NO_SITE), AssistantItem("half a", interrupted=True)
    before, behind = UserItem(text_content("hi")), UserItem(text_content("so?"))
    told = fit(ModelRequest(model=MODEL, items=[before, cut, said, behind]), Capabilities(), site)
    assert told.request.items == [before, said, behind]


# ---------------------------------------------------------------- sources, files, tools of the provider


async def test_sources_have_their_place_in_the_whole_answer() -> None:
    cited = AssistantItem("As said.", citations=(Citation(3, 7, "https://a.example", "A"),))
    stage = Stage(
        asks(("c1", "look", AMOUNT), text="Hm."),
        [Began(None), Delta("As said."), ItemDone(cited), Finish("stop", ONE)],
        tools=[look()],
    )
    verdict = await stage.play()
    assert isinstance(verdict, Commit)
    [source] = [detail for kind, _, detail in await parts(stage) if kind == "source"]
    assert verdict.text[source.start : source.end] == "said"
    assert (source.url, source.title) == ("https://a.example", "A")


async def test_sources_of_a_later_item_have_their_place_behind_the_items_before_it() -> None:
    first = AssistantItem("Well. ", citations=(Citation(0, 4, "https://a.example"),))
    second = AssistantItem("As said.", citations=(Citation(3, 7, "https://b.example"),))
    stage = Stage(
        asks(("c1", "look", AMOUNT), text="Hm."),
        [Began(None), Delta("Well. "), ItemDone(first), Delta("As said."), ItemDone(second), Finish("stop", ONE)],
        tools=[look()],
    )
    verdict = await stage.play()
    assert isinstance(verdict, Commit)
    sources = [detail for kind, _, detail in await parts(stage) if kind == "source"]
    assert [verdict.text[one.start : one.end] for one in sources] == ["Well", "said"]


async def test_a_source_of_no_place_has_none_in_a_later_step_either() -> None:
    source = Citation(0, 0, "https://a.example")
    second: list[Line] = [Began(None), Delta("So."), ItemDone(AssistantItem("So.", citations=(source,))),
                          Finish("stop", ONE)]  # fmt: skip
    stage = Stage(asks(("c1", "look", AMOUNT), text="Hm."), second, tools=[look()])
    await stage.play()
    assert [detail for kind, _, detail in await parts(stage) if kind == "source"] == [source]


@pytest.mark.parametrize(("show", "query"), [({}, None), ({"show": "arguments"}, "weather in Rome")])
async def test_a_tool_of_the_provider_is_seen_as_its_assistant_says(show: dict[str, str], query: str | None) -> None:
    search = HostedItem("web_search", {"type": "web_search_call", "id": "ws_1"}, "weather in Rome")
    stage = Stage(
        [Began(None), ItemDone(search), Delta("Sunny."), ItemDone(AssistantItem("Sunny.")), Finish("stop", ONE)]
    )
    await stage.assistant(model=MODEL, tools=[{"type": "web_search", **show}])
    await stage.play()

    assert await parts(stage) == [
        ("tool_call", 0, CallDetail("ws_1", "web_search", query, by_provider=True)),
        ("tool_result", 0, ResultDetail("ws_1", "web_search")),
    ]
    assert stage.model.requests[0].hosted_tools == ({"type": "web_search"},)


@pytest.mark.parametrize(("size", "count"), [(40, 1), (MOST_OF_A_FILE + 1, 0)])
async def test_an_image_of_the_provider_is_a_file_unless_it_is_too_large_for_a_log(size: int, count: int) -> None:
    drawing = HostedItem("image_generation", {"id": "ig_1", "result": "A" * size, "output_format": "webp"}, "a cat")
    stage = Stage(
        [Began(None), ItemDone(drawing), Delta("Here."), ItemDone(AssistantItem("Here.")), Finish("stop", ONE)]
    )
    await stage.play()
    files = [detail for kind, _, detail in await parts(stage) if kind == "file"]
    assert files == [FileDetail(f"data:image/webp;base64,{'A' * size}", "image/webp")] * count


# ---------------------------------------------------------------- failures, further attempts, late joiners


async def test_what_a_failed_call_has_shown_is_taken_back_before_the_next_one() -> None:
    again = replace(RULES, answer=AnswerRules(again=lambda error, failures: 0.0 if failures == 1 else None))
    broken: list[Line] = [Began(None), ReasoningDelta("wrong"), ModelUnavailable("gone")]
    stage = Stage(broken, thinking("right"), rules=again)
    await stage.assistant(model=MODEL, show_reasoning=True)
    await stage.play()
    assert await parts(stage) == [("reasoning", 0, "wrong"), ("step", 0, StepDetail(1)), ("reasoning", 0, "right")]


async def test_what_is_taken_back_is_of_the_step_that_failed() -> None:
    again = replace(RULES, answer=AnswerRules(again=lambda error, failures: 0.0 if failures == 1 else None))
    broken: list[Line] = [Began(None), ReasoningDelta("wrong"), ModelUnavailable("gone")]
    stage = Stage(asks(("c1", "look", AMOUNT)), broken, thinking("right"), tools=[look()], rules=again)
    await stage.assistant(model=MODEL, show_reasoning=True)
    await stage.play()
    steps = [detail for kind, _, detail in await parts(stage) if kind == "step"]
    assert steps == [StepDetail(1, "calls", MODEL), StepDetail(2), StepDetail(2, "stop", MODEL)]


async def test_a_call_that_fails_before_it_has_shown_anything_takes_nothing_back() -> None:
    again = replace(RULES, answer=AnswerRules(again=lambda error, failures: 0.0 if failures == 1 else None))
    stage = Stage([Began(None), ModelUnavailable("gone")], says("yes"), rules=again)
    await stage.play()
    assert await parts(stage) == []


def _places(shown: list[tuple[str, int, Any]]) -> list[tuple[str, int, Any]]:
    """Thoughts in one piece: how many there were is no promise."""
    joined: list[tuple[str, int, Any]] = []
    for kind, place, detail in shown:
        if joined and kind == joined[-1][0] == "reasoning":
            joined[-1] = (kind, place, joined[-1][2] + detail)
        else:
            joined.append((kind, place, detail))
    return joined


async def test_a_further_attempt_shows_the_finished_steps_again_as_they_were() -> None:
    search = HostedItem("web_search", {"id": "ws_1"}, "q")
    first: list[Line] = [
        Began(None), ReasoningDelta("hm"), ItemDone(ReasoningItem({"reasoning": "hm"})), ItemDone(search),
        Delta("Let me see."),
        ItemDone(AssistantItem("Let me see.", citations=(Citation(0, 3, "https://a.example"),))),
        ItemDone(CallItem("c1", "look", AMOUNT)), Finish("calls", ONE),
    ]  # fmt: skip
    second: list[Line] = [Began(None), Delta("Half"), ModelUnavailable("gone")]
    stage = Stage(first, second, says("Well done"), tools=[look("all")], rules=replace(RULES, backoff=SOON))
    await stage.assistant(model=MODEL, show_reasoning=True)

    failure = await stage.play()
    assert isinstance(failure, Failure)
    shown_before = _places(await parts(stage))
    top = (await stage.events())[-1].offset
    await asyncio.sleep(10.0)
    assert isinstance(await stage.perform(await stage.lease()), Commit)

    events = await stage.events(after=top)
    assert [e.kind for e in events][:2] == ["started", "snapshot"]
    again = _places([(e.kind, e.place, e.detail or e.text) for e in events if e.kind in BESIDE])
    assert again[: len(shown_before)] == shown_before
    assert again[len(shown_before) :] == [("step", 22, StepDetail(2, "stop", MODEL))]


async def test_a_further_attempt_shows_what_came_before_the_text_of_its_step_where_it_stood() -> None:
    """Behind the step before, and not behind what separates the two."""
    search = HostedItem("web_search", {"id": "ws_1"}, "q")
    second: list[Line] = [
        Began(None), ReasoningDelta("hm"), ItemDone(ReasoningItem({"reasoning": "hm"})), ItemDone(search),
        Delta("More."), ItemDone(AssistantItem("More.")),
        ItemDone(CallItem("c2", "look", AMOUNT)), Finish("calls", ONE),
    ]  # fmt: skip
    first = asks(("c1", "look", AMOUNT), text="Let me see.")
    stage = Stage(first, second, [ModelUnavailable("gone")], says("Done"), tools=[look("all")])
    await stage.assistant(model=MODEL, show_reasoning=True)
    assert isinstance(await stage.play(), Failure)
    shown_before = _places(await parts(stage))
    top = (await stage.events())[-1].offset
    await asyncio.sleep(10.0)

    assert isinstance(await stage.perform(await stage.lease()), Commit)
    events = await stage.events(after=top)
    again = _places([(e.kind, e.place, e.detail or e.text) for e in events if e.kind in BESIDE])
    assert again[: len(shown_before)] == shown_before
    assert ("reasoning", 11, "hm") in shown_before


async def test_what_a_log_has_lost_with_its_end_is_shown_again() -> None:
    stage, lost = Stage(tools=[look("all")]), list[str]()

    def promote() -> None:
        thread = stage.store.threads[HERE].thread
        lost.extend(["tool_call", "step", "tool_result"])
        thread.published = 0

    stage.model.script.extend([asks(("c1", "look", AMOUNT), text="Hm."), [Began(None), promote, *says("five")[1:]]])
    await stage.play()
    kinds = [kind for kind, _, _ in await parts(stage)]
    # here the log still has what the server counts as lost, so all that is said again comes twice
    assert kinds == [*lost, *lost, "step"]


def test_kinds_beside_the_text_are_those_of_the_family() -> None:
    assert set(BESIDE) == BESIDE_TEXT
    assert Event.from_json(Event("step", detail=StepDetail(1, "stop"), place=3).to_json()).detail == StepDetail(
        1, "stop"
    )


def test_a_journal_that_holds_something_else_than_an_output_is_not_shown() -> None:
    with pytest.raises(TypeError, match="the journal holds a user where the output of a call belongs"):
        _output({"item": item_to_json(UserItem(text_content("hi")))})
