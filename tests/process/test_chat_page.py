"""The page at `/`, in a real browser: quick messages gather, the answer streams, nothing is lost by reloading."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, expect

from tests.patience import until
from tests.process.browser import SHARES_BROWSER, browsing, new_context, new_page, opened, served, write
from tests.services import free_port
from turnkeep import AssistantMessageQueue
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.store.sqlite import SqliteStore

pytestmark = SHARES_BROWSER

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""A picture of one point."""


async def test_quick_messages_gather_in_one_turn_with_one_answer(tmp_path: Path, chromium_path: Path) -> None:
    queues: list[AssistantMessageQueue] = []
    async with opened(tmp_path, chromium_path, window=60.0, max_wait=60.0, queues=queues) as (page, simulator, _):
        await write(page, "one", "two", "three")
        await expect(page.locator("#gathering")).to_contain_text("3 messages gather")
        [thread] = await queues[0].list_threads()
        await queues[0].flush(thread.address.channel)
        await expect(page.locator(".assistant")).to_contain_text("three")
        await expect(page.locator(".assistant small")).to_contain_text("one answer for 3 messages")

        assert await page.locator(".user").count() == 3
        assert await page.locator(".assistant").count() == 1
        assert [exchange.new for exchange in simulator.ledger] == [["one", "two", "three"]]


async def test_a_reload_in_mid_answer_loses_nothing_and_a_second_tab_sees_the_same(
    tmp_path: Path, chromium_path: Path
) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, _):
        await write(page, "talk [[words:120]]")
        await expect(page.locator(".assistant .text")).not_to_be_empty()
        await page.reload()
        await expect(page.locator(".assistant .text")).not_to_be_empty()
        second = await page.context.new_page()
        await second.goto(page.url)

        for tab in (page, second):
            await expect(tab.locator(".assistant.live")).to_have_count(0)
            await expect(tab.locator(".user")).to_have_count(1)
            await expect(tab.locator(".assistant")).to_have_count(1)
        text = await page.locator(".assistant .text").inner_text()
        assert text == await second.locator(".assistant .text").inner_text()
        assert len(re.findall(r"\S+", text)) == 120
        assert len(simulator.ledger) == 1


@pytest.mark.only_in_prove  # the daily test above reloads once
@pytest.mark.timeout(300)
async def test_a_reload_at_any_moment_shows_what_was_said_once(
    tmp_path: Path, chromium_path: Path, size: Callable[[int, int], int]
) -> None:
    moments = random.Random(5)
    async with opened(tmp_path, chromium_path) as (page, simulator, _):
        await write(page, f"talk [[words:{size(150, 600)}]]")
        seen = []
        for _ in range(size(3, 20)):
            await asyncio.sleep(moments.uniform(0, 0.5))
            await page.reload()
            await expect(page.locator(".user")).to_have_count(1)
            await expect(page.locator(".assistant .text")).not_to_be_empty()
            seen.append(await page.locator(".assistant .text").inner_text())
        await expect(page.locator(".assistant .tools")).to_contain_text("tokens")
        text = await page.locator(".assistant .text").inner_text()
        assert [part for part in seen if not text.startswith(part.rstrip("▍").rstrip())] == []
        assert len(text.split()) == size(150, 600)
        assert len(simulator.ledger) == 1


async def test_pictures_of_both_sides_are_seen_and_seen_again(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, _url):
        files = [{"name": "dot.png", "mimeType": "image/png", "buffer": DOT}]
        await page.set_input_files("#files", files)  # type: ignore[arg-type]  # the form that its documentation has
        await expect(page.locator("#attached")).to_contain_text("dot.png")
        await write(page, "what is this? [[draw:a lake]]")
        await expect(page.locator(".user img")).to_be_visible()
        await expect(page.locator(".assistant .tools")).to_contain_text("tokens")
        for _ in range(2):
            await expect(page.locator(".user img")).to_be_visible()
            assert await page.locator(".user img").evaluate("image => image.naturalWidth") == 1
            await expect(page.locator(".assistant figure img")).to_be_visible()
            assert await page.locator(".assistant figure img").evaluate("image => image.naturalWidth") == 8
            await expect(page.locator(".assistant figure a[download]")).to_have_text("image.png")
            await page.reload()


@pytest.mark.only_in_prove  # the daily ones approve on the page, and show a decision after a reload
async def test_an_approval_waits_over_a_restart(tmp_path: Path, chromium_path: Path) -> None:
    async with browsing(chromium_path) as browser:
        page, port = await new_page(browser), free_port()
        async with served(tmp_path, port=port) as (url, _):
            await page.goto(f"{url}#letter")
            await write(page, '[[call:send_letter {"to": "Ada"}]]')
            await expect(page.locator(".approve")).to_be_visible()
        async with served(tmp_path, port=port):
            await expect(page.locator("#connection")).to_have_class("live")
            await page.click(".approve")
            await expect(page.locator(".assistant")).to_contain_text("sent to Ada")
            await expect(page.locator(".step .state")).to_have_text("done")
            await expect(page.locator(".action")).to_have_count(0)


async def test_what_is_too_large_is_said_so_and_the_rest_goes_on(
    tmp_path: Path, chromium_path: Path, size: Callable[[int, int], int]
) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, _):
        notes = page.locator(".user small")
        said = ("at most 256000 are taken", "more than the 512000", "this message is too large")
        for number, letters in enumerate((300_000, 600_000, 4_100_000)[: size(2, 3)]):
            await page.locator("#text").evaluate("(area, many) => (area.value = 'long '.repeat(many / 5))", letters)
            await page.press("#text", "Enter")
            await expect(notes.nth(number)).to_contain_text(said[number])
        await expect(page.locator("#connection")).to_have_class("live")
        await write(page, "hello")
        await expect(page.locator(".assistant .text")).to_contain_text("hello")
        assert [exchange.new for exchange in simulator.ledger] == [["hello"]]


async def test_a_channel_is_named_in_the_address(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, url):
        await page.goto(f"{url}/#my café")
        await expect(page.locator("#channel")).to_have_text("my café")
        await expect(page.locator("#connection")).to_have_class("live")
        await write(page, "hello")
        await expect(page.locator(".assistant .text")).to_contain_text("hello")
        assert len(simulator.ledger) == 1
        await page.goto(f"{url}/#{'x' * 600}")
        await expect(page.locator("#connection b")).to_contain_text("512")


async def test_two_tabs_show_the_same_order(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, _url):
        second = await page.context.new_page()
        await second.goto(page.url)
        await expect(second.locator("#connection")).to_have_class("live")
        for _ in range(3):
            await asyncio.gather(write(page, "one"), write(second, "two"))
        for tab in (page, second):
            await expect(tab.locator(".user")).to_have_count(6)
            await expect(tab.locator(".assistant.live")).to_have_count(0)
            await expect(tab.locator(".assistant").last).to_be_visible()
        third = await page.context.new_page()
        await third.goto(page.url)
        await expect(third.locator(".user")).to_have_count(6)
        order = await third.locator(".user .bubble").all_inner_texts()  # as the server has it
        for tab in (page, second):
            await expect(tab.locator(".user .bubble")).to_have_text(order)


async def test_stop_keeps_what_was_said(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, _url):
        await write(page, "talk [[words:4000]]")
        await expect(page.locator(".assistant.live .text")).not_to_be_empty()
        await page.click("#stop")
        await expect(page.locator(".assistant small")).to_contain_text("cancelled")
        await expect(page.locator("#stop")).to_be_hidden()
        said = await page.locator(".assistant .text").inner_text()
        await page.reload()

        await expect(page.locator(".assistant .text")).to_have_text(said)


async def test_a_held_call_is_approved_on_the_page_and_stays_to_be_seen(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, _url):
        page.on("dialog", lambda dialog: dialog.accept("gpt-6-sol"))
        await page.select_option("#model", label="Another model…")
        await write(page, '[[call:send_letter {"to": "Ada"}]]')
        await expect(page.locator(".action")).to_contain_text("send_letter")
        await page.click(".approve")

        await expect(page.locator(".assistant").last).to_contain_text("sent to Ada")
        await expect(page.locator(".action")).to_have_count(0)
        await page.reload()
        await page.click(".step summary")
        await expect(page.locator(".step .decision")).to_contain_text("Approved by anonymous, ")
        await expect(page.locator(".assistant small")).to_contain_text("gpt-6-sol")
        await expect(page.locator("#model")).to_have_value("gpt-6-sol")
        assert {exchange.model for exchange in simulator.ledger} == {"gpt-6-sol"}


async def test_model_output_is_text_and_never_markup(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, _url):
        await write(page, "[[say:<img src=x onerror=alert(1)><b>bold</b>]]")
        await expect(page.locator(".assistant .text")).to_contain_text("<b>bold</b>")
        assert await page.locator(".assistant img").count() == 0


LINES = r"$0.\overline{3}$, $\underline{x}$, $\cancel{4}$ and $\raisebox{30em}{\text{said by nobody}}$."
"""Formulas that say something else without their line, and one that would be drawn over what others said."""
FORMULAS = r"""It costs $5 and $10, or $20-$30.

Inline $E = mc^2$ and \(\alpha_1\), code `$x$`, and \[\begin{pmatrix} a & b \\ c & d \end{pmatrix}\]

$$\int_0^1 x\,dx = \frac{1}{2}$$

$\href{javascript:alert(1)}{\text{click}}$ and $\undefinedmacro$ and $$never closed"""


async def test_formulas_are_drawn_and_prices_stay_prices(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, _url):
        refused: list[str] = []
        page.on(
            "console", lambda entry: refused.append(entry.text) if "Content Security Policy" in entry.text else None
        )
        await write(page, f"[[say:{FORMULAS}]]")
        text = page.locator(".assistant:not(.live) .text")
        await expect(text.locator(".formula math")).to_have_count(4)
        await expect(text).to_contain_text("It costs $5 and $10, or $20-$30.")
        await expect(text).to_contain_text("$$never closed")
        await expect(text.locator("mfrac")).to_have_count(1)
        await expect(text.locator("mtd")).to_have_count(4)
        await expect(text.locator("code")).to_contain_text(["$x$", "undefinedmacro"])
        assert await text.locator("a, [href], [style], script").count() == 0
        await write(page, rf"[[say:{LINES}]]")
        lines = page.locator(".assistant:not(.live) .text").last
        await expect(lines.locator(".formula math")).to_have_count(3)
        await expect(lines.locator("code")).to_have_text(r"\cancel{4}")
        for side in ("border-top-style", "border-bottom-style"):
            await page.wait_for_function(  # an answer is drawn anew when it is whole
                """side => [...[...document.querySelectorAll(".assistant:not(.live) .text")].at(-1)
                .querySelectorAll("mrow, mtr, mtd")]
                .filter(one => getComputedStyle(one).getPropertyValue(side) === "solid").length === 1""",
                arg=side,
            )
        assert await lines.locator("[voffset]").count() == 0
        assert refused == []


async def test_a_page_outlives_a_restart_of_the_server(tmp_path: Path, chromium_path: Path) -> None:
    async with browsing(chromium_path) as browser:
        page = await new_page(browser)
        async with served(tmp_path) as (url, _):
            await page.goto(f"{url}#kept")
            await write(page, "before the restart [[say:first answer]]")
            await expect(page.locator(".assistant .text")).to_have_text("first answer")
        await asyncio.sleep(0)
        async with served(tmp_path) as (url, _):
            await page.goto(f"{url}#kept")

            await expect(page.locator(".assistant .text")).to_have_text("first answer")
            await expect(page.locator(".user .bubble")).to_have_text("before the restart [[say:first answer]]")


async def test_a_link_leads_to_its_channel_once_and_what_is_said_later_goes_to_ones_own(
    tmp_path: Path, chromium_path: Path
) -> None:
    """Whoever sends somebody a link reads what is said there, and nothing else."""
    async with opened(tmp_path, chromium_path) as (page, simulator, url):
        own = await page.locator("#channel").inner_text()
        await page.goto(f"{url}/#of-the-sender")
        await expect(page.locator("#channel")).to_have_text("of-the-sender")
        await expect(page.locator("#linked")).to_be_visible()
        await page.goto(f"{url}/?again")
        await expect(page.locator("#channel")).to_have_text(own)
        await expect(page.locator("#linked")).to_be_hidden()
        await expect(page.locator("#connection")).to_have_class("live")
        await write(page, "a secret")
        await expect(page.locator(".assistant")).to_contain_text("a secret")
        async with aiohttp.ClientSession() as http:
            for channel, status in (("of-the-sender", 404), (own, 200)):
                async with http.get(f"{url}/api/channels/{channel}/messages") as told:
                    assert told.status == status
        assert len(simulator.ledger) == 1


async def test_a_link_to_ones_own_channel_warns_of_nobody_and_a_link_at_first_is_not_remembered(
    tmp_path: Path, chromium_path: Path
) -> None:
    async with served(tmp_path) as (url, _), browsing(chromium_path) as browser:
        page = await new_page(browser)
        await page.goto(f"{url}/#of-the-sender")
        await expect(page.locator("#linked")).to_be_visible()
        assert await page.evaluate("localStorage.getItem('turnkeep.channel')") is None
        await page.goto(f"{url}/?own")
        await expect(page.locator("#channel")).not_to_have_text("of-the-sender")
        own = await page.locator("#channel").inner_text()
        await page.evaluate("location.hash = 'of-the-sender'")  # in the page that is open, as a link in it would
        await expect(page.locator("#channel")).to_have_text("of-the-sender")
        await expect(page.locator("#linked")).to_be_visible()
        await page.goto(f"{url}/?own#{own}")
        await expect(page.locator("#channel")).to_have_text(own)
        await expect(page.locator("#linked")).to_be_hidden()


# ---------------------------------------------------------------- what a person does to messages


async def test_a_message_that_waits_is_changed_and_taken_back(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path, window=300, max_wait=600) as (page, simulator, _):
        await write(page, "one", "two")
        await expect(page.locator("#gathering")).to_contain_text("2 messages gather")
        second = page.locator(".user", has_text="two")
        await second.hover()
        await second.get_by_role("button", name="Withdraw").click()
        await expect(page.locator(".user")).to_have_count(1)
        await expect(page.locator("#gathering")).to_contain_text("waiting a moment")
        await page.press("#text", "ArrowUp")
        await page.keyboard.type(" and a half")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".user .bubble")).to_have_text("one and a half")
        await page.click("#flush")
        await expect(page.locator(".assistant .text")).to_contain_text("one and a half")
        await expect(page.locator("#gathering")).to_be_hidden()
        assert [exchange.new for exchange in simulator.ledger] == [["one and a half"]]


async def test_a_message_that_died_is_tried_again_and_the_last_answer_is_given_anew(
    tmp_path: Path, chromium_path: Path
) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, _):
        await write(page, "hello [[fault:400 times=1]]")
        await expect(page.locator(".user.dead .card")).to_contain_text("could not be answered")
        await page.reload()
        await page.click(".again")
        await expect(page.locator(".assistant .text")).to_contain_text("hello")
        await expect(page.locator(".user.dead")).to_have_count(0)
        await page.locator(".assistant").hover()
        await page.click(".regenerate")
        await until(lambda: len(simulator.ledger) == 3 and not simulator.ledger.open())
        await expect(page.locator(".assistant:not(.live) .regenerate")).to_have_count(1)
        await expect(page.locator(".assistant")).to_have_count(1)
        await expect(page.locator(".user")).to_have_count(1)
        assert len(simulator.ledger) == 3


async def test_what_is_written_while_the_server_is_away_is_sent_by_the_next_tab(
    tmp_path: Path, chromium_path: Path
) -> None:
    async with browsing(chromium_path) as browser:
        context, port = await new_context(browser), free_port()
        page = await context.new_page()
        async with served(tmp_path, port=port) as (url, _):
            await page.goto(f"{url}#kept")
            await write(page, "before [[say:first]]")
            await expect(page.locator(".assistant .text")).to_have_text("first")
        await write(page, "while it is away [[say:second]]")
        await page.fill("#text", "half a thou")
        await expect(page.locator("#lost")).to_contain_text("connection is lost")
        await expect(page.locator(".user").last).to_contain_text("kept here")
        await page.close()
        async with served(tmp_path, port=port) as (url, simulator):
            page = await context.new_page()
            await page.goto(f"{url}#kept")
            await expect(page.locator("#text")).to_have_value("half a thou")
            await expect(page.locator(".assistant .text").last).to_have_text("second")
            await expect(page.locator(".user")).to_have_count(2)
            assert len(simulator.ledger) == 1


async def test_conversations_are_listed_found_renamed_and_deleted(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, _, url):
        for text in ("Trains to Paris", "Cheese " + "and bread " * 9 + "from Gouda"):
            await page.click("#fresh")
            await write(page, text)
            await expect(page.locator(".assistant .text")).to_contain_text(text[:6])
            await expect(page.locator(".assistant .tools")).to_contain_text("tokens")  # it is there to be searched
        entries = page.locator("#conversations li")
        await expect(entries).to_have_text(
            [re.compile(r"^\s*Cheese and bread"), re.compile(r"^\s*Trains to Paris\s*✕\s*$")]
        )
        await page.fill("#search", "gouda")  # said, and in no title
        await expect(entries).to_have_count(1)
        await expect(entries).to_contain_text("Cheese")
        await page.fill("#search", "paris")
        await expect(entries).to_have_count(1)
        await entries.first.get_by_role("link").click()
        await expect(page.locator(".user .bubble")).to_have_text("Trains to Paris")
        await page.fill("#search", "")
        dialogs = iter(("Railways", None))
        page.on("dialog", lambda dialog: dialog.accept(next(dialogs) or ""))
        await page.click("#title")
        await expect(page.locator("#title")).to_have_text("Railways")
        channel = await page.locator("#channel").inner_text()
        await page.click("#menu summary")
        await page.click("#delete")
        await expect(page.locator("#empty")).to_be_visible()
        await expect(entries).to_have_count(1)
        async with aiohttp.ClientSession() as http, http.get(f"{url}/api/channels/{channel}") as answer:
            assert answer.status == 404


async def test_everything_is_done_by_keyboard_alone(tmp_path: Path, chromium_path: Path) -> None:
    async with opened(tmp_path, chromium_path) as (page, simulator, _):
        await page.keyboard.type("first")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("line [[words:4000]]")
        await page.keyboard.press("Enter")
        await expect(page.locator(".assistant.live .text")).not_to_be_empty()
        await page.keyboard.press("Escape")
        await expect(page.locator(".assistant small")).to_contain_text("cancelled")
        assert [exchange.new for exchange in simulator.ledger] == [["first\nline [[words:4000]]"]]
        await page.keyboard.press("Control+Shift+O")
        await expect(page.locator("#empty")).to_be_visible()
        await page.keyboard.press("Control+k")
        await expect(page.locator("#search")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator(".user")).to_have_count(1)


# ---------------------------------------------------------------- where credentials are asked for


async def made_keys(folder: Path, *reaches: tuple[str, ...] | None) -> list[str]:
    """Keys in the store of this folder, one for each reach."""
    store = SqliteStore(folder / "turnkeep.db")
    await store.open()
    try:
        return [(await ApiKeys(store).create(channels=reach))[0] for reach in reaches]
    finally:
        await store.close()


async def sign_in(page: Page, key: str) -> None:
    await page.fill("#key", key)
    await page.press("#key", "Enter")


async def test_a_key_opens_the_page_until_its_owner_signs_out(tmp_path: Path, chromium_path: Path) -> None:
    [key] = await made_keys(tmp_path, None)
    async with served(tmp_path, auth="on") as (url, _), browsing(chromium_path) as browser:
        context = await new_context(browser)
        page = await context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(url)
        await expect(page.locator("#door")).to_be_visible()
        await expect(page.locator("#connection b")).to_have_text("sign in")
        await sign_in(page, "tk_wrong")
        await expect(page.locator("#trouble")).to_contain_text("not valid")
        await sign_in(page, key)
        await expect(page.locator("#connection")).to_have_class("live")
        await expect(page.locator("#door")).to_be_hidden()
        await write(page, "[[say:good morning]]")
        await expect(page.locator(".assistant .text")).to_have_text("good morning")

        [cookie] = await context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("turnkeep_session", True, "Strict")
        assert await page.evaluate("document.cookie") == ""
        assert key not in str(await page.evaluate("JSON.stringify(localStorage)"))
        refused = "fetch('api/channels/c/flush', {method: 'POST'}).then((answer) => answer.status)"
        assert await page.evaluate(refused) == 403, "a change needs the token of the session"

        await page.reload()
        await expect(page.locator("#connection")).to_have_class("live")
        await expect(page.locator(".assistant .text")).to_have_text("good morning")
        await page.click("#leave")
        await expect(page.locator("#door")).to_be_visible()
        assert await page.locator(".assistant").count() == 0
        assert problems == []


async def test_a_key_for_other_channels_is_told_so(tmp_path: Path, chromium_path: Path) -> None:
    [narrow] = await made_keys(tmp_path, ("mine-*",))
    async with served(tmp_path, auth="on") as (url, _), browsing(chromium_path) as browser:
        page = await new_page(browser)
        await page.goto(f"{url}#theirs")
        await sign_in(page, narrow)
        await expect(page.locator("#trouble")).to_contain_text("does not reach that channel")
        await page.goto("about:blank")
        await page.goto(f"{url}#mine-1")
        await expect(page.locator("#connection")).to_have_class("live")
