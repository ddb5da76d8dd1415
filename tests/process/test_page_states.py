"""Every state of a conversation on the chat page: the same after a reload, in every tab, at any width."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, Route, ViewportSize, expect

from tests.patience import PATIENCE, until
from tests.process.browser import SHARES_BROWSER, browsing, new_context, served
from tests.process.page_states import STATES, UNREACHABLE, PageState, Talk, see, shown_text
from tests.services import CHECKOUT, free_port
from tests.services.programs import packages
from turnkeep.simulator import Simulator, serve

pytestmark = SHARES_BROWSER

AXE = CHECKOUT / "tests" / "clients" / "axe"
IMAGES = CHECKOUT / "docs" / "images"
SLOW: dict[str, Any] = {"backoff_delay": "3000", "backoff_cap": "3600", "tenant_budget": 5.0, "user_budget": 0.5}
DAILY = ("approval", "dead")


@pytest.fixture(scope="module")
def axe() -> str:
    packages(AXE)
    return (AXE / "node_modules" / "axe-core" / "axe.min.js").read_text()


async def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds of any level, with the place."""
    # evaluated by the debugger: the policy of the page forbids scripts that are not its own
    await page.evaluate(f"{axe}; undefined")
    found: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]} {json.dumps(node['any'])[:300]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


async def is_within_its_width(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def look(browser: Browser, url: str, state: PageState, *, width: int = 1440, dark: bool = False) -> Page:
    size: ViewportSize = {"width": width, "height": 900}
    context = await new_context(browser, viewport=size, color_scheme="dark" if dark else "light")
    page = await context.new_page()
    await page.goto(f"{url}/#{state.name}")
    await see(page, state)
    return page


async def test_a_state_is_the_same_after_a_reload_in_every_tab_and_at_phone_width(
    tmp_path: Path, chromium_path: Path, axe: str
) -> None:
    async with (
        served(tmp_path, **SLOW) as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        for state in (one for one in STATES if one.name in DAILY):
            await state.bring(Talk(http, url, state.name))
            page = await look(browser, url, state)
            before = await shown_text(page)
            assert before.strip(), state.name
            await page.reload()
            await see(page, state)
            assert await shown_text(page) == before, state.name
            other = await look(browser, url, state, width=390, dark=True)
            assert await shown_text(other) == before, state.name
            assert await is_within_its_width(other), state.name
            assert await violations(other, axe) == [], state.name
            await page.context.close()
            await other.context.close()


async def test_an_unreachable_model_is_named_with_its_remedy_until_it_answers(
    tmp_path: Path, chromium_path: Path, axe: str
) -> None:
    port = free_port()
    async with (
        served(tmp_path, openai_base_url=f"http://127.0.0.1:{port}/v1") as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        await UNREACHABLE.bring(Talk(http, url, UNREACHABLE.name))
        page = await look(browser, url, UNREACHABLE, width=390, dark=True)
        await page.reload()
        await see(page, UNREACHABLE)
        assert await is_within_its_width(page)
        assert await violations(page, axe) == []
        dashboard = await look_at_view(browser, url, "overview", width=390, dark=False)
        await expect(dashboard.locator("#verdict")).to_contain_text("A model cannot be asked")
        await expect(dashboard.locator(".circuit")).to_contain_text("OPENAI_BASE_URL")
        assert await violations(dashboard, axe) == []
        async with serve(Simulator(), port=port):
            await expect(page.locator(".assistant:not(.live) .text")).to_have_text("I am back.")
            await expect(page.locator("#cause")).to_have_count(0)
            await expect(dashboard.locator(".circuit")).to_have_count(0)
            await expect(dashboard.locator("#verdict")).to_contain_text("All is well")


VIEWS = {
    "overview": "#verdict",
    "threads": "#threads table",
    "runs": "table",
    "approvals": ".approval",
    "dead": "#dead > li",
    "workers": "table",
    "usage": ".list",
    "outside": ".list",
    "thread/tool": ".said",
    "thread/retrying": ".card.hold",
}


PICTURED = ("overview", "threads", "thread/tool", "dead", "usage")


async def fill(http: aiohttp.ClientSession, url: str) -> None:
    """A little of everything that a dashboard shows."""
    for state in STATES:
        if state.name in ("tool", "approval", "dead", "retrying", "paused"):
            await state.bring(Talk(http, url, state.name))


async def noted(http: aiohttp.ClientSession, url: str) -> None:
    """Wait until the charts have something to show: a process writes down what it did every ten seconds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"{url}/api/activity") as answer:
                series = (await answer.json())["series"]
            if any(one.get("runs") for one in series):
                return
            await asyncio.sleep(0.1)


async def look_at_view(browser: Browser, url: str, view: str, *, width: int, dark: bool) -> Page:
    size: ViewportSize = {"width": width, "height": 900}
    context = await new_context(browser, viewport=size, color_scheme="dark" if dark else "light")
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    await page.goto(f"{url}/dashboard#{view}")
    await expect(page.locator(f"#view {VIEWS[view]}").first).to_be_visible()
    return page


async def run_of(http: aiohttp.ClientSession, url: str, channel: str) -> str:
    async with http.get(f"{url}/api/channels/{channel}/runs") as answer:
        return str((await answer.json())["runs"][0]["run_id"])


async def test_the_dashboard_says_what_is_wrong_and_leads_to_it(tmp_path: Path, chromium_path: Path, axe: str) -> None:
    async with (
        served(tmp_path, **SLOW) as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        await fill(http, url)
        page = await look_at_view(browser, url, "overview", width=390, dark=True)
        await expect(page.locator("#verdict")).to_contain_text("1 message could not be answered")
        await expect(page.locator("#verdict")).to_contain_text("1 thread wants a decision")
        for view in ("overview", "threads", "approvals", "dead", "usage", "thread/retrying"):
            await page.goto(f"{url}/dashboard#{view}")
            await expect(page.locator(f"#view {VIEWS[view]}").first).to_be_visible()
            assert await is_within_its_width(page), view
            assert await violations(page, axe) == [], view
        await page.goto(f"{url}/dashboard#usage")
        await expect(page.locator("#budgets")).to_contain_text("$5.00 a day")
        run = await run_of(http, url, "tool")
        await page.goto(f"{url}/dashboard#run/tool/{run}")
        await expect(page.locator(".life")).to_contain_text("send_letter")
        await expect(page.locator(".life")).to_contain_text("waits for a decision")
        assert await violations(page, axe) == []
        await page.goto(f"{url}/dashboard#approvals")
        await page.click(".approval .approve")
        await expect(page.locator(".approval")).to_have_count(0)
        await page.goto(f"{url}/dashboard#threads")
        await page.select_option(".filters select", "paused")
        await expect(page.locator("#threads tbody tr")).to_have_count(1)
        await page.fill(".filters input", "nowhere")
        await expect(page.locator("#threads")).to_contain_text("None fits.")
        await page.select_option(".filters select", "said")
        await page.fill(".filters input", "Please write")
        await expect(page.locator("#passages tbody tr").first).to_contain_text("Ada")
        await page.goto(f"{url}/dashboard#thread/paused")
        await page.fill(".answer textarea", "Good morning")
        await page.click(".answer button")
        await expect(page.locator(".said")).to_contain_text("Good morning")
        await expect(page.locator(".said")).not_to_contain_text("User, waiting")
        await page.click(".resume")
        await expect(page.locator(".pause")).to_be_visible()


async def test_what_is_answered_late_is_not_drawn_over_the_view_that_one_went_to(
    tmp_path: Path, chromium_path: Path
) -> None:
    async with (
        served(tmp_path, **SLOW) as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        for name in ("tool", "dead"):
            await next(state for state in STATES if state.name == name).bring(Talk(http, url, name))
        page = await look_at_view(browser, url, "workers", width=1440, dark=False)
        held: list[Route] = []
        is_holding = False

        async def hold(route: Route) -> None:
            if is_holding:
                held.append(route)
            else:
                await route.continue_()

        await page.route("**/api/**", hold)
        for view in (
            "threads",
            "runs",
            "dead",
            "usage",
            "outside",
            "thread/tool",
            f"run/tool/{await run_of(http, url, 'tool')}",
        ):
            is_holding = True
            await page.evaluate("view => { location.hash = `/${view}` }", view)
            await until(lambda: bool(held))
            is_holding = False
            await page.evaluate("location.hash = '/workers'")
            await expect(page.locator("[aria-current]")).to_have_text("Workers")
            while held:
                async with page.expect_response(held[0].request.url):
                    await held.pop(0).continue_()
            await page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
            assert (await page.locator("#view").inner_text()).startswith("Workers and gateways"), view
            await expect(page.locator("#trouble")).to_be_hidden()


@pytest.mark.timeout(600)
@pytest.mark.only_in_prove  # the daily test above goes through five of them at one width in one theme
async def test_every_view_of_the_dashboard_is_for_everybody_at_every_width_in_both_themes(
    tmp_path: Path, chromium_path: Path, axe: str, proof: Callable[[str, str], None]
) -> None:
    async with (
        served(tmp_path, **SLOW) as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        await fill(http, url)
        await noted(http, url)
        looks = 0
        for view in VIEWS:
            for width in (390, 1440):
                for dark in (False, True):
                    page = await look_at_view(browser, url, view, width=width, dark=dark)
                    where = f"{view} at {width} px, {'dark' if dark else 'light'}"
                    assert await is_within_its_width(page), where
                    assert await violations(page, axe) == [], where
                    if view in PICTURED:
                        await _picture(
                            page, f"dashboard-{view}-{width}-{'dark' if dark else 'light'}".replace("/", "-")
                        )
                    await page.context.close()
                    looks += 1
    proof("accessibility of the dashboard", f"views {len(VIEWS)} | looks {looks} | violations 0 | overflows 0")


@pytest.mark.timeout(600)
@pytest.mark.only_in_prove  # forty-eight pictures: the daily test shows two of the states, at one width in one theme
async def test_every_state_is_for_everybody_at_every_width_in_both_themes(
    tmp_path: Path, chromium_path: Path, axe: str, proof: Callable[[str, str], None]
) -> None:
    """Makes the pictures of `docs/images`, too."""
    looks = 0
    async with (
        served(tmp_path, **SLOW) as (url, _),
        browsing(chromium_path) as browser,
        aiohttp.ClientSession() as http,
    ):
        IMAGES.mkdir(exist_ok=True)
        for state in STATES:
            await state.bring(Talk(http, url, state.name))
            for width in (390, 1440):
                for dark in (False, True):
                    page = await look(browser, url, state, width=width, dark=dark)
                    where = f"{state.name} at {width} px, {'dark' if dark else 'light'}"
                    assert await is_within_its_width(page), where
                    assert await violations(page, axe) == [], where
                    await _picture(page, f"chat-{state.name}-{width}-{'dark' if dark else 'light'}")
                    await page.context.close()
                    looks += 1
    proof("accessibility of the chat page", f"states {len(STATES)} | looks {looks} | violations 0 | overflows 0")


async def _picture(page: Page, name: str) -> None:
    await page.evaluate("document.activeElement.blur()")
    await page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=50, animations="disabled")
