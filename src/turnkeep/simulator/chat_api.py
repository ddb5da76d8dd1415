"""POST /v1/chat/completions: one exchange without memory."""

from __future__ import annotations

from starlette.types import ASGIApp

from turnkeep.simulator import call_contract, faults, response_checks
from turnkeep.simulator.chat_run import ChatRun, Head
from turnkeep.simulator.delivery import RunDelivery
from turnkeep.simulator.exchanges import Exchange
from turnkeep.simulator.faults import Fault
from turnkeep.simulator.model_list import window
from turnkeep.simulator.problems import bad, context_length_exceeded
from turnkeep.simulator.prompt import Json, Prompt, entries_of_messages, offered_tools
from turnkeep.simulator.quirks import Quirk
from turnkeep.simulator.response_run import Manner
from turnkeep.simulator.responses_api import choice_of, shape_of
from turnkeep.simulator.world import World


def answer(world: World, body: object, exchange: Exchange, *, quirk: Quirk) -> ASGIApp:
    """The reply to one request, or a `Problem`."""
    strict = world.options.strict_models
    request = response_checks.chat_body(body, strict_models=strict, rejects=quirk.rejects)
    if world.options.metadata_needs_store and request.get("metadata") and request.get("store") is not True:
        raise bad("The 'metadata' parameter is only allowed when 'store' is enabled.", "metadata")
    prompt = _prompt(request)
    world.ledger.hear(exchange, prompt)
    fault = world.faults.strike(prompt)
    exchange.fault = fault.kind if fault is not None else None
    _check(world, request, prompt, fault=fault)
    run = _begin(world, request, prompt, exchange=exchange, quirk=quirk)
    return RunDelivery(
        world,
        run,
        exchange,
        fault=fault,
        streaming=request.get("stream") is True,
        abandon=lambda: None,
        quirk=quirk,
    )


def _begin(world: World, body: Json, prompt: Prompt, *, exchange: Exchange, quirk: Quirk) -> ChatRun:
    plan = world.persona.plan(prompt)
    options = body.get("stream_options") or {}
    obfuscate = world.options.obfuscation and options.get("include_obfuscation") is not False
    head = Head(
        world.ids.new("chatcmpl-", 29),
        int(world.clock.now()),
        world.options.answers_as or body["model"],
        usage=options.get("include_usage") is True,
        is_forced=prompt.choice.startswith("="),
    )
    exchange.response_id = head.id
    exchange.calls = [call.name for call in plan.calls]
    # The platform alone pads its deltas; servers that are compatible do not know the field.
    manner = Manner(world.pace, obfuscate and quirk.name == "openai")
    return ChatRun(head, plan, prompt, ids=world.ids, manner=manner, quirk=quirk)


def _check(world: World, body: Json, prompt: Prompt, *, fault: Fault | None) -> None:
    if fault is not None and (refusal := faults.problem(fault, prompt, "messages")) is not None:
        raise refusal
    call_contract.check_messages(body["messages"])
    limit = world.options.context_tokens or window(body["model"])
    if prompt.tokens() > limit:
        raise context_length_exceeded(prompt.tokens(), limit, "messages")


def _prompt(body: Json) -> Prompt:
    return Prompt(
        entries_of_messages(body["messages"]),
        model=body["model"],
        tools=offered_tools(body.get("tools") or ()),
        choice=choice_of(body.get("tool_choice")),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        thinks=body.get("reasoning_effort") in response_checks.EFFORTS[1:],
        shape=shape_of(body.get("response_format") or {}),
        labels=body.get("metadata") or {},
    )
