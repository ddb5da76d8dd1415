"""What is measured is documented, what is documented is measured, and the dashboard asks for nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from tests.rows import each_row
from turnkeep.runs.outcomes import VERDICT_LABELS, Verdict
from turnkeep.telemetry.metrics import METRICS, PREFIX, shown_name

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
TYPES = {"count": "counter", "histogram": "histogram", "watched": "gauge"}
ALLOWED_LABELS = {
    "event",
    "door",
    "shown",
    "verdict",
    "code",
    "reason",
    "of",
    "model",
    "outcome",
    "kind",
    "tool",
    "status",
    "queue",
    "sink",
    "operation",
}


def full_name(name: str) -> str:
    return shown_name(name) + ("_total" if METRICS[name].kind == "count" else "")


@each_row("name", METRICS)
def test_a_metric_has_its_line_in_the_reference(name: str) -> None:
    metric = METRICS[name]
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    assert f"| `{full_name(name)}` | {TYPES[metric.kind]} | {labels} | {metric.help} |" in REFERENCE


def test_the_reference_lists_nothing_else() -> None:
    assert set(re.findall(rf"`({PREFIX}\w+)`", REFERENCE)) == {full_name(name) for name in METRICS}


def test_labels_come_from_closed_sets_and_are_explained() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels == ALLOWED_LABELS, "is the new label a closed set? then explain it in the reference and list it here"
    explained = REFERENCE.partition("## Values of labels")[2]
    assert {label for label in labels if f"| `{label}` |" not in explained} == set()


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    shown = {full_name(n) for n, metric in METRICS.items() if metric.kind != "histogram"}
    shown |= {f"{full_name(n)}_{part}" for n in METRICS for part in ("bucket", "sum", "count")}
    asked = {name for text in expressions(DASHBOARD["panels"]) for name in re.findall(rf"{PREFIX}\w+", text)}
    assert asked - shown == set()
    assert {name for name in METRICS if not any(text.startswith(full_name(name)) for text in asked)} == set()


def test_the_labels_of_the_dashboard_are_those_of_its_metrics() -> None:
    for text in expressions(DASHBOARD["panels"]):
        names = [name for name in METRICS if re.search(rf"\b{full_name(name)}(?:_bucket)?\b", text)]
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
        for name in names:
            assert grouped <= {*METRICS[name].labels, "le"}, text


def test_panels_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        places |= cells


# ---------------------------------------------------------------- what the code takes


def taken() -> Iterator[tuple[str, str, set[str]]]:
    """Method, name and labels of every measurement in the code."""
    texts = [path.read_text() for path in (ROOT / "src/turnkeep").rglob("*.py")]
    for tree in (ast.parse(text) for text in texts if "meter." in text):  # to parse all takes a second
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            first, method = node.args[0], node.func.attr
            if isinstance(first, ast.Constant) and re.search(r"\b_?meter$", ast.unparse(node.func.value)):
                yield method, str(first.value), {word.arg for word in node.keywords if word.arg}


def test_every_measurement_has_its_place() -> None:
    methods = {"count": "count", "histogram": "observe", "watched": "watch"}
    for method, name, labels in taken():
        assert name in METRICS, f"{name} is not in METRICS"
        assert method == methods[METRICS[name].kind], name
        assert labels == set(METRICS[name].labels), name


def test_every_metric_is_taken_somewhere() -> None:
    by_sinks = {"sink_lag_seconds"}
    assert set(METRICS) - {name for _, name, _ in taken()} <= by_sinks


def test_the_page_names_every_verdict_and_only_those() -> None:
    """Dashboards go by these words, so a class that is renamed must not take its label along."""
    row = next(line for line in REFERENCE.splitlines() if line.startswith("| `verdict` |"))
    assert re.findall(r"`(\w+)`", row)[1:] == list(VERDICT_LABELS.values())
    assert set(VERDICT_LABELS) == set(get_args(Verdict))
