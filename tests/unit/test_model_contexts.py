"""How much a model takes is asked of its server in the server's own way, once, and never at the price of an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.patience import PATIENCE
from turnkeep.models import capabilities
from turnkeep.models.capabilities import LEAST_CONTEXT, ContextSizes
from turnkeep.models.provider import Provider, patience_with

Pages = dict[str, Any]


@pytest.fixture(autouse=True)
def look_up_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A starved machine may need longer for an answer than a server is given; who tests silence sets less."""
    monkeypatch.setattr(capabilities, "LOOK_UP_TIME", PATIENCE)


@asynccontextmanager
async def serving(pages: Pages) -> AsyncIterator[tuple[Provider, list[str]]]:
    """A server with these documents; what is a function answers itself."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path}")
        page = pages.get(f"{request.method} {request.path}")
        if callable(page):
            return await page(request)  # type: ignore[no-any-return]
        return web.json_response(page) if page is not None else web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Provider(f"http://127.0.0.1:{site.port}/v1", "sk-test"), asked
    finally:
        await runner.cleanup()


def models(**fields: Any) -> Pages:
    return {
        "GET /v1/models": {"object": "list", "data": [{"id": "other", "max_model_len": 7777}, {"id": "m", **fields}]}
    }


LLAMA = models(owned_by="llamacpp") | {"GET /props": {"default_generation_settings": {"n_ctx": 16_384}}}
STUDIO = models(owned_by="organization_owner") | {
    "GET /api/v0/models": {"data": [{"id": "m", "max_context_length": 131_072, "loaded_context_length": 4096}]}
}
OLLAMA = models(owned_by="library")

SERVERS: dict[str, tuple[Pages, int | None]] = {
    "vLLM and SGLang": (models(owned_by="vllm", max_model_len=8192), 8192),
    "OpenRouter": (models(context_length=32_768, top_provider={"context_length": 32_000}), 32_768),
    "Together": ({"GET /v1/models": [{"id": "m", "context_length": 65_536}]}, 65_536),
    "Groq": (models(owned_by="Meta", context_window=131_072), 131_072),
    "Mistral": (models(owned_by="mistralai", max_context_length=40_960), 40_960),
    "LiteLLM proxy": (models(owned_by="openai", max_input_tokens=200_000), 200_000),
    "llama.cpp, in the list": (models(owned_by="llamacpp", meta={"n_ctx": 9000, "n_ctx_train": 131_072}), 9000),
    "llama.cpp": (LLAMA, 16_384),
    "LM Studio": (STUDIO, 4096),
    "Ollama, loaded": (OLLAMA | {"GET /api/ps": {"models": [{"name": "m", "context_length": 4096}]}}, 4096),
    "Ollama, set": (OLLAMA | {"POST /api/show": {"parameters": "stop <|im|>\nnum_ctx   12288\n"}}, 12_288),
    "Ollama, neither": (OLLAMA | {"POST /api/show": {"model_info": {"llama.context_length": 131_072}}}, 131_072),
    "OpenAI": (models(owned_by="openai"), None),
    "no list": ({}, None),
    "a list of nothing": ({"GET /v1/models": {"data": None}}, None),
    "a list of garbage": (
        {"GET /v1/models": {"data": [None, 3, "m", {"id": 3}, {"id": "m", "context_length": "x"}]}},
        None,
    ),
    "no size": (models(max_model_len=-1, context_length=True, context_window=1e9, max_context_length=12), None),
    "llama.cpp without props": (models(owned_by="llamacpp"), None),
    "Ollama without anything": (OLLAMA | {"POST /api/show": []}, None),
}


@pytest.mark.parametrize(("pages", "size"), SERVERS.values(), ids=SERVERS)
async def test_each_server_tells_it_in_its_own_way(pages: Pages, size: int | None) -> None:
    async with serving(pages) as (endpoint, asked):
        sizes = ContextSizes(endpoint)
        assert set(await asyncio.gather(sizes.ask_server("m"), sizes.ask_server("m"))) == {size}
        assert len(asked) <= 3
        before = len(asked)
        assert await sizes.ask_server("m") == size
        assert len(asked) == before


async def _page(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="text/html")


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 100_000)


async def _silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(2)
    return web.Response()


async def _elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://169.254.169.254/")


@pytest.mark.parametrize("page", [_page, _endless, _silent, _elsewhere], ids=lambda page: page.__name__.strip("_"))
async def test_a_server_that_answers_nonsense_costs_a_moment_and_nothing_else(
    page: Callable[[web.Request], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "LOOK_UP_TIME", 0.3)
    async with serving({"GET /v1/models": page}) as (endpoint, _):
        begun = time.monotonic()
        assert await ContextSizes(endpoint).ask_server("m") is None
        assert time.monotonic() - begun < 60


async def test_a_server_that_is_away_tells_nothing() -> None:
    assert await ContextSizes(Provider("http://127.0.0.1:9/v1")).ask_server("m") is None
    assert await ContextSizes().ask_server("m") is None


def test_a_refusal_teaches_the_size_it_names_else_what_was_refused() -> None:
    sizes = ContextSizes()
    assert sizes.learned_sizes.get("m") is None
    sizes.learn("m", window=None, tokens=40_000)
    assert sizes.learned_sizes.get("m") == 30_000
    sizes.learn("m", window=8192, tokens=9000)
    assert sizes.learned_sizes.get("m") == 8192
    sizes.learn("m", window=16_000, tokens=9000)
    assert sizes.learned_sizes.get("m") == 8192
    assert sizes.learned_sizes.get("other") is None


@pytest.mark.parametrize("window", [0, 1, -5, 10**12])
def test_no_refusal_takes_a_model_its_memory(window: int) -> None:
    sizes = ContextSizes()
    sizes.learn("m", window=window, tokens=0)
    assert sizes.learned_sizes.get("m") == LEAST_CONTEXT


@pytest.mark.parametrize(
    ("url", "seconds"),
    [
        ("http://127.0.0.1:11434/v1", 240.0),
        ("http://[::1]:8000/v1", 240.0),
        ("http://192.168.1.20:1234/v1", 240.0),
        ("http://ollama:11434/v1", 240.0),
        ("http://host.docker.internal:1234/v1", 240.0),
        ("http://studio.local:1234/v1", 240.0),
        ("https://api.openai.com/v1", 60.0),
        ("https://8.8.8.8/v1", 60.0),
        ("https://models.example.com/v1", 60.0),
    ],
)
def test_a_server_of_ones_own_is_given_the_time_to_load_its_model(url: str, seconds: float) -> None:
    assert patience_with(url) == seconds
