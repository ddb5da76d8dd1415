"""The chat page while the programs behind it are killed: it says so, and shows the answer once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.process.browser import browsing, new_page, write
from tests.process.fleet import PACE, fleet
from tests.services import RedisServer
from turnkeep.simulator import Simulator, serve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.only_in_prove,  # waits for a lease to end; the channel is told daily (test_silent_worker)
]

WORDS = 120


async def test_a_page_says_that_nothing_is_heard_of_the_worker_and_shows_the_answer_once(
    redis_server: RedisServer, tmp_path: Path, chromium_path: Path
) -> None:
    redis_server.fresh()
    async with (
        serve(Simulator()) as model,
        fleet(tmp_path, redis_server.url(), model, workers=1) as many,
        browsing(chromium_path) as browser,
    ):
        page = await new_page(browser)
        await page.goto(f"{many.gateways[0].url}/#c")
        await write(page, f"{PACE.format(words=WORDS, milliseconds=60)} hello")
        await expect(page.locator(".assistant.live .text")).not_to_be_empty()
        await asyncio.to_thread(many.workers[0].kill9)
        await expect(page.locator(".doing")).to_contain_text("nothing was heard of this run")
        many.workers[0].start()

        await expect(page.locator(".assistant .tools")).to_contain_text("tokens", timeout=120_000)
        assert len((await page.locator(".assistant .text").inner_text()).split()) == WORDS
        await expect(page.locator(".assistant")).to_have_count(1)
        await expect(page.locator(".user")).to_have_count(1)


async def test_a_page_outlives_a_gateway_that_is_killed_in_mid_answer_while_somebody_writes(
    redis_server: RedisServer, tmp_path: Path, chromium_path: Path
) -> None:
    redis_server.fresh()
    async with (
        serve(Simulator()) as model,
        fleet(tmp_path, redis_server.url(), model, workers=1) as many,
        browsing(chromium_path) as browser,
    ):
        page = await new_page(browser)
        gateway = many.gateways[0]
        await page.goto(f"{gateway.url}/#c")
        await write(page, f"{PACE.format(words=WORDS, milliseconds=60)} hello")
        await expect(page.locator(".assistant.live .text")).not_to_be_empty()
        await asyncio.to_thread(gateway.kill9)
        await write(page, "written while it is away [[say:second]]")
        await expect(page.locator("#lost")).to_be_visible()
        gateway.start()

        await expect(page.locator("#lost")).to_be_hidden(timeout=60_000)
        await expect(page.locator(".assistant .text").last).to_have_text("second", timeout=120_000)
        first = await page.locator(".assistant .text").first.inner_text()
        assert len(first.split()) == WORDS
        await expect(page.locator(".assistant")).to_have_count(2)
        await expect(page.locator(".user")).to_have_count(2)
