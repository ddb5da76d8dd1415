"""What the house tells about itself: log lines and measurements. Message text is never among them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Protocol

import structlog


class Meter(Protocol):
    """Takes measurements. Labels come from closed sets: never a channel, a user or a text."""

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def watch(self, name: str, read: Callable[[], float]) -> Callable[[], None]:
        """Ask for a value whenever somebody looks; the result ends that."""
        ...


class Silent:
    """Takes no measurements."""

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        return

    def observe(self, name: str, value: float, **labels: str) -> None:
        return

    def watch(self, name: str, read: Callable[[], float]) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    return


SILENT: Meter = Silent()


def get_log(name: str) -> Any:
    """A logger: `log.info("run_committed", run_id=…)`, one verb-noun name and key=value pairs."""
    return structlog.get_logger(name)


def configure_logging(*, level: str = "info", format: str = "auto") -> None:
    """Write log lines to stderr: JSON, or for people when that is a terminal."""
    for_people = format == "console" or (format == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
