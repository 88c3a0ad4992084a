"""A43's KPIs and A54's error budget: measured at their time against the right windows, judged, and filed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.agents.roster import ROSTER
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import SystemClock, parse_iso
from cockpit.conductor.calls import AgentCalls, CallResult
from cockpit.conductor.kpis import measure_kpis
from cockpit.conductor.phases import Phases
from cockpit.journal.events import Released, RollbackStarted, StepStarted
from cockpit.journal.events_work import IssueFiled, KpiMeasured
from cockpit.journal.milestones import milestones
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rpc.messages import GateVerdict
from cockpit.verdicts.kpi_times import kpi_times
from tests.agents.support import DEADLINE, Service, World, recomputed

DAY = 0.2
"""Length of a calendar day in these tests, in seconds."""

KPIS = [
    {
        "name": "orders",
        "query": "sum(increase(orders_total[{window}]))",
        "better": "higher",
        "unit": "orders",
    },
    {"name": "wait_s", "query": "avg(wait_seconds[{window}])", "better": "lower", "max_regression": 0.1},
]


@dataclass
class Released_:
    """A world whose release is out, and what its metrics say before and after."""

    world: World
    issues: IssuesServer
    figures: dict[str, tuple[float | None, float | None]] = field(
        default_factory=lambda: {
            "orders_total": (100.0, 98.0),
            "wait_seconds": (2.0, 2.1),
            "http_requests_total": (500.0, 500.0),
            "5..": (1.0, 1.0),
        }
    )
    """Part of a query → its value before and after."""
    released: float = math.inf
    asked: list[tuple[str, float]] = field(default_factory=list)
    status: int = 200

    async def answer(self, request: web.Request) -> web.StreamResponse:
        form = {**request.query, **(await request.post())}
        text, at = str(form["query"]), float(str(form["time"]))
        self.asked.append((text, at))
        name = "5.." if "5.." in text else next((one for one in self.figures if one in text), "")
        value = self.figures[name][0 if at < self.released else 1]
        rows: list[Any] = [] if value is None else [{"metric": {}, "value": [at, _text(value)]}]
        body = {"status": "success", "data": {"resultType": "vector", "result": rows}}
        return web.json_response(body, status=self.status)

    async def call(self, agent: str, op: Any) -> CallResult:
        return await self.world.call(agent, op, "P8")

    async def verdict(self, agent: str) -> GateVerdict:
        result = await self.call(agent, "VERIFY")
        assert result.response is not None and result.response.verdicts, result.reason
        [verdict] = result.response.verdicts
        return verdict

    async def promote(self) -> None:
        await self.world.recorder.record(StepStarted(step=1, weight=10))
        await asyncio.sleep(0.002)  # the canary's own time, without which nothing could be counted in it
        await self.world.recorder.record(Released(version="v3.0.0"))
        moment = milestones(self.world.run_dir).released
        assert moment is not None
        self.released = moment.timestamp()

    async def due(self) -> None:
        async with asyncio.timeout(10):
            while (await self.call("A43", "PLAN")).status != "ok":  # noqa: ASYNC110 - the day has to pass
                await asyncio.sleep(0.02)

    def events(self, kind: Any) -> list[Any]:
        self.world.recorder.state()
        return [event for event in self.world.recorder.events() if isinstance(event, kind)]


def _text(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if value != value else "+Inf"


@pytest_asyncio.fixture
async def out(world: World) -> AsyncIterator[Released_]:
    async with issues_server() as issues:
        made = Released_(world, issues)
        service = Service(made.answer)
        async with service.running():
            metrics = PrometheusMetrics(service.url, read_timeout=DEADLINE, deadline=DEADLINE)
            tracker = GitHubIssues(
                issues.url, "intelgraph/platform", issues.token, clock=SystemClock(), deadline=DEADLINE
            )
            world.handles = replace(world.handles, metrics=metrics, issues=tracker)
            world.data["kpis"] = {"items": KPIS}
            world.data["calendar"] = {"day": f"{DAY}s"}
            yield made
            await metrics.close()


@asynccontextmanager
async def issues_server() -> AsyncIterator[IssuesServer]:
    async with IssuesServer("intelgraph/platform") as server:
        yield server


# -- A43 ----------------------------------------------------------------------------------------------


async def test_kpis_are_compared_over_the_same_window_before_and_after(out: Released_) -> None:
    await out.promote()
    await out.due()
    out.asked.clear()
    verdict = await out.verdict("A43")
    assert (verdict.verdict, verdict.details.phase_gate) == ("pass", "slo"), verdict.details.reason
    assert verdict.metrics == {
        "kpis": 2,
        "regressed": 0,
        "change_orders": pytest.approx(-0.02),
        "change_wait_s": pytest.approx(0.05),
    }
    moments = milestones(out.world.run_dir)
    assert moments.promoted and moments.released
    orders = {round(at, 3) for text, at in out.asked if text == "sum(increase(orders_total[200ms]))"}
    due = moments.released + timedelta(seconds=DAY)
    assert orders == {round(moments.promoted.timestamp(), 3), round(due.timestamp(), 3)}
    report = out.world.read("kpi/+24h.json")
    assert (report["compressed"], report["a_day_is_s"]) == (True, pytest.approx(DAY))
    assert parse_iso(report["measured_for"]) == due
    measured = out.events(KpiMeasured)
    assert [(e.name, e.value, e.baseline, e.regressed, e.outcome) for e in measured] == [
        ("orders", 98.0, 100.0, False, "pass"),
        ("wait_s", 2.1, 2.0, False, "pass"),
    ]
    applied = await out.call("A43", "APPLY")
    assert applied.status == "ok" and not out.issues.all() and not out.events(IssueFiled)
    assert (await out.call("A43", "EVIDENCE")).status == "ok"
    recomputed(out.world)


async def test_a_regression_is_filed_once_and_the_rollback_offered(out: Released_) -> None:
    out.figures |= {"orders_total": (100.0, 90.0), "wait_seconds": (2.0, 3.0)}
    await out.promote()
    await out.due()
    for known in (False, True):
        assert (await out.call("A43", "APPLY")).status == "ok"
        filed = out.events(IssueFiled)[-2:]
        assert [(e.kind, e.key, e.known) for e in filed] == [
            ("regression", "kpi:v3.0.0:orders", known),
            ("regression", "kpi:v3.0.0:wait_s", known),
        ]
    result = await out.call("A43", "VERIFY")
    assert result.status == "fail" and result.response is not None
    assert result.response.verdicts[0].details.outcome == "fail"
    assert "orders: 90 after 100 (-10.0%), more than 5.0% lost" in result.reason
    offered = f"cockpit rollback --run {out.world.run_dir} --reason kpi_regression"
    assert offered in result.response.next
    first, second = sorted(out.issues.all(), key=lambda one: one["number"])
    assert first["title"] == "KPI orders regressed by 10.0% after v3.0.0"
    assert {"type:fix", "risk:high", "ga"} <= {label["name"] for label in first["labels"]}
    assert "A rehearsal" in first["body"] and "| before | 100 orders |" in first["body"]
    assert second["title"].startswith("KPI wait_s")
    recomputed(out.world)


OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "no series after": ({"orders_total": (100.0, None)}, "no_data"),
    "no baseline": ({"orders_total": (None, 90.0)}, "no_data"),
    "NaN": ({"orders_total": (100.0, math.nan)}, "no_data"),
    "infinite": ({"orders_total": (100.0, math.inf)}, "provider_error"),
    "too few users": ({"http_requests_total": (500.0, 3.0)}, "low_traffic"),
    "too few users before": ({"http_requests_total": (3.0, 500.0)}, "low_traffic"),
    "worse from nothing": ({"wait_seconds": (0.0, 1.0)}, "fail"),
    "better": ({"orders_total": (100.0, 200.0), "wait_seconds": (2.0, 1.0)}, "pass"),
    "a regression beside a gap": ({"orders_total": (100.0, None), "wait_seconds": (2.0, 9.0)}, "fail"),
}


@pytest.mark.parametrize(("figures", "outcome"), OUTCOMES.values(), ids=OUTCOMES.keys())
async def test_every_outcome(out: Released_, figures: dict[str, Any], outcome: str) -> None:
    out.figures |= figures
    await out.promote()
    await out.due()
    verdict = await out.verdict("A43")
    assert verdict.details.outcome == outcome, verdict.details.reason
    assert (verdict.verdict == "pass") == (outcome == "pass")
    recomputed(out.world)


async def test_metrics_that_are_away_are_no_regression(out: Released_) -> None:
    await out.promote()
    await out.due()
    out.status = 503
    verdict = await out.verdict("A43")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "provider_error")
    applied = await out.call("A43", "APPLY")
    assert applied.status == "ok" and not out.issues.all()
    recomputed(out.world)


async def test_it_does_not_measure_early(out: Released_) -> None:
    out.world.data["calendar"] = None
    for op, said in (("PLAN", "nothing is released yet"), ("VERIFY", "nothing is released yet")):
        result = await out.call("A43", op)
        assert result.status == "blocked" and said in result.reason
    await out.promote()
    for op in ("PLAN", "APPLY", "VERIFY"):
        result = await out.call("A43", op)
        assert result.status == "blocked" and "the figures are due at" in result.reason
    assert not out.asked and not out.events(KpiMeasured)


async def test_a_release_that_was_taken_back_is_not_measured(out: Released_) -> None:
    await out.promote()
    await out.world.recorder.record(RollbackStarted(reason="manual", cause="a person asked", by="tests"))
    for agent in ("A43", "A54"):
        result = await out.call(agent, "VERIFY")
        assert result.status == "blocked" and "rolled back" in result.reason


@pytest.mark.parametrize("missing", ["kpis", "issues", "prometheus"])
async def test_what_is_not_configured_is_named(out: Released_, missing: str) -> None:
    await out.promote()
    await out.due()
    if missing == "kpis":
        out.world.data["kpis"] = None
    elif missing == "issues":
        out.world.handles = replace(out.world.handles, issues=None)
    else:
        out.world.handles = replace(out.world.handles, metrics=None)
    result = await out.call("A43", "PLAN")
    assert result.status == "blocked" and missing in result.reason


async def test_smoke_paths_are_still_read_outside_of_p8(out: Released_) -> None:
    assert (await out.world.call("A43", "VERIFY", "P4")).status == "ok"
    applied = await out.world.call("A43", "APPLY", "P4")
    assert applied.status == "ok" and "only measures" in applied.reason


def test_a_day_is_compressed_and_never_stretched() -> None:
    now = SystemClock().now()

    class Kpis:
        after, window, items = 86400.0, 43200.0, ()

    class Calendar:
        def __init__(self, day: float) -> None:
            self.day = day

    whole = kpi_times(Kpis(), None, promoted=now, released=now)
    short = kpi_times(Kpis(), Calendar(86.4), promoted=now, released=now)
    long = kpi_times(Kpis(), Calendar(2 * 86400), promoted=now, released=now)
    assert whole.due - now == timedelta(days=1) and whole.window_s == 43200
    assert short.due - now == timedelta(seconds=86.4) and short.window_s == pytest.approx(43.2)
    assert long == whole


# -- A54 ----------------------------------------------------------------------------------------------


async def test_the_error_budget_spent_by_the_release(out: Released_) -> None:
    # Under the canary rates, since then counts: one failed of 500.
    out.figures["5.."] = (0.0, 1.0)
    await out.promote()
    verdict = await out.verdict("A54")
    assert (verdict.verdict, verdict.details.phase_gate) == ("pass", "slo"), verdict.details.reason
    assert verdict.metrics["burn_since"] == pytest.approx(0.2)
    document = out.world.read("slo/economics.json")
    canary, since = document["parts"]
    assert (since["errors"], since["requests"]) == (1.0, 500.0)
    assert document["objective"] == out.world.plan.canary.burn.objective
    assert document["left"] == pytest.approx(1 - document["spent"])
    assert document["burn_down"][0]["left"] == 1.0 and len(document["burn_down"]) == 10
    assert document["burn_down"][-1]["left"] == pytest.approx(document["left"])
    assert document["priorities"][0]["rank"] == "low"
    assert canary["seconds"] > 0
    assert (await out.call("A54", "EVIDENCE")).status == "ok"
    recomputed(out.world)


async def test_a_release_that_burns_too_fast_fails(out: Released_) -> None:
    out.figures["5.."] = (0.0, 50.0)
    await out.promote()
    verdict = await out.verdict("A54")
    assert verdict.details.outcome == "fail" and verdict.metrics["burn_since"] == pytest.approx(10.0)
    high = [one for one in out.world.read("slo/economics.json")["priorities"] if one["rank"] == "high"]
    assert any("since the release" in one["what"] for one in high)
    recomputed(out.world)


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"http_requests_total": (500.0, 3.0)}, "low_traffic"),
        ({"http_requests_total": (500.0, None)}, "no_data"),
        ({"5..": (0.0, None)}, "no_data"),
        ({"5..": (0.0, 900.0)}, "provider_error"),
    ],
)
async def test_a_budget_that_cannot_be_told_is_no_pass(
    out: Released_, figures: dict[str, Any], outcome: str
) -> None:
    out.figures |= figures
    await out.promote()
    verdict = await out.verdict("A54")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", outcome), verdict.details.reason
    assert "unknown" in out.world.read("slo/economics.json")
    recomputed(out.world)


async def test_no_release_no_budget(out: Released_) -> None:
    for op in ("PLAN", "VERIFY"):
        result = await out.call("A54", op)
        assert result.status == "blocked" and "nothing is released yet" in result.reason
    assert json.dumps(out.asked) == "[]"


# -- both, as a sitting has them done -----------------------------------------------------------------


class Calls:
    """Calls agents of a world for `Phases`."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, agent: str, name: str, phase: Any, op: Any, **more: Any) -> CallResult:
        """Call one operation."""
        return await self._world.call(agent, op, phase, **(more["params"] or {}))


class Free:
    """No HALT."""

    epoch = 0

    async def resumed(self) -> None:
        """Go on."""


def phases_of(out: Released_, listed: list[str]) -> Phases:
    return Phases(ROSTER, listed, cast(AgentCalls, Calls(out.world)), out.world.recorder, Free())


async def test_a_sitting_measures_and_leaves_the_report_in_the_run_folder(out: Released_) -> None:
    phases = phases_of(out, ["A1", "A43", "A54", "A55"])
    early = await measure_kpis(phases, out.world.run_dir, "v3.0.0")
    assert {one.kind for one in early} == {"unreachable"} and len(early) == 2
    out.figures["orders_total"] = (100.0, 50.0)
    await out.promote()
    await out.due()
    found = await measure_kpis(phases, out.world.run_dir, "v3.0.0")
    assert [one.kind for one in found] == ["gate"] and "orders" in found[0].text
    stored = out.world.run_dir / "kpi" / "v3.0.0" / "+24h.json"
    assert json.loads(stored.read_bytes()) == out.world.read("kpi/+24h.json")
    assert len(out.issues.all()) == 1 and len(out.events(IssueFiled)) == 1


async def test_nobody_to_measure_is_a_failure(out: Released_) -> None:
    [found] = await measure_kpis(phases_of(out, ["A1"]), out.world.run_dir, "v3.0.0")
    assert "nothing was measured" in found.text
