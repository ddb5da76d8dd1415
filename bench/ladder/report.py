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
from textwrap import wrap
from typing import Any

from bench.ladder.chart import COLOURS, MET, MISSED, Bar, bars
from bench.ladder.figures import shown
from bench.ladder.groups import GROUPS, PEERS, SHORT, Group

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
LABEL = 58
"""Letters of a label beside a bar."""
MOST = 8.0
"""A bar is not drawn longer than so many times what it must reach: the others would be lost beside it."""

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


def joined(runs: Sequence[Data]) -> Data:
    """Several runs on one machine as one; what a later one has measured stands for the same of an earlier one."""
    *_, last = runs
    figures = {(one["row"], one["name"]): one for run in runs for one in run["figures"]}
    profiles = {one["title"]: one for run in runs for one in run.get("profiles", ())}
    return {
        **last,
        "load": max(run["load"] for run in runs),
        "failures": [name for run in runs for name in run["failures"]],
        "figures": sorted(figures.values(), key=lambda one: one["row"]),
        "profiles": list(profiles.values()),
    }


def charts(figures: Sequence[Data]) -> dict[str, str]:
    """By name; those whose figures were not measured are left out."""
    found = {}
    with_target = [one for one in figures if one["target"]]
    if with_target:
        rows = [standing(one) for one in with_target]
        title = "Each figure by what it must reach: shorter is better, beyond the line is missed"
        found["rows"] = bars(title, rows, mark=1.0, mark_label="must")
    tokens = [one for one in figures if one["row"] == 3]
    if own := [one for one in tokens if not is_of_peers(one)]:
        found["token"] = bars("CPU of a token, microseconds, by process", [token(one) for one in own])
    if others := [one for one in tokens if is_of_peers(one)]:
        title = "CPU of a token by the CPU of a pump of bytes, beside others: shorter is better"
        found["peers"] = bars(title, [peer(one) for one in others], mark=1.0, mark_label="the pump")
    return found


def standing(one: Data) -> Bar:
    target = one["target"]
    share = target["must"] / one["value"] if target["more_is_better"] else one["value"] / target["must"]
    words = f"{shown(one['value'])} {one['unit']} (must {shown(target['must'])})"
    return Bar(label(f"{one['row']} {one['name']}"), {"": min(share, MOST)}, words, MET if share <= 1 else MISSED)


def label(text: str) -> str:
    """As long as there is room for beside a bar."""
    return text if len(text) <= LABEL else text[: LABEL - 1].rstrip(" ,") + "…"


def token(one: Data) -> Bar:
    parts = {name.removesuffix(" µs"): value for name, value in one["parts"].items() if name.endswith(" µs")}
    floor = parts.pop("floor", 0.0)
    return Bar(one["name"].split(", ")[1], parts, f"{sum(parts.values()):.0f} µs, the pump {floor:.0f}")


def peer(one: Data) -> Bar:
    _, _, name = one["name"].partition(", ")
    colour = MET if name.startswith("turnkeep") else COLOURS[0]
    return Bar(name, {"": one["value"]}, f"{shown(one['value'])} times", colour)


def page(data: Data) -> str:
    figures: Sequence[Data] = data["figures"]
    facts = "\n".join(f"| {name} | {value} |" for name, value in data["machine"].items() if value)
    images = [
        image(figures, "rows", "Each figure by what it must reach"),
        image(figures, "token", "CPU of a token by process"),
    ]
    own = [one for one in figures if not is_of_peers(one)]
    sections = [section(group, own) for group in GROUPS if of_group(group, own)]
    return TEMPLATE.read_text().format(
        short=in_short(figures),
        charts="\n".join(filter(None, images)),
        groups="\n".join([*sections, *peers_section(figures)]),
        complaints=complaints(own, data["failures"]),
        profiles=profile_sections(data.get("profiles", ())),
        facts=facts,
        load=data["load"],
    )


def is_of_peers(one: Data) -> bool:
    name: str = one["name"]
    return name.startswith(PEERS)


def image(figures: Sequence[Data], name: str, text: str) -> str:
    return f"![{text}](images/performance-{name}.svg)\n" if name in charts(figures) else ""


def in_short(figures: Sequence[Data]) -> str:
    values = {one["name"]: f"{shown(one['value'])} {one['unit']}" for one in figures}
    values |= {name: f"{value[:-2]} times" for name, value in values.items() if value.endswith(" x")}
    lines = [f"* {words.format(f'**{values[name]}**')}\n" for name, words in SHORT.items() if name in values]
    goals = [one["is_met"] for one in figures if one["is_met"] is not None]
    return "".join([*lines, f"* Of {len(goals)} figures that have a target, {sum(goals)} reach what they must.\n"])


def of_group(group: Group, figures: Sequence[Data]) -> list[Data]:
    return [one for one in figures if one["row"] in group.rows]


def section(group: Group, figures: Sequence[Data]) -> str:
    """What is measured, and its table."""
    work = group.work.format(streams=streams(figures))
    beside = f" Beside it: {group.floor}." if group.floor else ""
    words = prose(f"{work[0].upper()}{work[1:]}.{beside} (`dev.py bench {group.program}`)")
    return f"## {group.title}\n\n{words}\n\n{figure_table(of_group(group, figures))}\n"


def peers_section(figures: Sequence[Data]) -> list[str]:
    """Others that do the same work, where they were measured."""
    others = [{**one, "name": one["name"].removeprefix(PEERS)} for one in figures if is_of_peers(one)]
    words = prose(
        "Programs that many people use for the same work, in turns with ours, in the same run "
        "(`dev.py bench peers`). What they promise of it differs: LiteLLM and Chainlit keep nothing, LangGraph's "
        "development server keeps it in memory."
    )
    drawing = image(figures, "peers", "CPU of a token, beside others")
    return [f"## Beside others\n\n{words}\n\n{drawing}\n{figure_table(others)}\n"] if others else []


def figure_table(figures: Sequence[Data]) -> str:
    lines = ["| row | figure | median | low to high | must | aim | |", "|---|---|---|---|---|---|---|"]
    for one in figures:
        target = one["target"]
        sign = "≥" if target and target["more_is_better"] else "≤"
        goal = f"{sign} {shown(target['must'])} | {sign} {shown(target['aim'])}" if target else "– | –"
        mark = {True: "met", False: "**missed**", None: ""}[one["is_met"]]
        spread = f"{shown(one['low'])} to {shown(one['high'])}" if len(one["samples"]) > 1 else "–"
        value = f"{shown(one['value'])} {one['unit']}".strip()
        lines.append(f"| {one['row']} | {one['name']} | {value} | {spread} | {goal} | {mark} |")
        if one["parts"]:
            parts = " · ".join(part(name, value) for name, value in one["parts"].items())
            lines.append(f"| | *of which {parts}* | | | | | |")
    return "\n".join(lines)


def part(name: str, value: float) -> str:
    """Its unit, the last word of its name, stands behind the number."""
    words, _, unit = name.rpartition(" ")
    return f"{words} {shown(value)} {unit}" if words else f"{name} {shown(value)}"


def streams(figures: Sequence[Data]) -> str:
    found = [re.search(r"at ([\d,]+) embedded streams", one["name"]) for one in figures]
    return next((one[1] for one in found if one), "a thousand")


def complaints(figures: Sequence[Data], failures: Sequence[str]) -> str:
    """What is short of its target, by group, with what would be needed; and what was not measured."""
    missed = [one for one in figures if one["is_met"] is False]
    blocks = ["\n".join(f"* not measured, because its program failed: {name}" for name in failures)] if failures else []
    for group in GROUPS:
        if own := of_group(group, missed):
            lines = [
                f"* row {one['row']}, {one['name']}: {shown(one['value'])} {one['unit']}, "
                f"must {shown(one['target']['must'])}"
                for one in own
            ]
            needed = [prose(f"What would be needed: {group.remedy}")] if group.remedy else []
            blocks.append("\n\n".join([f"**{group.title}**", "\n".join(lines), *needed]))
    if blocks:
        return "\n\n".join(["Short of what they must reach, in this run:", *blocks])
    count = sum(one["target"] is not None for one in figures)
    return f"All {count} figures of this run that have a target reach what they must."


def profile_sections(profiles: Sequence[Data]) -> str:
    if not profiles:
        return "None was taken in this run.\n"
    return "\n".join(profile_section(one) for one in profiles)


def profile_section(profile: Data) -> str:
    """Two columns beside each other: packages and functions."""
    packages, functions = list(profile["packages"].items()), list(profile["functions"].items())
    lines = ["| package | | function | |", "|---|---|---|---|"]
    for place in range(max(len(packages), len(functions))):
        cells = [
            f"`{column[place][0]}` | {column[place][1]:g} %" if place < len(column) else " | "
            for column in (packages, functions)
        ]
        lines.append(f"| {cells[0]} | {cells[1]} |")
    if profile["commands"]:
        lines += ["", "And in redis-server, of one message:", "", "| | calls | µs |", "|---|---|---|"]
        lines += [f"| {name} | {calls:.2f} | {spent:.1f} |" for name, (calls, spent) in profile["commands"].items()]
    return "\n".join([f"### {profile['title']}", "", *lines, ""])


def prose(text: str) -> str:
    """In lines of a hundred letters; what is code stays on one."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = wrap(whole, 100, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")
