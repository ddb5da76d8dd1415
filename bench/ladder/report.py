"""`docs/performance.md` and its charts, from the figures of one run.

python3 dev.py bench --report [FILE]     of a run that is made now, or of the JSON that one has left
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.ladder.chart import MET, MISSED, Bar, bars
from bench.ladder.figures import shown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
TEMPLATE = Path(__file__).with_name("performance_page.md")
PACKAGES = (
    "uvloop",
    "uvicorn",
    "starlette",
    "websockets",
    "httptools",
    "aiohttp",
    "redis",
    "hiredis",
    "apsw",
    "orjson",
)

Data = Mapping[str, Any]


def machine() -> dict[str, str]:
    """What the figures were measured on, as far as the system tells."""
    model = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal: +(\d+)", _read("/proc/meminfo"))
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return {
        "processor": f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 2**20:.0f} GB" if memory else "",
        "system": f"{platform.system()} {platform.release()}",
        "Python": sys.version.split()[0],
        "Redis": _first_line(["redis-server", "--version"]),
        "Node": _first_line(["node", "--version"]),
        "libraries": ", ".join(versions),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(command: Sequence[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return "not installed"
    found = re.search(r"v?=?(\d+\.\d+\.\d+)", said)
    return found[1] if found else "?"


def write(data: Data) -> list[Path]:
    """The page and its charts; where they are."""
    IMAGES.mkdir(exist_ok=True)
    files = {IMAGES / f"performance-{name}.svg": text for name, text in charts(data["figures"]).items()}
    files[PAGE] = page(data)
    for path, text in files.items():
        path.write_text(text)
    return list(files)


def charts(figures: Sequence[Data]) -> dict[str, str]:
    """By name; those whose figures were not measured are left out."""
    found = {}
    with_target = [one for one in figures if one["target"]]
    if with_target:
        rows = [standing(one) for one in with_target]
        title = "Every row by what it must reach (1: reached; shorter is better)"
        found["rows"] = bars(title, rows, mark=1.0, mark_label="must")
    tokens = [one for one in figures if one["row"] == 3]
    if tokens:
        found["token"] = bars("CPU of a token, microseconds, by process", [token(one) for one in tokens])
    return found


def standing(one: Data) -> Bar:
    target = one["target"]
    share = target["must"] / one["value"] if target["more_is_better"] else one["value"] / target["must"]
    words = f"{shown(one['value'])} {one['unit']} (must {target['must']:g})"
    return Bar(f"{one['row']} {one['name']}"[:64], {"": min(share, 8.0)}, words, MET if share <= 1 else MISSED)


def token(one: Data) -> Bar:
    parts = {name.removesuffix(" µs"): value for name, value in one["parts"].items() if name.endswith(" µs")}
    floor = parts.pop("floor", 0.0)
    return Bar(one["name"].split(", ")[1], parts, f"{sum(parts.values()):.0f} µs, the pump {floor:.0f}")


def page(data: Data) -> str:
    figures: Sequence[Data] = data["figures"]
    facts = "\n".join(f"| {name} | {value} |" for name, value in data["machine"].items() if value)
    images = [
        image(figures, "rows", "Every row by what it must reach"),
        image(figures, "token", "CPU of a token by process"),
    ]
    return TEMPLATE.read_text().format(
        charts="\n".join(filter(None, images)),
        figures=figure_table(figures),
        streams=streams(figures),
        complaints=complaints(figures, data["failures"]),
        profile=profile_tables(data.get("profile")),
        facts=facts,
        load=data["load"],
    )


def image(figures: Sequence[Data], name: str, text: str) -> str:
    return f"![{text}](images/performance-{name}.svg)\n" if name in charts(figures) else ""


def figure_table(figures: Sequence[Data]) -> str:
    lines = ["| row | figure | median | low to high | must | aim | |", "|---|---|---|---|---|---|---|"]
    for one in figures:
        target = one["target"]
        goal = f"{target['must']:g} | {target['aim']:g}" if target else "– | –"
        mark = {True: "met", False: "**missed**", None: ""}[one["is_met"]]
        spread = f"{shown(one['low'])} to {shown(one['high'])}"
        lines.append(
            f"| {one['row']} | {one['name']} | {shown(one['value'])} {one['unit']} | {spread} | {goal} | {mark} |"
        )
        if one["parts"]:
            parts = " · ".join(f"{name} {shown(value)}" for name, value in one["parts"].items())
            lines.append(f"| | {parts} | | | | | |")
    return "\n".join(lines)


def streams(figures: Sequence[Data]) -> str:
    found = [re.search(r"at ([\d,]+) embedded streams", one["name"]) for one in figures]
    return next((one[1] for one in found if one), "a thousand")


def complaints(figures: Sequence[Data], failures: Sequence[str]) -> str:
    lines = [f"* not measured, because its program failed: {name}" for name in failures]
    lines += [
        f"* row {one['row']}, {one['name']}: {shown(one['value'])} {one['unit']}, must {one['target']['must']:g}"
        for one in figures
        if one["is_met"] is False
    ]
    if lines:
        return "\n".join(["Short of what they must reach, in this run:", "", *lines])
    count = sum(one["target"] is not None for one in figures)
    return f"All {count} figures of this run that have a target reach what they must."


def profile_tables(profile: Data | None) -> str:
    if profile is None:
        return "None was taken in this run."
    columns = []
    for title, shares in (("package", profile["packages"]), ("function", profile["functions"])):
        rows = [f"| `{name}` | {share:g} % |" for name, share in shares.items()]
        columns.append("\n".join([f"| {title} | share |", "|---|---|", *rows]))
    return "\n\n".join(columns)
