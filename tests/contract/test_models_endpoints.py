"""Where models are: addresses, keys, proxies, certificates, and the pool that keeps connections."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.contract.asking import (
    HELLO,
    KEY,
    ask,
    finish_of,
    recorded,
)
from tests.contract.canned import Visit, canned
from tests.patience import PATIENCE
from turnkeep.errors import (
    ConfigurationError,
    EndpointBlocked,
    ModelUnavailable,
)
from turnkeep.models import ModelPool, Provider, open_model
from turnkeep.models.chat import ChatModel
from turnkeep.models.responses import ResponsesModel

# ---------------------------------------------------------------- endpoints and the pool


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://api.openai.com/v1", ResponsesModel),
        ("https://eu.api.openai.com/v1", ResponsesModel),
        ("https://res.openai.azure.com/openai/v1", ResponsesModel),
        ("http://localhost:11434/v1", ChatModel),
        ("https://api.openai.com.evil.example/v1", ChatModel),
        ("https://notapi.openai.com/v1", ChatModel),
    ],
)
def test_the_protocol_follows_from_the_host(url: str, kind: type) -> None:
    assert type(open_model(Provider(url))) is kind


def test_the_simulator_is_spoken_to_like_openai() -> None:
    assert type(open_model(Provider("http://127.0.0.1:8090/v1", is_simulated=True))) is ResponsesModel
    assert type(open_model(Provider("http://127.0.0.1:8090/v1", api_key="sk-simulator"))) is ResponsesModel
    assert type(open_model(Provider("https://api.openai.com/v1"), "chat")) is ChatModel


def test_an_endpoint_shows_no_secret() -> None:
    endpoint = Provider(api_key=KEY, headers={"api-key": "hidden-1"}, proxy="http://u:hidden-2@proxy:1")
    for text in (repr(endpoint), endpoint.name):
        assert KEY not in text
        assert "hidden" not in text


def test_the_name_of_an_endpoint_tells_keys_and_hosts_apart() -> None:
    one = Provider("https://a.example/v1", api_key="k-1")
    assert one.name == replace(one, idle_timeout=1).name
    assert one.name.startswith("a.example#")
    others = [
        replace(one, api_key="k-2"),
        replace(one, base_url="https://b.example/v1"),
        replace(one, project="p"),
        replace(one, headers={"api-key": "k-3"}),
    ]
    assert len({one.name, *(other.name for other in others)}) == 5
    assert ResponsesModel(one).endpoint == one.name


@pytest.mark.parametrize("url", ["", "api.openai.com", "ftp://x/v1", "https://", "https://u:p@h/v1", "http://[bad/v1"])
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base url"):
        Provider(url)


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="one line") as caught:
        Provider(api_key="sk-abc\n")
    assert "sk-abc" not in str(caught.value)


def test_an_unknown_capability_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="takes_store"):
        open_model(Provider("http://localhost/v1", capabilities={"takes_magic": True}))


async def test_a_query_in_the_base_url_stays() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("chat-text"))

    async with canned(answer) as server:
        await ask(open_model(Provider(f"{server.url}/?api-version=v1"), "chat"))
        assert server.last.path == "/v1/chat/completions?api-version=v1"


async def test_a_pool_opens_one_model_for_each_endpoint_and_closes_them() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("chat-text"))

    async with canned(answer) as server:
        pool = ModelPool()
        endpoint = Provider(server.url)
        model = pool.get(endpoint)
        assert pool.get(Provider(server.url)) is model
        assert pool.get(replace(endpoint, api_key="other")) is not model
        assert pool.get(endpoint, "responses") is not model
        finish_of([part async for part in model.stream(HELLO)])
        await pool.close()
        await asyncio.wait_for(server.last.left.wait(), PATIENCE)
        assert pool.get(endpoint) is not model


# ---------------------------------------------------------------- on the way there


async def test_a_proxy_is_asked_for_the_server_behind_it() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("responses-text"))

    async with canned(answer) as proxy:
        endpoint = Provider("http://model.invalid/v1", api_key=KEY, proxy=proxy.url.removesuffix("/v1"))
        finish_of(await ask(open_model(endpoint, "responses")))
        assert proxy.last.path == "http://model.invalid/v1/responses"


async def test_a_proxy_that_refuses_is_named_without_its_credentials() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole("no", status=407)

    async with canned(answer) as proxy:
        address = proxy.url.removesuffix("/v1").replace("//", "//user:pass-word@")
        with pytest.raises(EndpointBlocked, match="407") as caught:
            await ask(open_model(Provider("http://model.invalid/v1", proxy=address), "responses"))
    assert "pass-word" not in str(caught.value)


async def test_a_server_is_trusted_by_its_ca_file_and_not_without(tmp_path: Path) -> None:
    trust = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(trust, tmp_path / "key.pem")

    async def answer(visit: Visit) -> None:
        visit.whole(recorded("chat-text"))

    async with canned(answer, tls) as server:
        finish_of(await ask(open_model(Provider(server.url, ca_file=str(trust)), "chat")))
        with pytest.raises(ModelUnavailable, match="not trusted; set its CA file"):
            await ask(open_model(Provider(server.url), "chat"))


async def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem"):
        await ask(open_model(Provider("https://127.0.0.1:9/v1", ca_file=str(tmp_path / "nowhere.pem")), "chat"))
