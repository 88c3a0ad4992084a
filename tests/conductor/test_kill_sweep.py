"""A conductor killed at every boundary of an intent, a result or a decision, and what takes the run up again.

The kill is one of the conductor's memory: what it had written stays, what it had not is lost, what it had
sent to the cluster has happened. A second conductor then goes on, or aborts, as the plan says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from cockpit.backends.metrics import MetricsBackend
from cockpit.base.clock import iso
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.bake import Analyst
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
    LookTaken,
    Released,
    RunResumed,
    StableRecorded,
    StepDecided,
    StepStage,
    StepStarted,
)
from cockpit.journal.reader import JOURNAL_NAME, decode_events, read_lines
from cockpit.journal.records import Receipt
from cockpit.journal.storage import Io
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter
from cockpit.plan.model import Plan
from cockpit.verdicts.answers import MetricAnswer, read_answer
from cockpit.verdicts.questions import queries_for
from tests.conductor.support import NEW, OLD, RUN_ID, FastClock, ToldAnalyst, World, plan_of, world
from tests.conductor.test_release import ROSTER, Agents, Gates, Sealer
from tests.unit.journal.support import KEY
from tests.unit.verdicts.samples import canary as judged
from tests.unit.verdicts.samples import good, one, vector

BOUNDARIES = (EffectIntended, EffectDone, StableRecorded, StepStarted, StepDecided, Released)
SHA = "0" * 64
Where = Callable[[Event], bool]


class Killed(BaseException):
    """The conductor is gone."""


class Mortal(Recorder):
    """A recorder whose process is killed at its nth boundary, before or right after the record is written."""

    def __init__(
        self, writer: JournalWriter, folder: Path, at: int, *, after: bool, where: Where | None = None
    ) -> None:
        super().__init__(writer, folder, RUN_ID, KEY)
        self._where = where or (lambda event: isinstance(event, BOUNDARIES))
        self._left = at
        self._after = after
        self.dead = asyncio.Event()
        self.boundary = ""

    def _counts(self, event: Event) -> bool:
        if not self._where(event):
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
        return await self._unless_dead(event, super().record)

    async def record_abort(self, event: Event) -> Receipt:
        """Record, unless it is time to end."""
        return await self._unless_dead(event, super().record_abort)

    async def _unless_dead(self, event: Event, record: Callable[[Event], Awaitable[Receipt]]) -> Receipt:
        if self.dead.is_set():
            await self._end()
        if not self._counts(event):
            return await record(event)
        if self._after:
            await record(event)
        await self._end()
        raise Killed

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
    where: Where | None = None,
    taken_up: bool = False,
    holder: str = "ann",
    allowed: Callable[[int], Awaitable[None]] | None = None,
    metrics: MetricsBackend | None = None,
    io: Io | None = None,
) -> AsyncIterator[Sitting]:
    """Yield a conductor that ends at its nth boundary (0: never)."""
    writer = JournalWriter.open(folder, clock=clock, io=io)
    recorder = Mortal(writer, folder, at, after=after, where=where)
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
    analyst: Analyst = ToldAnalyst(weight=targets.weight)
    if metrics is not None:
        analyst = PrometheusAnalyst(metrics, plan.canary, recorder, clock)
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
        analyst=analyst,
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


async def take_up(
    folder: Path, made: World, plan: Plan, clock: FastClock, metrics: MetricsBackend | None = None
) -> Ending:
    """Take the run up as a restarted conductor does."""
    async with sitting(folder, made, plan, clock, taken_up=True, metrics=metrics) as second:
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
        assert await made.canary_replicas() == 0
        if not out:
            assert rollbacks_proven(found).ok, rollbacks_proven(found).detail


class Measured:
    """A metrics back end: the share is the route's weight, and stable has no series once it serves nobody."""

    def __init__(self, made: World, plan: Plan, clock: FastClock) -> None:
        self._made = made
        self._plan = plan
        self._clock = clock

    async def query(self, query: str, *, at: datetime | None = None, deadline: float | None = None) -> Any:
        """Answer with a healthy canary."""
        weight, now = (await self._made.weights())[0]["web-canary"], self._clock.now()
        named = {_pattern(text): name for name, text in queries_for(self._plan.canary, 1).items()}
        name = named[_pattern(query)]
        raw = good()[name].replace(b"1758614400.0", str(now.timestamp()).encode())
        if name == "share":
            raw = one(weight / 100, at=now.timestamp())
        elif name == "requests" and not weight:
            raw = one(0, at=now.timestamp())
        elif ".stable" in name and weight == 100:
            raw = vector()
        parsed = read_answer(raw)
        return MetricAnswer(
            query, now.timestamp(), iso(now), 0.0, raw, parsed.result_type, parsed.samples, parsed.warnings
        )

    async def query_range(self, query: str, **_: Any) -> Any:
        """Nothing asks."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


def _pattern(query: str) -> str:
    return query.split("[", maxsplit=1)[0]


async def taken_up_at_100_percent(
    folder: Path, stage: str, between: Callable[[], None] = lambda: None
) -> tuple[Ending, list[LookTaken]]:
    """Kill a release at a stage of its last step; return how it ended, and the looks of who took it up."""
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(20)
        section = judged().model_dump(mode="json")
        compared = {name: section[name] for name in ("checks", "baseline", "burn", "requests", "share")}
        plan = plan_of(
            clock, url=made.kube.url, phases=["P0", "P6"], agents=["A5", "A41"], on_crash="continue",
            canary={**compared, "bake": "2s", "required_passes": 1, "drain": "0s", "min_requests": 50},
        )  # fmt: skip
        metrics = cast(MetricsBackend, Measured(made, plan, clock))

        def there(event: Event) -> bool:
            return isinstance(event, StepStage) and (event.step, event.stage) == (3, stage)

        async with sitting(
            folder, made, plan, clock, at=1, after=True, where=there, metrics=metrics
        ) as first:
            assert await until_killed(first) is None
        between()
        ended = await take_up(folder, made, plan, clock, metrics)
        found = records(folder)
        taken_up = next(e.seq for e in found if isinstance(e, RunResumed))
        return ended, [e for e in found if isinstance(e, LookTaken) and e.seq > taken_up]


@pytest.mark.parametrize("stage", ["preflight", "shift", "observe", "bake", "decide"])
async def test_a_release_taken_up_at_100_percent_still_has_what_stable_was_like(
    tmp_path: Path, stage: str
) -> None:
    ended, looks = await taken_up_at_100_percent(tmp_path, stage)
    assert ended.exit == 0, ended.cause
    assert {look.outcome for look in looks} == {"pass"}


async def test_where_the_answers_of_before_are_gone_the_last_step_cannot_be_told(tmp_path: Path) -> None:
    def lose() -> None:
        for blob in (tmp_path / "blobs").glob("*.salted"):
            blob.unlink(missing_ok=True)

    ended, looks = await taken_up_at_100_percent(tmp_path, "bake", lose)
    assert (ended.exit, {look.outcome for look in looks}) == (20, {"provider_error"})
    assert "baseline.errors.stable: was not asked" in ended.cause
