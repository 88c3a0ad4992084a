"""Looks at the canary through the metrics back end: ask all at once, store each answer, then judge."""

from __future__ import annotations

import asyncio
import math

from cockpit.backends.metrics import MetricsBackend
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, JournalError
from cockpit.conductor.bake import LookResult, ShareSeen
from cockpit.conductor.recall import Answered, recall
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import Noted
from cockpit.plan.model import Canary
from cockpit.verdicts.analysis import look_of
from cockpit.verdicts.answers import MetricAnswer, parse_answer
from cockpit.verdicts.questions import (
    error_answer,
    look_document,
    look_params,
    queries_for,
    stable_names,
    window_text,
)


class PrometheusAnalyst:
    """Takes looks, and the quick views of share and count around them."""

    def __init__(self, metrics: MetricsBackend, canary: Canary, recorder: Recorder, clock: Clock) -> None:
        self._metrics = metrics
        self._canary = canary
        self._recorder = recorder
        self._clock = clock
        self._stable = stable_names(canary)
        # At 100 % stable serves nobody: it is compared as it was in the last look before.
        self._carried: dict[str, Answered] = {}
        self._seen: set[str] = set()
        self._seen_before: frozenset[str] = frozenset()
        self._step = 0
        self._away = False
        self._blind_until = 0.0

    async def look(self, step: int, window_s: float) -> LookResult:
        """Take one look over the last `window_s` seconds; never raises for what the back end does."""
        if not self._step:
            await self._take_up()
        if step != self._step:
            self._step, self._seen_before = step, frozenset(self._seen)
        weight = self._canary.steps[step - 1]
        queries = queries_for(self._canary, window_s, weight=weight)
        answered = await self._ask_all(queries)
        blind = self._blind(answered, window_s)
        offset = next((a.clock_offset_s for a in answered.values() if a.clock_offset_s is not None), 0.0)
        self._remember(answered)
        carried = {n: a for n, a in self._carried.items() if n not in answered} if weight >= 100 else {}
        everything = {**carried, **answered}
        params = look_params(
            self._canary,
            window_s=window_s,
            weight=weight,
            now=self._clock.now().timestamp() + offset,
            seen_before=frozenset() if blind else self._seen_before,
            carried=tuple(carried),
        )
        look = look_of({name: answer.raw for name, answer in everything.items()}, params)
        asked = {
            name: {
                "text": answer.query,
                "asked_at": answer.asked_at,
                "evaluated_at": answer.evaluated_at,
                "clock_offset_s": answer.clock_offset_s,
                "window_s": window_s,
            }
            for name, answer in everything.items()
        }
        stored = ""
        try:
            kept = await self._recorder.keep_all([answer.raw for answer in everything.values()])
            document = look_document(params, dict(zip(everything, kept, strict=True)), asked)
            [stored] = await self._recorder.keep_all([document])
        except JournalError:
            if look.outcome != "fail":
                raise  # a pass that cannot be shown is none; a breach must be acted on all the same
        return LookResult(
            outcome=look.outcome,
            critical=look.critical,
            reason=look.reason,
            requests=look.requests,
            metrics=look.metrics,
            burn=look.burn,
            answers=stored,
        )

    async def share(self, window_s: float) -> ShareSeen:
        """Return the canary's share of all requests."""
        value, problem = await self._number(self._canary.share, window_s)
        return ShareSeen(value, problem)

    async def canary_requests(self, window_s: float) -> float | None:
        """Return the canary's requests in the window; None when it cannot be measured.

        A window without any canary series is not a count of none: the scrape may be what is missing.
        """
        value, _ = await self._number(self._canary.requests, window_s)
        return value

    async def _number(self, query: str, window_s: float) -> tuple[float | None, str]:
        answered = await self._ask(query.replace("{window}", window_text(window_s)))
        try:
            samples, warnings = parse_answer(answered.raw)
        except BackendGarbage as error:
            return None, str(error)
        if warnings:
            return None, f"a partial answer: {warnings[0]}"
        if not samples:
            return None, "no series"
        if len(samples) > 1:
            return None, f"{len(samples)} series where one number is expected"
        value = samples[0].value
        if not math.isfinite(value):
            return None, "the value is not a number: no requests"
        return value, ""

    async def _ask_all(self, queries: dict[str, str]) -> dict[str, Answered]:
        answers = await asyncio.gather(*(self._ask(text) for text in queries.values()))
        return dict(zip(queries, answers, strict=True))

    async def _ask(self, query: str) -> Answered:
        asked_at = iso(self._clock.now())
        try:
            answer: MetricAnswer = await self._metrics.query(query, deadline=self._canary.query_deadline)
        except BackendError as error:
            kind = "garbage" if isinstance(error, BackendGarbage) else "cut"
            if isinstance(error, BackendRefused):
                kind = "http"
            return Answered(query, error_answer(kind, str(error)), asked_at)
        return Answered(query, answer.raw, answer.asked_at, answer.evaluated_at, answer.clock_offset_s)

    def _blind(self, answered: dict[str, Answered], window_s: float) -> bool:
        """Tell whether a window may be empty because the back end was away, and not what it measures.

        One that was not there has measured nothing meanwhile, and answers before it measures again. What is
        missing until a whole window has gone by since it did is no data, and has not vanished: an outage is
        never a breach by itself (gates.md).
        """
        now = self._clock.monotonic()
        # Counts over the window; a gauge may still be shown as it was before.
        counts = ("requests", *self._stable)
        if all(one.evaluated_at is None for one in answered.values()):
            self._away = True
        elif self._away and any(answered[name].useful for name in counts if name in answered):
            self._away, self._blind_until = False, now + window_s
        return self._away or now < self._blind_until

    def _remember(self, answered: dict[str, Answered]) -> None:
        for name, answer in answered.items():
            if answer.useful:
                self._seen.add(name)
                if name in self._stable:
                    self._carried[name] = answer

    async def _take_up(self) -> None:
        """Before the first look: what an earlier conductor of this run had seen counts as seen."""
        people = self._recorder.state().people
        if people.sitting == 1:
            return
        try:
            found = await self._recorder.read(
                lambda: recall(self._recorder.events(), self._recorder.blob, self._canary)
            )
        except JournalError as error:
            # As if it had never been seen: at 100 % the step is then inconclusive, never passed.
            self._recorder.note(Noted(level="warning", text=f"earlier looks cannot be read back: {error}"))
            return
        self._step, self._seen_before, self._away = found.step, found.seen_before, found.away
        self._seen, self._carried = found.seen, found.carried
