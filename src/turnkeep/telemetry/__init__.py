"""Log lines and measurements of this process. Message text is never among them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from turnkeep.telemetry.redaction import hide, one_line

CAUSES = 5
"""How many causes of an error a log line names."""

DOUBLES = {
    "aiormq.connection": (
        *("error when creating transport", "Unexpected connection close from remote"),
        *("Cancelling cause reader exited abnormally", "Server connection %r was stuck"),
    )
}
"""Of another library, by its logger: lines about what it raises as well, so that it is told here once,
with the broker's name and how often it has happened (`amqp_interrupted`).
"""

# `json.dumps` with a default makes an encoder for each line.
_JSON = json.JSONEncoder(default=str)


class Meter(Protocol):
    """Takes measurements. Labels come from closed sets: never a channel, a user or a text."""

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def watch(self, name: str, gauge: Callable[[], float], **labels: str) -> Callable[[], None]:
        """Ask for a value whenever somebody looks; the result ends that."""
        ...


class Silent:
    """Takes no measurements."""

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        return

    def observe(self, name: str, value: float, **labels: str) -> None:
        return

    def watch(self, name: str, gauge: Callable[[], float], **labels: str) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    return


SILENT: Meter = Silent()


class ModuleLog:
    """The lines of one module: `log.info("run_committed", run_id=…)`, one verb-noun name and
    key=value pairs.

    It is a logger of the standard library underneath: where nothing is configured, warnings go to
    stderr and the rest nowhere.
    """

    __slots__ = ("_logger", "is_heard")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self.is_heard = self._logger.isEnabledFor
        """Whether somebody reads lines of a level: asked first where a line is made for every message."""

    def debug(self, event: str, /, **values: Any) -> None:
        self._tell(logging.DEBUG, event, values)

    def info(self, event: str, /, **values: Any) -> None:
        self._tell(logging.INFO, event, values)

    def warning(self, event: str, /, **values: Any) -> None:
        self._tell(logging.WARNING, event, values)

    def error(self, event: str, /, **values: Any) -> None:
        """`exc_info`, an exception: its type and place, and those of its causes, are told too."""
        self._tell(logging.ERROR, event, values)

    def exception(self, event: str, /, **values: Any) -> None:
        """An `error` with the exception that is handled here."""
        self._tell(logging.ERROR, event, {"exc_info": sys.exception(), **values})

    def _tell(self, level: int, event: str, values: dict[str, Any]) -> None:
        # Asked first: a line that nobody reads must cost nothing more.
        if not self._logger.isEnabledFor(level):
            return
        error = values.pop("exc_info", None)
        if isinstance(error, BaseException):
            values["exception"] = _where(error)
        logger, caller = self._logger, sys._getframe(2)
        # Made here and not by `Logger.log`, which looks for its caller through every frame between.
        record = logger.makeRecord(
            logger.name, level, caller.f_code.co_filename, caller.f_lineno, _Words(event, values), (), None,
            caller.f_code.co_name, {"turnkeep": {"event": event, **values}},
        )  # fmt: skip
        logger.handle(record)


class _Words:
    """A line that any handler can print; ours prints the values beside it, and never asks for these."""

    __slots__ = ("_event", "_values")

    def __init__(self, event: str, values: Mapping[str, Any]) -> None:
        self._event = event
        self._values = values

    def __str__(self) -> str:
        values = dict(self._values)
        where = values.pop("exception", None)
        line = " ".join([self._event, *(f"{key}={value}" for key, value in values.items())])
        return line if where is None else f"{line}\n{where}"


def get_log(name: str) -> ModuleLog:
    """The log of a module, by its name."""
    return ModuleLog(name)


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
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def _is_news(record: logging.LogRecord) -> bool:
    doubles = DOUBLES.get(record.name)
    return doubles is None or not str(record.msg).startswith(doubles)


class _Lines(logging.Formatter):
    """One line per record, ours and those of other libraries, whose errors may carry somebody's
    words as well.
    """

    def __init__(self, *, for_people: bool) -> None:
        super().__init__()
        self._render = _line_for_people() if for_people else _line_for_machines

    def format(self, record: logging.LogRecord) -> str:
        # Lines of other libraries go through the same form,
        # for they print addresses with passwords in them.
        values = dict(getattr(record, "turnkeep", None) or {"event": record.getMessage()})
        if record.exc_info and record.exc_info[1] is not None:
            values["exception"] = _where(record.exc_info[1])
        shown_values = {name: _plain(name, value) for name, value in values.items()}
        shown_values |= {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        # At the very end, on the finished line: it does
        # not matter who put a secret into it, and where.
        return hide(self._render(shown_values))


def _line_for_machines(values: Mapping[str, Any]) -> str:
    return _JSON.encode(values)


def _line_for_people() -> Callable[[dict[str, Any]], str]:
    # With rich and pygments behind it: 70 ms and 5 MB that only a terminal is worth.
    try:
        from structlog.dev import ConsoleRenderer
    except ImportError:  # a program that embeds a queue need not have the terminal's parts
        return _plain_line

    renderer = ConsoleRenderer()
    return lambda values: str(renderer(None, values["level"], values))


def _plain_line(values: Mapping[str, Any]) -> str:
    rest = " ".join(f"{name}={value}" for name, value in values.items() if name not in ("timestamp", "level", "event"))
    return f"{values['timestamp']} [{values['level']}] {values['event']} {rest}"


def _plain(name: str, value: Any) -> Any:
    """Only where an error came from is told in several lines. Colours would glue a secret to what
    is before it.
    """
    return hide(one_line(value, lines=name == "exception")) if isinstance(value, str) else value
