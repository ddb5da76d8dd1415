"""Whatever is set, the settings are read or refused with sentences: no other error comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rows import each_row
from turnkeep.errors import ConfigurationError
from turnkeep.setting_checks import parse_rate
from turnkeep.settings import Settings, misspelt
from turnkeep.store.values import Policy


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TURNKEEP_WEIGHTS", "acme=2"),
        ("TURNKEEP_WEIGHTS", '{"acme": NaN}'),
        ("TURNKEEP_WEIGHTS", "[" * 100_000),
        ("TURNKEEP_JWT_ALGORITHMS", "RS256"),
        ("TURNKEEP_HOSTS", "{}"),
        ("TURNKEEP_STORE", "redis://[::1"),
        ("REDIS_URL", "redis://host:port/0"),
        ("REDIS_URL", "localhost"),
        ("TURNKEEP_JWT_JWKS", "https://[x]/"),
        ("TURNKEEP_MODEL_PROXY", "http://host:99999"),
        ("TURNKEEP_MODEL_PROXY", "zzz"),
        ("TURNKEEP_MODEL_CA_FILE", "/nowhere/ca.pem"),
        ("TURNKEEP_JWT_JWKS", "/nowhere/keys.json"),
        ("TURNKEEP_JWT_JWKS", "ftp://host/keys.json"),
        ("TURNKEEP_PRICE_FILE", "/nowhere/prices.toml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "zzz"),
        ("RABBITMQ_URL", "amqp://"),
        ("RABBITMQ_URL", "http://host"),
        ("RABBITMQ_URL", f"amqp://{'h' * 64}"),
        ("EXCHANGE_NAME", "e" * 252),
        ("QUEUE_NAME", "q" * 249),
        ("ROUTING_KEY", "é" * 128),
        ("TURNKEEP_AMQP_REPLY_EXCHANGE", "r" * 256),
        ("TURNKEEP_AMQP_TENANTS", '{"guest": ""}'),
        ("WEBSOCKET_URL", "http://host"),
        ("TURNKEEP_WEBHOOK_URL", "ftp://host"),
        ("OPENAI_BASE_URL", "host:80"),
        ("TURNKEEP_WEIGHTS", '{"acme": 0}'),
        ("TURNKEEP_WEIGHTS", '{"acme": -1}'),
        ("TURNKEEP_LEASE", "0.0001"),
        ("TURNKEEP_FIRST_EVENT_TIMEOUT", "inf"),
        ("TURNKEEP_LEASE", "nan"),
        ("TURNKEEP_PORT", "70000"),
        ("TURNKEEP_CHANNEL_RATE", "1/inf"),
        ("TURNKEEP_CHANNEL_RATE", "1/nan"),
        ("TURNKEEP_CHANNEL_RATE", "9" * 400),
        ("TURNKEEP_CHANNEL_RATE", "9" * 5_000),
        ("TURNKEEP_CHANNEL_RATE", "²/1"),
        ("TURNKEEP_CHANNEL_RATE", "-1/1"),
        ("TURNKEEP_CHANNEL_RATE", ""),
    ],
)
def test_what_is_wrong_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    if not value:
        assert Settings.load().channel_rate == "64/10"
        return
    with pytest.raises(ConfigurationError, match="wrong settings"):
        Settings.load()


@pytest.mark.parametrize("content", [b"A=\xff\n", b"\x00\xfe=1\n", b"TURNKEEP_PORT=\xe9\n"])
def test_a_file_that_is_no_text_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read as UTF-8"):
        Settings.load()


def test_no_password_in_an_address_is_in_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURNKEEP_STORE", "REDIS_URL", "TURNKEEP_MODEL_PROXY", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.setenv(name, "redis://:hidden-word@host:99999/0")
    with pytest.raises(ConfigurationError) as told:
        Settings.load()
    assert str(told.value).count("***") == 4
    assert "hidden-word" not in str(told.value)


def test_no_value_of_a_secret_is_in_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "wary-secret")
    monkeypatch.setenv("TURNKEEP_WEIGHTS", '{"wary-secret": ')
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert "wary-secret" not in str(caught.value)
    monkeypatch.delenv("TURNKEEP_WEIGHTS")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert "wary-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rate"), [("0", (0, 1.0)), ("20/10", (20, 10.0)), ("5", (5, 1.0)), ("1/0.5", (1, 0.5))]
)
def test_a_rate_is_messages_per_seconds(text: str, rate: tuple[int, float]) -> None:
    assert parse_rate(text) == rate


def test_a_name_that_is_no_setting_is_told_with_the_closest() -> None:
    names = ["TURNKEEP_WINDO", "turnkeep_port", "TURNKEEP_XYZZY", "PATH", "OPENAI_API_KEY", "TURNKEEP_JWT_KEYS"]
    assert list(misspelt(names)) == [
        ("TURNKEEP_JWT_KEYS", "TURNKEEP_JWT_KEY"),
        ("TURNKEEP_WINDO", "TURNKEEP_WINDOW"),
        ("TURNKEEP_XYZZY", ""),
    ]


@each_row("written", [" {}", "{} ", "\t{}\n", "{}\r\n", "\u00a0{}"])
@each_row(
    ("name", "value"),
    [
        ("openai_base_url", "http://127.0.0.1:9/v1"),
        ("openai_api_key", "sk-test-key"),
        ("redis_url", "redis://127.0.0.1:6379/0"),
        ("rabbitmq_url", "amqp://127.0.0.1/"),
        ("openai_model", "a-model"),
        ("window", "1.5"),
    ],
)
def test_blanks_around_a_setting_are_no_part_of_it(name: str, value: str, written: str) -> None:
    assert Settings.load(**{name: written.format(value)}) == Settings.load(**{name: value})


def test_as_many_may_wait_as_are_answered_in_one_turn() -> None:
    assert Settings.load().max_inbox >= Settings.load().max_batch
    assert Policy().max_inbox >= Policy().max_batch
