"""What `turnkeep doctor` finds of settings, of the broker, and of a server that has lost its store."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.certificates import make_certificate
from tests.contract.broker import Broker, broker
from tests.contract.canned import Canned, Visit, canned
from tests.process.command import Desk
from tests.process.programs import Server
from tests.services import RabbitServer, RedisServer, free_port
from turnkeep.cli import checks
from turnkeep.cli.checks import examine
from turnkeep.settings import Settings


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        yield client


def doctor(desk: Desk, **settings: str) -> tuple[int, dict[str, tuple[str, str]]]:
    said = desk.run("doctor", "--offline", "--json", **settings)
    return said.code, {check["name"]: (check["state"], check["sentence"]) for check in said.json["checks"]}


def of_rabbit(rabbit: Broker) -> dict[str, str]:
    return {name.upper(): value for name, value in rabbit.names.items()}


# ---------------------------------------------------------------- sandbox


@pytest.mark.usefixtures("bubblewrap")
def test_what_holds_commands_is_said(desk: Desk) -> None:
    (state, sentence) = doctor(desk, TURNKEEP_WORKSPACE=str(desk.folder), TURNKEEP_ALLOW_BASH="1")[1]["sandbox"]
    assert state == ("warning" if os.geteuid() == 0 else "ok")
    assert "would run under bubblewrap, processes limited by" in sentence
    assert ("2 GB in all" in sentence) != ("together NOT limited" in sentence)


def test_a_process_that_is_the_sandbox_itself_is_said_aloud(desk: Desk) -> None:
    settings = {"TURNKEEP_WORKSPACE": str(desk.folder), "TURNKEEP_ALLOW_BASH": "1", "TURNKEEP_SANDBOX": "outside"}
    (state, sentence) = doctor(desk, **settings)[1]["sandbox"]
    if os.geteuid() == 0:
        assert (state, "never as root" in sentence) == ("failure", True)
    else:
        assert (state, "bare: with all that this process can reach" in sentence) == ("warning", True)


# ---------------------------------------------------------------- settings


def test_a_name_that_is_not_spelt_right_is_told_with_the_closest(desk: Desk) -> None:
    (desk.folder / ".env").write_text("TURNKEEP_MAX_INBX=7\nTURNKEEP_WINDOW=0.2\n")
    code, found = doctor(desk, TURNKEEP_JWT_KYE="x")
    assert code == 0
    state, sentence = found["spelling"]
    assert state == "warning"
    assert sentence in {
        "TURNKEEP_JWT_KYE is set and is no setting: did you mean TURNKEEP_JWT_KEY?",
        "TURNKEEP_MAX_INBX is set and is no setting: did you mean TURNKEEP_MAX_INBOX?",
    }
    lines = desk.run("doctor", "--offline", TURNKEEP_JWT_KYE="x").out
    assert "TURNKEEP_MAX_INBOX?" in lines
    assert "TURNKEEP_JWT_KEY?" in lines


def test_settings_that_are_spelt_right_are_no_warning(desk: Desk) -> None:
    assert "spelling" not in doctor(desk, TURNKEEP_MAX_INBOX="7", turnkeep_window="0.3")[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("TURNKEEP_WEIGHTS", "acme=2"), ("TURNKEEP_HOSTS", "a.example.com"), ("TURNKEEP_AMQP_TENANTS", "[" * 50_000)],
)
def test_a_setting_that_is_no_json_is_a_sentence(desk: Desk, name: str, value: str) -> None:
    code, found = doctor(desk, **{name: value})
    assert (code, found["settings"][0]) == (2, "failure")
    assert "must be JSON" in found["settings"][1]


def test_a_file_of_settings_that_is_no_text_is_a_sentence(desk: Desk) -> None:
    (desk.folder / ".env").write_bytes(b"TURNKEEP_INSTRUCTIONS=gr\xfc\xdf dich\n")
    code, found = doctor(desk)
    assert (code, found["settings"][0]) == (2, "failure")
    assert ".env cannot be read" in found["settings"][1]


# ---------------------------------------------------------------- the model's server


async def of_model(server: Canned, **settings: Any) -> tuple[str, str]:
    """What is found of a server that is asked as models are."""
    values = {"store": "memory:", "openai_base_url": server.url, "openai_api_key": "sk-wary-secret", **settings}
    findings = [one async for one in examine(Settings.load(**values), offline=False)]
    [finding] = [one for one in findings if one.name == "model"]
    return finding.state, finding.sentence


async def list_models(visit: Visit) -> None:
    visit.whole('{"object":"list","data":[]}', content_type="application/json")


async def test_a_server_with_a_certificate_of_ones_own_is_asked_by_its_ca_file(tmp_path: Path) -> None:
    trust = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(trust, tmp_path / "key.pem")
    async with canned(list_models, tls) as server:
        assert (await of_model(server, model_ca_file=trust))[0] == "ok"
        state, sentence = await of_model(server)
        assert (state, "is not trusted; set its CA file" in sentence) == ("failure", True)
        assert len(server.visits) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_server_that_has_moved_is_told_and_the_key_goes_nowhere_else(status: int) -> None:
    async with canned(list_models) as elsewhere:

        async def move(visit: Visit) -> None:
            visit.whole("", status, location=f"{elsewhere.url}/models")

        async with canned(move) as server:
            state, sentence = await of_model(server)
        assert (state, "set the base url to the address it names" in sentence) == ("failure", True)
        assert elsewhere.visits == []


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (200, "ok", "at http"), (400, "ok", "at http"), (404, "ok", "at http"), (429, "ok", "at http"),
        (401, "failure", "refuses the key (401): correct OPENAI_API_KEY"), (403, "failure", "refuses the key (403)"),
        (407, "failure", "answered 407"), (503, "failure", "answers 503, try again later"),
    ],
)  # fmt: skip
async def test_a_server_is_judged_by_the_status_of_its_answer(status: int, state: str, words: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole('{"error": {"message": "no such key: sk-wary-secret"}}', status, content_type="application/json")

    async with canned(answer) as server:
        found = await of_model(server)
    assert (found[0], words in found[1], "wary-secret" in found[1]) == (state, True, False)


async def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    gone = asyncio.Event()

    async def say_nothing(_: Visit) -> None:
        await gone.wait()

    async with canned(say_nothing) as server:
        state, sentence = await of_model(server)
    assert (state, "no answer from" in sentence) == ("failure", True)


async def test_anthropic_is_asked_in_its_own_words() -> None:
    async with canned(list_models) as server:
        settings = {"openai_base_url": None, "openai_api_key": None, "anthropic_base_url": server.url}
        state, _ = await of_model(server, **settings, anthropic_api_key="sk-ant-secret")
        [visit] = server.visits
    assert state == "ok"
    assert (visit.path, visit.headers["x-api-key"]) == ("/v1/models", "sk-ant-secret")
    assert "anthropic-version" in visit.headers


async def test_a_token_of_an_account_at_anthropic_is_shown_as_runs_show_it() -> None:
    async def refuse_as_key(visit: Visit) -> None:
        visit.whole("{}", 401 if "x-api-key" in visit.headers else 200, content_type="application/json")

    async with canned(refuse_as_key) as server:
        settings = {"openai_base_url": None, "openai_api_key": None, "anthropic_base_url": server.url}
        assert (await of_model(server, **settings, anthropic_api_key="sk-ant-oat-secret"))[0] == "ok"
        assert server.visits[0].headers["authorization"] == "Bearer sk-ant-oat-secret"


# ---------------------------------------------------------------- the broker


async def test_the_queue_that_is_there_is_told_with_its_type(desk: Desk, rabbit: Broker) -> None:
    code, found = await asyncio.to_thread(doctor, desk, **of_rabbit(rabbit))
    assert (code, found["rabbitmq"][0]) == (0, "ok")
    assert "a quorum queue is made at the first start" in found["rabbitmq"][1]

    await rabbit.declare_as_the_seed_did()
    await rabbit.publish({"channel": "c"})
    failed = await rabbit.channel.get_queue(f"{rabbit.name}_queue_failed")
    await rabbit.publish_to(failed.name, b"garbage")
    code, found = await asyncio.to_thread(doctor, desk, **of_rabbit(rabbit))
    assert found["rabbitmq"][0] == "ok"
    assert "is a classic queue: 1 waiting, 0 consumers" in found["rabbitmq"][1]
    assert found["rabbitmq parked"][0] == "warning"


def test_a_broker_that_is_away_is_a_failure_without_its_password(desk: Desk) -> None:
    port = free_port()
    code, found = doctor(desk, RABBITMQ_URL=f"amqp://user:wary-secret@127.0.0.1:{port}/")
    assert (code, found["rabbitmq"][0]) == (2, "failure")
    assert f"amqp://127.0.0.1:{port}/ cannot be used" in found["rabbitmq"][1]
    assert "wary-secret" not in str(found)


# ---------------------------------------------------------------- a server that has lost its store


async def test_a_store_that_was_deleted_under_a_server_is_told(desk: Desk) -> None:
    server = Server(["dev"], desk.folder)
    server.start()
    try:
        async with aiohttp.ClientSession() as http:
            await server.answers(http)
            _, found = await asyncio.to_thread(doctor, desk)
            assert found["server"][0] == "ok"
            desk.store.unlink()
            async with http.get(f"{server.url}/readyz") as told:
                assert told.status == 503
            async with http.post(f"{server.url}/api/channels/c/messages", json={"message": "x"}) as told:
                assert told.status == 503
        code, found = await asyncio.to_thread(doctor, desk)
    finally:
        server.kill9()
    assert (code, found["server"][0]) == (2, "failure")
    assert "deleted or replaced" in found["server"][1]


# ---------------------------------------------------------------- room for connections


def test_shared_keys_that_were_damaged_and_made_anew_are_told(desk: Desk, redis_server: RedisServer) -> None:
    settings = {"TURNKEEP_STORE": redis_server.url()}
    assert "damage" not in doctor(desk, **settings)[1]
    redis_server.cli("SET", "cosmo:{cosmo:6}due", "text")

    (state, sentence) = doctor(desk, **settings)[1]["damage"]

    assert state == "warning"
    assert "partition 6 was rebuilt from its threads, because these keys were damaged: due" in sentence


def test_fewer_connections_than_are_set_are_told(desk: Desk) -> None:
    _, found = doctor(desk, TURNKEEP_MAX_CONNECTIONS="100000000")
    assert found["descriptors"][0] == "warning"
    assert "LimitNOFILE" in found["descriptors"][1]


async def test_a_server_that_had_no_room_is_told(desk: Desk) -> None:
    with desk.running("dev", TURNKEEP_MAX_CONNECTIONS="8") as service:
        idle = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(12)]
        async with aiohttp.ClientSession() as http, http.get(f"{service.url}/readyz") as told:
            assert (await told.json())["full"] is True
        _, found = await asyncio.to_thread(doctor, desk)
        for _, writer in idle:
            writer.close()
    assert found["server"][0] == "warning"
    assert "no room" in found["server"][1]


def test_who_reaches_what_is_told_and_a_door_that_somebody_left_open(desk: Desk) -> None:
    def access(**settings: str) -> tuple[str, str]:
        found = {one["name"]: one for one in desk.run("doctor", "--offline", "--json", **settings).json["checks"]}
        return found["access"]["state"], found["access"]["sentence"]

    state, sentence = access()
    assert state == "ok"
    assert "every user and every program of this machine" in sentence
    desk.run("keys", "create")
    assert access() == ("ok", "127.0.0.1:8080 asks for credentials (1 valid key)")
    state, sentence = access(TURNKEEP_AUTH="off")
    assert state == "warning"
    assert "asks nobody, though there are credentials" in sentence


def test_what_tokens_are_signed_with_is_told(desk: Desk) -> None:
    def tokens(**settings: str) -> tuple[str, str]:
        found = {one["name"]: one for one in desk.run("doctor", "--offline", "--json", **settings).json["checks"]}
        return found["tokens"]["state"], found["tokens"]["sentence"]

    secret = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"
    assert tokens(TURNKEEP_JWT_SECRET=secret) == (
        "ok",
        "HS256 (shared secret of 48 bytes) for 'turnkeep' from any issuer",
    )
    state, sentence = tokens(TURNKEEP_JWT_SECRET="https://login.example.com/realms/main/certs")
    assert (state, "is an address" in sentence) == ("failure", True)
    public = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
    state, sentence = tokens(TURNKEEP_JWT_KEY=public)
    assert state == "warning"
    assert sentence.startswith("EdDSA (Ed25519 public key) for 'turnkeep' from any issuer: set TURNKEEP_JWT_ISSUER")
