"""Assistants: named profiles of who answers, kept in the registry and versioned."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from typing import Any

from turnkeep.errors import Conflict, NotFound
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.contract import Registry
from turnkeep.store.record_cache import RecordCache
from turnkeep.store.values import Document

ALL = "*"
"""As a tool: every tool of the queue."""

FUNCTION = "function"
"""The type of a tool that the caller runs."""

MASK = "[secret]"
"""Stands where something is not shown."""

# of hosted tools: what opens somebody's server
_SECRETS = ("authorization", "authorization_token", "headers")

FIELDS = (
    *("model", "name", "instructions", "tools", "parameters", "fallbacks"),
    *("background", "show_reasoning", "metadata"),
)
"""What can be set of an assistant."""

DEFAULT_INSTRUCTIONS = "Reply to all messages logically."


@dataclass(frozen=True, slots=True)
class Assistant:
    """A profile. `fallbacks` are asked when `model` cannot answer.

    `tools` None means all tools of the queue. Else each is the name of one (``*``: all of them), or
    an object: a tool that runs at the provider, as ``{"type": "web_search"}``, or a function that
    the caller runs himself, as ``{"type": "function", "name": …, "parameters": …}``.
    """

    assistant_id: str
    model: str
    name: str = "assistant"
    instructions: str = DEFAULT_INSTRUCTIONS
    tools: tuple[str | Mapping[str, Any], ...] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    background: bool = False
    """Let OpenAI work in the background: what has begun is not paid for again after a crash."""
    show_reasoning: bool = False
    """Let people who follow the conversation see what the model thinks, as far as its provider tells."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    version: int = 0
    created_at: float = 0.0
    tool_names: tuple[str, ...] | None = field(init=False, repr=False, compare=False)
    """The tools of the queue that it may use, None: all."""
    hosted_tools: tuple[Mapping[str, Any], ...] = field(init=False, repr=False, compare=False)
    """The tools that run at the provider, in its words: `show` is ours."""
    client_tools: tuple[Mapping[str, Any], ...] = field(init=False, repr=False, compare=False)
    """The functions that the caller runs: a call of one waits for its output."""

    def __post_init__(self) -> None:
        # Sorted here, once for a profile: every request of every run asks for each kind.
        takes_all = self.tools is None or ALL in self.tools
        names = None if takes_all else tuple(tool for tool in self.tools or () if isinstance(tool, str))
        object.__setattr__(self, "tool_names", names)
        at_provider = ({k: v for k, v in tool.items() if k != "show"} for tool in self._tool_objects(of_caller=False))
        object.__setattr__(self, "hosted_tools", tuple(at_provider))
        # Chat Completions and the Assistants API nest what Responses has flat.
        functions = (
            tool["function"] if isinstance(tool.get("function"), Mapping) else tool
            for tool in self._tool_objects(of_caller=True)
        )
        object.__setattr__(self, "client_tools", tuple(functions))

    def _tool_objects(self, *, of_caller: bool) -> list[Mapping[str, Any]]:
        objects = [tool for tool in self.tools or () if not isinstance(tool, str)]
        return [tool for tool in objects if (tool.get("type") == FUNCTION) == of_caller]

    def shows_hosted(self, name: str) -> bool:
        """Whether people see what was asked of a tool that runs at the provider:
        one with ``"show": "arguments"``.
        """
        tools = self._tool_objects(of_caller=False)
        return any(str(tool["type"]).startswith(name) and tool.get("show") in ("arguments", "all") for tool in tools)

    def to_public(self) -> dict[str, Any]:
        """As it is shown to who may read it: without what opens the servers of its hosted tools."""
        data = self.to_json()
        data["tools"] = None if self.tools is None else [_mask(tool) for tool in self.tools]
        return data

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for name in ("tool_names", "hosted_tools", "client_tools"):
            del data[name]
        data["id"] = data.pop("assistant_id")
        data["tools"] = None if self.tools is None else list(self.tools)
        data["fallbacks"] = list(self.fallbacks)
        return data


def _mask(tool: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if isinstance(tool, str):
        return tool
    return {name: MASK if name in _SECRETS and value else value for name, value in tool.items()}


class Assistants:
    """The profiles of all tenants.

    Every change raises the version by one; two changes at once: `Conflict` for the later.
    """

    def __init__(self, registry: Registry, *, model: str, instructions: str = DEFAULT_INSTRUCTIONS) -> None:
        self.registry = registry
        self.blank = Assistant("", model, instructions=instructions)
        """The profile that answers where none was ever created; not stored."""
        choices = RecordCache(registry, self._choose)
        # the cache's own, without a step between: every run asks
        self.answering = choices.get
        """Who answers a tenant's thread with this assistant chosen, if it still exists, else the default, else
        the blank one. Remembered for a second, or until a change is heard of.
        """
        self.knows_answering = choices.has
        """Whether `answering` would ask nobody."""

    async def create(
        self, tenant: str, values: Mapping[str, Any], *, now: float, assistant_id: str | None = None
    ) -> Assistant:
        assistant = replace(self.blank, assistant_id=assistant_id or f"asst_{secrets.token_hex(12)}", created_at=now)
        return await self._write(tenant, replace(assistant, **_fields(values)), version=0)

    async def get(self, tenant: str, assistant_id: str) -> Assistant:
        """Raises `NotFound`."""
        document = await self.registry.get("assistant", tenant, assistant_id)
        if document is None:
            raise NotFound(f"there is no assistant {assistant_id!r}, list them with `turnkeep assistants list`")
        return _assistant(document)

    async def list(self, tenant: str) -> list[Assistant]:
        return [_assistant(document) for document in await self.registry.list("assistant", tenant)]

    async def change(
        self, tenant: str, assistant_id: str, values: Mapping[str, Any], *, version: int | None = None
    ) -> Assistant:
        """Raises `NotFound`; `Conflict` when it was changed since `version`, or meanwhile."""
        current = await self.get(tenant, assistant_id)
        if version is not None and version != current.version:
            raise Conflict(f"assistant {assistant_id!r} has version {current.version} now, read it again")
        return await self._write(tenant, replace(current, **_fields(values)), version=current.version)

    async def delete(self, tenant: str, assistant_id: str) -> bool:
        return await self.registry.take("assistant", tenant, assistant_id) is not None

    async def use(self, tenant: str, assistant_id: str) -> Assistant:
        """Make it the one that answers where no other is chosen. Raises `NotFound`."""
        assistant = await self.get(tenant, assistant_id)
        await self.registry.put("default", tenant, "assistant", {"id": assistant_id})
        return assistant

    async def default(self, tenant: str) -> Assistant | None:
        choice = await self.registry.get("default", tenant, "assistant")
        if choice is None:
            return None
        document = await self.registry.get("assistant", tenant, choice.body["id"])
        return None if document is None else _assistant(document)

    async def begin(self, tenant: str, *, now: float) -> Assistant:
        """The one that answers by default, made if there is none.

        Of several callers that begin together all get the same.
        """
        choice = await self.registry.get("default", tenant, "assistant")
        if (current := await self.default(tenant)) is not None:
            return current
        assistant = await self.create(tenant, {}, now=now)
        version = 0 if choice is None else choice.version
        try:
            await self.registry.put("default", tenant, "assistant", {"id": assistant.assistant_id}, version=version)
        # another process was faster: its assistant counts, and ours would answer nobody
        except Conflict:
            current = await self.default(tenant)
            if current is None:
                raise
            await self.delete(tenant, assistant.assistant_id)
            return current
        return assistant

    async def _choose(self, tenant: str, assistant_id: str | None) -> Assistant:
        if assistant_id:
            document = await self.registry.get("assistant", tenant, assistant_id)
            if document is not None:
                return _assistant(document)
        return await self.default(tenant) or self.blank

    async def _write(self, tenant: str, assistant: Assistant, *, version: int) -> Assistant:
        # both are the registry's own: stored twice, they could differ
        body = {k: v for k, v in assistant.to_json().items() if k not in ("id", "version")}
        document = await self.registry.put("assistant", tenant, assistant.assistant_id, body, version=version)
        return _assistant(document)


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in values.items() if k in FIELDS}
    for name in ("tools", "fallbacks"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    return fields


def _assistant(document: Document) -> Assistant:
    return Assistant(
        assistant_id=document.name,
        version=document.version,
        created_at=float(document.body.get("created_at", 0.0)),
        **_fields(document.body),
    )
