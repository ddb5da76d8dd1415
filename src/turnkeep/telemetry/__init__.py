"""Log lines and measurements of this process. Message text is never among them."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from turnkeep.telemetry.redaction import hide, one_line

CAUSES = 5
"""How many causes of an error a log line names."""


class Meter(Protocol):
    """Takes measurements. Labels come from closed sets: never a channel, a user or a text."""

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def watch(self, name: str, gauge: Callable[[], float]) -> Callable[[], None]:
        """Ask for a value whenever somebody looks; the result ends that."""
        ...


class Silent:
    """Takes no measurements."""

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        return

    def observe(self, name: str, value: float, **labels: str) -> None:
        return

    def watch(self, name: str, gauge: Callable[[], float]) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    return


SILENT: Meter = Silent()


def get_log(name: str) -> Any:
    """A logger: `log.info("run_committed", run_id=…)`, one verb-noun name and key=value pairs.

    It is a logger of the standard library underneath: where nothing is configured, warnings go to
    stderr and the rest nowhere.
    """
    # Not structlog's own output: a library must leave it to its program where log lines go.
    return structlog.wrap_logger(
        logging.getLogger(name),
        # Filtered first: a line that nobody reads must cost nothing more.
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _as_record(_: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """A line that any handler can print, with the values beside it for ours."""
    name, error = str(event.pop("event")), event.pop("exc_info", None)
    line = " ".join([name, *(f"{key}={value}" for key, value in event.items())])
    if isinstance(error, BaseException):
        event["exception"] = _where(error)
        line = f"{line}\n{event['exception']}"
    return (line,), {"extra": {"turnkeep": {"event": name, **event}}}


def _where(error: BaseException) -> str:
    """Types and places of an error and its causes, without their words: those may be somebody's."""
    # Never `str(error)`: the words of an error may hold what a user said or a key.
    places: list[str] = []
    current: BaseException | None = error
    while current is not None and len(places) < CAUSES:
        places.append("".join(traceback.format_tb(current.__traceback__)) + type(current).__qualname__)
        current = current.__cause__ or current.__context__
    return "\n".join(places)


def configure_logging(*, level: str = "info", format: str = "auto") -> None:
    """Write log lines to stderr: JSON, or for people when that is a terminal."""
    for_people = format == "console" or (format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(for_people=for_people))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


class _Lines(logging.Formatter):
    """One line per record, ours and those of other libraries, whose errors may carry somebody's
    words as well.
    """

    def __init__(self, *, for_people: bool) -> None:
        super().__init__()
        self._render: Any = (
            structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer(default=str)
        )

    def format(self, record: logging.LogRecord) -> str:
        # Lines of other libraries go through the same form,
        # for they print addresses with passwords in them.
        values = dict(getattr(record, "turnkeep", None) or {"event": record.getMessage()})
        if record.exc_info and record.exc_info[1] is not None:
            values["exception"] = _where(record.exc_info[1])
        values |= {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        shown_values = {name: _plain(name, value) for name, value in values.items()}
        # At the very end, on the finished line: it does
        # not matter who put a secret into it, and where.
        return hide(str(self._render(None, values["level"], shown_values)))


def _plain(name: str, value: Any) -> Any:
    """Only where an error came from is told in several lines. Colours would glue a secret to what
    is before it.
    """
    return hide(one_line(value, lines=name == "exception")) if isinstance(value, str) else value
