"""Tools that run at the provider: what an assistant names them, what is asked for, what comes back
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from turnkeep.errors import ModelRefused
from turnkeep.messages import HostedItem
from turnkeep.models.reading import label, mapping

Tool = Mapping[str, Any]

# Tools that both have, so that an assistant may fall back from one to the other.
_SAME: tuple[tuple[str, str, str], ...] = (
    # at OpenAI, its name at Anthropic, its newest version there that needs no header
    ("web_search", "web_search", "web_search_20250305"),
    ("code_interpreter", "code_execution", "code_execution_20250825"),
    ("web_fetch", "web_fetch", "web_fetch_20250910"),
)

# What Responses leaves out of an item unless it is asked for it.
_RESULTS = {
    "web_search": "web_search_call.action.sources",
    "file_search": "file_search_call.results",
    "code_interpreter": "code_interpreter_call.outputs",
}


def for_anthropic(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Hosted tools in Anthropic's words; those that are in them already, and those it does not
    have, as they are.
    """
    return [_at_anthropic(tool) for tool in tools]


def _at_anthropic(tool: Tool) -> dict[str, Any]:
    for kind, name, version in _SAME:
        if tool.get("type") in (kind, f"{kind}_preview"):
            domains = mapping(tool.get("filters")).get("allowed_domains")
            more = {key: tool[key] for key in ("user_location", "max_uses") if tool.get(key)}
            return {"type": version, "name": name, **more, **({"allowed_domains": domains} if domains else {})}
    return dict(tool)


def for_responses(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Hosted tools in the words of OpenAI; those that are in them already, and those it does not
    have, as they are.
    """
    return [_at_openai(tool) for tool in tools]


def _at_openai(tool: Tool) -> dict[str, Any]:
    for kind, name, _ in _SAME:
        if str(tool.get("type")).startswith(f"{name}_20"):
            # OpenAI refuses a code interpreter that names no container.
            container = {"container": {"type": "auto"}} if kind == "code_interpreter" else {}
            return {"type": kind, **container}
    if tool.get("type") == "code_interpreter":
        return {"container": {"type": "auto"}, **tool}
    return dict(tool)


def results_of(tools: Iterable[Tool]) -> list[str]:
    """What to ask of Responses beside the items themselves."""
    return [_RESULTS[kind] for tool in tools if (kind := tool.get("type")) in _RESULTS]


def hosted_item(raw: Mapping[str, Any], site: str | None) -> HostedItem:
    """What a tool of OpenAI did, as an item.

    Raises ModelRefused for one that waits for an approval.
    """
    kind = label(raw.get("type")) or "unknown"
    if kind == "mcp_approval_request":
        where = label(raw.get("server_label")) or "a server"
        raise ModelRefused(f"the MCP server {where} asks for an approval: name it with require_approval 'never'")
    fields = {name: value for name, value in raw.items() if value is not None}
    return HostedItem(kind.removesuffix("_call"), fields, _readable(raw), site)


def _readable(raw: Mapping[str, Any]) -> str:
    """What people may read of it: a query, a program, the tool of a server."""
    action = mapping(raw.get("action"))
    for holder in (action, raw):
        for name in ("query", "url", "code", "revised_prompt"):
            if isinstance(text := holder.get(name), str) and text:
                return text
        for name in ("queries", "commands", "command"):
            if isinstance(texts := holder.get(name), Sequence) and all(isinstance(text, str) for text in texts):
                return texts if isinstance(texts, str) else "; ".join(texts)
    return ": ".join(text for name in ("server_label", "name") if (text := label(raw.get(name))))
