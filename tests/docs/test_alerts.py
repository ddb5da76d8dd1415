"""Every alert that is shipped fires when it should and is silent when all is well, judged by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from tests.services.programs import program
from turnkeep.telemetry.metrics import METRICS, PREFIX, shown_name

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = {rule["alert"]: rule for rule in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]}
MINUTES = 60
"""So long every series goes on, a sample a minute."""


@dataclass(frozen=True)
class Case:
    """Series in Prometheus' notation, from well to bad, and the labels that the alert has beside its severity."""

    bad: dict[str, str]
    well: dict[str, str]
    labels: dict[str, str]


def gauge(value: float) -> str:
    return f"{value}x{MINUTES}"


def rising(each_minute: float) -> str:
    return f"0+{each_minute}x{MINUTES}"


def histogram(name: str, at_most: str, labels: str = "") -> dict[str, str]:
    """Ten observations a minute, all of them in one bucket and those above."""
    bounds = [*map(str, METRICS[name].buckets), "+Inf"]
    within = bounds[bounds.index(at_most) :]
    return {f'{PREFIX}{name}_bucket{{le="{bound}"{labels}}}': rising(10 if bound in within else 0) for bound in bounds}


HERE = 'instance="a:8081"'
CASES = {
    "TurnkeepNobodyAnswers": Case(
        {'turnkeep_queue_oldest_wait_seconds{queue="q"}': rising(60)},
        {'turnkeep_queue_oldest_wait_seconds{queue="q"}': gauge(20)},
        {"queue": "q"},
    ),
    "TurnkeepBacklogGrows": Case(
        {'turnkeep_queue_waiting_threads{queue="q"}': rising(20)},
        {'turnkeep_queue_waiting_threads{queue="q"}': gauge(500)},
        {"queue": "q"},
    ),
    "TurnkeepDeadLetters": Case(
        {'turnkeep_dead_letters_total{code="model_gone"}': rising(1)},
        {'turnkeep_dead_letters_total{code="model_gone"}': gauge(7)},
        {"code": "model_gone"},
    ),
    "TurnkeepModelFails": Case(
        {
            'turnkeep_model_requests_total{model="m",outcome="ok"}': rising(6),
            'turnkeep_model_requests_total{model="m",outcome="model_unreachable"}': rising(4),
        },
        {
            'turnkeep_model_requests_total{model="m",outcome="ok"}': rising(60),
            'turnkeep_model_requests_total{model="m",outcome="model_unreachable"}': rising(1),
        },
        {"model": "m"},
    ),
    "TurnkeepFirstTokenSlow": Case(
        histogram("first_token_seconds", "30.0"), histogram("first_token_seconds", "1.0"), {}
    ),
    "TurnkeepRunStuck": Case(
        {f"turnkeep_oldest_run_seconds{{{HERE}}}": rising(60)},
        {f"turnkeep_oldest_run_seconds{{{HERE}}}": gauge(100)},
        {"instance": "a:8081"},
    ),
    "TurnkeepStoreAway": Case(
        {f'turnkeep_queue_waiting_threads{{queue="q",{HERE}}}': "NaN" + " NaN" * MINUTES},
        {f'turnkeep_queue_waiting_threads{{queue="q",{HERE}}}': gauge(0)},
        {"instance": "a:8081", "queue": "q"},
    ),
    "TurnkeepStoreErrors": Case(
        {'turnkeep_store_errors_total{operation="accept",code="store_full"}': rising(60)},
        {'turnkeep_store_errors_total{operation="accept",code="store_full"}': rising(1)},
        {"operation": "accept", "code": "store_full"},
    ),
    "TurnkeepPartitionRebuilt": Case(
        {"turnkeep_partition_rebuilds": gauge(1)}, {"turnkeep_partition_rebuilds": gauge(0)}, {}
    ),
    "TurnkeepProcessDown": Case(
        {f'up{{job="turnkeep",{HERE}}}': gauge(0)},
        {f'up{{job="turnkeep",{HERE}}}': gauge(1)},
        {"instance": "a:8081", "job": "turnkeep"},
    ),
    "TurnkeepLoopLate": Case(
        histogram("loop_lag_seconds", "1.0", f",{HERE}"),
        histogram("loop_lag_seconds", "0.01", f",{HERE}"),
        {"instance": "a:8081"},
    ),
    "TurnkeepSinkParked": Case({"turnkeep_sink_parked": gauge(3)}, {"turnkeep_sink_parked": gauge(0)}, {}),
    "TurnkeepSinkLost": Case({"turnkeep_sink_lost": gauge(1)}, {"turnkeep_sink_lost": gauge(0)}, {}),
    "TurnkeepRefusalsMany": Case(
        {'turnkeep_refusals_total{event="not_authenticated"}': rising(600)},
        {'turnkeep_refusals_total{event="not_authenticated"}': rising(6)},
        {"event": "not_authenticated"},
    ),
}


def test_every_alert_has_its_case() -> None:
    assert list(CASES) == list(RULES)


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_to_do_first(name: str) -> None:
    assert set(RULES[name]["annotations"]) == {"summary", "action"}
    assert RULES[name]["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("name", RULES)
def test_an_alert_asks_for_what_is_measured(name: str) -> None:
    shown = {shown_name(n) + ("_total" if metric.kind == "count" else "") for n, metric in METRICS.items()}
    shown |= {f"{shown_name(n)}_bucket" for n, metric in METRICS.items() if metric.kind == "histogram"}
    assert set(re.findall(rf"{PREFIX}\w+", RULES[name]["expr"])) <= shown


def test_every_alert_fires_when_it_should_and_is_silent_when_all_is_well(tmp_path: Path) -> None:
    # without their sentences, which hold figures: that they can be rendered is checked below
    rules = [{key: value for key, value in rule.items() if key != "annotations"} for rule in RULES.values()]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "turnkeep", "rules": rules}]}))
    tests = []
    for name, case in CASES.items():
        alert = {"exp_labels": {**case.labels, **RULES[name]["labels"]}}
        tests += [expectation(name, case.bad, [alert]), expectation(name, case.well, [])]
    file = tmp_path / "cases.yml"
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}))

    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_files_that_are_shipped(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("tk_live")
    (tmp_path / "alerts.yml").write_text((DEPLOY / "alerts.yml").read_text())
    config = tmp_path / "prometheus.yml"
    config.write_text((DEPLOY / "prometheus.yml").read_text().replace("/etc/prometheus/turnkeep.key", str(key)))

    done = subprocess.run([promtool(), "check", "config", str(config)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def promtool() -> str:
    """It comes with Prometheus itself."""
    return str(Path(program("prometheus")).with_name("promtool"))


def expectation(name: str, series: dict[str, str], alerts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": series_name, "values": values} for series_name, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{MINUTES - 5}m", "alertname": name, "exp_alerts": alerts}],
    }
