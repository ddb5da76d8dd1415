"""POST /v1/messages, as Anthropic's platform answers it: one exchange without memory but
the prompt cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.types import ASGIApp

from turnkeep.simulator import faults
from turnkeep.simulator.delivery import RunDelivery
from turnkeep.simulator.exchanges import Exchange
from turnkeep.simulator.faults import Fault
from turnkeep.simulator.message_checks import message_body
from turnkeep.simulator.message_run import MessageRun
from turnkeep.simulator.model_list import window
from turnkeep.simulator.problems import context_length_exceeded
from turnkeep.simulator.prompt import EntryKind, Json, OfferedTool, Prompt, PromptEntry, content_text
from turnkeep.simulator.prompt_cache import blocks_of
from turnkeep.simulator.quirks import Quirk
from turnkeep.simulator.world import World


def answer(world: World, body: object, exchange: Exchange, *, quirk: Quirk, version: str) -> ASGIApp:
    """The reply to one request, or a `Problem`."""
    request = message_body(body, version)
    prompt = message_prompt(request, exchange)
    world.ledger.hear(exchange, prompt)
    fault = world.faults.strike(prompt)
    exchange.fault = fault.kind if fault is not None else None
    _check(world, request, prompt, fault=fault)
    plan = world.persona.plan(prompt)
    exchange.calls = [call.name for call in plan.calls]
    run = MessageRun(request, plan, ids=world.ids, pace=world.pace, input_tokens=world.prompt_cache.count(request))
    exchange.response_id = run.message["id"]
    streaming = request.get("stream") is True
    return RunDelivery(
        world, run, exchange, fault=fault, streaming=streaming, abandon=lambda: None, quirk=quirk
    )  # fmt: skip


def _check(world: World, body: Json, prompt: Prompt, *, fault: Fault | None) -> None:
    if fault is not None and (refusal := faults.problem(fault, prompt, "messages")) is not None:
        raise refusal
    limit = world.options.context_tokens or window(body["model"])
    if prompt.tokens() > limit:
        raise context_length_exceeded(prompt.tokens(), limit, "messages")


def message_prompt(body: Json, exchange: Exchange | None = None) -> Prompt:
    """What the model reads."""
    choice = body.get("tool_choice") or {"type": "auto"}
    choices = {"tool": f"={choice.get('name')}", "any": "required"}
    # The labels of this protocol come by header: its metadata takes nothing but a user's id.
    thread = exchange.thread if exchange is not None else None
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    form = (body.get("output_config") or {}).get("format") or {}
    return Prompt(
        entries_of_turns(body["messages"]),
        model=body["model"],
        instructions=content_text(body.get("system")),
        tools=tuple(OfferedTool(tool["name"], tool["input_schema"]) for tool in tools),
        choice=choices.get(choice["type"], choice["type"]),
        max_tokens=body.get("max_tokens"),
        thinks=(body.get("thinking") or {}).get("type") in ("enabled", "adaptive"),
        shape=form.get("schema"),
        labels={"turnkeep_thread": thread} if thread else {},
        # Only here a stop reason exists that asks to be gone on with.
        pauses=True,
    )


def entries_of_turns(messages: Iterable[Mapping[str, Any]]) -> tuple[PromptEntry, ...]:
    """Each text of a user is a message of its own, as clients join what stood side by side."""
    return tuple(_entry(message["role"], block) for message in messages for block in blocks_of(message["content"]))


def _entry(role: EntryKind, block: Mapping[str, Any]) -> PromptEntry:
    kind = block.get("type")
    if kind == "text":
        return PromptEntry(role, block["text"])
    if kind == "tool_use":
        return PromptEntry("call", orjson.dumps(block["input"]).decode(), block["id"], block["name"])
    if kind == "tool_result":
        return PromptEntry("output", content_text(block.get("content")), block["tool_use_id"])
    return PromptEntry("reasoning" if kind in ("thinking", "redacted_thinking") else "other")
