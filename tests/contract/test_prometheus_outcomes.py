"""The five outcomes of a look (gates.md), taken by the cockpit's own analyst and client over live samples."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import SystemClock
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.bake import LookResult
from cockpit.plan.model import Canary
from tests.conductor.support import recording
from tests.contract.prometheus_fixtures import Subject, poll

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="session")]

WINDOW_S = 120.0
BOUNDS = ("0.05", "0.1", "0.25", "+Inf")


@dataclass
class Traffic:
    """What a demo application exposes: requests and latencies of each track."""

    name: str
    requests: dict[str, float] = field(default_factory=lambda: {"canary": 400.0, "stable": 3600.0})
    errors: dict[str, float] = field(default_factory=lambda: {"canary": 0.0, "stable": 4.0})
    slow: float = 0.0
    """The part of the canary's requests that take longest."""
    lag: str = "2"
    tracks: tuple[str, ...] = ("canary", "stable")

    def page(self, part: float) -> str:
        """Return the page when this part of the traffic, 0 to 1, has been served."""
        lines = []
        for track in self.tracks:
            total, errors = self.requests[track] * part, self.errors[track] * part
            where = f'of="{track}"'
            lines.append(f'{self.name}_requests{{{where},code="200"}} {total - errors}')
            lines.append(f'{self.name}_requests{{{where},code="500"}} {errors}')
            late = total * (self.slow if track == "canary" else 0.0)
            quick = total - late
            for le, share in zip(BOUNDS, (0.9, 0.99, 1.0, 1.0), strict=True):
                count = quick * share + (late if le == "+Inf" else 0.0)
                lines.append(f'{self.name}_latency_bucket{{{where},le="{le}"}} {count}')
            lines.append(f"{self.name}_lag{{{where}}} {self.lag}")
        return "\n".join(lines) + "\n"

    def canary(self, **changes: Any) -> Canary:
        """Return a canary section that asks about this traffic."""
        name = self.name

        def grown(metric: str, *matchers: str) -> str:
            return f"sum(increase({name}_{metric}{{{','.join(matchers)}}}[{{window}}]))"

        mine, theirs, failed = 'of="canary"', 'of="stable"', 'code="500"'
        latency = f"rate({name}_latency_bucket{{{mine}}}[{{window}}])"
        section: dict[str, Any] = {
            "steps": [10, 50, 100],
            "bake": "120s",
            "interval": "1s",
            "required_passes": 4,
            "failure_limit": 2,
            "min_requests": 50,
            "requests": grown("requests", mine),
            "share": f"{grown('requests', mine)} / {grown('requests')}",
            "low_traffic_deadline": "10s",
            "provider_grace": "5s",
            "query_deadline": "5s",
            "max_sample_age": "10s",
            "checks": [
                {
                    "metric": "p95_ms",
                    "query": f"1000 * histogram_quantile(0.95, sum by (le) ({latency}))",
                    "threshold": "p95_ms<=150",
                },
                {
                    "metric": "error_rate",
                    "query": f"{grown('requests', mine, failed)} / {grown('requests', mine)}",
                    "threshold": "error_rate<0.01",
                },
                {
                    "metric": "ingest_lag_s",
                    "query": f"max({name}_lag{{{mine}}})",
                    "threshold": "ingest_lag_s<60",
                    "critical": False,
                },
            ],
            "baseline": [
                {
                    "metric": "errors",
                    "kind": "proportion",
                    "canary": grown("requests", mine, failed),
                    "canary_total": grown("requests", mine),
                    "stable": grown("requests", theirs, failed),
                    "stable_total": grown("requests", theirs),
                    "min_effect": 0.02,
                }
            ],
            "burn": {
                "objective": 0.99,
                "errors": grown("requests", mine, failed),
                "total": grown("requests", mine),
                "windows": [{"long": "120s", "short": "110s", "factor": 6}],
            },
        }
        return Canary.model_validate({**section, **changes})


@dataclass
class Looking:
    """A server, and a way to look at traffic on it."""

    prom: Subject
    folder: Path

    @asynccontextmanager
    async def at(self, canary: Canary, *, deadline: float = 20.0) -> AsyncIterator[PrometheusAnalyst]:
        """Yield the conductor's analyst."""
        clock = SystemClock()
        metrics = PrometheusMetrics(self.prom.url, clock=clock, deadline=deadline, read_timeout=deadline)
        try:
            async with recording(self.folder, clock) as recorder:
                yield PrometheusAnalyst(metrics, canary, recorder, clock)
        finally:
            await metrics.close()

    async def serve(self, traffic: Traffic) -> None:
        """Have traffic served and scraped: first none of it, then all."""
        self.prom.exporter.page = traffic.page(0.0)
        await self.prom.until(f"count({traffic.name}_lag)", bool)
        self.prom.exporter.page = traffic.page(1.0)
        metric, total = f"{traffic.name}_requests", sum(traffic.requests[track] for track in traffic.tracks)
        await self.prom.until(f"sum({metric})", lambda found: list(found.values()) == [total])

    async def look(self, canary: Canary) -> LookResult:
        """Take one look."""
        async with self.at(canary) as analyst:
            return await analyst.look(1, WINDOW_S)


@pytest_asyncio.fixture(loop_scope="session")
async def looking(prom: Subject, tmp_path: Path) -> Looking:
    return Looking(prom, tmp_path / "run")


async def test_healthy_traffic_passes(looking: Looking) -> None:
    traffic = Traffic("healthy")
    await looking.serve(traffic)
    found = await looking.look(traffic.canary())
    assert (found.outcome, found.critical) == ("pass", False), found.reason
    assert found.requests > 300
    assert found.metrics["share"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "changes", "critical", "reason"),
    [
        ("erring", {"errors": {"canary": 40.0, "stable": 4.0}}, True, "error_rate is 0.1"),
        ("slow", {"slow": 0.2}, True, "p95_ms is"),
        ("lagging", {"lag": "61.5"}, False, "ingest_lag_s is 61.5"),
        ("endless", {"lag": "+Inf"}, False, "ingest_lag_s is inf"),
    ],
)
async def test_traffic_beyond_a_threshold_fails(
    looking: Looking, name: str, changes: dict[str, Any], critical: bool, reason: str
) -> None:
    traffic = Traffic(name, **changes)
    await looking.serve(traffic)
    found = await looking.look(traffic.canary())
    assert (found.outcome, found.critical) == ("fail", critical)
    assert reason in found.reason


async def test_few_requests_are_low_traffic(looking: Looking) -> None:
    traffic = Traffic("scarce", requests={"canary": 10.0, "stable": 3600.0})
    await looking.serve(traffic)
    found = await looking.look(traffic.canary())
    assert found.outcome == "low_traffic", found.reason


async def test_a_series_that_was_never_there_is_no_data(looking: Looking) -> None:
    found = await looking.look(Traffic("absent").canary())
    assert (found.outcome, found.critical) == ("no_data", False), found.reason


async def test_a_value_that_is_no_number_is_no_data(looking: Looking) -> None:
    traffic = Traffic("undefined", lag="NaN")
    await looking.serve(traffic)
    found = await looking.look(traffic.canary())
    assert found.outcome == "no_data"
    assert "ingest_lag_s: the value is NaN" in found.reason


async def test_a_series_that_vanishes_fails(looking: Looking) -> None:
    traffic = Traffic("vanishing")
    await looking.serve(traffic)
    async with looking.at(traffic.canary()) as analyst:
        assert (await analyst.look(1, WINDOW_S)).outcome == "pass"
        looking.prom.exporter.page = "\n".join(
            line for line in traffic.page(1.0).splitlines() if "_lag" not in line
        )
        await looking.prom.until("absent(vanishing_lag)", bool)
        found = await analyst.look(2, WINDOW_S)
    assert found.outcome == "fail"
    assert "vanished" in found.reason


class TestProviderErrors:
    async def test_a_server_that_is_frozen(self, looking: Looking) -> None:
        traffic = Traffic("frozen")
        await looking.serve(traffic)
        async with looking.at(traffic.canary(query_deadline="0.5s")) as analyst:
            await looking.prom.server.freeze()
            try:
                found = await analyst.look(1, WINDOW_S)
                share = await analyst.share(WINDOW_S)
            finally:
                await looking.prom.server.thaw()
            assert (found.outcome, found.critical) == ("provider_error", False), found.reason
            assert share.share is None and share.problem
            # It is asked again, and is none the worse for it.
            await poll(lambda: _passes(analyst))

    async def test_a_server_that_is_gone(self, looking: Looking) -> None:
        traffic = Traffic("kept_gone")  # a server that goes away marks nothing as ended
        await looking.serve(traffic)
        async with looking.at(traffic.canary()) as analyst:
            await looking.prom.server.die()
            try:
                found = await analyst.look(1, WINDOW_S)
                requests = await analyst.canary_requests(WINDOW_S)
            finally:
                await looking.prom.server.live()
            assert found.outcome == "provider_error"
            assert "nothing listens" in found.reason
            assert requests is None

    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            ("sum(", "bad_data"),
            ("refused_lag * on() refused_requests", "execution"),
            ("refused_requests", "2 series where one number is expected"),
            ("refused_lag", "a partial answer"),
        ],
    )
    async def test_an_answer_that_is_none(self, looking: Looking, query: str, reason: str) -> None:
        traffic = Traffic("refused", tracks=("canary",))
        await looking.serve(traffic)
        partial = "partial" in reason
        if partial:
            await looking.prom.server.lose_a_part()
        try:
            async with looking.at(traffic.canary(requests=query)) as analyst:
                found = await analyst.look(1, WINDOW_S)
                count = await analyst.canary_requests(WINDOW_S)
        finally:
            if partial:
                await looking.prom.server.find_it()
        assert (found.outcome, found.critical) == ("provider_error", False), found.reason
        assert reason in found.reason
        assert count is None

    async def test_samples_that_are_too_old(self, looking: Looking) -> None:
        traffic = Traffic("aging")
        await looking.serve(traffic)
        await looking.prom.until('aging_lag{of="canary"} offset 1500ms', bool)
        *others, lag = traffic.canary().model_dump(mode="json")["checks"]
        # A range brings each sample with the time at which it was taken.
        checks = [*others, {**lag, "query": 'aging_lag{of="canary"}[1m]'}]
        found = await looking.look(traffic.canary(checks=checks, max_sample_age="90s"))
        assert found.outcome == "pass", found.reason
        found = await looking.look(traffic.canary(checks=checks, max_sample_age="1s"))
        assert found.outcome == "provider_error"
        assert "s old, at most 1 s allowed" in found.reason


async def _passes(analyst: PrometheusAnalyst) -> bool:
    return (await analyst.look(1, WINDOW_S)).outcome == "pass"
