"""The tools of a queue: registered, listed for the model, found for a call, shared with tenants.

Plain functions, `Tool` values and dict definitions can be registered. Calls whose name is not
registered go to the catch-all, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from turnkeep.errors import ConfigurationError
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.tools.execution import CatchAll
from turnkeep.tools.tool import Spec, Tool, check_function, check_parameters, from_dict, tool

Registrable = Tool | Mapping[str, Any] | Callable[..., Any]

WILDCARD = "*"
"""As a tenant: every other one; as a tool: every tool, and the catch-all."""


class Toolbox:
    """Tools by name.

    A change counts from the next step of every run; calls that run keep their tool.

    They are the default tenant's. `tenants` names the tools that others may use as well; who is not
    named has none.
    """

    def __init__(
        self,
        tools: Iterable[Registrable] = (),
        *,
        handle_requires_action: CatchAll | None = None,
        tenants: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self._tenants = dict(tenants or {})
        self._own: dict[str, Toolbox] = {}
        self.is_empty = True
        """Nothing is registered, nor was anything of a tenant's own asked for: runs look here first."""
        self.catch_all(handle_requires_action)
        if isinstance(tools, str | Mapping) or not isinstance(tools, Iterable):
            raise ConfigurationError(f"tools is of type {type(tools).__name__}, it must be a list of tools")
        for one in tools:
            self.register(one)

    def register(self, item: Registrable, *, replace: bool = False) -> Tool:
        """Add a tool. A name that is taken is refused unless `replace` says so."""
        entry = _as_tool(item)
        if entry.name in self._tools and not replace:
            raise ConfigurationError(f"a tool named {entry.name!r} is registered already; remove it, or replace=True")
        self._tools[entry.name] = entry
        self.is_empty = False
        return entry

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        entry = self._tools.pop(name, None)
        self.is_empty = not (self._tools or self._own)
        return entry is not None

    def of(self, tenant: str) -> Toolbox:
        """What a tenant's runs may use, as it changes."""
        return self if tenant == DEFAULT_TENANT else TenantTools(self, tenant)

    def own(self, tenant: str) -> Toolbox:
        """The tools that one tenant alone has, to register them in."""
        if tenant == DEFAULT_TENANT:
            return self
        self.is_empty = False
        return self._own.setdefault(tenant, Toolbox())

    def allowed_names(self, tenant: str) -> Collection[str]:
        """The names that a tenant other than the default one may use of the shared tools."""
        # nothing unless it is said: tools were written for the data of the default tenant
        return self._tenants.get(tenant, self._tenants.get(WILDCARD, ()))

    def share(self, tenants: Mapping[str, Collection[str]]) -> None:
        """Say anew which of the shared tools other tenants may use."""
        self._tenants = dict(tenants)

    def get(self, name: str) -> Tool | None:
        return self._by_name().get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._by_name().values()))

    def __len__(self) -> int:
        return len(self._by_name())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def _by_name(self) -> Mapping[str, Tool]:
        return self._tools

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name())

    def specs(self, names: Collection[str] | None = None) -> list[Spec]:
        """What the model is told: all tools, or those named, in order of registration."""
        return [one.spec() for one in self if names is None or one.name in names]

    def missing(self, names: Collection[str]) -> list[str]:
        """Names that nobody has registered: the catch-all's, or a mistake to report."""
        return [name for name in names if name not in self._by_name()]

    @property
    def catches_all(self) -> CatchAll | None:
        """Who answers calls that no registered tool takes."""
        return self._catch_all

    def catch_all(self, handler: CatchAll | None) -> None:
        """Set ``handle_requires_action(thread_id, run_id, tool_calls)``, or None for nobody.

        Raises `ConfigurationError` for what cannot be called so.
        """
        if handler is not None:
            check_function(handler, "handle_requires_action")
            form = "async def handle_requires_action(thread_id, run_id, tool_calls): …"
            check_parameters(handler, "handle_requires_action", form, "", "", [])
        self._catch_all = handler


class TenantTools(Toolbox):
    """What one tenant may use: the tools it alone has, and the shared ones that it was given."""

    def __init__(self, toolbox: Toolbox, tenant: str) -> None:
        super().__init__()
        self._toolbox = toolbox
        self._tenant = tenant

    def _by_name(self) -> Mapping[str, Tool]:
        allowed_names = self._toolbox.allowed_names(self._tenant)
        shared_tools = {
            one.name: one for one in self._toolbox if WILDCARD in allowed_names or one.name in allowed_names
        }
        own = self._toolbox._own.get(self._tenant)
        # its own come last: they hide shared ones of the same name
        return {**shared_tools, **(own._by_name() if own else {})}

    @property
    def catches_all(self) -> CatchAll | None:
        """It answers for any name, so it is for those who may use every tool."""
        return self._toolbox.catches_all if WILDCARD in self._toolbox.allowed_names(self._tenant) else None


def _as_tool(item: Registrable) -> Tool:
    if isinstance(item, Tool):
        return item
    if isinstance(item, Mapping):
        return from_dict(item)
    return tool(item)
