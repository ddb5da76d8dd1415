"""Record the picture of README: `python scripts/recording.py` plays the scene with a real server and writes what the
terminal shows, with its times, as an animated SVG.

A burst of three messages, one receipt each; one answer begins; `kill -9`; the server is started again; the same stream
goes on to its end. Nothing is drawn that was not printed.
"""

from __future__ import annotations

import html
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "burst-and-kill.svg"
WIDTH, LINE, MARGIN = 86, 19, 16
"""Characters of a line, and pixels."""
PATIENCE = 60.0
HOLD = 4.0
"""Seconds that the end is shown before it begins anew."""
LONGEST_PAUSE = 1.2
"""Seconds to which a pause without a line is shortened: a loaded machine starts slowly."""
MESSAGES = ("I have a question", "about turns:", "what is one? [[words:60]] [[pace:90]]")


@dataclass
class Scene:
    """Lines of a terminal with their moments."""

    begun: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def line(self, text: str, kind: str = "out") -> int:
        self.lines.append((time.monotonic() - self.begun, kind, text))
        return len(self.lines) - 1

    def grow(self, place: int, text: str) -> None:
        """The line of an answer gets longer: shown as a new state of the same place."""
        self.lines.append((time.monotonic() - self.begun, f"@{place}", text))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="turnkeep-recording-") as folder:
        lines = play(Path(folder))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn(shortened(lines)))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB, {lines[-1][0]:.1f} s")
    return 0


def play(folder: Path) -> list[tuple[float, str, str]]:
    """The scene, as it happens."""
    port = free_port()
    base = f"http://127.0.0.1:{port}/api/channels/hello"
    server = started(folder, port)
    scene = Scene()
    scene.line("$ turnkeep dev &", "in")
    scene.line(f"page     http://127.0.0.1:{port}/")
    for number, text in enumerate(MESSAGES, 1):
        shown = text.partition(" [[")[0]
        scene.line(f'$ curl …/channels/hello/messages -d \'{{"message": "{shown}"}}\'', "in")
        receipt = posted(f"{base}/messages", {"message": text, "message_id": f"m{number}"})
        scene.line(json.dumps({name: receipt[name] for name in ("status", "message_id", "position", "due_in")}))
        time.sleep(0.3)
    scene.line("$ curl -N …/channels/hello/events        # three messages, one answer", "in")
    place, text, position, killed = scene.line(""), "", "", False
    while True:
        for frame in frames(f"{base}/events?text=delta", position):
            if "offset" in frame and not frame.get("more"):
                position = f"{frame['epoch']}:{frame['offset']}"
            if frame["status"] == "in_progress":
                text = frame["delta"] if frame.get("snapshot") else text + frame["delta"]
                scene.grow(place, text)
            if frame["status"] == "completed" and frame["type"] == "response":
                scene.line(f"✓ answered once: messages {', '.join(frame['message_ids'])}", "note")
                server.send_signal(signal.SIGTERM)
                server.wait(PATIENCE)
                return scene.lines
            if not killed and len(text.split()) > 14:
                killed = True
                scene.line(f"$ kill -9 {server.pid}                    # in the middle of the answer", "in")
                server.kill()
                server.wait()
                break
        if killed and server.poll() is not None:
            server = started(folder, port)
            scene.line("$ turnkeep dev &                # started again: it goes on", "in")
            place = scene.line(text)


def started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.defpath, "TURNKEEP_PORT": str(port)}
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "turnkeep", "dev"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return server
    raise SystemExit(f"the server does not start:\n{(folder / 'log').read_text()}")


def posted(url: str, body: dict[str, str]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - our own server
        told: dict[str, object] = json.load(answer)
        return told


def frames(url: str, position: str) -> Iterator[dict[str, object]]:
    """Server-sent events, until the connection ends."""
    request = urllib.request.Request(url, headers={"Last-Event-ID": position or ":0"})  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as stream:  # noqa: S310 - our own server
            for line in stream:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
    except (OSError, ValueError):
        return


def shortened(lines: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The same, without the pauses of this machine."""
    told, clock, before = [], 0.0, 0.0
    for moment, kind, text in lines:
        clock += min(moment - before, LONGEST_PAUSE)
        before = moment
        told.append((clock, kind, text))
    return told


def drawn(lines: list[tuple[float, str, str]]) -> str:
    """An SVG in which each state of a line is shown from its moment on."""
    total = lines[-1][0] + HOLD
    states: dict[int, list[tuple[float, str, str]]] = {}
    for place, (moment, kind, text) in enumerate(lines):
        row, style = (int(kind[1:]), "answer") if kind.startswith("@") else (place, kind)
        states.setdefault(row, []).append((moment, style, text))
    rows, y = [], MARGIN + LINE
    for all_changes in states.values():
        changes = thinned(all_changes)
        tallest = max(len(wrapped(text)) for _, _, text in changes)
        for number, (moment, style, text) in enumerate(changes):
            end = changes[number + 1][0] if number + 1 < len(changes) else total
            rows.append(element(wrapped(text), style, y, (moment, end), total))
        y += tallest * LINE
    height = y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * 8.6:.0f} {height}" role="img" '
        'aria-label="Three messages become one answer; the server is killed in the middle of it, and goes on">'
        "<style>text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d7d3cc;white-space:pre}"
        ".in{fill:#f4f1ea;font-weight:600}.answer{fill:#8fd0a3}.note{fill:#e8c07d}</style>"
        f'<rect width="100%" height="100%" rx="10" fill="#1d1b18"/>{"".join(rows)}</svg>\n'
    )


def thinned(changes: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """At most some five states a second: the eye sees no more, and the file stays small."""
    told = [changes[0]]
    for change in changes[1:-1]:
        if change[0] - told[-1][0] >= 0.2:
            told.append(change)
    return told if len(changes) == 1 else [*told, changes[-1]]


def wrapped(text: str) -> list[str]:
    words, lines = text.split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= WIDTH and lines[-1]:
            lines.append("")
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]


def element(lines: list[str], style: str, y: int, span: tuple[float, float], total: float) -> str:
    begin, end = span[0] / total, span[1] / total
    spans = "".join(
        f'<tspan x="{MARGIN}" dy="{0 if number == 0 else LINE}">{html.escape(line)}</tspan>'
        for number, line in enumerate(lines)
    )
    times = f"0;{begin:.4f};{min(end, 1):.4f};1" if end < 1 else f"0;{begin:.4f};1"
    values = "0;1;0;0" if end < 1 else "0;1;1"
    return (
        f'<text class="{style}" y="{y}" opacity="0">{spans}<animate attributeName="opacity" calcMode="discrete" '
        f'dur="{total:.1f}s" repeatCount="indefinite" keyTimes="{times}" values="{values}"/></text>'
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
