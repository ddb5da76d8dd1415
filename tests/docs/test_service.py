"""What the pages of the service and of prices show works."""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from turnkeep import OpenAIService
from turnkeep.pricing import PriceBook
from turnkeep.pricing.catalog import Catalog
from turnkeep.simulator import Options, Simulator, serve
from turnkeep.usage import Usage

DOCS = Path(__file__).parent.parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.S | re.M)


async def test_every_snippet_of_the_service_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(Simulator(options=Options())) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("TURNKEEP_STORE", f"sqlite:{tmp_path / 'sessions.db'}")
        shown: dict[str, Any] = {"__name__": "snippets"}
        for snippet in blocks("reference/service.md", "python"):
            exec(compile(ast.parse(snippet), "service.md", "exec"), shown)
        async with OpenAIService(shown["config"]) as service:
            shown["add_tools"](service)
            await shown["stream"](service)
            streamed = capsys.readouterr().out
            await shown["whole"](service)
            (call,) = await service.complete_with_tools(
                [{"role": "user", "content": '[[call:custom_tool {"input": "x"}]]'}]
            )
        async with shown["memory"] as memory:
            await shown["remember"](memory)
    assert streamed.startswith("You asked: “Hello, how are you?”")
    assert re.search(r"\ncost 0\.0\d+\n$", streamed)
    assert call.output == '{"result": "Processed: x"}'
    assert "[{'role': 'user', 'content': 'Hello!'}]" in capsys.readouterr().out


def test_the_price_file_of_the_page_is_read(tmp_path: Path) -> None:
    (text,) = blocks("how-to/count-and-price.md", "toml")
    file = tmp_path / "prices.toml"
    file.write_text(text)

    book, catalog = PriceBook(file), Catalog.load(file)

    million = Usage(requests=1, input_tokens=1_000_000)
    assert catalog.default == "my-model"
    assert catalog.encoding("my-model") == ("o200k_base", True)
    assert Decimal(book.cost(million, "my-model").cost_nano) == Decimal("0.5") * 10**9
    assert Decimal(book.cost(million, "my-model", "flex").cost_nano) == Decimal("0.25") * 10**9
    assert Decimal(book.cost(million, "gpt-4o-2024-11-20").cost_nano) == 2 * 10**9
