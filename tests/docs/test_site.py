"""The documentation as a site: built without the network, and read without it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.samples import ROOT


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    # No proxy and no name server would help: what asked for the network would fail here.
    nowhere = "http://127.0.0.1:9"
    environment = {"PATH": "/usr/bin:/bin", "http_proxy": nowhere, "https_proxy": nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr

    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    html = "".join(page.read_text() for page in pages)
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)', html)
    assert [url for url in fetched if not url.startswith("https://github.com/turnkeep")] == []
    assert "burst-and-kill.svg" in html
    assert "/blob/main/clients/js/README.md" in html
