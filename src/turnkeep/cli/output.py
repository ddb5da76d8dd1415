"""What the command line says: results to stdout, remarks to stderr, JSON for machines, one
sentence for a failure.

Nothing that a user or a model wrote reaches a terminal with its control characters.
"""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnkeep.cli.exit_codes import FAILED, WRONG
from turnkeep.errors import ConfigurationError, NotFound, StoreMisconfigured, TurnkeepError

PIPED_WIDTH = 200
"""Columns of a table where nobody looks at a terminal."""

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, changes of direction, halves of surrogate pairs."""


class ConfirmationMissing(TurnkeepError):
    """what would be lost was not confirmed"""

    code = "unconfirmed"


class NotGiven(TurnkeepError):
    """an operand or option is missing or cannot be understood"""

    code = "wrong_usage"


def hide_types_of_flags(command: Any) -> Any:
    """The same command, and all below it, whose help has no ``<bool>`` behind a flag: nothing can
    be given there.
    """
    for child in getattr(command, "commands", {}).values():
        hide_types_of_flags(child)
    for option in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return command


def console(*, stderr: bool = False) -> Console:
    """The terminal, or a file or pipe of fixed width."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else PIPED_WIDTH)


def say(text: str = "", *, style: str = "") -> None:
    """A line of the result."""
    console().print(Text(printable(text), style=style), soft_wrap=True)


def write(text: str) -> None:
    """A piece of an answer as it comes, without a line end."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def note(text: str, *, style: str = "dim") -> None:
    """A remark beside the result."""
    console(stderr=True).print(Text(printable(text), style=style), soft_wrap=True)


def emit(value: Any) -> None:
    """One line of JSON."""
    # Not by way of rich, which would wrap: one value is one line.
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Rows under their names, or a sentence where there are none."""
    if not rows:
        say(empty)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        # Ids are copied from here: broken over lines they are whole, with an ellipsis they are not.
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable("" if cell is None else str(cell))) for cell in row))
    console().print(grid)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one pair a line; what is None is left out."""
    width = max(len(name) for name, _ in pairs) + 2
    for name, value in pairs:
        if value is not None:
            console().print(Text(f"{name:<{width}}", style="bold") + Text(printable(str(value))), soft_wrap=True)


def printable(text: str) -> str:
    """The text without anything that would steer a terminal; lines and tabs stay."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def moment(at: float | None) -> str:
    """A point in time, for people."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """How long, in the largest unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def count(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def size(number: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def dollars(cost: float | None, requests: int) -> str | None:
    """Money spent on so many requests; None where there were none, and never 0 for lack of a price."""
    if not requests:
        return None
    return "unknown" if cost is None else f"${cost:.4f}"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost. Raises `ConfirmationMissing` for a no, and where there
    is nobody to ask.
    """
    if yes:
        return
    # A script must never hang on a question.
    if not sys.stdin.isatty():
        raise ConfirmationMissing(f"{question} there is no terminal to ask on: repeat it with --yes")
    if not typer.confirm(printable(question), err=True):
        raise ConfirmationMissing("nothing was changed")


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Callable[[], None]]:
    """Count on the terminal how far it has come; silent where there is none."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda: None
        return
    steps = 0
    with screen.status(f"{doing} …") as status:

        def step() -> None:
            nonlocal steps
            steps += 1
            # Drawing costs more than many of the steps.
            if steps % 10 == 0:
                status.update(f"{doing} … {steps:,}")

        yield step


def fail(message: str) -> NoReturn:
    """Say that what was asked for is not there."""
    raise NotFound(message)


def report_failure(program: str, error: BaseException, *, as_json: bool = False) -> int:
    """Tell what went wrong in one sentence; the exit code. Only what nobody foresaw shows a
    traceback.
    """
    error = _first(error)
    code, sentence = _describe(error)
    if not sentence:
        return WRONG
    if as_json:
        emit({"error": {"code": code, "message": sentence}})
    print(f"{program}: {printable(sentence)}", file=sys.stderr)
    if code == "internal_error":
        traceback.print_exception(error, file=sys.stderr)
    return _exit_code(error)


def _describe(error: BaseException) -> tuple[str, str]:
    match error:
        # The bare class is what a server of another version says with a code that is not known
        # here.
        case TurnkeepError() if type(error) is not TurnkeepError:
            return error.code, str(error)
        case typer.TyperException():
            return NotGiven.code, _usage(error)
        case typer.Abort():
            return ConfirmationMissing.code, "nothing was changed"
        case OSError():
            prefix = f"{error.filename}: " if error.filename else ""
            return "system_error", f"{prefix}{error.strerror or error}"
        case TurnkeepError():
            return "failed", str(error)
    return "internal_error", f"an error of turnkeep itself, please report it: {type(error).__name__}: {error}"


def _usage(error: typer.TyperException) -> str:
    message = error.format_message().rstrip(".")
    if not message:  # the help was shown instead
        return ""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "turnkeep"
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"


def _exit_code(error: BaseException) -> int:
    wrong = ConfigurationError | StoreMisconfigured | NotGiven
    # To lack a --yes is a mistake in how it was called; a no is an answer.
    is_unconfirmed = isinstance(error, ConfirmationMissing) and "--yes" in str(error)
    return WRONG if is_unconfirmed or isinstance(error, wrong | typer.TyperException) else FAILED


def _first(error: BaseException) -> BaseException:
    """Of a group of errors the first one that says something of its own."""
    while isinstance(error, BaseExceptionGroup):
        own_errors = error.subgroup(TurnkeepError)
        error = (own_errors or error).exceptions[0]
    return error
