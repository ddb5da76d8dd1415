"""The sample tools, as one tries them: `turnkeep dev --tools examples/tools/kmc.toml`, and a question on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from tests.process.browser import SHARES_BROWSER, browsing, new_page, write
from tests.process.programs import Server

pytestmark = SHARES_BROWSER

SAMPLE = Path(__file__).parents[2] / "examples" / "tools" / "kmc.toml"


@pytest.mark.prove
async def test_offices_in_makati_are_answered_from_the_sample_database(
    tmp_path: Path, chromium_path: Path, proof: Callable[[str, str], None]
) -> None:
    server = Server(["dev", "--tools", str(SAMPLE)], tmp_path, {"TURNKEEP_WINDOW": "0.2"})
    server.start()
    try:
        async with aiohttp.ClientSession() as http, browsing(chromium_path) as browser:
            await server.answers(http)
            page = await new_page(browser)
            await page.goto(f"{server.url}/")
            await expect(page.locator("#connection")).to_have_class("live")

            await write(page, "which offices for 20 people in Makati?")

            answer = page.locator(".assistant:not(.live) p")
            await expect(answer).to_contain_text("Makati")
            said = await answer.inner_text()
            await page.reload()
            step = page.locator(".assistant .step summary")
            await expect(step).to_contain_text("get_available_offices")
            await expect(step.locator(".state")).to_have_text("done")
        assert '"capacity": 20' in said
        assert '"total": 3' in said
        proof("sample tools", f"its step is shown after a reload | answered: {said[:160]}")
    finally:
        server.kill9()
