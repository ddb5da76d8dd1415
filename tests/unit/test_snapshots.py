"""What several processes have measured, as one."""

from __future__ import annotations

import json

import pytest

from turnkeep.telemetry.metrics import METRICS, PrometheusMeter
from turnkeep.telemetry.snapshots import Snapshot, merge, render


def measured(runs: int, active: float, waiting: float, oldest: float) -> PrometheusMeter:
    meter = PrometheusMeter()
    for _ in range(runs):
        meter.count("runs", verdict="commit")
        meter.observe("run_seconds", 0.2)
    meter.watch("active_runs", lambda: active)
    meter.watch("oldest_run_seconds", lambda: oldest)
    meter.watch("queue_waiting_threads", lambda: waiting, queue="a")
    return meter


def shown(snapshot: Snapshot) -> dict[str, float]:
    text = render(snapshot)[0].decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_counts_and_histograms_are_added_up() -> None:
    found = shown(merge(measured(2, 0, 0, 0).snapshot(), [measured(3, 0, 0, 0).snapshot()]))
    assert found['turnkeep_runs_total{verdict="commit"}'] == 5
    assert found["turnkeep_run_seconds_count"] == 5
    assert found["turnkeep_run_seconds_sum"] == pytest.approx(1.0)
    assert found['turnkeep_run_seconds_bucket{le="0.25"}'] == 5
    assert found['turnkeep_run_seconds_bucket{le="0.1"}'] == 0


def test_what_is_watched_is_added_up_or_the_largest_and_of_the_store_that_of_the_one_that_was_asked() -> None:
    found = shown(merge(measured(0, 2, 1, 7).snapshot(), [measured(0, 3, 9, 5).snapshot()]))
    assert found["turnkeep_active_runs"] == 5
    assert found["turnkeep_oldest_run_seconds"] == 7
    assert found['turnkeep_queue_waiting_threads{queue="a"}'] == 1


def test_of_a_process_that_has_ended_its_counts_stay_and_nothing_that_it_had_in_hand() -> None:
    last = measured(4, 2, 1, 7).snapshot()
    found = shown(merge(measured(1, 1, 0, 0).snapshot(), [last.at_the_end()]))
    assert found['turnkeep_runs_total{verdict="commit"}'] == 5
    assert found["turnkeep_active_runs"] == 1
    assert found["process_cpu_seconds_total"] > last.process["process_cpu_seconds"]
    assert found["process_resident_memory_bytes"] < 2 * last.process["process_resident_memory_bytes"]


def test_a_snapshot_survives_the_way_through_another_process() -> None:
    snapshot = measured(2, 1, 3, 4).snapshot()
    assert shown(Snapshot.from_json(json.loads(json.dumps(snapshot.to_json())))) == shown(snapshot)


def test_nobody_measured_is_nothing() -> None:
    snapshot = measured(2, 1, 3, 4).snapshot()
    assert shown(merge(snapshot, [Snapshot()])) == shown(snapshot)


def test_every_metric_says_how_processes_are_put_together() -> None:
    of_the_store = {name for name, metric in METRICS.items() if metric.across == "asked"}
    assert of_the_store == {name for name in METRICS if name.startswith("queue_") and name != "queue_wait_seconds"}
