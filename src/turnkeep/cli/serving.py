"""What `dev`, `serve` and `worker` share: a house that is served until
a signal, and what is said about it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from turnkeep import failpoints
from turnkeep.application import Application, Role
from turnkeep.cli import context, output, server_note, service_tools
from turnkeep.doors import server
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.telemetry import configure_logging
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.tools.demonstration import send_letter
from turnkeep.tools.pins import Pins


@dataclass(frozen=True, slots=True)
class RunningService:
    """A house that answers: where it is (None for a worker), who
    answers, where its data is, what to know.
    """

    role: Role
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

    @property
    def socket(self) -> str | None:
        return f"ws{self.url.removeprefix('http')}/ws" if self.url and self.role != "worker" else None

    @property
    def answers(self) -> str:
        if self.is_simulated:
            return "the built-in simulator: rules, no model (set OPENAI_API_KEY to ask one)"
        return self.answering


def run(
    settings: Settings,
    role: Role,
    tell: Callable[[RunningService], None],
    *,
    queues: Sequence[str] = (),
    demonstrates: bool = False,
) -> None:
    """Serve until a signal, then drain. `tell` is called once everything is open. `demonstrates`:
    where a simulator answers and no tools are set, it has one to be tried.
    """
    if role != "all" and settings.store_url.startswith("memory:"):
        raise ConfigurationError(f"a {role} alone shares nothing in memory: set TURNKEEP_STORE or REDIS_URL")
    configure_logging(level=settings.log_level, format=settings.log_format)
    if settings.log_level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells its own life, which is ours to tell
    failpoints.arm(failpoints.read_points(settings.failpoints))
    server.run(lambda: _serve(settings, role, tell, queues=queues, demonstrates=demonstrates))


async def _serve(
    settings: Settings,
    role: Role,
    tell: Callable[[RunningService], None],
    *,
    queues: Sequence[str],
    demonstrates: bool,
) -> None:
    with contextlib.ExitStack() as stack:
        pins = Pins()
        async with service_tools.open_toolbox(settings, context.environment(), pins) as tools:
            if demonstrates and settings.uses_simulator and not tools.names:
                tools.register(send_letter)
            application = Application(settings, toolbox=tools, meter=PrometheusMeter())
            if queues:
                application.serves = tuple(queues)

            def announce(url: str) -> None:
                # The store is open only now.
                pins.use(application.store)
                reachable = _reachable(url) if url else None
                if reachable and role != "worker":  # nothing can be sent there
                    server_note.leave(settings, reachable, stack)
                tell(_describe(application, role, reachable))

            await server.serve(application, role, on_start=announce)


def _reachable(url: str) -> str:
    """An address that a client of this machine can use: nobody connects to "all addresses"."""
    parts = urlsplit(url)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")  # noqa: S104 - replaced, not bound
    return url if host is None else f"http://{host}:{parts.port}"


def _describe(application: Application, role: Role, url: str | None) -> RunningService:
    model = application.assistant.model
    is_simulated = application.is_simulated
    today = datetime.fromtimestamp(application.clock.now(), UTC).date()
    warnings = [] if is_simulated else [str(warning) for warning in application.catalog.check(model, today)]
    base_url = application.settings.openai_base_url or application.settings.anthropic_base_url
    if application.settings.sandbox == "outside" and application.settings.workspace is not None:
        warnings.append("TURNKEEP_SANDBOX=outside: commands and git reach all that this process reaches")
    at = f" at {urlsplit(base_url).netloc}" if base_url else ""
    return RunningService(
        role=role,
        url=url,
        answering="simulator" if is_simulated else f"{model}{at}",
        is_simulated=is_simulated,
        data=context.place(application.settings),
        tools=application.toolbox.names,
        warnings=tuple(warnings),
    )


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
