"""Answers, plans and verdicts to judge, built in code."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cockpit.base.clock import iso
from cockpit.journal.state import GateView
from cockpit.plan.model import Canary
from cockpit.verdicts.gates import VALIDITY_S, GateFacts

NOW = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
AT = NOW.timestamp()
IMAGES = {"web": "sha256:" + "a" * 64, "api": "sha256:" + "b" * 64}
PLAN = "c" * 64
LE = (0.01, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, float("inf"))


def canary(**changes: Any) -> Canary:
    """Return a canary section like that of a rehearsal."""
    section: dict[str, Any] = {
        "steps": [10, 50, 100],
        "bake": "8s",
        "interval": "1s",
        "required_passes": 4,
        "failure_limit": 2,
        "min_requests": 50,
        "requests": "sum(increase(requests[{window}]))",
        "share": "share[{window}]",
        "low_traffic_deadline": "10s",
        "provider_grace": "5s",
        "max_sample_age": "10s",
        "checks": [
            {"metric": "p95_ms", "query": "p95[{window}]", "threshold": "p95_ms<=150"},
            {"metric": "error_rate", "query": "errors[{window}]", "threshold": "error_rate<0.01"},
            {"metric": "ingest_lag_s", "query": "lag", "threshold": "ingest_lag_s<60", "critical": False},
        ],
        "baseline": [
            {
                "metric": "errors",
                "kind": "proportion",
                "canary": "ce[{window}]",
                "canary_total": "ct[{window}]",
                "stable": "se[{window}]",
                "stable_total": "st[{window}]",
                "min_effect": 0.02,
            },
            {
                "metric": "latency",
                "kind": "histogram",
                "canary": "cb[{window}]",
                "stable": "sb[{window}]",
                "min_effect": 0.25,
            },
        ],
        "burn": {
            "objective": 0.99,
            "errors": "be[{window}]",
            "total": "bt[{window}]",
            "windows": [{"long": "8s", "short": "2s", "factor": 6}],
        },
    }
    return Canary.model_validate({**section, **changes})


def vector(
    *samples: tuple[dict[str, str], float], at: float = AT, warnings: list[str] | None = None
) -> bytes:
    """Return the raw answer of an instant query."""
    result = [{"metric": labels, "value": [at, _text(value)]} for labels, value in samples]
    body: dict[str, Any] = {"status": "success", "data": {"resultType": "vector", "result": result}}
    if warnings:
        body["warnings"] = warnings
    return json.dumps(body).encode()


def one(value: float, *, at: float = AT) -> bytes:
    """Return the raw answer of a query for one number."""
    return vector(({}, value), at=at)


def buckets(counts: dict[float, float]) -> bytes:
    """Return cumulative buckets as an answer."""
    return vector(*(({"le": _text(le)}, count) for le, count in counts.items()))


def cumulative(per_bucket: tuple[float, ...]) -> dict[float, float]:
    """Return cumulative counts by bound from counts per bucket."""
    total, found = 0.0, {}
    for bound, count in zip(LE, per_bucket, strict=True):
        total += count
        found[bound] = total
    return found


FAST = (0.0, 300.0, 90.0, 8.0, 2.0, 0.0, 0.0, 0.0)


def good() -> dict[str, bytes]:
    """Return the answers of a healthy look."""
    return {
        "requests": one(400),
        "share": one(0.1),
        "check.p95_ms": one(80),
        "check.error_rate": one(0.0),
        "check.ingest_lag_s": one(2),
        "baseline.errors.canary": one(0),
        "baseline.errors.canary_total": one(400),
        "baseline.errors.stable": one(3),
        "baseline.errors.stable_total": one(3600),
        "baseline.latency.canary": buckets(cumulative(FAST)),
        "baseline.latency.stable": buckets(cumulative((0.0, 2700.0, 810.0, 72.0, 18.0, 0.0, 0.0, 0.0))),
        "burn.long.0.errors": one(0),
        "burn.long.0.total": one(50),
        "burn.short.0.errors": one(0),
        "burn.short.0.total": one(50),
    }


def facts(**changes: Any) -> GateFacts:
    """Return facts of a release that requires slo, perf and policy."""
    values: dict[str, Any] = {
        "images": IMAGES,
        "plan_sha256": PLAN,
        "required_gates": ("slo", "perf", "policy"),
        "owing": {"slo": ("A11",), "perf": ("A26", "A27"), "policy_ci": ("A9",), "audit": ("A20",)},
    }
    return GateFacts(**{**values, **changes})


def verdict(gate: str, phase_gate: str, agent: str, **changes: Any) -> GateView:
    """Return a passing verdict, given a minute ago."""
    values: dict[str, Any] = {
        "gate": gate,
        "phase_gate": phase_gate,
        "agent": agent,
        "phase": "P1",
        "env": "prod",
        "verdict": "pass",
        "outcome": "pass",
        "reason": "",
        "metrics": {},
        "thresholds": [],
        "images": IMAGES,
        "plan_sha256": PLAN,
        "valid_s": VALIDITY_S[gate],
        "verdict_blob": "",
        "step": 0,
        "at": iso(NOW - timedelta(minutes=1)),
        "seq": 1,
    }
    return GateView(**{**values, **changes})


def passing() -> list[GateView]:
    """Return the verdicts that make every gate of `facts()` pass."""
    return [
        verdict(
            "slo", "slo", "A11", metrics={"p95_ms": 80.0, "burn": "0"}, thresholds=["p95_ms<=150", "burn==0"]
        ),
        verdict("perf", "perf", "A26"),
        verdict("perf", "perf", "A27", env="stage", metrics={"headroom_web": 0.31, "headroom_api": 0.27}),
        verdict("policy", "policy_ci", "A9", env="all"),
        verdict("policy", "audit", "A20", env="all"),
    ]


def _text(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return "NaN" if value != value else repr(float(value))
