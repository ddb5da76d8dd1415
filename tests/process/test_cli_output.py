"""What is said: harmless to a terminal, short units, one sentence for a failure."""

from __future__ import annotations

import io

import pytest
import typer
from rich.console import Console

from turnkeep.cli import output
from turnkeep.cli.arguments import channel, duration
from turnkeep.errors import ConfigurationError, InboxFull, StoreUnavailable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("1.5h", 5_400), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1 d 2 h", "1e3s", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30d"):
        duration(text)


@pytest.mark.parametrize("text", ["a:b", "{}", "*", "two words", "🙂👩‍👧", "x" * 512, "thread_1", "../etc", "a/b?c#d%"])
def test_any_string_is_a_channel(text: str) -> None:
    assert channel(text) == text


@pytest.mark.parametrize("text", ["", "x" * 513, "a\0b", "\udcff", "subscription"])
def test_what_no_door_takes_is_no_channel_here(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        channel(text)


def test_nothing_that_was_said_steers_the_terminal() -> None:
    assert output.printable("\x1b[2Jred\x07 \u202eleft\r\udcff") == "\\x1b[2Jred\\x07 \\u202eleft\\r\\udcff"
    assert output.printable("👩‍👧 naïve\tline\n日本語") == "👩‍👧 naïve\tline\n日本語"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (2_592_000, "30 d")],
)
def test_spans_have_the_largest_unit_that_fits(seconds: float, said: str) -> None:
    assert output.span(seconds) == said


@pytest.mark.parametrize(("number", "said"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (8_000_000_000, "8.0 GB")])
def test_sizes_have_units(number: int, said: str) -> None:
    assert output.size(number) == said


@pytest.mark.parametrize(
    ("cost", "requests", "said"), [(None, 0, None), (0.0, 0, None), (None, 3, "unknown"), (0.00125, 1, "$0.0013")]
)
def test_money_is_never_nothing_for_lack_of_a_price(cost: float | None, requests: int, said: str | None) -> None:
    assert output.dollars(cost, requests) == said


class Typed(io.StringIO):
    """What somebody types on a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_question_is_answered_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    output.confirm("Delete all?", yes=True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(output.ConfirmationMissing, match=r"Delete all\? there is no terminal .* --yes"):
        output.confirm("Delete all?", yes=False)
    monkeypatch.setattr("sys.stdin", Typed("n\n"))
    with pytest.raises(output.ConfirmationMissing, match="nothing was changed"):
        output.confirm("Delete all?", yes=False)
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    output.confirm("Delete all?", yes=False)


def test_how_far_it_has_come_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"TERM": "xterm"}  # whatever the terminal of these tests can do
    screens = [
        Console(file=io.StringIO(), force_terminal=terminal, width=80, _environ=able) for terminal in (False, True)
    ]
    shown = iter(screens)
    monkeypatch.setattr(output, "console", lambda *, stderr: next(shown))
    for _ in screens:
        with output.progress("Copying") as step:
            for _ in range(20):
                step()
    piped, terminal = (screen.file.getvalue() for screen in screens if isinstance(screen.file, io.StringIO))
    assert piped == ""
    assert "Copying …" in terminal


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigurationError("port 1 is taken"), 2, "turnkeep x: port 1 is taken\n"),
        (InboxFull("too many wait"), 1, "turnkeep x: too many wait\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "turnkeep x: /root/x: Permission denied\n"),
        (ExceptionGroup("both", [ValueError(), StoreUnavailable("gone")]), 1, "turnkeep x: gone\n"),
        (typer.Abort(), 1, "turnkeep x: nothing was changed\n"),
    ],
)
def test_a_failure_is_one_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    assert output.report_failure("turnkeep x", error) == code
    assert capsys.readouterr() == ("", sentence)


def test_machines_get_the_failure_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    output.report_failure("turnkeep x", InboxFull("too many wait"), as_json=True)
    assert capsys.readouterr().out == '{"error":{"code":"inbox_full","message":"too many wait"}}\n'


def test_an_error_of_our_own_shows_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("lost")
    assert output.report_failure("turnkeep x", raised.value) == 1
    said = capsys.readouterr().err
    assert "please report it" in said
    assert "Traceback" in said
