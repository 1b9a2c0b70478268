"""Prometheus metrics of one server. Labels are served task names, route templates, codes: nothing a client wrote."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clinprompt.serving.admission import Admission
from clinprompt.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _EngineCollector(Collector):
    """The engine's load, read when metrics are."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    def collect(self) -> Iterator[Metric]:
        load = self._engine.load()
        gauges = {
            "running": ("questions being answered", load.running),
            "waiting": ("questions waiting in the engine", load.waiting),
            "held": ("questions accepted and not answered", self._admission.held),
            "tasks": ("tasks served", len(self._engine.tasks())),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"clinprompt_{name}", text, value=value)
        counters = {
            "tokens_read": ("tokens of texts read", load.tokens_read),
            "tokens_written": ("tokens generated", load.tokens_written),
            "passes": ("forward passes", load.passes),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"clinprompt_{name}", text, value=value)


class Metrics:
    """Counters of one server; several servers in a process do not share them."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine, admission))
        self.requests = Counter(
            "clinprompt_requests", "requests by route and status", ("route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "clinprompt_request_seconds", "time to the last byte", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self.documents = Counter(
            "clinprompt_documents", "documents answered, by task", ("task",), registry=self._registry
        )
        self.refused = Counter(
            "clinprompt_refused", "requests refused, by reason", ("reason",), registry=self._registry
        )
        self.defects = Counter("clinprompt_defects", "requests that met a defect", registry=self._registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
