"""The bake of one step: repeated looks at the canary, and what follows from each of the five outcomes.

| outcome | here |
| --- | --- |
| pass | counts towards the step's required passes |
| fail | `Breach` at once when critical, else after the plan's consecutive-failure limit |
| low_traffic, no_data | hold; `Inconclusive` after the low-traffic deadline |
| provider_error | hold, with back-off; `Inconclusive` after the grace period |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cockpit.base.clock import Clock
from cockpit.base.errors import CockpitError
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import LookTaken
from cockpit.plan.model import Canary
from cockpit.verdicts.rule import Metrics, Outcome


class Breach(CockpitError):
    """The canary failed: the answer is a rollback."""

    def __init__(self, what: str, *, gate: str, critical: bool = False) -> None:
        super().__init__(what)
        self.gate = gate
        self.critical = critical


class Inconclusive(CockpitError):
    """It cannot be told whether the canary is good; never a promotion, and no timer makes it one.

    `agents`: it was the canary-phase agents who could not tell.
    """

    def __init__(self, what: str, *, agents: bool = False) -> None:
        super().__init__(what)
        self.agents = agents


@dataclass(frozen=True, slots=True)
class LookResult:
    """One analysis; `answers` is the digest under which all that is needed to repeat it is stored."""

    outcome: Outcome
    critical: bool
    reason: str
    requests: float
    metrics: Metrics = field(default_factory=dict)
    burn: dict[str, float | None] = field(default_factory=dict)
    answers: str = ""


@dataclass(frozen=True, slots=True)
class ShareSeen:
    """The canary's share of requests (0..1); None with the problem when it could not be measured."""

    share: float | None
    problem: str = ""


class Analyst(Protocol):
    """Looks at the canary through the metrics back end."""

    async def look(self, step: int, window_s: float) -> LookResult:
        """Take one look over the last `window_s` seconds; never raises for what a back end does."""
        ...

    async def share(self, window_s: float) -> ShareSeen:
        """Return the canary's share of all requests."""
        ...

    async def canary_requests(self, window_s: float) -> float | None:
        """Return the canary's requests in the window; None when it cannot be measured."""
        ...


class BakeLength(Protocol):
    """What people make of a bake's length."""

    @property
    def paused(self) -> bool:
        """Whether its clock stands still."""
        ...

    @property
    def pauses(self) -> int:
        """How often it was paused."""
        ...

    @property
    def extra(self) -> float:
        """Seconds by which it was extended."""
        ...


class _AsPlanned:
    """A bake nobody does anything to."""

    paused = False
    pauses = 0
    extra = 0.0


class Bake:
    """Looks at one step until it has passed, failed or cannot be told."""

    def __init__(
        self,
        analyst: Analyst,
        canary: Canary,
        clock: Clock,
        recorder: Recorder,
        step: int,
        length: BakeLength | None = None,
    ) -> None:
        self._analyst = analyst
        self._length = length or _AsPlanned()
        self._canary = canary
        self._clock = clock
        self._recorder = recorder
        self._step = step
        self._looks = 0
        self._passes = 0
        self._failures = 0
        self._held_since: dict[str, float] = {}
        self._pause = canary.interval
        self._baked = 0.0
        self.summary = ""
        self.extra = 0.0
        """Seconds longer than planned it has baked."""

    async def until_passed(self) -> None:
        """Return once enough looks passed, the last over the whole bake; once more, when it got longer."""
        length, at, pauses = self._length, self._clock.monotonic(), self._length.pauses
        while True:
            stood = length.paused
            await self._clock.sleep(self._pause)
            elapsed, at = self._clock.monotonic() - at, self._clock.monotonic()
            # What was paused in any part of it does not count.
            stood = stood or length.paused or length.pauses != pauses
            self._baked += 0.0 if stood else elapsed
            pauses, self.extra = length.pauses, length.extra
            wanted = self._canary.bake + self.extra
            window = min(wanted, max(self._baked, 4 * self._canary.interval))
            result = await self._look(window)
            # A person may have paused it, or made it longer, while it was being looked at.
            whole = self._baked >= wanted and not length.paused and length.extra <= self.extra
            if result.outcome == "pass" and whole and self._passes >= self._canary.required_passes:
                self.summary = f"{self._passes} passes, {result.requests:g} requests in the last {window:g} s"
                return

    async def look_for_breach(self) -> None:
        """Take one look outside the bake: a breach raises; that nothing can be told has no deadline here."""
        try:
            await self._look(self._canary.bake, watch=True)
        except Inconclusive:
            self._held_since.clear()

    async def _look(self, window: float, *, watch: bool = False) -> LookResult:
        result = await self._analyst.look(self._step, window)
        self._looks += 1
        if result.outcome == "provider_error":
            longest = max(self._canary.interval, self._canary.provider_grace / 3)
            self._pause = min(self._pause * 2, longest)
        else:
            self._pause = self._canary.interval
        if result.outcome == "pass":
            self._passes += 1
            self._failures = 0
            self._held_since.clear()
        elif result.outcome == "fail":
            self._failures += 1
            self._held_since.clear()
        else:
            # A look that tells nothing neither adds to the failures nor excuses them.
            kind = "provider" if result.outcome == "provider_error" else "traffic"
            self._held_since.setdefault(kind, self._clock.monotonic())
        # Posted, not waited for: a disk that hangs must not keep a breach from being seen.
        self._recorder.note(
            LookTaken(
                step=self._step,
                look=self._looks,
                outcome=result.outcome,
                critical=result.critical,
                reason=result.reason,
                requests=result.requests,
                metrics=result.metrics,
                burn=result.burn,
                passes=self._passes,
                required=self._canary.required_passes,
                failures=self._failures,
                answers=result.answers,
                watch=watch,
            )
        )
        self._judge(result)
        return result

    def _judge(self, result: LookResult) -> None:
        if result.outcome == "fail":
            if result.critical:
                raise Breach(result.reason, gate="slo", critical=True)
            if self._failures >= self._canary.failure_limit:
                raise Breach(f"{self._failures} looks in a row failed: {result.reason}", gate="slo")
        now = self._clock.monotonic()
        held = self._held_since.get("provider")
        if held is not None and now - held >= self._canary.provider_grace:
            raise Inconclusive(
                f"metrics not to be had for {self._canary.provider_grace:g} s: {result.reason}"
            )
        held = self._held_since.get("traffic")
        if held is not None and now - held >= self._canary.low_traffic_deadline:
            raise Inconclusive(
                f"too little to judge for {self._canary.low_traffic_deadline:g} s: {result.reason}"
            )
