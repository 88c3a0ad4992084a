"""The metrics a pod exposes; `namespace`, `service`, `track`, `pod` and `version` come with its target."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from cockpit.rehearsal.topology import NO_TENANT, TENANT_RATES

BUCKETS = (
    0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0,
)  # fmt: skip
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]


class PodMetrics:
    """The counters of one pod, in a registry of their own."""

    def __init__(self, service: str, workers: int, lag: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests_total", "Requests answered.", ("tenant", "code"), registry=self._registry
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Seconds from a request's arrival to its answer, queue included.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._busy = Counter(
            "worker_busy_seconds_total", "Seconds workers spent serving.", registry=self._registry
        )
        Gauge("worker_count", "Workers of this pod.", registry=self._registry).set(workers)
        self._delivery: Histogram | None = None
        if service == "ingest":
            Gauge(
                "ingest_lag_seconds", "Age of the oldest item not yet taken in.", registry=self._registry
            ).set_function(lag)
        if service == "realtime":
            self._delivery = Histogram(
                "rt_delivery_lag_seconds",
                "Seconds from an event's arrival to its delivery.",
                buckets=BUCKETS,
                registry=self._registry,
            )
        self._leaks = Counter(
            "tenant_isolation_violations_total",
            "Answers that held another tenant's data, as the guard on the way out saw them.",
            registry=self._registry,
        )
        self._searches: Counter | None = None
        self._results: Counter | None = None
        if service == "search":
            self._searches = Counter("search_queries_total", "Searches answered.", registry=self._registry)
            self._results = Counter("search_results_total", "Results found.", registry=self._registry)
        # A counter that only appears with its first error hides that error from rate(): start all at 0.
        for tenant in (*TENANT_RATES, NO_TENANT):
            for code in ("200", "500", "503"):
                self._requests.labels(tenant, code)

    def served(self, tenant: str, status: int, seconds: float, busy: float) -> None:
        """Count one request: how long it took, and how long of that a worker was busy with it."""
        self._requests.labels(tenant, str(status)).inc()
        self._duration.observe(seconds)
        self._busy.inc(busy)
        if self._delivery is not None:
            self._delivery.observe(seconds)

    def leaked(self) -> None:
        """Count an answer that held another tenant's data."""
        self._leaks.inc()

    def searched(self, results: int) -> None:
        """Count a search and what it found."""
        if self._searches is not None and self._results is not None:
            self._searches.inc()
            self._results.inc(results)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
