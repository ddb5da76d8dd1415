"""`compose.yaml` and `Dockerfile` name what exists: variables, verbs, files. They are read here, not run."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # ships no types

from tests.docs.samples import known_variables
from turnkeep.cli import VERBS
from turnkeep.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = ("gateway", "worker")
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "ARG", "HEALTHCHECK"}


def filled(value: str, **given: str) -> str:
    """As compose does it: `${NAME:-default}` and `${NAME:?why}`."""

    def fill(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        assert sign == ":-" or name in given, f"{name} has no default"
        return given.get(name) or rest

    return re.sub(r"\$\{(\w+)(:-|:\?)((?:[^}])*)\}", fill, value)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_a_setting(name: str) -> None:
    assert set(COMPOSE["services"][name]["environment"]) <= known_variables()


@pytest.mark.parametrize("name", OURS)
def test_the_variables_of_a_service_load_as_settings(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in COMPOSE["services"][name]["environment"].items():
        monkeypatch.setenv(variable, filled(value, RABBITMQ_PASSWORD="secret", REDIS_PASSWORD="hidden"))
    settings = Settings.load()
    assert settings.store_url == "redis://:hidden@redis:6379/0"
    assert settings.rabbitmq_url == "amqp://turnkeep:secret@rabbitmq:5672/"
    assert settings.queue_name == "cosmo_queue"
    assert settings.openai_api_key is None


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_verb_with_options_that_it_has(name: str) -> None:
    verb, *words = COMPOSE["services"][name]["command"]
    command = typer.main.get_command(import_module(VERBS[verb].module).app)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_what_services_wait_for_is_there_and_tells_its_health() -> None:
    for name in OURS:
        for needed, how in COMPOSE["services"][name]["depends_on"].items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in COMPOSE["services"][needed]


def test_redis_keeps_what_it_is_given() -> None:
    command = COMPOSE["services"]["redis"]["command"][-1].split()
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_volumes_are_declared_and_ports_are_bound_to_this_machine() -> None:
    used = {volume.split(":")[0] for one in COMPOSE["services"].values() for volume in one.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])
    ports = [port for one in COMPOSE["services"].values() for port in one.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_made_of_files_that_are_there() -> None:
    lines = re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    assert [name for name, _ in instructions[:2]] == ["ARG", "FROM"]
    copied = [rest.split() for name, rest in instructions if name == "COPY" and not rest.startswith("--from")]
    sources = [source for words in copied for source in words[:-1]]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == allowed
    assert all((ROOT / source).exists() for source in sources)
    for name, rest in instructions:
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)


def test_nothing_in_the_image_runs_as_root() -> None:
    stages: list[Any] = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    [user] = re.findall(r"^USER (\S+)", stages[-1], re.MULTILINE)
    assert all(int(number) > 0 for number in user.split(":")), "Kubernetes demands a number"


def test_every_base_image_can_be_given_by_its_digest() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON}"}
    images = [service.get("image", "") for name, service in COMPOSE["services"].items() if name not in OURS]
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z]+:\d+\}", image) for image in images)


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_a_service_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] in ("10001:10001", "redis")


def test_no_server_is_without_a_password() -> None:
    assert "--requirepass" in COMPOSE["services"]["redis"]["command"][-1]
    assert all(":?" in COMPOSE["services"][name]["environment"][key] for name, key in PASSWORDS.items())


PASSWORDS = {
    "redis": "REDISCLI_AUTH",
    "rabbitmq": "RABBITMQ_DEFAULT_PASS",
    "gateway": "REDIS_URL",
    "worker": "REDIS_URL",
}
