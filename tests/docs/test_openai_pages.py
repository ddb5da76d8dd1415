"""The pages for OpenAI's clients: their programs run as they stand, but for the address."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.served import served

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize(
    ("page", "said"), [("openai.md", "You said: “hello”"), ("from-assistants.md", "completed You")]
)
async def test_the_program_of_a_page_runs_by_its_address_alone(page: str, said: str) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (HOW_TO / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 15
    async with served() as server:
        here = program.replace("http://127.0.0.1:8080", server.url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-c", here, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}
        )
        out, _ = await process.communicate()
    assert (process.returncode, said in out.decode()) == (0, True), out
