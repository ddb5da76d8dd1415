"""What an answer rests on, from the several forms in which servers tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.messages import Citation
from turnkeep.models.reading import label, mapping


def citations_of_annotations(annotations: object, *, offset: int = 0) -> list[Citation]:
    """The citations among the annotations of a text that begins at `offset` of its item.

    Both protocols of OpenAI: an annotation holds its fields itself, or in an object by the name of
    its type. What cites nothing, and what is no annotation, is left out.
    """
    if not isinstance(annotations, list):
        return []
    citations = [_citation(mapping(entry), offset) for entry in annotations]
    return [citation for citation in citations if citation is not None]


def citations_of_sources(chunk: Mapping[str, Any]) -> list[Citation]:
    """Sources that stand beside an answer without a place in
    it (Perplexity's `search_results`, `citations`).
    """
    results = chunk.get("search_results") or chunk.get("citations")
    if not isinstance(results, list):
        return []
    citations = [_citation({"url": entry} if isinstance(entry, str) else mapping(entry), 0) for entry in results]
    return [citation for citation in citations if citation is not None]


def _citation(entry: Mapping[str, Any], offset: int) -> Citation | None:
    fields = mapping(entry.get(label(entry.get("type")) or "")) or entry
    url, file_id = label(fields.get("url")) or "", label(fields.get("file_id")) or ""
    if not (url or file_id):
        return None
    title = label(fields.get("title")) or label(fields.get("filename")) or ""
    start, end = (_place(fields.get(name)) for name in ("start_index", "end_index"))
    if end <= start:
        return Citation(url=url, title=title, file_id=file_id)
    quote = label(fields.get("cited_text")) or label(fields.get("quote")) or ""
    return Citation(start + offset, end + offset, url, title, quote, file_id)


def _place(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
