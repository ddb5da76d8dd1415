"""Traces of runs, steps and tool calls, in the words of OpenTelemetry's
conventions for generative AI.

Off until `configure_tracing` names where they go: where something is done for every message,
`tracer` is looked at first. Attributes hold names, ids and numbers, never what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from turnkeep.errors import ConfigurationError, TurnkeepError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

SpanKind = Literal["internal", "client"]
AttributeSource = Callable[[], Mapping[str, Any]]
"""Told when somebody traces: made for nobody, they cost a run more than all else about its spans."""

tracer: Tracer | None = None
"""Where spans go; None: nobody traces. `use_tracer` sets it."""


class Span:
    """`with span(…) as current: current.set(…)`. An error that passes is noted by its code."""

    __slots__ = ("_attributes", "_context", "_kind", "_name", "_span")

    def __init__(self, name: str, kind: SpanKind, attributes: AttributeSource) -> None:
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._context: AbstractContextManager[OtelSpan] | None = None
        self._span: OtelSpan | None = None

    def __enter__(self) -> Self:
        if tracer is not None:
            from opentelemetry.trace import SpanKind

            kind = SpanKind.CLIENT if self._kind == "client" else SpanKind.INTERNAL
            self._context = tracer.start_as_current_span(
                self._name,
                kind=kind,
                attributes=_present(self._attributes),
                # Both off: OpenTelemetry would write the words of the error into the span.
                record_exception=False,
                set_status_on_exception=False,
            )
            self._span = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is not None:
            if isinstance(error, Exception):
                self.fail(error.code if isinstance(error, TurnkeepError) else type(error).__name__)
            self._context.__exit__(kind, error, trace)

    def set(self, attributes: AttributeSource) -> None:
        """Add what became known meanwhile; None is left out."""
        if self._span is not None:
            self._span.set_attributes(_present(attributes))

    def fail(self, code: str) -> None:
        """What the span stands for has failed."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)


class _Nothing(Span):
    """The span of a house that is not traced."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def set(self, attributes: AttributeSource) -> None:
        return

    def fail(self, code: str) -> None:
        return


# One for all: without a tracer a span per token step costs no object.
_NOTHING = _Nothing("", "internal", dict)


def span(name: str, attributes: AttributeSource, *, kind: SpanKind = "internal") -> Span:
    """A span around what happens in its block."""
    return _NOTHING if tracer is None else Span(name, kind, attributes)


def configure_tracing(endpoint: str, *, service: str = "turnkeep") -> Callable[[], None]:
    """Send traces to an OTLP endpoint over HTTP, such as ``http://localhost:4318``; the result
    flushes and ends that.

    Raises `ConfigurationError` with the command to run when the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "traces need the OpenTelemetry SDK, run: python -m pip install 'turnkeep[otel]'"
        ) from missing
    # No hook at exit: the program around us says when it ends, and `end` flushes.
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    use_tracer(provider.get_tracer("turnkeep"))

    def end() -> None:
        use_tracer(None)
        provider.shutdown()

    return end


def use_tracer(other: Tracer | None) -> None:
    """Trace with this tracer from now on, or not at all."""
    global tracer  # noqa: PLW0603 - one process has one place where its traces go
    tracer = other


def _present(attributes: AttributeSource) -> dict[str, Any]:
    return {name: value for name, value in attributes().items() if value is not None}
