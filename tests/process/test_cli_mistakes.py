"""Whatever one gets wrong is told in a sentence on stderr, with an exit code and never a traceback."""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path

import pytest

from tests.process.command import Desk, Said


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "a_file").write_text("not a directory")
    (tmp_path / "broken.toml").write_text("hosts = [")
    (tmp_path / "wrong.toml").write_text('[[tools]]\nkind = "http"\nname = "x"\n')
    (tmp_path / "broken.py").write_text("from turnkeep.tools import tool\n1 / 0\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\0" + b"\0" * 4096)
    return Desk(tmp_path)


def one_sentence(said: Said, code: int, *fragments: str) -> None:
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    assert said.err.startswith("turnkeep")
    for fragment in fragments:
        assert fragment in said.err
    assert said.err.count("\n") == 1


@pytest.mark.daily(rows=3)  # a program for each of them
@pytest.mark.parametrize(
    ("line", "code", "fragments"),
    [
        ("send c1", 2, ["missing argument 'TEXT'", "turnkeep send --help"]),
        ("send c1 Hi --loud", 2, ["no such option", "--loud"]),
        ("threads bogus", 2, ["bogus"]),
        ("threads clear --older-than 3x", 2, ["'3x' is no duration", "30d"]),
        ("serve --role boss", 2, ["--role", "gateway"]),
        ("serve --port 99999", 2, ["--port"]),
        ("threads show nobody", 1, ["no thread on channel 'nobody'", "turnkeep threads list"]),
        ("threads forget nobody --yes", 1, ["no thread on channel 'nobody'"]),
        ("queue pause nobody", 1, ["no thread on channel 'nobody'"]),
        ("queue dead show dead_1", 1, ["no dead letter 'dead_1'"]),
        ("queue dead redrive", 2, ["--all"]),
        ("actions approve nobody call_1", 1, ["no thread on channel 'nobody'"]),
        ("assistants show asst_1", 1, ["no assistant 'asst_1'", "turnkeep assistants list"]),
        ("assistants create --parameters {x", 2, ["no JSON"]),
        ("trace msg_1", 1, ["no message 'msg_1' is known"]),
        ("restore nothing.db --yes", 2, ["there is no file nothing.db"]),
        ("simulate --quirk martian", 2, ["'martian'", "openai"]),
        ("simulate --ledger nowhere/ledger.jsonl", 2, ["the ledger nowhere/ledger.jsonl cannot be written"]),
        ("dev --tools missing.toml", 2, ["missing.toml", "No such file"]),
        ("dev --tools broken.toml", 2, ["broken.toml", "no TOML"]),
        ("dev --tools wrong.toml", 2, ["wrong.toml"]),
        ("dev --tools missing.py", 2, ["missing.py", "no such file"]),
        ("dev --tools broken.py", 2, ["broken.py", "ZeroDivisionError", "line 2"]),
        ("dev --tools empty.py", 2, ["empty.py", "@tool"]),
        ("dev --tools a_file", 2, [".toml or .py"]),
    ],
)
def test_a_wrong_command(desk: Desk, line: str, code: int, fragments: list[str]) -> None:
    desk.run("threads", "new", "somebody") if code == 1 else None  # else it is told that there is no store yet
    one_sentence(desk.run(*line.split()), code, *fragments)


@pytest.mark.daily(rows=3)  # a program for each of them
@pytest.mark.parametrize(
    ("line", "settings", "code", "fragments"),
    [
        ("dev", {"TURNKEEP_STORE": "a_file/turnkeep.db"}, 2, ["cannot be made"]),
        ("threads new", {"TURNKEEP_STORE": "a_file/turnkeep.db"}, 2, ["cannot be made"]),
        ("threads list", {"TURNKEEP_STORE": "a_file"}, 2, ["a_file is not a turnkeep store"]),
        ("threads list", {"TURNKEEP_STORE": "other.db"}, 2, ["other.db"]),
        ("threads list", {"TURNKEEP_STORE": "ftp://somewhere"}, 2, ["ftp://somewhere"]),
        ("threads list", {"TURNKEEP_ORIGINS": "not json"}, 2, ["TURNKEEP_ORIGINS must be JSON"]),
        ("send c1 Hi", {"TURNKEEP_URL": "http://127.0.0.1:9"}, 1, ["http://127.0.0.1:9", "TURNKEEP_URL"]),
        ("worker", {"TURNKEEP_STORE": "memory:"}, 2, ["worker", "TURNKEEP_STORE"]),
        ("serve --role gateway", {"TURNKEEP_STORE": "memory:"}, 2, ["gateway", "TURNKEEP_STORE"]),
        ("backup copy.db", {"TURNKEEP_STORE": "memory:"}, 2, ["memory:"]),
        ("backup copy.db", {"REDIS_URL": "redis://127.0.0.1:9"}, 2, ["Redis", "BGSAVE"]),
        ("dev", {"TURNKEEP_ALLOW_BASH": "true"}, 2, ["execute_bash", "workspace"]),
    ],
)
def test_a_wrong_setting(desk: Desk, line: str, settings: dict[str, str], code: int, fragments: list[str]) -> None:
    one_sentence(desk.run(*line.split(), **settings), code, *fragments)


def test_all_wrong_settings_are_told_at_once_and_secrets_are_not(desk: Desk) -> None:
    said = desk.run("dev", TURNKEEP_PORT="high", TURNKEEP_WINDOW="-1", OPENAI_BASE_URL="secret")
    assert said.code == 2
    assert said.err.count("\n") == 4
    assert all(name in said.err for name in ("TURNKEEP_PORT = 'high'", "TURNKEEP_WINDOW = '-1'", "OPENAI_BASE_URL"))
    assert "secret" not in said.err
    assert "Traceback" not in said.err


def test_a_taken_port_is_told_with_the_way_out(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        one_sentence(desk.run("dev", "--port", port), 2, f"port {port}", "--port")
        one_sentence(desk.run("simulate", "--port", port), 2, port, "--port")


def test_a_server_that_is_none_of_ours_is_told(desk: Desk) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        said = desk.run("send", "c1", "Hi", TURNKEEP_URL=f"http://127.0.0.1:{other.server_port}")
    one_sentence(said, 1, "501", "is it turnkeep?")


def test_a_server_that_is_not_there_is_told_without_its_password(desk: Desk) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        where = f"http://ann:hidden-word@127.0.0.1:{closed.getsockname()[1]}"
        said = desk.run("send", "c1", "Hi", TURNKEEP_URL=where)
    one_sentence(said, 1, "cannot be reached (connection refused)", "TURNKEEP_URL")
    assert "hidden-word" not in said.err


def test_an_empty_text_is_refused_here_and_by_a_server(desk: Desk) -> None:
    said = desk.run("send", "c1", "  ", "--json")
    assert (said.code, said.json["error"]["code"]) == (1, "invalid_message")
    with desk.running("dev"):
        said = desk.run("send", "c1", "  ", "--json")
    assert (said.code, said.json["error"]["code"]) == (1, "invalid_message")


def test_an_answer_that_does_not_come_is_not_waited_for_without_end(desk: Desk) -> None:
    said = desk.run("send", "c1", "[[ttft:30000]] Hi", "--timeout", "1s", TURNKEEP_DRAIN="0")
    assert said.code == 1
    assert "no answer within 1 s; the message is kept" in said.err
