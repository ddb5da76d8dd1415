"""What is said about a service that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from turnkeep.cli import output
from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class RunningService:
    """A house that answers: where it is (None for a worker), who answers, where its data
    is, what to know.
    """

    role: str
    url: str | None
    answering: str
    is_simulated: bool
    data: str
    tools: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "url": self.url,
            "socket": self.socket,
            "answering": self.answering,
            "simulated": self.is_simulated,
            "data": self.data,
            "tools": list(self.tools),
            "warnings": list(self.warnings),
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """What another process has made of `dataclasses.asdict`."""
        return cls(**{**fields, "tools": tuple(fields["tools"]), "warnings": tuple(fields["warnings"])})

    @property
    def socket(self) -> str | None:
        return f"ws{self.url.removeprefix('http')}/ws" if self.url and self.role != "worker" else None

    @property
    def answers(self) -> str:
        if self.is_simulated:
            return "the built-in simulator: rules, no model (set OPENAI_API_KEY to ask one)"
        return self.answering


def reachable_url(url: str) -> str:
    """An address that a client of this machine can use: nobody connects to "all addresses"."""
    parts = urlsplit(url)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")  # noqa: S104 - replaced, not bound
    return url if host is None else f"http://{host}:{parts.port}"


def say_plainly(role: str, service: RunningService) -> None:
    """What a service says when it is there."""
    from turnkeep.cli import version

    where = f"listening on {service.url}" if service.url and role != "worker" else f"waiting for work ({role})"
    output.say(f"turnkeep {version()} {where}")
    if role != "gateway":
        output.say(f"answers: {service.answers}", style="yellow" if service.is_simulated else "")
    output.say(f"data: {service.data}")
    if role == "worker" and service.url:
        output.say(f"measurements: {service.url}/metrics")
    warn(service)
    output.say("Ctrl-C ends it; `turnkeep --help` shows the other commands", style="dim")


def warn(service: RunningService) -> None:
    for warning in service.warnings:
        output.say(f"warning: {warning}", style="yellow")
