"""Charts of figures as SVG: bars, which say their value in words beside them, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, BAR, GAP = 860, 380, 16, 8
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
MET, MISSED = "#54a24b", "#e45756"
# the outline keeps words legible where the line of `mark` runs through them
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b1f24;stroke:#fff;stroke-width:3px;paint-order:stroke}"
    "line{stroke:#8c959f}@media (prefers-color-scheme:dark){text{fill:#e6edf3;stroke:#0d1117}}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    parts: Mapping[str, float]
    words: str
    colour: str = ""
    """Of the whole bar; else each part has its own."""


def bars(title: str, rows: Sequence[Bar], *, mark: float | None = None, mark_label: str = "") -> str:
    """One bar below the other, from nothing; with a line at `mark`."""
    most = max([sum(row.parts.values()) for row in rows] + ([mark] if mark else []) + [1e-9])
    scale = (WIDTH - LABELS - 150) / most
    names = list(dict.fromkeys(name for row in rows for name in row.parts)) if not rows[0].colour else []
    top = 50 if names or mark is not None else 34
    height = top + len(rows) * (BAR + GAP) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text x="0" y="16" font-weight="600">{escape(title)}</text>',
        *legend(names),
    ]
    if mark is not None:
        x = LABELS + mark * scale
        out.append(f'<line x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{height - 6}" stroke-dasharray="4 3"/>')
        out.append(f'<text x="{x + 4:.1f}" y="{top - 8}">{escape(mark_label)}</text>')
    for place, row in enumerate(rows):
        y = top + place * (BAR + GAP)
        out.append(f'<text x="{LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(row.label)}</text>')
        x = float(LABELS)
        for name, value in row.parts.items():
            colour = row.colour or COLOURS[names.index(name) % len(COLOURS)]
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>')
            x += value * scale
        out.append(f'<text x="{x + 6:.1f}" y="{y + 12}">{escape(row.words)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def legend(names: Sequence[str]) -> list[str]:
    out, x = [], float(LABELS)
    for place, name in enumerate(names):
        out.append(f'<rect x="{x:.0f}" y="26" width="10" height="10" fill="{COLOURS[place % len(COLOURS)]}"/>')
        out.append(f'<text x="{x + 14:.0f}" y="35">{escape(name)}</text>')
        x += 28 + 7 * len(name)
    return out
