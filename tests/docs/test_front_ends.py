"""The pages about front ends hold programs that work as they stand, in few lines."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.clients.node import HERE
from tests.patience import PATIENCE
from tests.process.browser import browsing, new_page
from tests.process.served import Served, served
from tests.scenario.house import flush_together
from tests.services import free_port
from tests.services.programs import packages, program

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
MOST_LINES = 15
ADDRESS = "http://localhost:8080"


def programs(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / page).read_text(), flags=re.S)


@pytest.mark.parametrize(("page", "language"), [("vercel.md", "jsx"), ("ag-ui.md", "js")])
def test_a_front_end_is_few_lines(page: str, language: str) -> None:
    assert programs(page, language)
    for source in programs(page, language):
        assert len(source.strip().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("number", [0, 1])
async def test_the_programs_of_the_page_about_ag_ui_run(number: int) -> None:
    packages(HERE / "agui")
    async with served() as house:
        source = programs("ag-ui.md", "js")[number].replace(ADDRESS, house.url)
        if number:
            source += "\nconsole.log(chat.getMessages().at(-1).parts.at(-1).content);\nchat.dispose?.();\n"
        output = await asyncio.to_thread(_node, source)
    assert output.strip()


def _node(source: str) -> str:
    """The output of a program beside the packages."""
    with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=HERE / "agui" / "node_modules") as file:
        file.write(f"{source}\nprocess.exit(0);\n")
        file.flush()
        done = subprocess.run([program("node"), file.name], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


ENTRY = """
import { createRoot } from 'react-dom/client';
import Page from './page.jsx';
createRoot(document.getElementById('root')).render(<Page id="c" messages={[]} />);
"""


def _bundle(house: Served, folder: Path) -> str:
    """The page as a browser takes it."""
    [source] = programs("vercel.md", "jsx")
    (folder / "page.jsx").write_text(source.replace(ADDRESS, house.url))
    (folder / "entry.jsx").write_text(ENTRY)
    binary = HERE / "vercel" / "node_modules" / ".bin" / "esbuild"
    command = [program("node"), str(binary.resolve()), "entry.jsx", "--bundle", "--format=iife", "--jsx=automatic"]
    command += ["--outfile=out.js", '--define:process.env.NODE_ENV="production"', "--log-level=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out.js").read_text()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """Origin and folder of somebody else's server, where the page comes from."""
    site = web.Application()
    site.router.add_static("/", tmp_path)
    runner = web.AppRunner(site)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}", tmp_path
    finally:
        await runner.cleanup()


async def test_the_page_with_usechat_works_in_a_browser(chromium_path: Path, site: tuple[str, Path]) -> None:
    packages(HERE / "vercel")
    origin, folder = site
    (folder / "index.html").write_text("<!doctype html><div id=root></div><script src=page.js></script>")
    async with served(origins=(origin,), window=60.0, max_wait=60.0) as house, browsing(chromium_path) as browser:
        with tempfile.TemporaryDirectory(dir=HERE / "vercel" / "node_modules") as place:
            (folder / "page.js").write_text(await asyncio.to_thread(_bundle, house, Path(place)))
        page = await new_page(browser)
        await page.goto(f"{origin}/index.html")
        said = ["one", "two", "three [[say:one answer for three]]"]
        for words in said:
            await page.fill("input", words)
            await page.press("input", "Enter")
        async with asyncio.timeout(PATIENCE):
            while not (threads := await house.queue.list_threads()):
                await asyncio.sleep(0.05)
        await flush_together(house.queue, threads[0].address.channel, len(said))
        await expect(page.locator("p")).to_have_text([*said, "one answer for three"], timeout=PATIENCE * 1000)
