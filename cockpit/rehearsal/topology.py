"""The demo platform: its services, namespaces, tenants and releases, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

APPLICATION = "intelgraph"
ROUTE = "intelgraph"
PROD = "intelgraph"
STAGE = "intelgraph-stage"
DEV = "intelgraph-dev"
PERF = "intelgraph-perf"
"""Where the candidate stands alone to be loaded: users of stage and prod are not disturbed by it."""
NAMESPACES = (PROD, STAGE, DEV, PERF)
STAGES = (DEV, STAGE)
"""Namespaces before prod that take the candidate, in this order."""
CONTAINER = "app"
FLAGS = "feature-flags"
"""The ConfigMap in prod with the flag definitions."""
GA_FLAGS = ("search", "realtime", "reports")
PILOT_TENANTS = ("t1", "t2")
SERVICES = ("gateway", "web", "search", "realtime", "reports", "ingest")
STABLE_VERSION = "v2.9.4"
CANDIDATE_VERSION = "v3.0.0"
STABLE_REPLICAS = 2
DRILLED = "search"
"""The service of which a pod is killed in stage; it has two there."""
LOADED = ("gateway", "web")
"""Services that are put under load."""

ADDRESS = "rehearsal.cockpit/address"
"""Annotation the kubelet of the demo world writes: where a pod really listens, as host:port."""

SERVING = "rehearsal.cockpit/serving"
"""Readiness gate of every demo pod: true once it listens."""

Track = Literal["stable", "canary"]
TRACKS: tuple[Track, ...] = ("stable", "canary")

TENANT_RATES = {"t1": 48.0, "t2": 32.0, "t3": 22.0, "t4": 12.0, "t5": 6.0}
"""Requests per second each tenant sends to prod, on average."""

STAGE_RATES = {"t1": 5.0, "t2": 4.0, "t3": 3.0}
"""Requests per second of the testers in stage."""

NO_TENANT = "none"
"""Tenant label of requests that name no known tenant: probes, smoke paths, load tests."""

ENVIRONMENTS = {PROD: "prod", STAGE: "stage", DEV: "dev", PERF: "stage"}


@dataclass(frozen=True)
class Behaviour:
    """How a pod of an image behaves: `workers` side by side, a log-normal service time, plain errors.

    Its capacity is `workers / mean_seconds` requests per second; more than that queues, and a full queue
    answers 503.
    """

    service: str
    version: str
    workers: int
    mean_seconds: float
    spread: float = 0.35
    """Sigma of the logarithm of the service time."""
    error_rate: float = 0.0
    blind: bool = False
    """Search finds nothing for most questions."""

    @property
    def capacity(self) -> float:
        """Return the requests per second at which one pod saturates."""
        return self.workers / self.mean_seconds


_SHAPES: dict[str, tuple[int, float]] = {
    # service: (workers, mean service time in seconds)
    "gateway": (2, 0.033),
    "web": (2, 0.033),
    "search": (4, 0.022),
    "realtime": (4, 0.013),
    "reports": (4, 0.024),
    "ingest": (4, 0.016),
}
_STABLE_ERRORS = 0.0005  # v2.9.4 drops one request in two thousand; v3.0.0 has that bug fixed
_SLOWER = 2.0


def behaviour(service: str, version: str, *, slow: bool = False, blind: bool = False) -> Behaviour:
    """Return how `service` behaves at `version`.

    `slow` takes twice as long for each request; a `blind` search finds nothing for most questions.
    """
    workers, mean = _SHAPES[service]
    return Behaviour(
        service=service,
        version=version,
        workers=workers,
        mean_seconds=mean * (_SLOWER if slow else 1.0),
        error_rate=_STABLE_ERRORS if version == STABLE_VERSION else 0.0,
        blind=blind,
    )
