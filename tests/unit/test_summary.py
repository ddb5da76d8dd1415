"""`summary_by`: a model that sums up what is no longer told."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from turnkeep.conversation import summary_by
from turnkeep.conversation.summary import SUMMARY_PROMPT
from turnkeep.errors import ModelUnavailable
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
    content_text,
    text_content,
)
from turnkeep.models.model import Delta, Finish, ModelRequest, StreamPart
from turnkeep.usage import Usage


class Secretary:
    """Says the same whatever it is asked."""

    endpoint = "desk"

    def __init__(self, *parts: StreamPart, failure: Exception | None = None) -> None:
        self.parts = parts
        self.failure = failure
        self.requests: list[ModelRequest] = []
        self.ends = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        self.requests.append(request)
        try:
            for part in self.parts:
                yield part
            if self.failure is not None:
                raise self.failure
        finally:
            self.ends += 1

    async def close(self) -> None:
        return


SAID: list[Item] = [
    SystemItem("told elsewhere"),
    UserItem(text_content("Where is Ada?")),
    ReasoningItem({"reasoning": "hm"}),
    CallItem("c1", "look", '{"who": "Ada"}'),
    OutputItem("c1", "in London"),
    AssistantItem("In London."),
]
LINES = """\
User: Where is Ada?
Tool look was called with {"who": "Ada"}
Tool answered: in London
Assistant: In London."""


@pytest.mark.parametrize(("before", "text"), [(None, LINES), ("They met.", f"Summary so far: They met.\n{LINES}")])
async def test_the_model_is_told_what_was_said_and_the_summary_so_far(before: str | None, text: str) -> None:
    model = Secretary(Delta(" Ada is "), Delta("in London.\n"), Finish("stop", Usage()))

    assert await summary_by(model, "model-1")(before, SAID) == "Ada is in London."

    [request] = model.requests
    [item] = request.items
    assert isinstance(item, UserItem)
    assert (request.model, request.instructions, content_text(item.content)) == ("model-1", SUMMARY_PROMPT, text)
    assert model.ends == 1


async def test_a_failure_is_the_callers_and_leaves_no_stream_open() -> None:
    model = Secretary(Delta("half"), failure=ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await summary_by(model, "model-1", instructions="Be short.")(None, SAID)
    assert (model.requests[0].instructions, model.ends) == ("Be short.", 1)
