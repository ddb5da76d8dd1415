"""The dashboard: only for an admin, everything as text, changes only with its token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.async_api import Page, expect

from tests.process.browser import SHARES_BROWSER, browsing, new_page
from tests.process.callers import CANARY, Guarded, guarded
from tests.process.served import served
from turnkeep.messages import Address, Message, text_content

pytestmark = SHARES_BROWSER

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


async def test_the_page_runs_nothing_that_is_written_into_it() -> None:
    async with served(role="gateway") as server, server.http.get(f"{server.url}/dashboard") as told:
        policy, text = told.headers["Content-Security-Policy"], await told.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", text)


@contextmanager
def quiet(page: Page) -> Iterator[None]:
    """No script breaks."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield
    assert problems == []


async def test_an_admin_signs_in_sees_dead_letters_as_text_and_redrives_one(chromium_path: Path) -> None:
    async with guarded() as house, browsing(chromium_path) as browser:
        await _hostile_channel(house)
        page = await new_page(browser)
        with quiet(page):
            await page.goto(f"{house.server.url}/dashboard")
            await expect(page.locator("#door")).to_be_visible()
            await page.fill("#key", "tk_wrong")
            await page.press("#key", "Enter")
            await expect(page.locator("#trouble")).to_contain_text("not valid")
            await page.fill("#key", await house.key("admin"))
            await page.press("#key", "Enter")
            await expect(page.locator("#verdict")).to_contain_text("2 messages could not be answered")
            await page.click("text=Threads")
            await expect(page.locator("#threads a", has_text="onerror")).to_have_count(1)
            assert await page.locator("#threads img").count() == 0
            await page.click("text=Dead letters")
            await expect(page.locator("#dead > li")).to_have_count(2)
            await expect(page.locator("#dead pre").first).to_have_text(CANARY)
            page.on("dialog", lambda dialog: dialog.accept())
            await page.locator("#dead .redrive").first.click()
            await expect(page.locator("#dead > li")).to_have_count(1)
            await page.locator("#dead .discard").first.click()
            await expect(page.locator("#dead > li")).to_have_count(0)
            row = page.locator("tr", has_text=(await house.key("send")).split("_")[1])
            await page.click("text=Setup")
            await row.locator(".revoke").click()
            await expect(row.locator(".state")).to_have_text("revoked")
            assert await page.title() == "turnkeep dashboard"
            assert await page.evaluate("document.cookie") == ""
            await page.click("#leave")
            await expect(page.locator("#door")).to_be_visible()


async def _hostile_channel(house: Guarded) -> None:
    address = Address("acme", house.server.queue.name, HOSTILE)
    await house.server.queue.accept([Message(address, "m", text_content(HOSTILE))])


async def test_a_key_without_admin_sees_no_numbers(chromium_path: Path) -> None:
    async with guarded() as house, browsing(chromium_path) as browser:
        page = await new_page(browser)
        await page.goto(f"{house.server.url}/dashboard")
        await page.fill("#key", await house.key("send", "read"))
        await page.press("#key", "Enter")
        await expect(page.locator("#trouble")).to_contain_text("no scope 'admin'")
        await expect(page.locator("#house")).to_be_hidden()
