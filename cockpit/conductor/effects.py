"""The effects gate: every mutation passes here, in one of two lanes (design decision 4).

*Forward* is refused while halted, without the lease, outside the granted environments, for prod promotion
outside the window, and when its intent cannot be put on disk. *Abort* is refused for one thing only: another
holder's fence. HALT bumps the epoch: nothing forward goes out after it, and what is in flight is cut off and
recorded as unknown.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendRefused, CockpitError, Conflict, EffectRefused, JournalError
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import EffectDone, EffectFailed, EffectIntended, EffectUnknown
from cockpit.plan.values import Window

T = TypeVar("T")
PROMOTION_VERBS = frozenset({"scale", "shift", "promote", "flip"})
"""What the release window binds, in prod (gates.md, reading 7)."""
DRILL_VERBS = frozenset({"chaos"})
"""Drills and attacks: never in prod (docs/agents.md)."""
_CUT_WITHIN = 2.0
"""Seconds a mutation that is cut off has to end; one that does not must not hold up the stop."""


class Holder(Protocol):
    """Who holds the release lock."""

    @property
    def held(self) -> bool:
        """Whether this conductor holds the lease now."""
        ...

    @property
    def fenced_out(self) -> bool:
        """Whether another holder's fence has been seen."""
        ...


class EffectsGate:
    """Records, refuses, runs and cuts off mutations."""

    def __init__(
        self,
        recorder: Recorder,
        holder: Holder,
        clock: Clock,
        window: Window | Callable[[], str],
        environments: frozenset[str],
        *,
        sitting: int = 1,
        already: frozenset[str] = frozenset(),
    ) -> None:
        """`window`: the release window, or what says why prod must not be promoted now.

        `sitting` keeps the effects of several processes on one journal apart; `already`: verbs that earlier
        sittings sent to prod.
        """
        self._recorder = recorder
        self._holder = holder
        self._clock = clock
        self._closed = outside(window, clock) if isinstance(window, Window) else window
        self._environments = environments
        self._sitting = sitting
        self._numbers = itertools.count(1)
        self._epoch = 0
        self._halted = False
        self._released = False
        self._in_flight: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self._prod: set[str] = set(already)

    @property
    def halted(self) -> bool:
        """Whether a HALT is in force."""
        return self._halted

    @property
    def prod_shifted(self) -> bool:
        """Whether a shift of prod traffic was ever sent: traffic moved, or may have."""
        return "shift" in self._prod

    @property
    def prod_touched(self) -> bool:
        """Whether any promotion effect on prod was ever sent."""
        return bool(self._prod & PROMOTION_VERBS)

    @property
    def released(self) -> bool:
        """Whether the release is out: its canary is no canary any more."""
        return self._released

    def out(self) -> None:
        """The release is out: what follows is no promotion in flight."""
        self._released = True

    @property
    def epoch(self) -> int:
        """How many HALTs there have been."""
        return self._epoch

    def halt(self) -> int:
        """Let nothing forward pass from now on; cut off what is in flight. Returns the new epoch."""
        self._halted = True
        self._epoch += 1
        for task, cut in self._in_flight.items():
            task.cancel()
            if not cut.done():
                cut.set_result(None)
        return self._epoch

    def resume(self) -> None:
        """End a HALT; what was cut off stays unknown."""
        self._halted = False

    async def forward(
        self,
        verb: str,
        target: str,
        act: Callable[[], Awaitable[T]],
        *,
        env: str,
        by: str,
        detail: str = "",
    ) -> T:
        """Do a forward mutation; raises EffectRefused, or what the back end raises."""
        epoch = self._epoch
        self._refuse_forward(verb, target, env, epoch)
        effect = self._name("e")
        try:
            await self._recorder.record(
                EffectIntended(
                    effect=effect, lane="forward", verb=verb, target=target, env=env, by=by, detail=detail
                )
            )
        except JournalError as error:
            # One that only came too late may still be written: it must not look as if something went out.
            self._recorder.note(EffectFailed(effect=effect, reason=error.what, sent=False))
            raise EffectRefused(
                f"{verb} {target}: its intent cannot be recorded: {error.what}", reason="journal"
            ) from None
        except asyncio.CancelledError:
            # The intent may still be written: it must not look as if something had gone out.
            self._recorder.note(EffectFailed(effect=effect, reason="the caller was cancelled", sent=False))
            raise
        try:
            self._refuse_forward(verb, target, env, epoch)
        except EffectRefused as refused:
            self._recorder.note(EffectFailed(effect=effect, reason=refused.what, sent=False))
            raise
        if env == "prod":
            self._prod.add(verb)
        return await self._run(effect, act, cut_by_halt=True)

    async def abort(
        self, verb: str, target: str, act: Callable[[], Awaitable[T]], *, env: str, by: str, detail: str = ""
    ) -> T:
        """Do a step of an abort; refused for another holder's fence only."""
        if self._holder.fenced_out:
            raise EffectRefused(
                f"{verb} {target}: another holder has fenced this release",
                reason="fence",
                hint="the holder must abort; see `cockpit status`",
            )
        effect = self._name("a")
        self._recorder.note(
            EffectIntended(
                effect=effect, lane="abort", verb=verb, target=target, env=env, by=by, detail=detail
            )
        )
        return await self._run(effect, act, cut_by_halt=False)

    def _refuse_forward(self, verb: str, target: str, env: str, epoch: int) -> None:
        what = f"{verb} {target}"
        if self._halted or epoch != self._epoch:
            raise EffectRefused(f"{what}: HALT is in force", reason="halt", hint="resume or roll back")
        if not self._holder.held:
            raise EffectRefused(f"{what}: the release lock is not held", reason="fence")
        if env not in self._environments:
            raise EffectRefused(f"{what}: the plan does not grant {env}", reason="env")
        if env == "prod" and verb in DRILL_VERBS:
            raise EffectRefused(f"{what}: drills are never held in prod", reason="env")
        if env == "prod" and verb in PROMOTION_VERBS and (closed := self._closed()):
            raise EffectRefused(f"{what}: {closed}", reason="window")

    def _name(self, lane: str) -> str:
        number = f"{lane}{next(self._numbers)}"
        return number if self._sitting == 1 else f"{self._sitting}.{number}"

    async def _run(self, effect: str, act: Callable[[], Awaitable[T]], *, cut_by_halt: bool) -> T:
        started = self._clock.monotonic()
        epoch = self._epoch
        task: asyncio.Task[T] = asyncio.create_task(_await(act))
        cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if cut_by_halt:
            self._in_flight[task] = cut
        task.add_done_callback(self._over)
        try:
            # Not awaited bare: a HALT cancels only the mutation, and its owner must learn that it was one.
            await asyncio.wait((task, cut), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait((task,), timeout=_CUT_WITHIN)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,), timeout=_CUT_WITHIN)
            self._settle(effect, task, started, "the caller was cancelled")
            raise
        self._settle(effect, task, started, "HALT")
        if not task.done() or task.cancelled():
            if cut_by_halt and epoch != self._epoch:
                raise EffectRefused("cut off by HALT: its outcome is unknown", reason="halt")
            raise asyncio.CancelledError
        return task.result()

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._in_flight.pop(task, None)
        if not task.cancelled():
            task.exception()  # looked at, also where nobody waits for it any more

    def _settle(self, effect: str, task: asyncio.Task[T], started: float, cut: str) -> None:
        took = round((self._clock.monotonic() - started) * 1000, 3)
        if not task.done() or task.cancelled():
            self._recorder.note(EffectUnknown(effect=effect, reason=f"cut off: {cut}"))
            return
        error = task.exception()
        if error is None:
            self._recorder.note(EffectDone(effect=effect, took_ms=took))
        elif isinstance(error, CockpitError) and _refused(error):
            self._recorder.note(EffectFailed(effect=effect, reason=visible(str(error), limit=500), sent=True))
        else:
            # No answer, or one that cannot be read: it may have happened.
            self._recorder.note(EffectUnknown(effect=effect, reason=visible(str(error), limit=500)))


def outside(window: Window, clock: Clock) -> Callable[[], str]:
    """Return what says why a moment is outside a window, nothing while it is inside."""

    def problem() -> str:
        inside = window.contains(clock.now())
        return "" if inside else f"outside the release window {window.start} → {window.end}"

    return problem


def _refused(error: CockpitError) -> bool:
    return isinstance(error, (BackendRefused, Conflict, EffectRefused))


async def _await(act: Callable[[], Awaitable[T]]) -> T:
    return await act()
