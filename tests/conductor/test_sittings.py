"""Several sittings of one run: it closes before traffic moves and goes on, or what is out is rolled back."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from cockpit.backends.cluster import DEPLOYMENT
from cockpit.conductor.ending import ApprovalMissing, Ending
from cockpit.conductor.resume import MOST_TAKEN_UP, must_abort, progress_of
from cockpit.evidence.order import rollbacks_proven
from cockpit.journal.base import Event
from cockpit.journal.events import (
    AgentCalled,
    EffectIntended,
    HaltBegan,
    JournalGap,
    LookTaken,
    Released,
    RollbackStarted,
    RunClosed,
    RunResumed,
    StepDecided,
    StepStarted,
)
from cockpit.journal.events_people import RunReopened, StopDecided
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.records import Stored
from cockpit.journal.storage import SystemIo
from tests.conductor.support import NEW, OLD, FastClock, recording, world
from tests.conductor.test_kill_sweep import SHA, Sitting, plan_for, records, sitting, until_killed
from tests.conductor.test_release import ROSTER


async def close(one: Sitting, ending: Ending) -> None:
    """Close a sitting as the conductor's process does."""
    await one.recorder.record_abort(RunClosed(exit=ending.exit, outcome=ending.outcome, cause=ending.cause))


async def reopen(one: Sitting, kind: str = "run") -> None:
    """Open another sitting."""
    number = one.recorder.state().people.sitting + 1
    await one.recorder.record(
        RunReopened(sitting=number, why="a test", operator="ann", host="here", kind=kind)
    )


async def test_a_run_that_waited_for_approval_goes_on_in_another_sitting(tmp_path: Path) -> None:
    asked = []

    async def not_yet(step: int) -> None:
        asked.append(step)
        if len(asked) == 1:
            raise ApprovalMissing("nobody has approved yet")

    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "abort")
        async with sitting(tmp_path, made, plan, clock, allowed=not_yet) as first:
            ended = await first.release.run()
            assert ended.exit == 40
            await close(first, ended)
        assert await made.stable() == {"web": (2, OLD.format("web"))}
        assert await made.canary_replicas() == 0
        async with sitting(tmp_path, made, plan, clock) as second:
            await reopen(second)
        async with sitting(tmp_path, made, plan, clock, allowed=not_yet) as third:
            state = third.recorder.state()
            progress = progress_of(state, plan, SHA, ROSTER, clock.now())
            assert (await third.release.run(progress)).exit == 0
        found = records(tmp_path)
        assert [e.step for e in found if isinstance(e, StepStarted)] == [1, 2, 3]
        assert [e.agent for e in found if isinstance(e, AgentCalled) if e.phase == "P0"].count("A5") == 4
        effects = [e.effect for e in found if isinstance(e, EffectIntended)]
        assert len(effects) == len(set(effects))
        assert asked == [1, 1, 2, 3, 4]
        assert await made.stable() == {"web": (2, NEW.format("web"))}


async def test_a_release_that_is_out_is_rolled_back_in_another_sitting(tmp_path: Path) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "abort")
        async with sitting(tmp_path, made, plan, clock) as first:
            ended = await first.release.run()
            assert ended.exit == 0
            await close(first, ended)
        async with sitting(tmp_path, made, plan, clock) as second:
            await reopen(second)
            ended = await second.release.undo("kpi_regression", "fewer orders", "ann")
            assert ended.exit == 20
        assert await made.stable() == {"web": (2, OLD.format("web"))}
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        found = records(tmp_path)
        (started,) = [e for e in found if isinstance(e, RollbackStarted)]
        assert (started.reason, started.by) == ("kpi_regression", "ann")
        assert rollbacks_proven(found).ok, rollbacks_proven(found).detail


async def test_what_somebody_has_put_in_its_place_since_is_not_rolled_back(tmp_path: Path) -> None:
    later = "registry.example/web@sha256:" + "b" * 64
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "abort")
        async with sitting(tmp_path, made, plan, clock) as first:
            ended = await first.release.run()
            await close(first, ended)
        containers = [{"name": "app", "image": later}]
        await made.change(
            DEPLOYMENT, "web-stable", {"spec": {"template": {"spec": {"containers": containers}}}}
        )
        async with sitting(tmp_path, made, plan, clock) as second:
            await reopen(second)
            ended = await second.release.undo("manual", "too late", "ann")
        assert (ended.exit, "changed stable since" in ended.cause) == (60, True)
        assert await made.stable() == {"web": (2, later)}


async def test_a_rollback_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock) as first:
            ended = await first.release.run()
            await close(first, ended)
            await reopen(first, "rollback")
        async with sitting(tmp_path, made, plan, clock, taken_up=True) as second:
            assert must_abort(second.recorder.state(), plan)
            assert (await second.release.abort_only("the conductor ended")).exit == 20
        assert await made.stable() == {"web": (2, OLD.format("web"))}


async def test_a_rollback_that_was_cut_off_does_not_ask_for_more_replicas_than_there_are(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock) as first:
            ended = await first.release.run()
            await close(first, ended)
            await reopen(first, "rollback")
        # Fewer are needed by now, and that is for others to decide.
        await made.change(DEPLOYMENT, "web-stable", {"spec": {"replicas": 1}})

        def begun(event: Event) -> bool:
            return isinstance(event, EffectIntended)

        async with sitting(tmp_path, made, plan, clock, at=1, after=True, where=begun) as second:
            undoing = second.release.undo("manual", "fewer orders", "ann")
            assert await until_killed(second, undoing) is None
        assert any(isinstance(e, RollbackStarted) for e in records(tmp_path))
        async with sitting(tmp_path, made, plan, clock, taken_up=True) as third:
            assert (await third.release.abort_only("the conductor ended")).exit == 20
        assert await made.stable() == {"web": (1, OLD.format("web"))}


async def test_nothing_is_rolled_back_where_nothing_is_out(tmp_path: Path) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "abort")
        async with sitting(tmp_path, made, plan, clock) as only:
            assert (await only.release.undo("manual", "why not", "ann")).exit == 64
        assert await made.stable() == {"web": (2, OLD.format("web"))}


async def test_a_killed_run_goes_on_only_so_often(tmp_path: Path) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock, at=9) as first:
            assert await until_killed(first) is None
        async with recording(tmp_path, clock) as recorder:
            assert must_abort(recorder.state(), plan) == ""
            assert must_abort(recorder.state(), plan, told="a HALT was not acknowledged")
            for _ in range(MOST_TAKEN_UP):
                await recorder.record(RunResumed(reason="killed", into="continue"))
            assert "times" in must_abort(recorder.state(), plan)


async def test_a_killed_run_that_had_failed_or_was_halted_does_not_go_on(tmp_path: Path) -> None:
    clock = FastClock(50)
    async with asyncio.timeout(100), world() as made:
        plan = plan_for(made, clock, "continue")
        for name, event in {
            "halted": HaltBegan(by="ann", trigger="key", reason="", epoch=1),
            "stopped": StopDecided(reason="manual", cause="ROLLBACK by ann", by="ann"),
            "rolled-back": RollbackStarted(reason="manual", cause="", by="ann"),
            "failed": LookTaken(
                step=1, look=1, outcome="fail", critical=True, reason="errors", requests=1.0, metrics={},
                burn={}, passes=0, required=1, failures=1, answers="",
            ),
        }.items():  # fmt: skip
            async with recording(tmp_path / name, clock) as recorder:
                await recorder.record(event)
                assert must_abort(recorder.state(), plan)


class Disk(SystemIo):
    """A disk whose journal takes nothing more from a moment on; other files it takes."""

    def __init__(self) -> None:
        self.failing = False
        self._journal: set[int] = set()

    def open(self, path: Path, flags: int) -> int:
        """Open, and remember what is the journal."""
        opened = super().open(path, flags)
        (self._journal.add if path.name == JOURNAL_NAME else self._journal.discard)(opened)
        return opened

    def write(self, fd: int, data: memoryview) -> int:
        """Write, unless it fails."""
        if self.failing and fd in self._journal:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(fd, data)


async def test_a_release_whose_journal_fails_is_rolled_back_and_again_on_record(tmp_path: Path) -> None:
    disk = Disk()

    async def fails_at_two(step: int) -> None:
        disk.failing = step == 2

    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock, allowed=fails_at_two, io=disk) as first:
            ended = await first.release.run()
            assert ended.exit == 20
            closed = await first.recorder.record_abort(
                RunClosed(exit=20, outcome=ended.outcome, cause=ended.cause)
            )
            assert closed.stored is Stored.SIDE
        assert await made.canary_replicas() == 0
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        found = records(tmp_path)
        assert not [e for e in found if isinstance(e, (RollbackStarted, RunClosed))]
        async with sitting(tmp_path, made, plan, clock, taken_up=True) as second:
            # Without them the plan would have it go on where it was.
            assert await second.recorder.settle_gaps()
            assert must_abort(second.recorder.state(), plan) == ""
            assert (await second.release.abort_only("records of an abort are outside")).exit == 20
        found = records(tmp_path)
        assert rollbacks_proven(found).ok, rollbacks_proven(found).detail
        assert any(isinstance(e, JournalGap) and e.where == "aborts.jsonl" for e in found)
        assert await made.stable() == {"web": (2, OLD.format("web"))}


async def test_no_step_is_decided_twice_over_many_kills(tmp_path: Path) -> None:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(50)
        plan = plan_for(made, clock, "continue")
        async with sitting(tmp_path, made, plan, clock, at=11) as first:
            assert await until_killed(first) is None
        for at in (6, 5):
            async with sitting(tmp_path, made, plan, clock, at=at, taken_up=True) as again:
                state = again.recorder.state()
                assert must_abort(state, plan) == ""
                progress = progress_of(state, plan, SHA, ROSTER, clock.now())
                assert await until_killed(again, again.release.go_on("killed", progress)) is None
        async with sitting(tmp_path, made, plan, clock, taken_up=True) as last:
            progress = progress_of(last.recorder.state(), plan, SHA, ROSTER, clock.now())
            assert (await last.release.go_on("killed", progress)).exit == 0
        found = records(tmp_path)
        assert [e.step for e in found if isinstance(e, StepDecided)] == [1, 2, 3]
        assert sum(isinstance(e, Released) for e in found) == 1
        assert await made.stable() == {"web": (2, NEW.format("web"))}
