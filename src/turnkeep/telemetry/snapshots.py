"""What a meter has counted at one moment: to be sent to another process, merge and shown.

A service of several processes is scraped at whichever takes the connection. It shows the sum of
all, of those that have ended too: a counter that went down would be taken for a restart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from turnkeep.lean_dataclass import dataclass
from turnkeep.telemetry.metrics import METRICS, shown_name

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LabelValues = tuple[str, ...]
"""The values of a metric's labels in its order."""

OF_PROCESS = {
    "process_cpu_seconds": "Total user and system CPU time spent in seconds.",
    "process_resident_memory_bytes": "Resident memory size in bytes.",
    "process_virtual_memory_bytes": "Virtual memory size in bytes.",
    "process_open_fds": "Number of open file descriptors.",
    "process_max_fds": "Maximum number of open file descriptors.",
    "process_start_time_seconds": "Start time of the process since unix epoch in seconds.",
}
_CPU = "process_cpu_seconds"
_SMALLEST = ("process_max_fds", "process_start_time_seconds")


@dataclass(frozen=True, slots=True)
class HistogramReading:
    """Counts by bucket, and the sum."""

    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: HistogramReading) -> HistogramReading:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return HistogramReading(counts, self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Values by metric and labels."""

    counts: Mapping[str, Mapping[LabelValues, float]] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[LabelValues, HistogramReading]] = field(default_factory=dict)
    readings: Mapping[str, Mapping[LabelValues, float]] = field(default_factory=dict)
    """What is watched."""
    process: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": _lists(self.counts),
            "histograms": {
                name: [[list(key), [list(one.counts), one.sum]] for key, one in series.items()]
                for name, series in self.histograms.items()
            },
            "readings": _lists(self.readings),
            "process": dict(self.process),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Snapshot:
        return cls(
            _by_key(data["counts"]),
            {
                name: {tuple(key): HistogramReading(tuple(counts), total) for key, (counts, total) in series}
                for name, series in data["histograms"].items()
            },
            _by_key(data["readings"]),
            data["process"],
        )

    def at_the_end(self) -> Snapshot:
        """What stays of a process that has ended: what it counted and used, not what it had in hand."""
        return Snapshot(self.counts, self.histograms, {}, {_CPU: self.process.get(_CPU, 0.0)})


def merge(own: Snapshot, others: Sequence[Snapshot]) -> Snapshot:
    """One of all. What lies in the store is the same from whichever process it is asked: there the
    one that was asked is believed, whose look was the last.
    """
    every = (own, *others)
    names: dict[str, list[str]] = {"count": [], "histogram": [], "watched": []}
    for name, metric in METRICS.items():
        names[metric.kind].append(name)
    return Snapshot(
        {name: _sum_of_counts(one.counts.get(name, {}) for one in every) for name in names["count"]},
        {name: _sum_of_histograms(one.histograms.get(name, {}) for one in every) for name in names["histogram"]},
        {name: _fold(name, every) for name in names["watched"]},
        _of_all(one.process for one in every),
    )


def _fold(name: str, every: Sequence[Snapshot]) -> dict[LabelValues, float]:
    across = METRICS[name].across
    series = [one.readings.get(name, {}) for one in (every[:1] if across == "asked" else every)]
    join = max if across == "max" else sum
    keys = dict.fromkeys(itertools.chain.from_iterable(series))
    return {key: join([one[key] for one in series if key in one]) for key in keys}


def _sum_of_counts(several: Iterable[Mapping[LabelValues, float]]) -> dict[LabelValues, float]:
    total: dict[LabelValues, float] = {}
    for series in several:
        for key, value in series.items():
            total[key] = total.get(key, 0) + value
    return total


def _sum_of_histograms(
    several: Iterable[Mapping[LabelValues, HistogramReading]],
) -> dict[LabelValues, HistogramReading]:
    total: dict[LabelValues, HistogramReading] = {}
    for series in several:
        for key, value in series.items():
            total[key] = total[key] + value if key in total else value
    return total


def _of_all(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for one in several:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: (min if name in _SMALLEST else sum)(some) for name, some in values.items()}


def _lists(series: Mapping[str, Mapping[LabelValues, float]]) -> dict[str, list[Any]]:
    return {name: [[list(key), value] for key, value in one.items()] for name, one in series.items()}


def _by_key(data: Mapping[str, Any]) -> dict[str, dict[LabelValues, float]]:
    return {name: {tuple(key): value for key, value in series} for name, series in data.items()}


# ---------------------------------------------------------------- to Prometheus


def render(snapshot: Snapshot) -> tuple[bytes, str]:
    """In the text format of Prometheus, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    # A registry of our own: that of the process may hold metrics of the program around us.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def read_process() -> dict[str, float]:
    """Memory, CPU and files of this process; nothing where the system does not tell."""
    from prometheus_client import ProcessCollector

    families = ProcessCollector(registry=None).collect()
    return {family.name: family.samples[0].value for family in families if family.samples}


class _Collector:
    """The families that Prometheus reads."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, help_text in OF_PROCESS.items():
            if name in self._snapshot.process:
                family = CounterMetricFamily if name == _CPU else GaugeMetricFamily
                yield family(name, help_text, value=self._snapshot.process[name])
        for name in METRICS:
            yield self._family(name)

    def _family(self, name: str) -> Family:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        metric, snapshot = METRICS[name], self._snapshot
        public_name, labels = shown_name(name), list(metric.labels)
        if metric.kind == "count":
            counter = CounterMetricFamily(public_name, metric.help, labels=labels)
            for key, value in snapshot.counts.get(name, {}).items():
                counter.add_metric(list(key), value / metric.scale)
            return counter
        if metric.kind == "histogram":
            histogram = HistogramMetricFamily(public_name, metric.help, labels=labels)
            for key, reading in snapshot.histograms.get(name, {}).items():
                histogram.add_metric(list(key), _cumulative(metric.buckets, reading.counts), reading.sum)
            return histogram
        gauge = GaugeMetricFamily(public_name, metric.help, labels=labels)
        for key, value in snapshot.readings.get(name, {}).items():
            gauge.add_metric(list(key), value)
        return gauge


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus wants it: how many are at most this, up to all."""
    return list(zip([*map(str, bounds), "+Inf"], itertools.accumulate(counts), strict=True))
