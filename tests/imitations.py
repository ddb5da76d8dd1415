"""Model servers, imitated as far as their manners go: what they refuse, how they say it, how they stream.

`RULES` are what each refuses in a Chat Completions request, with its own sentence; the sources stand beside the rules
in `capabilities.toml` and `refusals.toml`. An `Imitation` answers whole requests over a socket, by what the last user
message asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

Body = Mapping[str, Any]
Rule = Callable[[Body], str | None]
"""The sentence with which a request is refused, None where it is taken."""

FIELDS = frozenset(
    [
        "model",
        "messages",
        "stream",
        "tools",
        "tool_choice",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "response_format",
    ]
)
IMAGE_PARTS = ("image_url",)


def messages_of(body: Body) -> list[dict[str, Any]]:
    return list(body["messages"])


def roles_of(body: Body) -> list[str]:
    return [str(message["role"]) for message in messages_of(body)]


def calls_of(body: Body) -> list[dict[str, Any]]:
    return [call for message in messages_of(body) for call in message.get("tool_calls") or []]


def has_image(body: Body) -> bool:
    parts = [part for m in messages_of(body) if isinstance(m["content"], list) for part in m["content"]]
    return any(part["type"] in IMAGE_PARTS for part in parts)


# ---------------------------------------------------------------- what all refuse


def pairs(body: Body) -> str | None:
    """Every call has its outputs right behind it, every output its call."""
    waiting: set[str] = set()
    for message in messages_of(body):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            return f"An assistant message with 'tool_calls' must be followed by tool messages: {sorted(waiting)}"
        waiting = {call["id"] for call in message.get("tool_calls") or []}
        if len(waiting) != len(message.get("tool_calls") or []):
            return "tool call ids must be unique"
    return f"tool calls without outputs: {sorted(waiting)}" if waiting else None


def shapes(body: Body) -> str | None:
    """Texts are there and hold something, names and arguments have their form, the user speaks last."""
    for message in messages_of(body):
        content = message["content"]
        if content is None and not message.get("tool_calls"):
            return "Invalid value for 'content': expected a string, got null."
        if isinstance(content, str) and not content.strip() and not message.get("tool_calls"):
            return "messages: text content blocks must contain non-whitespace text"
    for call in calls_of(body):
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", call["function"]["name"]):
            return "function.name: string does not match pattern"
        if not isinstance(orjson.loads(call["function"]["arguments"]), dict):
            return "function.arguments must be an object"
        if not 0 < len(call["id"]) <= 40:
            return "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum length 40"
    if any(not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", tool["function"]["name"]) for tool in tools_of(body)):
        return "Invalid function name. Must start with a letter or an underscore"
    return None if roles_of(body)[-1] in ("user", "tool") else "the last message must be the user's"


def tools_of(body: Body) -> list[dict[str, Any]]:
    return list(body.get("tools") or [])


def only(*more: str, says: str) -> Rule:
    """Refuses top-level fields that are not known."""
    known = FIELDS | set(more)

    def rule(body: Body) -> str | None:
        unknown = sorted(set(body) - known)
        return says.format(unknown[0]) if unknown else None

    return rule


def fields_of_messages(*known: str, says: str) -> Rule:
    """Refuses fields of messages that are not known."""
    names = {"role", "content", "tool_calls", "tool_call_id", "name", *known}

    def rule(body: Body) -> str | None:
        unknown = sorted({name for message in messages_of(body) for name in message} - names)
        return says.format(unknown[0]) if unknown else None

    return rule


def no_images(says: str) -> Rule:
    return lambda body: says if has_image(body) else None


# ---------------------------------------------------------------- what some refuse


def one_call(says: str) -> Rule:
    """The templates of Llama 3: no message with two calls."""
    return lambda body: says if any(len(m.get("tool_calls") or []) > 1 for m in messages_of(body)) else None


def alternate(says: str) -> Rule:
    """The templates of Mistral, Gemma and Llama 2: one system message at most, then user and assistant in turn."""

    def rule(body: Body) -> str | None:
        roles = roles_of(body)[1:] if roles_of(body)[0] == "system" else roles_of(body)
        if "system" in roles:
            return says
        plain = [r for r, m in zip(roles, messages_of(body)[-len(roles) :], strict=True) if not _works(m)]
        wrong = any(role != ("user", "assistant")[place % 2] for place, role in enumerate(plain))
        return says if wrong else None

    return rule


def _works(message: Mapping[str, Any]) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def no_system(says: str) -> Rule:
    return lambda body: says if "system" in roles_of(body) else None


def early_system(says: str) -> Rule:
    return lambda body: says if "system" in roles_of(body)[1:] else None


def answered_tools(body: Body) -> str | None:
    pairs_of_roles = zip(roles_of(body), roles_of(body)[1:], strict=False)
    return "Unexpected role 'user' after role 'tool'" if ("tool", "user") in pairs_of_roles else None


def ids(pattern: str, says: str) -> Rule:
    def rule(body: Body) -> str | None:
        wrong = [call["id"] for call in calls_of(body) if not re.fullmatch(pattern, call["id"])]
        return says.format(wrong[0]) if wrong else None

    return rule


def thoughts(says: str) -> Rule:
    def rule(body: Body) -> str | None:
        for place, message in enumerate(messages_of(body)):
            if message.get("tool_calls") and not message.get("reasoning_content"):
                return says.format(place)
        return None

    return rule


def signatures(body: Body) -> str | None:
    for message in messages_of(body):
        calls = message.get("tool_calls") or []
        signed = [call.get("extra_content", {}).get("google", {}).get("thought_signature") for call in calls]
        if calls and not any(signed):
            return "Function call is missing a thought_signature in functionCall parts."
        if any(signature not in (None, "c2ln", "skip_thought_signature_validator") for signature in signed):
            return "Corrupted thought signature."
    return None


def declared(says: str) -> Rule:
    return lambda body: says if calls_of(body) and not tools_of(body) else None


def texts(says: str) -> Rule:
    return lambda body: says if any(m["content"] is None for m in messages_of(body)) else None


def loose(says: str) -> Rule:
    return lambda body: says if any("strict" in tool["function"] for tool in tools_of(body)) else None


GO = 'json: unknown field "{}"'
TEMPLATE = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
JINJA = (
    'Error rendering prompt with jinja template: "Conversation roles must alternate user/assistant/user/assistant/..."'
)
KIMI = "thinking is enabled but reasoning_content is missing in assistant tool call message at index {}"
PENALTY = "Argument not supported on this model: presencePenalty"
USAGE = "stream_options"

RULES: dict[str, tuple[Rule, ...]] = {
    "openai": (only(USAGE, "store", "parallel_tool_calls", "prompt_cache_key", "safety_identifier",
                    "max_completion_tokens", says="Unknown parameter: '{}'."),
               fields_of_messages(says="Unknown parameter: 'messages[1].{}'.")),
    "azure": (only(USAGE, "parallel_tool_calls", "max_completion_tokens",
                   says="Unrecognized request argument supplied: {}"),),
    "gemini": (only(USAGE, says='Invalid JSON payload received. Unknown name "{}": Cannot find field.'), signatures),
    "mistral": (only("parallel_tool_calls", says="body.{}: Extra inputs are not permitted"),
                early_system("Unexpected role 'system' after role 'assistant'"), answered_tools,
                ids("[a-zA-Z0-9]{9}", "Tool call id was {} but must be a-z, A-Z, 0-9, with a length of 9.")),
    "deepseek": (no_images("messages[1]: unknown variant `image_url`, expected `text`"),
                 thoughts("The `reasoning_content` in the thinking mode must be passed back to the API.")),
    "moonshot": (thoughts(KIMI),),
    "groq": (only(USAGE, "parallel_tool_calls", "max_completion_tokens", says="property '{}' is unsupported"),
             fields_of_messages("reasoning", says="'messages.1' : for 'role:assistant' the following must be satisfied"
                                "[('messages.1' : property '{}' is unsupported)]")),
    "xai": (lambda body: PENALTY if "presence_penalty" in body else None,),
    "openrouter": (no_images("No endpoints found that support image input"),),
    "together": (),
    "fireworks": (only(says="Extra inputs are not permitted, field: '{}', value: True"),),
    "databricks": (only(says=GO), loose(GO.format("strict"))),
    "bedrock": (ids("[a-zA-Z0-9_-]+", "toolUseId {} failed to satisfy constraint: Member must satisfy regular "
                    "expression pattern: [a-zA-Z0-9_-]+"),
                declared("The toolConfig field must be defined when using toolUse and toolResult content blocks.")),
    "ollama": (no_images("this model does not support image input"), texts("invalid message content type: <nil>")),
    "vllm": (alternate(TEMPLATE), no_images("At most 0 image(s) may be provided in one request."),
             ids("[a-zA-Z0-9]{9}", "Tool call IDs should be alphanumeric strings with length 9!")),
    "sglang": (early_system("System message must be at the beginning."),
               one_call("This model only supports single tool-calls at once!")),
    "llamacpp": (no_system("Jinja Exception: System role not supported"), alternate(f"Jinja Exception: {TEMPLATE}")),
    "lmstudio": (alternate(JINJA), texts("Invalid 'content': 'content' field must be a string.")),
    "litellm": (ids("[a-zA-Z0-9_-]+", "messages.1.content.1.tool_use.id: {} String should match pattern"),
                declared("Requests which include `tool_use` or `tool_result` blocks must define tools")),
    "compatible": (only(says='"{}" is not allowed'), alternate(TEMPLATE), no_system("System role not supported")),
}  # fmt: skip


def refusal(server: str, body: Body) -> str | None:
    """What this server says against the request."""
    return next((said for rule in (*RULES[server], shapes, pairs) if (said := rule(body))), None)
