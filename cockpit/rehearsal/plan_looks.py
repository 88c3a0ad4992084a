"""What a rehearsal's plan has looked at: the queries of canary, stages, KPIs and risks."""

from __future__ import annotations

from typing import Any

from cockpit.rehearsal.pace import Pace, seconds
from cockpit.rehearsal.topology import DEV, DRILLED, ENVIRONMENTS, PROD, ROUTE, STAGE

Data = dict[str, Any]

# A step takes a look each second: at one in a hundred a healthy canary would be sent back too often.
ALPHA = 0.001

_CANARY = f'namespace="{PROD}",track="canary"'
_STABLE = f'namespace="{PROD}",track="stable"'
_ERRORS = 'code=~"5.."'
_REQUESTS = "http_requests_total"
_LONGEST_DRILL = 45.0  # seconds; an agent has a minute
_SHORT_WINDOW_BAKES = 2


def _increase(metric: str, *matchers: str) -> str:
    return f"sum(increase({metric}{{{','.join(matchers)}}}[{{window}}]))"


def _rate(metric: str, *matchers: str) -> str:
    return f"sum(rate({metric}{{{','.join(matchers)}}}[{{window}}]))"


def p95_ms(*matchers: str) -> str:
    """Return the query of the 95th percentile of the latency, in ms, over `{window}`."""
    buckets = f"rate(http_request_duration_seconds_bucket{{{','.join(matchers)}}}[{{window}}])"
    return f"1000 * histogram_quantile(0.95, sum by (le) ({buckets}))"


def _buckets(*matchers: str) -> str:
    return f"sum by (le) (increase(http_request_duration_seconds_bucket{{{','.join(matchers)}}}[{{window}}]))"


def canary(pace: Pace, *, bake: float) -> Data:
    """Return the canary's steps and the looks at it; `bake` is in seconds."""
    requests = _REQUESTS
    routed = "gateway_requests_total"
    everyone = f'namespace="{PROD}"'
    return {
        "steps": [10, 50, 100],
        "bake": seconds(bake),
        "interval": seconds(pace.interval),
        "required_passes": pace.required_passes,
        "failure_limit": pace.failure_limit,
        "min_requests": 50,
        "requests": _increase(requests, _CANARY),
        "share": f"{_increase(routed, _CANARY)} / {_increase(routed, everyone)}",
        "weight_tolerance": 0.05,
        "weight_deadline": seconds(pace.weight_deadline),
        "low_traffic_deadline": seconds(pace.low_traffic_deadline),
        "provider_grace": seconds(pace.provider_grace),
        "query_deadline": "5s",
        "max_sample_age": "10s",
        "checks": [
            {"metric": "p95_ms", "query": p95_ms(_CANARY), "threshold": "p95_ms<=150", "critical": True},
            {
                "metric": "error_rate",
                "query": f"{_rate(requests, _CANARY, _ERRORS)} / {_rate(requests, _CANARY)}",
                "threshold": "error_rate<0.01",
                "critical": True,
            },
            {
                "metric": "ingest_lag_s",
                "query": f"max(ingest_lag_seconds{{{_CANARY}}})",
                "threshold": "ingest_lag_s<60",
                "critical": False,
            },
            {
                "metric": "isolation_violations",
                "query": _increase("tenant_isolation_violations_total", _CANARY),
                "threshold": "isolation_violations==0",
                "critical": True,
            },
        ],
        "baseline": [
            {
                "metric": "error_ratio",
                "kind": "proportion",
                "canary": _increase(requests, _CANARY, _ERRORS),
                "canary_total": _increase(requests, _CANARY),
                "stable": _increase(requests, _STABLE, _ERRORS),
                "stable_total": _increase(requests, _STABLE),
                "min_effect": 0.02,
                "alpha": ALPHA,
            },
            {
                "metric": "latency",
                "kind": "histogram",
                "canary": _buckets(_CANARY),
                "stable": _buckets(_STABLE),
                "min_effect": 0.5,
                "alpha": ALPHA,
            },
        ],
        "burn": {
            "objective": 0.99,
            "errors": _rate(requests, _CANARY, _ERRORS),
            "total": _rate(requests, _CANARY),
            "windows": [
                {
                    "long": seconds(pace.bake),
                    "short": seconds(max(pace.bake / 4, 4 * pace.scrape)),
                    "factor": 6,
                }
            ],
        },
        "rollout_deadline": "60s",
        "abort_scale_bound": "30s",
        "drain": "1s",
        "drain_deadline": "30s",
    }


def stages(entries: dict[str, str], pace: Pace) -> list[Data]:
    """Return the environments before prod; `entries` is where each namespace is entered."""
    where = f'namespace="{STAGE}",track="canary"'
    return [
        {
            "environment": ENVIRONMENTS[DEV],
            "namespace": DEV,
            "rollout_deadline": "60s",
            "entry_url": entries[DEV],
        },
        {
            "environment": ENVIRONMENTS[STAGE],
            "namespace": STAGE,
            "route": ROUTE,
            "steps": [50, 100],
            "bake": seconds(pace.stage_bake),
            "rollout_deadline": "60s",
            "entry_url": entries[STAGE],
            "checks": [
                {
                    "metric": "error_rate",
                    "query": f"{_rate(_REQUESTS, where, _ERRORS)} / {_rate(_REQUESTS, where)}",
                    "threshold": "error_rate<0.05",
                },
                # Wider than prod's: a few testers send too little for a narrow estimate.
                {"metric": "p95_ms", "query": p95_ms(where), "threshold": "p95_ms<=400"},
            ],
        },
    ]


def chaos(pace: Pace) -> Data:
    """Return the experiments in stage, and what must hold there before and after."""
    where = f'namespace="{STAGE}",track="stable"'
    return {
        "environment": ENVIRONMENTS[STAGE],
        "namespace": STAGE,
        "window": seconds(2 * pace.stage_bake),
        "steady": [
            {
                "metric": "error_rate",
                "query": f"{_rate(_REQUESTS, where, _ERRORS)} / {_rate(_REQUESTS, where)}",
                "threshold": "error_rate<0.05",
            },
            {"metric": "p95_ms", "query": p95_ms(where), "threshold": "p95_ms<=400"},
        ],
        "experiments": [
            {
                "name": f"{DRILLED}-pod",
                "service": DRILLED,
                "most": 1,
                "recovers_within": seconds(min(15 * pace.stage_bake, _LONGEST_DRILL)),
            }
        ],
    }


def kpis() -> Data:
    """Return the business figures of the day after the release."""
    everyone = f'namespace="{PROD}"'
    search = f'{everyone},service="search"'
    ingest = f'{everyone},service="ingest"'
    good = 'code="200"'
    return {
        "after": "24h",
        "window": "24h",
        "items": [
            {
                "name": "results_per_search",
                "query": f"{_increase('search_results_total', search)}"
                f" / {_increase('search_queries_total', search)}",
                "unit": "results",
                "better": "higher",
            },
            {
                "name": "items_accepted",
                "query": f"{_increase(_REQUESTS, ingest, good)} / {_increase(_REQUESTS, ingest)}",
                "unit": "share",
                "better": "higher",
            },
        ],
    }
