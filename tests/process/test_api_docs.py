"""`/api/docs` shows the API as it describes itself, with nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from tests.patience import PATIENCE
from tests.process.browser import SHARES_BROWSER, browsing, new_page
from tests.process.served import served
from turnkeep.doors.http.routes import ENDPOINTS

pytestmark = SHARES_BROWSER


async def test_every_route_is_shown_and_can_be_tried(chromium_path: Path) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    async with served() as there, browsing(chromium_path) as browser:
        page = await new_page(browser)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{there.url}/api/docs")
        await expect(page.locator(".opblock")).to_have_count(len(ENDPOINTS), timeout=PATIENCE * 1000)

        await page.locator(".opblock", has_text="/api/queue").first.click()
        await page.get_by_role("button", name="Execute").first.click()
        await expect(page.locator(".responses-inner")).to_contain_text("completedCount", timeout=PATIENCE * 1000)
        url = there.url
    assert [one for one in asked if not one.startswith((url, "data:"))] == []
    assert complaints == []
