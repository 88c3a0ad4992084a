"""The soak over one sitting and several: what counts, what breaks it, what only holds it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import VirtualClock, iso, parse_iso
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.soak import Soak
from cockpit.conductor.timetable import NotYet
from cockpit.journal.events import Noted
from cockpit.journal.events_people import NotDue, SoakChanged
from cockpit.verdicts.rules import find
from tests.conductor.support import events, plan_of, recording

START = datetime(2025, 9, 18, 8, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@dataclass
class Stage:
    """What the metrics of stage say at a moment: a value, or nothing."""

    value: Callable[[datetime], float | None] = lambda at: 80.0
    warnings: list[str] = field(default_factory=list)
    status: int = 200
    queries: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        form = {**request.query, **(await request.post())}
        self.queries.append(str(form["query"]))
        if self.status != 200:
            return web.Response(status=self.status, text="out of order")
        start, end, step = (float(str(form[name])) for name in ("start", "end", "step"))
        moments = [start + step * number for number in range(int((end - start) / step + 1e-6) + 1)]
        found = [(at, self.value(datetime.fromtimestamp(at, UTC))) for at in moments]
        values = [[at, str(value).replace("nan", "NaN")] for at, value in found if value is not None]
        result = [{"metric": {}, "values": values}] if values else []
        body: dict[str, Any] = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        return web.json_response({**body, "warnings": self.warnings} if self.warnings else body)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def sitting(
    folder: Path, world: Stage, clock: VirtualClock, **changes: Any
) -> AsyncIterator[tuple[Soak, Recorder]]:
    check = {"metric": "p95_ms", "query": "p95(stage[{window}])", "threshold": "p95_ms<=150"}
    soak = {"lasts": "4h", "interval": "10m", "checks": [check], **changes.pop("soak", {})}
    plan = plan_of(clock, calendar={"wait": "15m", "soak": soak, **changes})
    metrics = PrometheusMetrics(world.url, clock=clock, deadline=5.0)
    try:
        async with recording(folder, clock) as recorder:
            yield Soak(plan, recorder, clock, metrics), recorder
    finally:
        await metrics.close()


async def states(recorder: Recorder) -> list[str]:
    return [one.state for one in await events(recorder, SoakChanged)]


async def test_a_soak_within_one_sitting_passes_and_can_be_judged_again(tmp_path: Path) -> None:
    clock = VirtualClock(START, auto=True)
    async with stage() as world, sitting(tmp_path, world, clock, wait="5h") as (soak, recorder):
        await soak.pass_or_wait()
        assert clock.now() - START == 4 * HOUR
        assert await states(recorder) == ["running", "done"]
        done = (await events(recorder, SoakChanged))[-1]
        document = json.loads(recorder.blob(done.blob))
        assert set(world.queries) == {"p95(stage[600s])"}
        rule = document["rule"]
        answers = {name: recorder.blob(digest) for name, digest in rule["answers"].items()}
        judged = find(rule["name"])(answers, rule["params"])
        assert (judged.outcome, judged.reason) == ("pass", done.reason)
        asked = len(world.queries)
        await soak.pass_or_wait()  # done is done
        assert len(world.queries) == asked


async def test_a_long_soak_spans_sittings_and_one_look_over_the_time_between_decides(tmp_path: Path) -> None:
    async with stage() as world:
        async with sitting(tmp_path, world, VirtualClock(START, auto=True)) as (soak, recorder):
            with pytest.raises(NotYet) as error:
                await soak.pass_or_wait()
            assert error.value.due == START + 4 * HOUR
            [waiting] = await events(recorder, NotDue)
            assert (waiting.what, waiting.due) == ("soak", iso(START + 4 * HOUR))
        later = VirtualClock(START + 4 * HOUR + 5 * MINUTE, auto=True)
        async with sitting(tmp_path, world, later) as (soak, recorder):
            asked = len(world.queries)
            await soak.pass_or_wait()
            assert len(world.queries) == asked + 1
            assert await states(recorder) == ["running", "done"]


async def test_a_short_breach_while_nobody_looked_starts_it_again(tmp_path: Path) -> None:
    async with stage() as world:
        async with sitting(tmp_path, world, VirtualClock(START, auto=True)) as (soak, _):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
        world.value = lambda at: 900.0 if at == START + 70 * MINUTE else 80.0
        again = START + 5 * HOUR
        async with sitting(tmp_path, world, VirtualClock(again, auto=True)) as (soak, recorder):
            with pytest.raises(NotYet) as error:
                await soak.pass_or_wait()
            assert error.value.due == again + 4 * HOUR
            assert await states(recorder) == ["running", "broken", "running"]
            [_, broken, running] = await events(recorder, SoakChanged)
            assert "p95_ms was 900" in broken.reason and parse_iso(running.since) == again
        async with sitting(tmp_path, world, VirtualClock(again + 4 * HOUR)) as (soak, recorder):
            await soak.pass_or_wait()
            view = recorder.state().people.soak
            assert view is not None and (view.state, view.broken) == ("done", 1)


async def test_time_without_data_does_not_count_and_is_made_up_for(tmp_path: Path) -> None:
    gap = (START + 60 * MINUTE, START + 90 * MINUTE)
    clock = VirtualClock(START, auto=True)
    async with stage() as world, sitting(tmp_path, world, clock, wait="6h") as (soak, recorder):
        world.value = lambda at: None if gap[0] < at <= gap[1] else 80.0
        await soak.pass_or_wait()
        assert clock.now() - START == 4 * HOUR + 30 * MINUTE
        assert await states(recorder) == ["running", "done"]
        assert any("the soak holds" in one.text for one in await events(recorder, Noted))


async def test_nan_is_no_data(tmp_path: Path) -> None:
    clock = VirtualClock(START, auto=True)
    async with stage() as world, sitting(tmp_path, world, clock, wait="6h") as (soak, _):
        world.value = lambda at: float("nan") if at <= START + HOUR else 80.0
        await soak.pass_or_wait()
        assert clock.now() - START == 5 * HOUR


@pytest.mark.parametrize("trouble", ["status", "warnings", "silent"])
async def test_what_cannot_be_measured_holds_and_is_never_soaked(tmp_path: Path, trouble: str) -> None:
    async with stage() as world:
        async with sitting(tmp_path, world, VirtualClock(START, auto=True)) as (soak, _):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
        world.status = 503 if trouble == "status" else 200
        world.warnings = ["a shard is missing"] if trouble == "warnings" else []
        world.value = lambda at: None if trouble == "silent" else 80.0
        later = VirtualClock(START + 9 * HOUR, auto=True)
        async with sitting(tmp_path, world, later) as (soak, recorder):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
            assert later.now() - START <= 9 * HOUR + 15 * MINUTE
            assert await states(recorder) == ["running"]
        world.status, world.warnings, world.value = 200, [], lambda at: 80.0
        async with sitting(tmp_path, world, VirtualClock(START + 10 * HOUR)) as (soak, recorder):
            await soak.pass_or_wait()
            assert await states(recorder) == ["running", "done"]


async def test_a_clock_set_forward_does_not_soak(tmp_path: Path) -> None:
    async with stage() as world:
        world.value = lambda at: 80.0 if at <= START + HOUR else None  # the world is an hour older, not more
        async with sitting(tmp_path, world, VirtualClock(START, auto=True)) as (soak, _):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
        async with sitting(tmp_path, world, VirtualClock(START + 48 * HOUR, auto=True)) as (soak, recorder):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
            assert await states(recorder) == ["running"]


async def test_two_days_in_short_intervals_stay_one_bounded_question(tmp_path: Path) -> None:
    soak_of = {"lasts": "48h", "interval": "1s"}
    async with stage() as world:
        async with sitting(tmp_path, world, VirtualClock(START, auto=True), soak=soak_of) as (soak, _):
            with pytest.raises(NotYet):
                await soak.pass_or_wait()
        later = VirtualClock(START + 48 * HOUR + MINUTE)
        async with sitting(tmp_path, world, later, soak=soak_of) as (soak, recorder):
            await soak.pass_or_wait()
            assert world.queries[-1] == "p95(stage[35s])"
            assert await states(recorder) == ["running", "done"]


async def test_a_plan_without_a_soak_asks_nothing(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    async with stage() as world, recording(tmp_path, clock) as recorder:
        without: dict[str, Any] | None = None
        for calendar in (without, {}):
            metrics = PrometheusMetrics(world.url, clock=clock)
            await Soak(plan_of(clock, calendar=calendar), recorder, clock, metrics).pass_or_wait()
            await metrics.close()
        assert not world.queries and not await events(recorder, SoakChanged)
