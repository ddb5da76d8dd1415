"""What becomes of a run that is halted: its response elsewhere is stopped, and each call has an output."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runs.moved_time import passed
from tests.runs.stage import BackgroundScript, ScriptedModel
from turnkeep.errors import CredentialsRefused, ModelUnavailable
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.runs.halt import STOPPING, UNKNOWN_USAGE, close_call, stop_response, without_text
from turnkeep.runs.journal import OpenResponse
from turnkeep.usage import Usage

RESPONSE = OpenResponse("resp_1", "model-1")
COST = Usage(1, 100, output_tokens=5)

STOPS = {
    "told": (COST, 60.0, COST, 0.0),
    "not told": (None, 60.0, UNKNOWN_USAGE, 0.0),
    "refused": (CredentialsRefused("401"), 60.0, UNKNOWN_USAGE, 0.0),
    "away": (ModelUnavailable("503"), 60.0, UNKNOWN_USAGE, 0.0),
    "too slow": (3600.0, 60.0, UNKNOWN_USAGE, STOPPING),
    "slower than the lease": (3600.0, 4.0, UNKNOWN_USAGE, 4.0),
    "just in time": (STOPPING - 1.0, 60.0, UNKNOWN_USAGE, STOPPING - 1.0),
}


@pytest.mark.parametrize(("costs", "seconds", "usage", "at"), STOPS.values(), ids=STOPS)
async def test_a_response_is_stopped_and_what_it_cost_is_told_or_estimated(
    costs: Any, seconds: float, usage: Usage, at: float, log_lines: Any
) -> None:
    model = BackgroundScript(costs=costs)

    assert await stop_response(RESPONSE, model, seconds=seconds) == usage

    assert model.cancellations == ["resp_1"]
    assert passed() == pytest.approx(at, abs=0.01)
    failed = isinstance(costs, Exception) or costs == 3600.0
    assert [line["event"] for line in log_lines()] == ["response_not_stopped"] * failed


async def test_a_model_that_does_not_work_alone_has_nothing_to_stop() -> None:
    assert await stop_response(RESPONSE, ScriptedModel(), seconds=60.0) == UNKNOWN_USAGE


async def test_an_error_that_is_not_the_models_is_raised() -> None:
    with pytest.raises(KeyError):
        await stop_response(RESPONSE, BackgroundScript(costs=KeyError("bug")), seconds=60.0)


@pytest.mark.parametrize(
    ("started", "output"),
    [
        ({"c1"}, OutputItem("c1", "told", "unknown")),
        ({"c2"}, OutputItem("c1", "cancelled before it began", "cancelled")),
    ],
)
def test_an_open_call_says_whether_it_had_begun(started: set[str], output: OutputItem) -> None:
    assert close_call(CallItem("c1", "pay", "{}"), started, "told") == output


def test_a_rollback_keeps_what_users_said_and_the_calls_that_had_begun() -> None:
    begun, output = CallItem("c1", "pay", "{}"), OutputItem("c1", "paid")
    user = UserItem(text_content("hi"), "m1")
    items: list[Item] = [
        user, SystemItem("s"), AssistantItem("text"), ReasoningItem({}), HostedItem("web_search", {}), begun,
        CallItem("c2", "look", "{}"), output, OutputItem("c2", "seen"),
    ]  # fmt: skip

    assert without_text(items, {"c1"}) == [user, begun, output]
