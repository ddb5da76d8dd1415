"""Each `.env` of the page about model servers is read as meant, and its server, imitated, answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.asking import ask, text_of
from tests.contract.canned import canned
from tests.dialects import DIALECTS, Server
from turnkeep.composition import endpoint_of
from turnkeep.messages import UserItem, text_content
from turnkeep.models import open_model
from turnkeep.models.capabilities import (
    OVERRIDES,
    capabilities_of,
    known_servers,
    protocol_of,
    read_capabilities,
    server_of,
)
from turnkeep.models.model import ModelRequest
from turnkeep.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "models.md").read_text("utf-8")
SECTION = r"^#{2,3} ([^\n]+)\n((?:(?!^#).)*)"
BLOCKS = re.findall(r"^#{2,3} ([^\n]+)\n(?:(?!^#).)*?```env\n(.*?)```", PAGE, flags=re.S | re.M)


def settings_of(block: str, folder: Path) -> Settings:
    file = folder / ".env"
    file.write_text(block.replace("…", "0123456789"), "utf-8")
    return Settings(_env_file=file)


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "TURNKEEP_MODEL_CAPABILITIES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_set")
def test_every_server_of_the_table_has_its_lines(tmp_path: Path) -> None:
    servers = [server_of(endpoint_of(settings_of(block, tmp_path))) for _, block in BLOCKS]
    assert sorted(servers) == sorted(set(known_servers()) - {"compatible"})


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
async def test_the_lines_of_a_server_work(title: str, block: str, tmp_path: Path) -> None:
    settings = settings_of(block, tmp_path)
    endpoint = endpoint_of(settings)
    name = server_of(endpoint)
    assert protocol_of(endpoint) == ("responses" if name in ("openai", "azure") else "chat")
    assert capabilities_of(endpoint, protocol_of(endpoint)).server == name
    assert settings.openai_model is not None
    async with canned(Server(name).answer) as server:
        there = settings.model_copy(update={"openai_base_url": server.url, "model_capabilities": name})
        request = ModelRequest(settings.openai_model, [UserItem(text_content("hello"))])
        assert text_of(await ask(open_model(endpoint_of(there), "chat"), request)) == "fine"
        assert server.last.headers["authorization"].startswith("Bearer ")
        assert len(server.visits) <= 2


LOCAL = ("ollama", "vllm", "sglang", "llamacpp", "lmstudio")
WORDS = {"rate": "rate limit", "credit": "account", "key": "key"}
MISSING = [
    (name, trouble) for name, dialect in DIALECTS.items() for trouble in WORDS if getattr(dialect, trouble) is None
]


@pytest.mark.parametrize(("name", "trouble"), MISSING)
def test_a_trouble_that_is_not_imitated_is_said_to_be_impossible_there(name: str, trouble: str) -> None:
    sections = {title.lower().replace(".", ""): text for title, text in re.findall(SECTION, PAGE, flags=re.S | re.M)}
    said = sections["local servers" if name in LOCAL else name]
    assert re.search(rf"(?:\bno\b|cannot)[^.]*{WORDS[trouble]}|{WORDS[trouble]}[^.]*cannot", said), said


def test_every_capability_that_may_be_set_is_on_the_page() -> None:
    table = PAGE.partition("| name |")[2].partition("\n## ")[0]
    named: dict[str, Any] = {
        name: name if name in ("call_ids",) or name.startswith("wants_") else f"takes_{name}"
        for row in table.splitlines()
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert set(named.values()) == set(OVERRIDES)


def test_the_example_of_the_page_is_read_as_it_says() -> None:
    example = re.search(r"^    TURNKEEP_MODEL_CAPABILITIES=(.*)$", PAGE, flags=re.M)
    assert example is not None
    assert read_capabilities(example[1]) == {
        "server": "vllm",
        "takes_images": False,
        "takes_consecutive_roles": False,
        "call_ids": "nine",
    }
