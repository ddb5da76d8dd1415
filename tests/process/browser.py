"""A browser before our pages: the server that serves them, and what a person does there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.patience import PATIENCE
from turnkeep.doors.server import listening
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.tools.tool import tool
from turnkeep.tools.toolbox import Toolbox

expect.set_options(timeout=PATIENCE * 1000)  # states are waited for; how long a busy machine takes for one says nothing

OF_ADDRESS_BAR = ("PreloadTopChromeWebUI", "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup")
"""Each new context makes ready the popup of an address bar that nobody sees, in a process of its own: a CPU second."""
OF_PLAYWRIGHT = (
    "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "MediaRouter", "NetworkTimeServiceQuerying",
    "OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning",
)  # fmt: skip
"""What Playwright switches off itself, in a switch that ours takes the place of (its `chromiumSwitches`)."""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", f"--disable-features={','.join(OF_ADDRESS_BAR + OF_PLAYWRIGHT)}",
]  # fmt: skip


PACE = StreamPace(first=0.05, token=0.02)


@tool(needs_approval=True)
def send_letter(to: str) -> str:
    """Send somebody a letter."""
    return f"sent to {to}"


@contextlib.asynccontextmanager
async def served(
    folder: Path, *, pace: StreamPace = PACE, queues: list[AssistantMessageQueue] | None = None, **more: Any
) -> AsyncIterator[tuple[str, Simulator]]:
    """A server with its simulator; its queue is put into `queues`, for who fills it from within."""
    simulator = Simulator(pace=pace)
    async with serve(simulator) as model_url:
        values = {
            "store": str(folder / "turnkeep.db"), "openai_base_url": model_url, "openai_api_key": "sk-test",
            "model_api": "responses", "port": 0, "window": 0.8,
        }  # fmt: skip
        settings = Settings.load(**{**values, **more})
        queue = AssistantMessageQueue.from_settings(settings, toolbox=Toolbox([send_letter]))
        if queues is not None:
            queues.append(queue)
        async with listening(queue) as url:
            yield url, simulator


SHARED: dict[asyncio.AbstractEventLoop, Browser] = {}
"""By the loop of the session; the fixture `shared_browser` fills it."""


@contextlib.asynccontextmanager
async def browsing(program: Path) -> AsyncIterator[Browser]:
    """A browser without a page: the one that all tests so marked share, or one of its own."""
    if (shared := SHARED.get(asyncio.get_running_loop())) is not None:
        try:
            yield shared
        finally:
            for context in shared.contexts:
                await context.close()
        return
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(program), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


async def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """A person's own profile, whose pages are given as long as everything else is."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE * 1000)
    return context


async def new_page(browser: Browser) -> Page:
    return await (await new_context(browser)).new_page()


SHARES_BROWSER = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("shared_browser"),
    pytest.mark.xdist_group("browser"),
]
"""Marks of the modules whose tests share a browser and its loop: starting one takes longer than most of them."""


async def write(page: Page, *texts: str) -> None:
    for text in texts:
        await page.fill("#text", text)
        await page.press("#text", "Enter")


@contextlib.asynccontextmanager
async def opened(folder: Path, program: Path, **more: Any) -> AsyncIterator[tuple[Page, Simulator, str]]:
    async with served(folder, **more) as (url, simulator), browsing(program) as browser:
        page = await new_page(browser)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(url)
        await expect(page.locator("#connection")).to_have_class("live")
        yield page, simulator, url
        assert problems == []
