"""The measurements of this process, of its siblings and of the queues in its store, for Prometheus."""

from __future__ import annotations

from starlette.responses import Response

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.errors import NotFound
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.telemetry.snapshots import merge, render


async def show_metrics(call: HttpCall) -> Response:
    """GET /metrics: everything in docs/reference/metrics.md, or 404 where nothing is measured."""
    meter = call.application.meter
    if not isinstance(meter, PrometheusMeter):
        raise NotFound("this process takes no measurements")
    await call.application.queue_gauges.refresh()
    siblings = call.application.siblings
    others = await siblings.snapshots() if siblings is not None else ()
    body, media = render(merge(meter.snapshot(), others))
    return Response(body, media_type=media)
