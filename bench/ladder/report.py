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
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together: what the product does for them, and what stands beside it."""

    title: str
    rows: tuple[int, ...]
    work: str
    program: str
    floor: str = ""


GROUPS = (
    Group(
        "The first token",
        (1, 2),
        "a message is sent on a socket, its window is 0, and the first token comes back",
        "first_event",
        "the same model, asked directly; the difference is told",
    ),
    Group(
        "A token",
        (3, 4, 5, 7),
        "{streams} streams of ten tokens a second, each with a subscriber, from the first message to the last answer",
        "tokens",
        "a pump of bytes between as many callers and the model, which understands nothing",
    ),
    Group(
        "A thousand subscribers of one answer",
        (6,),
        "one answer is streamed to all of them",
        "fanout",
        "one prepared frame for each token, written to as many sockets",
    ),
    Group(
        "The life of a message",
        (9,),
        "a message is accepted, claimed and answered, with all that is promised of it; Redis has an append-only file",
        "queue_life",
        "a job of BullMQ on Node, which calls a function that does nothing; three small Lua scripts",
    ),
    Group(
        "SQLite", (10,), "WAL mode with `synchronous=FULL`, on the disk of this machine", "sqlite_rates", "bare inserts"
    ),
    Group(
        "HTTP",
        (11,),
        "twenty clients POST a message and read twenty tokens from the event stream",
        "http_runs",
        "an ASGI program that streams the same bytes",
    ),
    Group(
        "Growth",
        (12, 13),
        "a message with much behind it, beside it or around it",
        "growth",
        "the same message with little",
    ),
    Group("An empty process", (8, 14, 15), "it starts, holds sockets, and does nothing", "start"),
)
SHORT = {
    "life of a message on SQLite / bare inserts": "A message on SQLite, from receipt to answer: {} the CPU of inserts.",
    "CPU of a token / byte pump, embedded": "A token from the model to its reader: {} the CPU of a pump of bytes.",
    "receipt, p50, embedded": "A receipt, which is given when the message is durable: {}.",
    "tokens/s of a gateway's core": "Tokens that one core of a gateway hands on: {}.",
    "an empty process, dev": "`turnkeep dev`, all in one process: {} of memory.",
    "dev is ready": "From its start until it is ready: {}.",
}
"""What is said first, of the figures with these names."""


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
        title = "Each figure by what it must reach: shorter is better, beyond the line is missed"
        found["rows"] = bars(title, rows, mark=1.0, mark_label="must")
    tokens = [one for one in figures if one["row"] == 3]
    if tokens:
        found["token"] = bars("CPU of a token, microseconds, by process", [token(one) for one in tokens])
    return found


def standing(one: Data) -> Bar:
    target = one["target"]
    share = target["must"] / one["value"] if target["more_is_better"] else one["value"] / target["must"]
    words = f"{shown(one['value'])} {one['unit']} (must {shown(target['must'])})"
    return Bar(f"{one['row']} {one['name']}"[:64], {"": min(share, 8.0)}, words, MET if share <= 1 else MISSED)


def token(one: Data) -> Bar:
    parts = {name.removesuffix(" µs"): value for name, value in one["parts"].items() if name.endswith(" µs")}
    floor = parts.pop("floor", 0.0)
    return Bar(one["name"].split(", ")[1], parts, f"{sum(parts.values()):.0f} µs, the pump {floor:.0f}")


def page(data: Data) -> str:
    figures: Sequence[Data] = data["figures"]
    facts = "\n".join(f"| {name} | {value} |" for name, value in data["machine"].items() if value)
    images = [
        image(figures, "rows", "Each figure by what it must reach"),
        image(figures, "token", "CPU of a token by process"),
    ]
    return TEMPLATE.read_text().format(
        short=in_short(figures),
        charts="\n".join(filter(None, images)),
        groups="\n".join(section(group, figures) for group in GROUPS if of_group(group, figures)),
        complaints=complaints(figures, data["failures"]),
        profile=profile_tables(data.get("profile")),
        facts=facts,
        load=data["load"],
    )


def image(figures: Sequence[Data], name: str, text: str) -> str:
    return f"![{text}](images/performance-{name}.svg)\n" if name in charts(figures) else ""


def in_short(figures: Sequence[Data]) -> str:
    values = {one["name"]: f"{shown(one['value'])} {one['unit']}" for one in figures}
    values |= {name: f"{value[:-2]} times" for name, value in values.items() if value.endswith(" x")}
    return "".join(f"* {words.format(f'**{values[name]}**')}\n" for name, words in SHORT.items() if name in values)


def of_group(group: Group, figures: Sequence[Data]) -> list[Data]:
    return [one for one in figures if one["row"] in group.rows]


def section(group: Group, figures: Sequence[Data]) -> str:
    """What is measured, and its table."""
    work = group.work.format(streams=streams(figures))
    beside = f" Beside it: {group.floor}." if group.floor else ""
    head = f"## {group.title}\n\n{work[0].upper()}{work[1:]}.{beside} (`dev.py bench {group.program}`)\n\n"
    return f"{head}{figure_table(of_group(group, figures))}\n"


def figure_table(figures: Sequence[Data]) -> str:
    lines = ["| row | figure | median | low to high | must | aim | |", "|---|---|---|---|---|---|---|"]
    for one in figures:
        target = one["target"]
        goal = f"{shown(target['must'])} | {shown(target['aim'])}" if target else "– | –"
        mark = {True: "met", False: "**missed**", None: ""}[one["is_met"]]
        spread = f"{shown(one['low'])} to {shown(one['high'])}"
        lines.append(
            f"| {one['row']} | {one['name']} | {shown(one['value'])} {one['unit']} | {spread} | {goal} | {mark} |"
        )
        if one["parts"]:
            parts = " · ".join(f"{name} {shown(value)}" for name, value in one["parts"].items())
            lines.append(f"| | *of which {parts}* | | | | | |")
    return "\n".join(lines)


def streams(figures: Sequence[Data]) -> str:
    found = [re.search(r"at ([\d,]+) embedded streams", one["name"]) for one in figures]
    return next((one[1] for one in found if one), "a thousand")


def complaints(figures: Sequence[Data], failures: Sequence[str]) -> str:
    lines = [f"* not measured, because its program failed: {name}" for name in failures]
    lines += [
        f"* row {one['row']}, {one['name']}: {shown(one['value'])} {one['unit']}, must {shown(one['target']['must'])}"
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
