"""OpenAI and Azure over Responses, imitated like Chat Completions in `dialects.py`: the same wishes and troubles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from tests.contract.canned import Visit
from tests.dialects import DIALECTS, THOUGHT, WINDOW, Dialect, Server, Trouble, openai
from tests.imitations import pairs, shapes

COMMON = frozenset(
    [
        *("model", "input", "instructions", "stream", "tools", "tool_choice", "parallel_tool_calls", "temperature"),
        *("top_p", "max_output_tokens", "text", "reasoning", "include", "store", "metadata", "prompt_cache_key"),
        *("background", "truncation"),
    ]
)
FIELDS = {"openai": COMMON | {"stream_options", "safety_identifier"}, "azure": COMMON}
PARTS = {"input_text": "text", "output_text": "text", "refusal": "text", "input_image": "image_url"}


@dataclass
class ResponsesServer(Server):
    """One of the two; `thoughts` are the reasoning items that were made here, by id."""

    thoughts: dict[str, Any] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        return replace(DIALECTS[self.name], thought="reasoning")

    async def answer(self, visit: Visit) -> None:
        body = {**visit.body, "messages": as_messages(visit.body["input"])}
        asked = _asked(body["messages"])
        trouble = self._refusal(visit.body, body) or self._trouble(body, asked)
        if trouble is not None:
            visit.whole(orjson.dumps(trouble.body), trouble.status, "application/json", **trouble.headers)
        elif "[cut]" in asked and self._once(asked):
            visit.begin()
            visit.say(frame("response.output_text.delta", item_id="m1", output_index=0, delta="half of"))
            visit.cut()
        else:
            visit.whole(b"".join(self._frames(body, asked)))

    def _refusal(self, sent: Mapping[str, Any], body: Mapping[str, Any]) -> Trouble | None:
        if unknown := sorted(set(sent) - FIELDS[self.name]):
            return openai(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter")
        named = [{"type": "function", "function": {"name": tool["name"]}} for tool in sent.get("tools", ())]
        said = pairs(body) or shapes({**body, "tools": named}) or self._alone(sent["input"])
        return openai(400, said) if said else None

    def _alone(self, items: list[dict[str, Any]]) -> str | None:
        """Thoughts of others, or without what came of them."""
        for item, after in zip(items, [*items[1:], {}], strict=True):
            if item.get("type") != "reasoning":
                continue
            if self.thoughts.get(item.get("id", "")) != item:
                return "The encrypted content could not be verified."
            if after.get("type") != "function_call" and after.get("role") != "assistant":
                return f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
        return None

    def _trouble(self, body: Mapping[str, Any], asked: str) -> Trouble | None:
        if len(orjson.dumps(body["messages"])) > WINDOW:
            return self.dialect.long
        if "[rate]" in asked and self._once(asked):
            return self.dialect.rate
        named = re.search(r"\[(key|credit)\]", asked)
        return getattr(self.dialect, named[1]) if named else None

    def _frames(self, body: Mapping[str, Any], asked: str) -> list[bytes]:
        messages = body["messages"]
        wanted = re.search(r"\[tools (\d)\]", asked)
        output: list[dict[str, Any]] = [self._reasoning()] if "[think]" in asked or wanted else []
        if wanted and messages[-1]["role"] != "tool":
            output += [self._call(n) for n in range(int(wanted[1]))]
        else:
            given = [m["content"] for m in messages if m["role"] == "tool"][-int(wanted[1]) :] if wanted else []
            output.append(_message("fine" + "".join(f" {text}" for text in given)))
        usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        frames = [frame("response.created", response={"id": "resp_1", "model": "m", "status": "in_progress"})]
        for place, item in enumerate(output):
            frames += [*_pieces(item, place), frame("response.output_item.done", output_index=place, item=item)]
        done = {"id": "resp_1", "model": "m", "status": "completed", "output": output, "usage": usage}
        return [*frames, frame("response.completed", response=done)]

    def _reasoning(self) -> dict[str, Any]:
        self.calls += 1
        summary = [{"type": "summary_text", "text": THOUGHT}]
        item = {"type": "reasoning", "id": f"rs_{self.calls}", "summary": summary, "encrypted_content": "c2ln"}
        self.thoughts[item["id"]] = item  # type: ignore[index]
        return item

    def _call(self, n: int) -> dict[str, Any]:
        self.calls += 1
        name, arguments = "look_up", f'{{"city":"{"AB"[n]}"}}'
        return {
            "type": "function_call",
            "id": f"fc_{self.calls}",
            "call_id": self.dialect.ids(self.calls),
            "name": name,
            "arguments": arguments,
            "status": "completed",
        }


def frame(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + orjson.dumps({"type": kind, **more}) + b"\n\n"


def _pieces(item: dict[str, Any], place: int) -> list[bytes]:
    where = {"output_index": place, "item_id": item["id"]}
    if item["type"] == "reasoning":
        pieces = (THOUGHT[:5], THOUGHT[5:])
        return [frame("response.reasoning_summary_text.delta", summary_index=0, delta=p, **where) for p in pieces]
    if item["type"] == "function_call":
        return [frame("response.function_call_arguments.delta", delta=item["arguments"], **where)]
    text = item["content"][0]["text"]
    return [frame("response.output_text.delta", content_index=0, delta=p, **where) for p in (text[:2], text[2:]) if p]


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def as_messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as messages of Chat Completions, so that one set of rules holds for both."""
    told: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            if told and told[-1].get("tool_calls"):
                told[-1]["tool_calls"].append(call)
            else:
                told.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            told.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        elif kind == "message":
            told.append({"role": item["role"], "content": _content(item["content"])})
    return told


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": PARTS[part["type"]], "text": part.get("text") or part.get("refusal") or ""} for part in content]


def _asked(messages: list[dict[str, Any]]) -> str:
    content = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    parts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return str(parts[-1]).rpartition("\n")[2]
