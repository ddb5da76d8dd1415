"""A real Prometheus, which scrapes what it is told to every half second."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.services.process import HOST, Server, exchange
from tests.services.programs import program
from turnkeep.telemetry.metrics import PrometheusMeter

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class PrometheusServer(Server):
    """One Prometheus. `targets` are addresses (host:port), scraped with `key` as job "turnkeep"."""

    def __init__(self, targets: Sequence[str], key: str) -> None:
        self.program = program("prometheus")
        super().__init__("prometheus")
        scrape = {
            "job_name": "turnkeep",
            "authorization": {"credentials": key},
            "static_configs": [{"targets": list(targets)}],
        }
        config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": [scrape]}
        (self.directory / "prometheus.yml").write_text(json.dumps(config))

    def ask(self, expression: str) -> list[Mapping[str, Any]]:
        """The samples of an expression now."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/query?{query}", timeout=10) as answer:
            told = json.loads(answer.read())
        samples: list[Mapping[str, Any]] = told["data"]["result"]
        return samples

    def _command(self) -> Sequence[str]:
        return [
            self.program,
            f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def _ready(self) -> bool:
        return b" 200 " in exchange(self.port, b"GET /-/ready HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


def samples(meter: PrometheusMeter) -> Samples:
    """What Prometheus would read."""
    text, content_type = meter.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
