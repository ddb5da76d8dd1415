"""Measurements, log lines and traces: numbers and names, never what was said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.patience import PATIENCE
from tests.services.prometheus import samples
from turnkeep.application import Application
from turnkeep.backoff import Backoff
from turnkeep.doors.amqp.consumer import AmqpDoor
from turnkeep.errors import ModelUnavailable
from turnkeep.settings import Settings
from turnkeep.store.memory import MemoryStore
from turnkeep.store.store_metrics import measure_store
from turnkeep.telemetry import SILENT, configure_logging, get_log
from turnkeep.telemetry.metrics import MOST_SERIES, PrometheusMeter
from turnkeep.telemetry.traces import span, use_tracer

# ---------------------------------------------------------------- measurements


def test_counts_add_up_by_their_labels() -> None:
    meter = PrometheusMeter()
    for verdict in ("commit", "commit", "failure"):
        meter.count("runs", verdict=verdict)
    found = samples(meter)
    assert found["turnkeep_runs_total", (("verdict", "commit"),)] == 2
    assert found["turnkeep_runs_total", (("verdict", "failure"),)] == 1
    assert found["turnkeep_lease_losses_total", ()] == 0, "what has never happened is 0, not absent"


def test_money_is_shown_in_dollars() -> None:
    meter = PrometheusMeter()
    meter.count("cost_nano", 275_000, model="gpt-4o")
    assert samples(meter)["turnkeep_cost_dollars_total", (("model", "gpt-4o"),)] == 0.000275


def test_a_histogram_counts_up_to_each_bound() -> None:
    meter = PrometheusMeter()
    for messages in (1, 2, 2, 64, 65):
        meter.observe("batch_messages", messages)
    found = samples(meter)
    by_bound = {
        dict(labels)["le"]: v for (name, labels), v in found.items() if name == "turnkeep_batch_messages_bucket"
    }
    assert (by_bound["1"], by_bound["2"], by_bound["32"], by_bound["64"], by_bound["+Inf"]) == (1, 3, 3, 4, 5)
    assert found["turnkeep_batch_messages_sum", ()] == 134
    assert found["turnkeep_batch_messages_count", ()] == 5


def test_watched_values_are_read_when_somebody_looks() -> None:
    meter, held = PrometheusMeter(), [3.0, 4.0]
    ends = [
        meter.watch(name, partial(held.__getitem__, n))
        for n in (0, 1)
        for name in ("active_runs", "oldest_run_seconds")
    ]
    found = samples(meter)
    assert found["turnkeep_active_runs", ()] == 7.0, "added up"
    assert found["turnkeep_oldest_run_seconds", ()] == 4.0, "the largest"
    held[0] = 1.0
    assert samples(meter)["turnkeep_active_runs", ()] == 5.0
    for end in ends:
        end()
    assert samples(meter)["turnkeep_active_runs", ()] == 0.0


def test_series_are_bounded() -> None:
    meter = PrometheusMeter()
    for number in range(MOST_SERIES + 50):
        meter.count("unpriced_requests", model=f"model-{number}")
    shown = {labels: v for (name, labels), v in samples(meter).items() if name == "turnkeep_unpriced_requests_total"}
    assert len(shown) == MOST_SERIES + 1
    assert shown[(("model", "other"),)] == 50


def test_a_name_that_is_not_known_takes_nothing() -> None:
    meter = PrometheusMeter()
    meter.count("surprises")
    meter.observe("surprises", 1.0)
    assert not [name for name, _ in samples(meter) if "surprises" in name]


def test_memory_and_cpu_of_the_process_are_shown() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("read from /proc")
    found = samples(PrometheusMeter())
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert ("process_cpu_seconds_total", ()) in found


async def test_store_operations_are_measured_and_failures_named() -> None:
    meter = PrometheusMeter()
    store = measure_store(MemoryStore(), meter)
    await store.open()
    await store.counts()
    await store.counts()
    await store.close()
    with pytest.raises(Exception, match="closed"):
        await store.counts()
    found = samples(meter)
    assert found["turnkeep_store_seconds_count", (("operation", "counts"),)] == 2
    assert found["turnkeep_store_errors_total", (("code", "store_unavailable"), ("operation", "counts"))] == 1
    assert store.engine == "memory"


def test_a_store_that_nobody_measures_is_left_alone() -> None:
    store = MemoryStore()
    assert measure_store(store, SILENT) is store


# ---------------------------------------------------------------- logs


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Log lines as configured."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logging(format="json")
    return written


def test_a_log_line_is_json_with_its_values(lines: io.StringIO) -> None:
    get_log("turnkeep.test").info("run_settled", run_id="run_1", attempt=2, odd=object)
    [line] = lines.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["run_id"], told["attempt"]) == ("run_settled", "run_1", 2)
    assert (told["level"], told["logger"]) == ("info", "turnkeep.test")
    assert told["timestamp"].endswith("+00:00")


def test_an_error_is_logged_by_type_and_place_without_its_words(lines: io.StringIO) -> None:
    try:
        try:
            int("what the user said")
        except ValueError as error:
            raise KeyError("and what the model said") from error
    except KeyError as error:
        get_log("turnkeep.test").error("run_broke", exc_info=error)
    told = json.loads(lines.getvalue())["exception"]
    assert "KeyError" in told
    assert "ValueError" in told
    assert "test_an_error_is_logged" in told
    assert "the user said\n" not in told.replace('int("what the user said")', "")
    assert "KeyError: " not in told


def test_lines_of_other_libraries_have_the_same_form(lines: io.StringIO) -> None:
    logging.getLogger("other").warning("%d things", 3)
    told = json.loads(lines.getvalue())
    assert (told["event"], told["level"], told["logger"]) == ("3 things", "warning", "other")


def test_a_library_that_nobody_configured_prints_warnings_only() -> None:
    program = (
        "from turnkeep.telemetry import get_log\n"
        "log = get_log('turnkeep.test')\nlog.info('quiet')\nlog.warning('heard', percent='100%', n=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "heard percent=100% n=1\n")


# ---------------------------------------------------------------- traces


@pytest.mark.parametrize("is_there", [False, True], ids=["nobody listens", "a broker that hangs up"])
async def test_a_broker_that_is_away_is_told_in_one_line(is_there: bool, lines: io.StringIO) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{place.getsockname()[1]}/"
        server = await asyncio.start_server(hang_up, sock=place) if is_there else None
        async with Application(Settings(store="memory:", rabbitmq_url=url)) as application:
            taking = asyncio.create_task(AmqpDoor(application, reconnect=Backoff(delay=0.01, cap=0.01)).run())
            while '"times": 3' not in lines.getvalue():
                await asyncio.sleep(0.01)
            taking.cancel()
            await asyncio.wait([taking])
        if server is not None:
            server.close()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {line["logger"] for line in told if "amqp" in str(line) or "aio" in line["logger"]} == {
        "turnkeep.doors.amqp.consumer"
    }
    assert [line["times"] for line in told if line["event"] == "amqp_interrupted"][:3] == [1, 2, 3]


async def test_who_is_cancelled_while_a_connection_fails_ends() -> None:
    """At each moment of the failure: a door that took its cancellation for one more would never end."""
    hung_up = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    moments = []
    async with server, Application(Settings(store="memory:", rabbitmq_url=url)) as application:
        for moment in range(40):
            hung_up.clear()
            taking = asyncio.create_task(AmqpDoor(application, reconnect=Backoff(delay=60.0, cap=60.0)).run())
            await hung_up.wait()
            for _ in range(moment):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking], timeout=PATIENCE / 10)
            moments.append(taking.cancelled())
            taking.cancel()
    assert moments == [True] * len(moments)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer(provider.get_tracer("test"))
    yield exporter
    use_tracer(None)


def test_without_an_endpoint_a_span_is_nothing() -> None:
    def made() -> dict[str, object]:
        return pytest.fail("nobody traces, and attributes are made")

    assert span("a", made) is span("b", made)
    with span("a", made) as current:
        current.set(made)
        current.fail("code")


def test_spans_nest_and_hold_what_is_known(spans: InMemorySpanExporter) -> None:
    with span("outer", lambda: {"a": 1, "b": None}) as outer, span("inner", dict, kind="client"):
        outer.set(lambda: {"c": "later", "d": None})
    inner, whole = spans.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == whole.context.span_id
    assert dict(whole.attributes or {}) == {"a": 1, "c": "later"}
    assert (inner.kind.name, whole.kind.name) == ("CLIENT", "INTERNAL")


def test_an_error_in_a_span_is_noted_by_its_code(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ModelUnavailable), span("chat", dict):
        raise ModelUnavailable("somebody's words")
    [failed] = spans.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert dict(failed.attributes or {}) == {"error.type": "model_unavailable"}
    assert "somebody" not in failed.to_json()
