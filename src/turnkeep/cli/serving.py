"""What `dev`, `serve` and `worker` share: a house that is served until a signal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.parse import urlsplit

from turnkeep import failpoints
from turnkeep.application import Application
from turnkeep.cli import context, server_note, service_tools
from turnkeep.cli.inheritance import Inheritance
from turnkeep.cli.running_service import RunningService, reachable_url
from turnkeep.core_settings import Role
from turnkeep.doors import server
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.telemetry import configure_logging
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.telemetry.siblings import Siblings
from turnkeep.tools.demonstration import send_letter
from turnkeep.tools.pins import Pins


def run(
    settings: Settings,
    role: Role,
    tell: Callable[[RunningService], None],
    *,
    queues: Sequence[str] = (),
    demonstrates: bool = False,
    inheritance: Inheritance | None = None,
) -> None:
    """Serve until a signal, then drain. `tell` is called once everything is open; where something was
    inherited, the parent is told instead. `demonstrates`: where a simulator answers and no tools are
    set, it has one to be tried.
    """
    if role != "all" and settings.store_url.startswith("memory:"):
        raise ConfigurationError(f"a {role} alone shares nothing in memory: set TURNKEEP_STORE or REDIS_URL")
    configure_logging(level=settings.log_level, format=settings.log_format)
    if settings.log_level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells its own life, which is ours to tell
    failpoints.arm(failpoints.read_points(settings.failpoints))
    server.run(lambda: _serve(settings, role, tell, queues=queues, demonstrates=demonstrates, inheritance=inheritance))


async def _serve(
    settings: Settings,
    role: Role,
    tell: Callable[[RunningService], None],
    *,
    queues: Sequence[str],
    demonstrates: bool,
    inheritance: Inheritance | None,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        notes = stack.enter_context(contextlib.ExitStack())
        pins = Pins()
        tools = await stack.enter_async_context(service_tools.open_toolbox(settings, context.environment(), pins))
        if demonstrates and settings.uses_simulator and not tools.names:
            tools.register(send_letter)
        meter = PrometheusMeter()
        application = Application(settings, toolbox=tools, meter=meter)
        if queues:
            application.serves = tuple(queues)
        if inheritance is not None:
            application.siblings = Siblings(inheritance.link, meter)
            await stack.enter_async_context(application.siblings.open())

        def announce(url: str) -> None:
            # The store is open only now.
            pins.use(application.store)
            reachable = reachable_url(url) if url else None
            service = _describe(application, role, reachable)
            if application.siblings is not None:
                application.siblings.tell(asdict(service))
                return
            if reachable and role != "worker":  # nothing can be sent there
                server_note.leave(settings, reachable, notes)
            tell(service)

        listener = inheritance.listener if inheritance else None
        await server.serve(application, role, on_start=announce, listener=listener)


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
        data=context.store_location(application.settings),
        tools=application.toolbox.names,
        warnings=tuple(warnings),
    )
