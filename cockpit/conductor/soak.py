"""The soak after P4: `calendar.soak.lasts` must go by without a failing check (seed section 9; gates.md).

What is soaked is told by the metrics back end, not by our clock: each look asks about every interval since
the soak began, also those in which no sitting was open. So one look of a later sitting decides on the whole
time, and a breach of minutes is not averaged away over two days.
"""

from __future__ import annotations

import asyncio
import json
import math
from datetime import datetime
from typing import Any

from cockpit.backends.metrics import MetricsBackend
from cockpit.base.clock import Clock, iso, parse_iso
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.timetable import NotYet
from cockpit.journal.events import Noted
from cockpit.journal.events_people import NotDue, SoakChanged
from cockpit.plan.calendar import Soak as Planned
from cockpit.plan.checks import MetricCheck
from cockpit.plan.model import Plan
from cockpit.verdicts.calendar import later
from cockpit.verdicts.questions import error_answer, window_text
from cockpit.verdicts.rule import Judgement
from cockpit.verdicts.rules.soak import points
from cockpit.verdicts.rules.soak import soak as rule

SOAK = "soak"
_MOST_POINTS = 5000
"""Prometheus answers 11,000 points of a series; a longer soak is looked at in larger steps."""


class Soak:
    """Watches the soak of one plan; a plan without one has nothing to wait for."""

    def __init__(self, plan: Plan, recorder: Recorder, clock: Clock, metrics: MetricsBackend) -> None:
        self._plan = plan
        self._recorder = recorder
        self._clock = clock
        self._metrics = metrics
        self._holding = ""

    async def pass_or_wait(self) -> None:
        """Return when the soak is done; raises NotYet when that is further away than a sitting waits.

        Called once P4 has passed: the first call begins the soak, a failing check begins it again. A look
        without data or without an answer neither counts nor breaks it.
        """
        calendar = self._plan.calendar
        if calendar is None or calendar.soak is None or self._done():
            return
        started = self._clock.monotonic()
        while True:
            judgement = await self.look()
            if judgement.outcome == "pass":
                return
            left = self._left(calendar.soak, judgement)
            if self._clock.monotonic() - started + left > calendar.wait:
                due = later(self._clock.now(), left)
                await self._recorder.record(NotDue(what=SOAK, due=iso(due), reason=judgement.reason))
                raise NotYet(due, SOAK, judgement.reason)
            await self._clock.sleep(min(left, calendar.soak.interval))

    async def look(self) -> Judgement:
        """Take one look over the whole time since the soak began, and record what it changes."""
        calendar = self._plan.calendar
        if calendar is None or calendar.soak is None:
            raise ValueError("the plan has no soak")
        since = await self._since(calendar.soak)
        params = _params(calendar.soak, since, self._clock.now())
        answers, queries = await self._ask(calendar.soak, since, params)
        judgement = rule(answers, params)
        until = iso(later(since, calendar.soak.lasts))
        if judgement.outcome in ("pass", "fail"):
            blob = await self._kept(params, answers, queries)
            state = "done" if judgement.passed else "broken"
            await self._recorder.record(
                SoakChanged(state=state, since=iso(since), until=until, reason=judgement.reason, blob=blob)
            )
        if judgement.outcome == "fail":
            await self._since(calendar.soak)
        self._tell(judgement)
        return judgement

    def _done(self) -> bool:
        view = self._recorder.state().people.soak
        return view is not None and view.state == "done"

    async def _since(self, soak: Planned) -> datetime:
        """Return when the soak that is under way began; begin one when there is none."""
        view = self._recorder.state().people.soak
        if view is not None and view.state == "running":
            return parse_iso(view.since)
        now = self._clock.now()
        again = "" if view is None else "it begins again"
        until = iso(later(now, soak.lasts))
        await self._recorder.record(SoakChanged(state="running", since=iso(now), until=until, reason=again))
        return now

    async def _ask(
        self, soak: Planned, since: datetime, params: dict[str, Any]
    ) -> tuple[dict[str, bytes], dict[str, str]]:
        step, count = float(params["step"]), points(params)
        window = window_text(step)
        queries = {f"check.{one.metric}": one.query.replace("{window}", window) for one in soak.checks}
        if not count:
            # Nothing is over yet: an empty matrix says so to the rule, and offline too.
            empty = b'{"status":"success","data":{"resultType":"matrix","result":[]}}'
            return dict.fromkeys(queries, empty), queries
        start, end = later(since, step), later(since, step * count)
        found = await asyncio.gather(*(self._answer(text, start, end, step) for text in queries.values()))
        return dict(zip(queries, found, strict=True)), queries

    async def _answer(self, query: str, start: datetime, end: datetime, step: float) -> bytes:
        deadline = self._plan.canary.query_deadline
        try:
            answer = await self._metrics.query_range(
                query, start=start, end=end, step=step, deadline=deadline
            )
        except BackendError as error:
            kind = "garbage" if isinstance(error, BackendGarbage) else "cut"
            return error_answer("http" if isinstance(error, BackendRefused) else kind, str(error))
        return answer.raw

    async def _kept(self, params: dict[str, Any], answers: dict[str, bytes], queries: dict[str, str]) -> str:
        digests = await self._recorder.keep_all(list(answers.values()))
        document = {
            "format": 1,
            "rule": {
                "name": "soak",
                "params": params,
                "answers": dict(zip(answers, digests, strict=True)),
            },
            "queries": queries,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        [kept] = await self._recorder.keep_all([text.encode()])
        return kept

    def _left(self, soak: Planned, judgement: Judgement) -> float:
        """Return the seconds until the soak can be done at the earliest."""
        soaked = judgement.metrics.get("soaked_s")
        known = float(soaked) if isinstance(soaked, (int, float)) and judgement.outcome == "no_data" else 0.0
        if judgement.outcome == "provider_error":
            # How much is soaked is not known; the next answer may say that it is all.
            return soak.interval
        return max(soak.lasts - known, min(soak.interval, soak.lasts))

    def _tell(self, judgement: Judgement) -> None:
        """Note, once each time it begins, that looks do not count."""
        missing = judgement.metrics.get("soak_missing")
        holds = judgement.outcome == "provider_error" or (judgement.outcome == "no_data" and bool(missing))
        if holds and not self._holding:
            self._recorder.note(Noted(level="warning", text=f"the soak holds: {judgement.reason}"))
        self._holding = judgement.reason if holds else ""


def _params(soak: Planned, since: datetime, now: datetime) -> dict[str, Any]:
    elapsed = (now - since).total_seconds()
    # As many digits as the query API is given, so that steps do not drift apart over thousands of them.
    step = float(f"{soak.interval:.6g}")
    if elapsed / step > _MOST_POINTS:
        step = float(math.ceil(elapsed / _MOST_POINTS))
    return {
        "checks": [_check(one) for one in soak.checks],
        "since": round(since.timestamp(), 3),
        "now": round(now.timestamp(), 3),
        "step": step,
        "lasts": soak.lasts,
    }


def _check(check: MetricCheck) -> dict[str, str]:
    return {"metric": check.metric, "threshold": check.threshold}
