"""A conductor killed at every boundary of an intent, a result or a decision, and what takes the run up again.

The kill is one of the conductor's memory: what it had written stays, what it had not is lost, what it had
sent to the cluster has happened. A second conductor then goes on, or aborts, as the plan says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.effects import EffectsGate, outside
from cockpit.conductor.ending import Ending
from cockpit.conductor.hooks import Hooks
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.parts import Parts
from cockpit.conductor.people import People
from cockpit.conductor.phases import Phases
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.release import Release
from cockpit.conductor.resume import must_abort, progress_of
from cockpit.conductor.targets import Targets
from cockpit.conductor.tools import BakeClock
from cockpit.evidence.order import rollbacks_proven
from cockpit.journal.base import Event
from cockpit.journal.events import (
    AnyEvent,
    EffectDone,
    EffectIntended,
    Released,
    RunResumed,
    StableRecorded,
    StepDecided,
    StepStarted,
)
from cockpit.journal.reader import JOURNAL_NAME, decode_events, read_lines
from cockpit.journal.records import Receipt
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter
from cockpit.plan.model import Plan
from tests.conductor.support import NEW, OLD, RUN_ID, FastClock, ToldAnalyst, World, plan_of, world
from tests.conductor.test_release import ROSTER, Agents, Gates, Sealer
from tests.unit.journal.support import KEY

BOUNDARIES = (EffectIntended, EffectDone, StableRecorded, StepStarted, StepDecided, Released)
SHA = "0" * 64


class Killed(BaseException):
    """The conductor is gone."""


class Mortal(Recorder):
    """A recorder whose process is killed at its nth boundary, before or right after the record is written."""

    def __init__(self, writer: JournalWriter, folder: Path, at: int, *, after: bool) -> None:
        super().__init__(writer, folder, RUN_ID, KEY)
        self._left = at
        self._after = after
        self.dead = asyncio.Event()
        self.boundary = ""

    def _counts(self, event: Event) -> bool:
        if not isinstance(event, BOUNDARIES):
            return False
        self._left -= 1
        if self._left == 0:
            self.boundary = f"{'after' if self._after else 'before'} {type(event).__name__}"
        return self._left == 0

    async def _end(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()  # nothing it does from here on is seen by anybody

    async def record(self, event: Event) -> Receipt:
        """Record, unless it is time to end."""
        if self.dead.is_set():
            await self._end()
        if not self._counts(event):
            return await super().record(event)
        if self._after:
            await super().record(event)
        await self._end()
        raise Killed

    async def record_abort(self, event: Event) -> Receipt:
        """Record, unless it is time to end."""
        return await self.record(event)

    def note(self, event: Event) -> asyncio.Future[Receipt]:
        """Record, unless it is time to end: what is noted after that is lost."""
        if self.dead.is_set():
            return asyncio.get_running_loop().create_future()
        if not self._counts(event):
            return super().note(event)
        kept = super().note(event) if self._after else asyncio.get_running_loop().create_future()
        if self._after:
            kept.add_done_callback(lambda _: self.dead.set())
        else:
            self.dead.set()
        return kept


@dataclass
class Sitting:
    """A conductor on the journal of a world."""

    recorder: Mortal
    release: Release
    gate: EffectsGate


@asynccontextmanager
async def sitting(
    folder: Path,
    made: World,
    plan: Plan,
    clock: FastClock,
    *,
    at: int = 0,
    after: bool = False,
    taken_up: bool = False,
    holder: str = "ann",
    allowed: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[Sitting]:
    """Yield a conductor that ends at its nth boundary (0: never)."""
    writer = JournalWriter.open(folder, clock=clock)
    recorder = Mortal(writer, folder, at, after=after)
    state = recorder.state()
    number = state.people.sitting + taken_up
    lease = ReleaseLease(made.conductor, plan.targets.kubernetes, holder, recorder, clock)
    canary = state.canary
    already = {"scale"} if canary.stage not in ("", "preflight") else set()
    gate = EffectsGate(
        recorder,
        lease,
        clock,
        plan.window_utc,
        frozenset({"prod", "stage"}),
        sitting=number,
        already=frozenset(already | ({"shift"} if canary.moved else set())),
    )
    people = People(
        effects=gate,
        recorder=recorder,
        clock=clock,
        on_halt="ask",
        bound=60.0,
        unattended=True,
        sitting=number,
    )
    targets = Targets(made.conductor, plan, lease)

    async def connected() -> None:
        return

    hooks = Hooks(closed=outside(plan.window_utc, clock))
    if allowed is not None:
        hooks = replace(hooks, allowed=allowed)
    calls = AgentCalls(Agents(), recorder, clock, deadline=20, sitting=number)
    parts = Parts(
        plan=plan,
        recorder=recorder,
        clock=clock,
        connect=connected,
        lease=lease,
        effects=gate,
        targets=targets,
        abort_targets=Targets(made.conductor, plan, lease, abort=f"test{state.people.sitting}"),
        analyst=ToldAnalyst(weight=targets.weight),
        people=people,
        phases=Phases(ROSTER, plan.agents, calls, recorder, people),
        gatekeeper=cast(Any, Gates()),
        sealer=Sealer(),
        bake=BakeClock(recorder),
        hooks=hooks,
    )
    try:
        yield Sitting(recorder, Release(parts), gate)
    finally:
        await recorder.close()


async def until_killed(one: Sitting, work: Coroutine[Any, Any, Ending] | None = None) -> Ending | None:
    """Run a release until its conductor is killed; None, or how it ended when it was not."""
    running = asyncio.ensure_future(work or one.release.run())
    dying = asyncio.ensure_future(one.recorder.dead.wait())
    await asyncio.wait((running, dying), return_when=asyncio.FIRST_COMPLETED)
    if one.recorder.dead.is_set():
        one.recorder.dead.set()
        running.cancel()
        await asyncio.wait((running, dying))
        return None
    dying.cancel()
    return await running


def records(folder: Path) -> list[AnyEvent]:
    """Return the journal."""
    return list(decode_events(read_lines(folder / JOURNAL_NAME), decode))


async def take_up(folder: Path, made: World, plan: Plan, clock: FastClock) -> Ending:
    """Take the run up as a restarted conductor does."""
    async with sitting(folder, made, plan, clock, taken_up=True) as second:
        state = second.recorder.state()
        why = must_abort(state, plan)
        if why:
            return await second.release.abort_only(why)
        progress = progress_of(state, plan, SHA, ROSTER, clock.now())
        return await second.release.go_on("killed", progress)


def plan_for(made: World, clock: FastClock, on_crash: str) -> Plan:
    """Return a plan that says what becomes of a killed run."""
    return plan_of(
        clock, url=made.kube.url, phases=["P0", "P6"], agents=["A5", "A41"], on_crash=on_crash,
        canary={"bake": "2s", "required_passes": 1, "drain": "0s"},
    )  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 36))
async def test_a_killed_release_goes_on_and_promotes_once(tmp_path: Path, at: int, after: bool) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock, at=at, after=after) as first:
            ended = await until_killed(first)
        if ended is None:
            ended = await take_up(tmp_path, made, plan, clock)
            assert [e.into for e in records(tmp_path) if isinstance(e, RunResumed)] == ["continue"]
        assert ended.exit == 0, (first.recorder.boundary, ended.cause)
        assert await made.stable() == {"web": (2, NEW.format("web"))}
        assert await made.canary_replicas() == 0
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        found = records(tmp_path)
        decided = [(e.step, e.decision) for e in found if isinstance(e, StepDecided)]
        assert decided == [(1, "advance"), (2, "advance"), (3, "advance")]
        assert sum(isinstance(e, Released) for e in found) <= 1
        assert [e.step for e in found if isinstance(e, StepStarted)] == [1, 2, 3]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 36))
async def test_a_killed_release_is_aborted_where_the_plan_says_so(
    tmp_path: Path, at: int, after: bool
) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "abort")
        async with sitting(tmp_path, made, plan, clock, at=at, after=after) as first:
            ended = await until_killed(first)
        if ended is None:
            ended = await take_up(tmp_path, made, plan, clock)
        found = records(tmp_path)
        out = any(isinstance(e, Released) for e in found)
        assert ended.exit in ((0,) if out else (20, 30)), (first.recorder.boundary, ended.cause)
        image = NEW if out else OLD
        assert await made.stable() == {"web": (2, image.format("web"))}
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        if not out:
            assert await made.canary_replicas() == 0
            assert rollbacks_proven(found).ok, rollbacks_proven(found).detail
