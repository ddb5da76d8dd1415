"""The tools of a queue: registered by name, listed for the model, found for a call.

Plain functions, `Tool` values and dict definitions can be registered. Calls whose name is not registered go to the
catch-all, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from turnkeep.errors import ConfigurationError
from turnkeep.tools.base import Spec, Tool, from_dict, tool
from turnkeep.tools.execution import CatchAll

Registrable = Tool | Mapping[str, Any] | Callable[..., Any]


class Toolbox:
    """Tools by name. A change counts from the next step of every run; calls that run keep their tool."""

    def __init__(self, tools: Iterable[Registrable] = (), *, handle_requires_action: CatchAll | None = None) -> None:
        self._tools: dict[str, Tool] = {}
        self._catch_all = handle_requires_action
        for one in tools:
            self.register(one)

    def register(self, item: Registrable, *, replace: bool = False) -> Tool:
        """Add a tool. A name that is taken is refused unless `replace` says so."""
        added = _as_tool(item)
        if added.name in self._tools and not replace:
            raise ConfigurationError(f"a tool named {added.name!r} is registered already; remove it, or replace=True")
        self._tools[added.name] = added
        return added

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        return self._tools.pop(name, None) is not None

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    def specs(self, enabled: Collection[str] | None = None) -> list[Spec]:
        """What the model is told: all tools, or those of an assistant that are registered, in order of registration."""
        return [one.spec() for one in self if enabled is None or one.name in enabled]

    def missing(self, enabled: Collection[str]) -> list[str]:
        """Names that an assistant enables and nobody has registered: the catch-all's, or a mistake to report."""
        return [name for name in enabled if name not in self._tools]

    @property
    def catches_all(self) -> CatchAll | None:
        """Who answers calls that no registered tool takes."""
        return self._catch_all

    def catch_all(self, handler: CatchAll | None) -> None:
        """Set ``handle_requires_action(thread_id, run_id, tool_calls)``, or None for nobody."""
        self._catch_all = handler


def _as_tool(item: Registrable) -> Tool:
    if isinstance(item, Tool):
        return item
    if isinstance(item, Mapping):
        return from_dict(item)
    return tool(item)
