"""Every measurement that the house takes, by name, and the meter that takes them.

Labels come from closed sets: never a channel, a user or a text. Taking a measurement is an addition
to a number kept here; what Prometheus reads is made of them when it asks (`snapshots`).
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from turnkeep.clock import until_tick
from turnkeep.lean_dataclass import dataclass
from turnkeep.telemetry import Meter
from turnkeep.usage import NANO

if TYPE_CHECKING:
    from turnkeep.telemetry.snapshots import Snapshot

PREFIX = "turnkeep_"
MOST_SERIES = 200
"""Label values of one metric; what comes after them counts as ``other``."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_MOMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One measurement. A count is divided by `scale` when it is shown; watched values are added up
    or the largest.
    """

    kind: Literal["count", "histogram", "watched"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    scale: int = 1
    fold: Literal["sum", "max"] = "sum"
    across: Literal["sum", "max", "asked"] = "sum"
    """How the values of several processes are put together; asked: that of the one that is asked."""
    shown_name: str = ""
    """Its name to Prometheus, where it is not the one used here."""


METRICS: Mapping[str, Metric] = {
    # turns
    "runs": Metric("count", "Claims worked on, by what came of them.", ("verdict",)),
    "run_seconds": Metric("histogram", "From the start of a run to its settlement.", (), _SECONDS),
    "run_attempt": Metric("histogram", "Which claim of its batch a run was.", (), (1, 2, 3, 4, 5, 10, 20)),
    "batch_messages": Metric("histogram", "Messages that one run answers.", (), (1, 2, 3, 4, 6, 8, 16, 32, 64)),
    "window_seconds": Metric("histogram", "From the first message of a batch to the end of its window.", (), _SECONDS),
    "queue_wait_seconds": Metric("histogram", "From the end of the window to the first claim.", (), _SECONDS),
    "first_token_seconds": Metric("histogram", "From the start of a run to the first text shown.", (), _SECONDS),
    "active_runs": Metric("watched", "Runs in progress in this process."),
    "oldest_run_seconds": Metric("watched", "Age of the oldest claim held by this process.", fold="max", across="max"),
    "lease_losses": Metric("count", "Runs that ended because another worker may own their thread."),
    "errors": Metric("count", "Errors that ended an attempt, by code.", ("code",)),
    "retries": Metric("count", "Failed attempts whose messages are tried again, by code.", ("code",)),
    "dead_letters": Metric("count", "Messages given up, by the code of the last error.", ("code",)),
    "waits": Metric("count", "Runs given back without using an attempt, by reason.", ("reason",)),
    "budget_refusals": Metric("count", "Runs refused because a budget is spent, by its owner.", ("of",)),
    # what waits in the store: the same from whichever process it is asked
    "queue_waiting_threads": Metric(
        "watched", "Threads that are due and wait for a worker.", ("queue",), fold="max", across="asked"
    ),
    "queue_active_threads": Metric(
        "watched", "Threads that are being answered.", ("queue",), fold="max", across="asked"
    ),
    "queue_delayed_threads": Metric(
        "watched", "Threads that are due later: window, retry, delay.", ("queue",), fold="max", across="asked"
    ),
    "queue_held_threads": Metric(
        "watched", "Threads that wait for a decision.", ("queue",), fold="max", across="asked"
    ),
    "queue_paused_threads": Metric(
        "watched", "Threads that a person has taken over.", ("queue",), fold="max", across="asked"
    ),
    "queue_open_messages": Metric(
        "watched", "Messages that are not answered yet.", ("queue",), fold="max", across="asked"
    ),
    "queue_dead_letters": Metric(
        "watched", "Dead letters that somebody should look at.", ("queue",), fold="max", across="asked"
    ),
    "queue_oldest_wait_seconds": Metric(
        "watched", "For how long the thread that has waited longest is due.", ("queue",), fold="max", across="asked"
    ),
    # model and tools
    "model_requests": Metric("count", "Requests to models, by how they ended.", ("model", "outcome")),
    "model_seconds": Metric("histogram", "Length of a finished model request.", ("model",), _SECONDS),
    "tokens_per_second": Metric(
        "histogram",
        "Output tokens by length of their request.",
        ("model",),
        (5, 10, 20, 35, 50, 75, 100, 150, 250, 500),
    ),
    "tokens": Metric("count", "Tokens, by kind: cached and cache_write are part of input.", ("model", "kind")),
    "cost_nano": Metric("count", "US dollars for priced requests.", ("model",), scale=NANO, shown_name="cost_dollars"),
    "unpriced_requests": Metric("count", "Requests whose price is not known.", ("model",)),
    "estimated_requests": Metric("count", "Requests whose tokens were counted here.", ("model",)),
    "tool_calls": Metric("count", "Tool calls, by how they ended.", ("tool", "status")),
    "tool_seconds": Metric("histogram", "Length of a tool call.", ("tool",), _SECONDS),
    # doors and streams
    "subscribers": Metric("watched", "Subscriptions to channels in this process."),
    "channels": Metric("watched", "Channels that somebody is subscribed to in this process."),
    "connections_dropped": Metric("count", "Connections dropped or refused for want of room, by why.", ("reason",)),
    "refusals": Metric(
        "count", "Requests that were refused: by what, at which door, with what in hand.", ("event", "door", "shown")
    ),
    "audit_events": Metric("count", "Events of the audit trail that were written down.", ("event",)),
    "slow_clients": Metric("count", "Sockets closed because their client did not read."),
    "slow_subscribers": Metric("count", "Times a subscriber fell behind and went on from the log."),
    "log_lag_seconds": Metric("histogram", "From the end of a turn in the log to its delivery here.", (), _MOMENTS),
    "log_reads": Metric("count", "Times the log was read to fill a hole in a live stream."),
    "sink_lag_seconds": Metric("histogram", "From an event in the log to its delivery outside.", ("sink",), _SECONDS),
    "sink_failures": Metric("count", "Deliveries to the outside that failed and are tried again.", ("sink",)),
    "sink_parked": Metric(
        "watched", "Events that sinks have parked, because their receiver fails on them.", across="max"
    ),
    "sink_lost": Metric("watched", "Events that fell out at a bound before they were delivered.", across="max"),
    "amqp_messages": Metric("count", "Messages from AMQP: accepted, or the code of their refusal.", ("outcome",)),
    # store and process
    "store_seconds": Metric("histogram", "Length of a store operation.", ("operation",), _MOMENTS),
    "store_errors": Metric("count", "Store operations that failed, by code.", ("operation", "code")),
    "partition_rebuilds": Metric(
        "watched", "Partitions of Redis that this process made anew from their threads, because keys were damaged."
    ),
    "loop_lag_seconds": Metric("histogram", "How late the event loop woke a sleeper.", (), _MOMENTS),
}
"""What may be measured. Names that are not here are not taken."""


class PrometheusMeter:
    """Takes measurements, for Prometheus."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {}
        self._gauges: dict[str, dict[int, tuple[tuple[str, ...], Callable[[], float]]]] = {}
        self._numbers = itertools.count()
        for name, metric in METRICS.items():
            if metric.kind == "count":
                self._counts[name] = {} if metric.labels else {(): 0}
            elif metric.kind == "histogram":
                self._histograms[name] = {} if metric.labels else {(): _Histogram(metric.buckets)}
            else:
                self._gauges[name] = {}

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        series = self._counts.get(name)
        # A name that is not in the table is dropped: a mistake in a measurement must not end a run.
        if series is not None:
            key = _key(name, labels, series)
            series[key] = series.get(key, 0) + value

    def observe(self, name: str, value: float, **labels: str) -> None:
        series = self._histograms.get(name)
        if series is not None:
            key = _key(name, labels, series)
            histogram = series.get(key)
            if histogram is None:
                histogram = series[key] = _Histogram(METRICS[name].buckets)
            histogram.observe(value)

    def watch(self, name: str, gauge: Callable[[], float], **labels: str) -> Callable[[], None]:
        readers = self._gauges.setdefault(name, {})
        # By number, not by function: two queues of one process may watch with the same one.
        number = next(self._numbers)
        readers[number] = (_key(name, labels, {}), gauge)

        def end() -> None:
            readers.pop(number, None)

        return end

    def snapshot(self) -> Snapshot:
        """What was counted until now, and what is watched."""
        from turnkeep.telemetry.snapshots import HistogramReading, Snapshot, read_process

        return Snapshot(
            {name: dict(series) for name, series in self._counts.items()},
            {
                name: {key: HistogramReading(tuple(one.counts), one.sum) for key, one in series.items()}
                for name, series in self._histograms.items()
            },
            {name: self._readings(name) for name in self._gauges},
            read_process(),
        )

    def render(self) -> tuple[bytes, str]:
        """All of this process in the text format of Prometheus, and its content type."""
        from turnkeep.telemetry.snapshots import render

        return render(self.snapshot())

    def _readings(self, name: str) -> dict[tuple[str, ...], float]:
        """What is watched now, by the values of the labels."""
        metric = METRICS[name]
        values: dict[tuple[str, ...], list[float]] = {} if metric.labels else {(): []}
        for key, gauge in self._gauges[name].values():
            values.setdefault(key, []).append(gauge())
        fold = sum if metric.fold == "sum" else lambda some: max(some, default=0.0)
        return {key: fold(some) for key, some in values.items()}


def shown_name(name: str) -> str:
    """A metric's name to Prometheus; a count gets ``_total`` there as well."""
    return PREFIX + (METRICS[name].shown_name or name)


class _Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def _key(name: str, labels: Mapping[str, str], series: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
    """The values of a metric's labels in its order."""
    names = METRICS[name].labels
    key = tuple([labels[label] for label in names])
    # What is beyond the bound is counted together: a
    # metric must not grow with what people name things.
    return key if key in series or len(series) < MOST_SERIES else ("other",) * len(names)


async def watch_loop(meter: Meter, *, every: float = 0.5) -> None:
    """Measure how late the event loop is, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        # By the loop's own clock: a time of day that is set would look like a stall.
        due = loop.time() + (wait := until_tick(every))
        await asyncio.sleep(wait)
        meter.observe("loop_lag_seconds", max(0.0, loop.time() - due))
