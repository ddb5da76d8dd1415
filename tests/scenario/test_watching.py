"""A house that is watched: what happens is counted and traced, and nothing of it says what was said."""

from __future__ import annotations

import gzip
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.scenario.house import TestHouse, opened
from tests.services.prometheus import samples
from turnkeep.service import OpenAIService, create_openai_config
from turnkeep.telemetry import configure_logging
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.telemetry.traces import span, use_tracer

SECRET = "xyzzy"
"""Stands in everything that anybody says."""


def look(place: str) -> str:
    """Look somewhere.

    Args:
        place: Where.
    """
    if "broken" in place:
        raise ValueError(f"{place} {SECRET}")
    return f"{place} {SECRET}"


@asynccontextmanager
async def watched(store: str, meter: PrometheusMeter, **settings: Any) -> AsyncIterator[TestHouse]:
    async with opened(store, tools=[look], meter=meter, openai_model="gpt-4o", **settings) as house:
        yield house


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer(provider.get_tracer("test"))
    yield exporter
    use_tracer(None)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """All log lines, down to the smallest."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logging(level="debug", format="json")
    return written


async def ask(house: TestHouse, text: str, message_id: str = "m1", channel: str = "c") -> None:
    async with house.stream(channel) as events:
        await house.send(channel, text, message_id)
        await house.settled(events, message_id)


async def test_a_turn_is_counted(store: str) -> None:
    meter = PrometheusMeter()
    async with watched(store, meter) as house:
        await ask(house, '[[call:look {"place": "here"}]]')
        found = samples(meter)
    model = ("model", "gpt-4o")
    assert found["turnkeep_runs_total", (("verdict", "commit"),)] == 1
    assert found["turnkeep_run_seconds_count", ()] == 1
    assert found["turnkeep_batch_messages_sum", ()] == 1
    assert found["turnkeep_window_seconds_count", ()] == found["turnkeep_queue_wait_seconds_count", ()] == 1
    assert found["turnkeep_first_token_seconds_count", ()] == 1
    assert found["turnkeep_model_requests_total", (model, ("outcome", "ok"))] == 2
    assert found["turnkeep_model_seconds_count", (model,)] == 2
    assert found["turnkeep_tokens_total", (("kind", "output"), model)] > 0
    assert found["turnkeep_cost_dollars_total", (model,)] > 0
    assert found["turnkeep_tool_calls_total", (("status", "ok"), ("tool", "look"))] == 1
    assert found["turnkeep_store_seconds_count", (("operation", "commit"),)] == 1
    assert found["turnkeep_log_lag_seconds_count", ()] >= 1
    assert found["turnkeep_active_runs", ()] == found["turnkeep_subscribers", ()] == 0


async def test_what_goes_wrong_is_counted_by_its_code(store: str) -> None:
    meter = PrometheusMeter()
    async with watched(store, meter) as house:
        house.fault(kind="500")
        await ask(house, "tried again")
        house.fault(kind="poison", match="bad")
        await ask(house, "bad", "m2")
        house.simulator.faults.clear()
        house.fault(kind="429", retry_after_ms=10.0)
        await ask(house, "later", "m3")
        found = samples(meter)
    unavailable, refused = (("code", "model_unavailable"),), (("code", "model_refused"),)
    assert found["turnkeep_errors_total", unavailable] == found["turnkeep_retries_total", unavailable] == 1
    assert found["turnkeep_errors_total", refused] == found["turnkeep_dead_letters_total", refused] == 1
    assert found["turnkeep_waits_total", (("reason", "model_rate_limited"),)] == 1
    assert ("turnkeep_dead_letters_total", unavailable) not in found
    assert found["turnkeep_runs_total", (("verdict", "releasing"),)] == 1


async def test_a_turn_is_traced_from_run_to_tool(store: str, spans: InMemorySpanExporter) -> None:
    async with watched(store, PrometheusMeter()) as house:
        await ask(house, '[[call:look {"place": "here"}]][[call:look {"place": "broken"}]]')
    found: dict[str, list[ReadableSpan]] = {}
    for one in spans.get_finished_spans():
        found.setdefault(one.name, []).append(one)
    [run] = found.pop("invoke_agent assistant")
    steps, tools = found.pop("chat gpt-4o"), found.pop("execute_tool look")
    assert (len(steps), len(tools), found) == (2, 2, {})
    assert {step.parent.span_id for step in [*steps, *tools] if step.parent} == {run.context.span_id}
    told = dict(steps[0].attributes or {})
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert told["gen_ai.conversation.id"] == (run.attributes or {})["gen_ai.conversation.id"]
    assert isinstance(told["gen_ai.usage.input_tokens"], int)
    assert sorted(str((tool.attributes or {}).get("error.type")) for tool in tools) == ["None", "tool_failed"]


async def test_traces_go_to_their_endpoint_until_the_house_is_closed(store: str) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        listening = threading.Thread(target=server.serve_forever, daemon=True)
        listening.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        async with watched(store, PrometheusMeter(), otel_endpoint=endpoint) as house:
            await ask(house, SECRET)
        server.shutdown()
        listening.join()
    assert {path for path, _ in received} == {"/v1/traces"}
    told = b"".join(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for _, body in received)
    assert b"invoke_agent assistant" in told
    assert b"chat gpt-4o" in told
    assert SECRET.encode() not in told
    assert span("off again", dict) is span("off", dict)


async def test_nothing_that_was_said_is_in_logs_traces_or_metrics(
    store: str, spans: InMemorySpanExporter, logged: io.StringIO
) -> None:
    meter = PrometheusMeter()
    async with watched(store, meter) as house:
        await ask(house, f'{SECRET} [[call:look {{"place": "{SECRET}"}}]]')
        await ask(house, f'[[call:look {{"place": "broken {SECRET}"}}]] [[say:{SECRET}]]', "m2", SECRET)
        for number, kind in enumerate(("500", "poison", "cut")):
            house.fault(kind=kind, match=SECRET)
            await ask(house, f"{SECRET} {number}", f"f{number}")
            house.simulator.faults.clear()
        url = house.queue.settings.openai_base_url
        config = create_openai_config(
            api_key="sk-test", base_url=url, store=house.queue.store, model="gpt-4o", retries=0
        )
        async with OpenAIService(config, meter=meter) as service:
            await service.complete([{"role": "system", "content": SECRET}, {"role": "user", "content": SECRET}], "d")
        text = meter.render()[0].decode()
    traced = "".join(one.to_json() for one in spans.get_finished_spans())
    assert "run_settled" in logged.getvalue()
    assert "invoke_agent" in traced
    for place in (logged.getvalue(), traced, text):
        assert SECRET not in place
