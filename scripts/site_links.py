"""For `mkdocs`: links of a page that lead out of `docs/` lead to the repository on the site."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """What mkdocs calls with each page before it is rendered."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def out_of_docs(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        return match[0] if path.startswith("docs/") else f"]({config['repo_url']}/blob/main/{path}"

    return LINK.sub(out_of_docs, markdown)
