"""What never leaves in a log line."""

from __future__ import annotations

import json
import logging
import random

import pytest

from turnkeep.doors.server import secrets_in
from turnkeep.settings import Settings
from turnkeep.telemetry import configure_logging, get_log, redaction
from turnkeep.telemetry.redaction import SECRET_MASK, hide, know, without

SECRETS = {
    "an API key": "tk_0123456789abcdef_" + "ab" * 32,
    "a model key": "sk-proj-Abc123_def456",
    "a token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvbGdhIn0.c2lnbmF0dXJl",
    "a header": "Authorization: Bearer c29tZXRoaW5nLXNlY3JldA",
    "a password in an address": "redis://user:hunter2pass@db.example.com/0",
    "a ticket": "turnkeep, ticket.Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE",
    "a cookie": "turnkeep_session=Zm9vYmFyYmF6cXV4",
}
VALUES = ["ab" * 32, "Abc123_def456", "eyJzdWIiOiJvbGdhIn0", "c29tZXRoaW5nLXNlY3JldA", "hunter2pass", "Zm9vYmFy"]


@pytest.mark.parametrize("name", SECRETS)
def test_what_looks_like_a_secret_is_hidden(name: str) -> None:
    told = hide(f"before {SECRETS[name]} after")

    assert SECRET_MASK in told
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert not any(value in told for value in VALUES)


PIECES = (
    *("tk_", "0123456789abcdef", "_ab12", "eyJ", "abcdefgh", ".x", "sk-", "sess-", "pk-", "rk-", "ticket.", "turnkeep"),
    *("_session=", "bearer", "BASIC", "ba\u017fic", "bas\u0131c", " ", "\t", "://", "user:pass", "@", "x", "-", '"'),
)
"""What forms of secrets are made of, and letters beyond ASCII that differ from theirs by case alone."""


def test_no_text_is_taken_for_harmless_that_holds_a_form() -> None:
    dice = random.Random(17)
    texts = ["".join(dice.choices(PIECES, k=dice.randint(1, 9))) for _ in range(20_000)]
    told = [hide(text) for text in texts]

    assert told == [redaction._FORMS.sub(redaction._mask, text) for text in texts]
    assert 200 < sum(SECRET_MASK in text for text in told) < 15_000


def test_a_line_says_which_function_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    log = get_log("turnkeep.tests")
    with caplog.at_level(logging.INFO, logger="turnkeep.tests"):
        log.info("tried", count=3, text="words")
        try:
            raise ValueError
        except ValueError:
            log.exception("broke", run_id="run_1")
    first, second = caplog.records

    assert [record.funcName for record in (first, second)] == ["test_a_line_says_which_function_wrote_it"] * 2
    assert (first.filename, first.levelname, first.getMessage()) == (
        "test_access_redaction.py", "INFO", "tried count=3 text=words",
    )  # fmt: skip
    assert second.getMessage().startswith("broke run_id=run_1\n")
    assert second.getMessage().endswith("ValueError")


def test_the_id_of_a_key_stays_and_plain_words_too() -> None:
    assert "tk_0123456789abcdef_" in hide(SECRETS["an API key"])
    for text in (
        "the basic rule",
        "task-force",
        "run_id=run_1 thread_0a1b",
        "http://127.0.0.1:8080/a@b",
        "bearer of it",
    ):
        assert hide(text).replace(SECRET_MASK, "it") in (text, "bearer it it")


@pytest.mark.parametrize("form", ["json", "console"])
def test_lines_of_ours_and_of_other_libraries_hold_no_secret(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    know(["a value that is set"])
    configure_logging(level="info", format=form)
    for text in (*SECRETS.values(), "a value that is set"):
        get_log("turnkeep.tests").info("tried", value=text, nested={"inside": [text]})
        logging.getLogger("aiohttp.client").warning("cannot reach %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("asyncio").exception("broke with %s", text)
    told = capsys.readouterr().err

    assert told.count(SECRET_MASK) >= 4 * len(SECRETS)
    assert not any(value in told for value in (*VALUES, "a value that is set"))


@pytest.mark.parametrize("form", ["json", "console"])
def test_nobodys_words_begin_a_line_or_steer_a_terminal(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="info", format=form)
    evil = 'x\n{"event": "shutting_down"}\r\x1b[2J\u202e\u2028\x00'
    get_log("turnkeep.tests").info("tried", channel=evil)
    logging.getLogger("other").warning("said %s", evil)
    told = capsys.readouterr().err

    assert len(told.splitlines()) == 2
    assert not any(character in told for character in ("\x1b[2J", "\u202e", "\r", "\x00"))
    if form == "json":
        assert [json.loads(line)["event"][:5] for line in told.splitlines()] == ["tried", "said "]


def test_everything_that_is_set_as_a_secret_is_known() -> None:
    settings = Settings.load(
        openai_api_key="the-key-of-the-model", jwt_secret="the-shared-secret-of-tokens", redis_url="redis://:p%40ss@h/0"
    )
    assert set(secrets_in(settings)) == {"the-key-of-the-model", "the-shared-secret-of-tokens", "p%40ss", "p@ss"}


@pytest.mark.parametrize(
    ("secret", "text", "hidden"),
    [
        ("test", "the latest tests of test_key say test", "the latest tests of [secret]_key say [secret]"),
        ("incorrect", "Incorrect API key provided: incorrect.", "Incorrect API key provided: [secret]."),
        ("hunter22", "xhunter22y", "x[secret]y"),
        ("correcthorsebatterystaple", "xcorrecthorsebatterystapley", "x[secret]y"),
        ("a-b.c/d", "/a-b.c/d/", "/[secret]/"),
    ],
)
def test_words_stay_whole_and_what_is_no_word_is_hidden_anywhere(secret: str, text: str, hidden: str) -> None:
    assert without(text, secret) == hidden
