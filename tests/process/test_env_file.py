"""The `.env` that lies in a directory may have come with somebody else's project: it is read, not believed."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.process.command import Desk
from turnkeep.env_file import ACTS, RECEIVERS
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings

CANARY = "sk-canary-of-the-environment"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class Listener(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: keeps what it is shown."""

    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.heard.append(str(self.headers))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def listening() -> Iterator[str]:
    Listener.heard.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---------------------------------------------------------------- code


EVIL = """
from pathlib import Path
from turnkeep.tools import tool

Path("ran").touch()

@tool
def hi() -> str:
    "Hi."
    return "hi"
"""


@pytest.mark.parametrize("verb", ["doctor --offline", "send c hello", "serve", "dev", "worker"])
def test_code_of_a_file_that_nobody_named_does_not_run(desk: Desk, verb: str) -> None:
    (desk.folder / "evil.py").write_text(EVIL)
    (desk.folder / ".env").write_text("TURNKEEP_TOOLS=evil.py\n")
    said = desk.run(*verb.split())
    assert said.code == 2
    assert "--env-file .env" in said.out + said.err
    assert not (desk.folder / "ran").exists()
    assert desk.run("threads", "list").code == 0, "what runs no tools goes on"


def test_code_of_a_file_that_is_named_runs(desk: Desk) -> None:
    (desk.folder / "mine.py").write_text(EVIL)
    (desk.folder / ".env").write_text("TURNKEEP_TOOLS=mine.py\n")
    for words in (("doctor", "--env-file", ".env"), ("--env-file=.env", "doctor")):
        found = {one["name"]: one for one in desk.run(*words, "--offline", "--json").json["checks"]}
        assert found["tools"]["sentence"] == "hi"
    assert desk.run("doctor", "--offline", TURNKEEP_TOOLS="mine.py").code != 2, "or it is set in the environment"
    said = desk.run("doctor", "--env-file", "nowhere.env")
    assert "nowhere.env" in said.out + said.err


@pytest.mark.parametrize("field", ACTS)
def test_nothing_of_such_a_file_lets_anybody_act_here(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = {"allow_bash": "true", "sandbox": "outside", "tenant_tool_files": '{"a": "x.py"}'}.get(field, "x.py")
    name = str(Settings.model_fields[field].validation_alias.choices[0])  # type: ignore[union-attr]
    (tmp_path / ".env").write_text(f"{name.lower()}={value}\n")
    with pytest.raises(ConfigurationError, match=name):
        Settings.load().demand_vouched()
    Settings.load_named(Path(".env")).demand_vouched()
    monkeypatch.setenv(name, value)
    Settings.load().demand_vouched()


# ---------------------------------------------------------------- keys


def test_an_address_of_such_a_file_gets_no_key_that_came_from_elsewhere(desk: Desk) -> None:
    with listening() as url:
        (desk.folder / ".env").write_text(f"OPENAI_BASE_URL={url}\n")
        for verb in ("doctor", "send c hello", "serve"):
            said = desk.run(*verb.split(), OPENAI_API_KEY=CANARY)
            assert said.code == 2
            assert "OPENAI_BASE_URL" in said.out + said.err
            assert CANARY not in said.out + said.err
        assert Listener.heard == []
        desk.run("doctor", "--env-file", ".env", OPENAI_API_KEY=CANARY)
        assert CANARY in json.dumps(Listener.heard), "the listener hears what it is sent"


def names_of(field: str) -> list[str]:
    if field not in Settings.model_fields:
        return [field]
    return [str(one) for one in Settings.model_fields[field].validation_alias.choices]  # type: ignore[union-attr]


PAIRS = [
    (key_name, address_name)
    for key, addresses in RECEIVERS.items()
    for address in addresses
    for key_name in names_of(key)
    for address_name in names_of(address)
]


@pytest.mark.daily(rows=3)  # a program for each of them
@pytest.mark.parametrize(("key", "address"), PAIRS)
def test_no_pair_of_a_key_and_an_address_is_torn_apart(
    key: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pem").touch()
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    line = f"{address}={'x.pem' if 'FILE' in address else 'https://evil.example'}\n"
    (tmp_path / ".env").write_text(line)
    Settings.load()
    monkeypatch.setenv(key, secret)
    with pytest.raises(ConfigurationError, match=names_of_first(address)):
        Settings.load()
    monkeypatch.delenv(key)
    (tmp_path / ".env").write_text(line + f"{key}={secret}\n")
    Settings.load()
    monkeypatch.setenv(key, secret)
    with pytest.raises(ConfigurationError):
        Settings.load()
    Settings.load_named(Path(".env"))


def names_of_first(name: str) -> str:
    """What the field of this name is called first."""
    return next((names_of(field)[0] for field in Settings.model_fields if name in names_of(field)), name)


def test_every_setting_that_is_a_secret_says_where_it_is_sent() -> None:
    """Or that it is sent nowhere."""
    kept_here = {"jwt_secret", "store_keys"}
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secrets - kept_here <= RECEIVERS.keys()


# ---------------------------------------------------------------- a token for a start


def test_dev_asks_for_the_token_that_it_shows(desk: Desk) -> None:
    with desk.running("dev", "--token", "--json") as service:
        token = json.loads(
            service.log.read_text().partition('{"url"')[1]
            + service.log.read_text().partition('{"url"')[2].splitlines()[0]
        )["token"]
        request = urllib.request.Request(f"{service.url}/api/threads", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request) as told:
            assert told.status == 200
        for wrong in ({}, {"Authorization": f"Bearer {token[:-1]}"}):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(urllib.request.Request(f"{service.url}/api/threads", headers=wrong))
        assert desk.run("send", "c", "[[say:hello]]").code == 0, "verbs of this machine work on the store"
        first = token
    with desk.running("dev", "--token", "--json") as service:
        request = urllib.request.Request(f"{service.url}/api/threads", headers={"Authorization": f"Bearer {first}"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)
