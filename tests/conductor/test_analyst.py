"""What the analyst makes of a metrics back end that was away: no data for a window, then strict again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cockpit.base.clock import VirtualClock, iso
from cockpit.base.errors import BackendUnreachable
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.bake import LookResult
from cockpit.verdicts.answers import MetricAnswer, read_answer
from tests.conductor.support import plan_of, recording

WINDOW = 4.0


@dataclass
class Told:
    """A metrics back end: one value for everything, none for what is gone, or no answer.

    `gone`: part of the queries whose series are.
    """

    clock: VirtualClock
    away: bool = False
    gone: str = "-"
    asked: list[str] = field(default_factory=list)

    async def query(
        self, query: str, *, at: datetime | None = None, deadline: float | None = None
    ) -> MetricAnswer:
        self.asked.append(query)
        if self.away:
            raise BackendUnreachable("nothing listens there")
        now = self.clock.now().timestamp()
        series = [] if self.gone in query else [{"metric": {}, "value": [now, "1000"]}]
        raw = json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()
        parsed = read_answer(raw)
        return MetricAnswer(
            query, now, iso(self.clock.now()), 0.0, raw, parsed.result_type, parsed.samples, parsed.warnings
        )

    async def query_range(
        self, query: str, *, start: datetime, end: datetime, step: float, deadline: float | None = None
    ) -> MetricAnswer:
        raise AssertionError("a look asks for no range")

    async def close(self) -> None: ...


def vanished(look: LookResult) -> bool:
    return look.outcome == "fail" and "vanished" in look.reason


async def test_what_is_missing_after_an_outage_has_not_vanished(tmp_path: Path) -> None:
    clock = VirtualClock()
    told = Told(clock)
    async with recording(tmp_path, clock) as recorder:
        analyst = PrometheusAnalyst(told, plan_of(clock).canary, recorder, clock)
        await analyst.look(1, WINDOW)
        told.away = True
        assert (await analyst.look(2, WINDOW)).outcome == "provider_error"
        clock.advance(60.0)
        assert (await analyst.look(2, WINDOW)).outcome == "provider_error"
        clock.advance(60.0)  # however long nobody looked
        told.away, told.gone = False, "{"  # it answers, and has measured nothing yet
        for _ in range(8):
            look = await analyst.look(2, WINDOW)
            assert look.outcome == "no_data" and not look.critical, look.reason
            clock.advance(0.9)
        told.gone = 'track="canary"'  # the first of what it measures again
        for _ in range(4):
            look = await analyst.look(2, WINDOW)
            assert look.outcome == "no_data" and not look.critical, look.reason
            clock.advance(0.9)
        clock.advance(WINDOW)
        assert vanished(await analyst.look(2, WINDOW)), "a whole window since: it is gone"


async def test_without_an_outage_it_has_vanished_at_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    told = Told(clock)
    async with recording(tmp_path, clock) as recorder:
        analyst = PrometheusAnalyst(told, plan_of(clock).canary, recorder, clock)
        await analyst.look(1, WINDOW)
        told.gone = 'track="canary"'
        assert vanished(await analyst.look(2, WINDOW))


async def test_an_outage_of_one_query_excuses_nothing(tmp_path: Path) -> None:
    clock = VirtualClock()

    class Flaky(Told):
        async def query(
            self, query: str, *, at: datetime | None = None, deadline: float | None = None
        ) -> MetricAnswer:
            if "ingest_lag" in query:
                raise BackendUnreachable("no answer in time")
            return await super().query(query, at=at, deadline=deadline)

    told = Flaky(clock)
    async with recording(tmp_path, clock) as recorder:
        analyst = PrometheusAnalyst(told, plan_of(clock).canary, recorder, clock)
        await analyst.look(1, WINDOW)
        await analyst.look(2, WINDOW)
        told.gone = "{"
        assert vanished(await analyst.look(2, WINDOW))
