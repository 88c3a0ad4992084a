"""The effects gate: what each lane is refused for, what HALT cuts, what is on disk before an act."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.clock import VirtualClock
from cockpit.base.errors import BackendRefused, BackendUnreachable, Conflict, EffectRefused
from cockpit.conductor.effects import PROMOTION_VERBS, EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import EffectDone, EffectFailed, EffectIntended, EffectUnknown
from cockpit.plan.values import Window
from tests.conductor.support import Holder, events, gate_of, on_disk, recording, until
from tests.unit.journal.support import Disk

CLOSED = Window(
    start=VirtualClock().now() - timedelta(hours=2), end=VirtualClock().now() - timedelta(hours=1)
)


class Acts:
    """A mutation that counts how often it was done."""

    def __init__(self) -> None:
        self.done = 0

    async def __call__(self) -> str:
        self.done += 1
        return "answer"


async def forward(gate: EffectsGate, act: Callable[[], Awaitable[str]], **changed: str) -> str:
    given = {"verb": "shift", "target": "canary weight 10", "env": "prod", "by": "A1", **changed}
    return await gate.forward(given["verb"], given["target"], act, env=given["env"], by=given["by"])


async def abort(gate: EffectsGate, act: Callable[[], Awaitable[str]]) -> str:
    return await gate.abort("shift", "canary weight 0", act, env="prod", by="A1")


async def refused(gate: EffectsGate, reason: str, **changed: str) -> None:
    act = Acts()
    with pytest.raises(EffectRefused) as error:
        await forward(gate, act, **changed)
    assert (error.value.reason, act.done) == (reason, 0)


async def test_what_is_allowed_is_done_and_recorded_before_and_after(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder)
        intended: list[EffectIntended] = []

        async def act() -> str:
            intended.extend(on_disk(tmp_path, EffectIntended))
            return "answer"

        assert await forward(gate, act) == "answer"
        assert [(e.verb, e.lane, e.env) for e in intended] == [("shift", "forward", "prod")]
        (done,) = await events(recorder, EffectDone)
        assert done.effect == intended[0].effect
        assert (gate.prod_shifted, gate.prod_touched) == (True, True)


async def test_forward_is_refused_while_halted_and_passes_after(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder)
        gate.halt()
        await refused(gate, "halt")
        assert await events(recorder, EffectIntended) == []
        assert not gate.prod_shifted
        gate.resume()
        assert await forward(gate, Acts()) == "answer"


async def test_a_halt_between_intent_and_act_stops_it(tmp_path: Path) -> None:
    disk = Disk()
    async with recording(tmp_path, io=disk) as recorder:
        gate, act = gate_of(recorder), Acts()
        await recorder.settle_gaps()
        disk.gate.clear()  # the intent's sync hangs
        going = asyncio.ensure_future(forward(gate, act))
        await until(lambda: (tmp_path / "journal.jsonl").stat().st_size > 0)
        gate.halt()
        gate.resume()  # over again at once: what was asked before it still may not go out
        disk.gate.set()
        with pytest.raises(EffectRefused) as error:
            await going
        assert (error.value.reason, act.done, gate.prod_shifted) == ("halt", 0, False)
        (failed,) = await events(recorder, EffectFailed)
        assert not failed.sent
        assert recorder.state().effects_open == ()


async def test_forward_needs_the_lease_the_environment_and_for_promotions_the_window(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        await refused(gate_of(recorder, holder=Holder(held=False)), "fence")
        await refused(gate_of(recorder), "env", env="dev")
        closed = gate_of(recorder, window=CLOSED)
        for verb in sorted(PROMOTION_VERBS):
            await refused(closed, "window", verb=verb)
        assert await forward(closed, Acts(), verb="stamp") == "answer"
        assert await forward(closed, Acts(), env="stage") == "answer"
        assert not closed.prod_touched


async def test_forward_does_nothing_when_its_intent_cannot_be_written(tmp_path: Path) -> None:
    for number, break_it in enumerate((_full, _failing_sync, _failing_write)):
        disk = Disk()
        async with recording(tmp_path / str(number), io=disk) as recorder:
            gate, act = gate_of(recorder), Acts()
            assert await forward(gate, act) == "answer"
            break_it(disk)
            with pytest.raises(EffectRefused) as error:
                await forward(gate, act)
            assert (error.value.reason, act.done) == ("journal", 1)
            assert await abort(gate, act) == "answer"
            assert act.done == 2


def _full(disk: Disk) -> None:
    disk.eaten = disk.capacity


def _failing_sync(disk: Disk) -> None:
    disk.fail_syncs("journal.jsonl", errno.EIO)


def _failing_write(disk: Disk) -> None:
    disk.write_errors["journal.jsonl"] = [errno.EIO, -1]


async def test_an_abort_passes_whatever_stops_a_forward_effect(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder, holder=Holder(held=False), window=CLOSED)
        gate.halt()
        act = Acts()
        assert await gate.abort("scale", "web-canary to 0", act, env="dev", by="A1") == "answer"
        assert act.done == 1
        (intended,) = await events(recorder, EffectIntended)
        assert intended.lane == "abort"


async def test_an_abort_is_refused_for_another_holders_fence(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate, act = gate_of(recorder, holder=Holder(fenced_out=True)), Acts()
        with pytest.raises(EffectRefused) as error:
            await abort(gate, act)
        assert (error.value.reason, act.done) == ("fence", 0)
        assert await events(recorder, EffectIntended) == []


async def test_an_abort_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    disk = Disk()
    async with recording(tmp_path, io=disk) as recorder:
        gate, act = gate_of(recorder), Acts()
        disk.gate.clear()
        assert await abort(gate, act) == "answer"
        disk.gate.set()
        assert len(await events(recorder, EffectDone)) == 1


async def test_halt_cuts_what_is_in_flight_and_records_it_as_unknown(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate, started = gate_of(recorder), asyncio.Event()
        undone: list[str] = []

        async def act() -> str:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                undone.append("cancelled")
                raise
            return ""

        going = asyncio.ensure_future(forward(gate, act))
        async with asyncio.timeout(10):
            await started.wait()
        gate.halt()
        with pytest.raises(EffectRefused) as error:
            await going
        assert (error.value.reason, undone) == ("halt", ["cancelled"])
        (unknown,) = await events(recorder, EffectUnknown)
        assert "HALT" in unknown.reason
        (view,) = recorder.state().effects_unknown
        assert view.verb == "shift"


async def test_halt_leaves_an_abort_in_flight_alone(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate, started, go_on = gate_of(recorder), asyncio.Event(), asyncio.Event()

        async def act() -> str:
            started.set()
            await go_on.wait()
            return "answer"

        going = asyncio.ensure_future(abort(gate, act))
        async with asyncio.timeout(10):
            await started.wait()
            gate.halt()
            await asyncio.sleep(0)
            go_on.set()
            assert await going == "answer"


async def test_a_caller_that_is_cancelled_ends_the_mutation_and_it_is_unknown(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate, started = gate_of(recorder), asyncio.Event()

        async def act() -> str:
            started.set()
            await asyncio.Event().wait()
            return ""

        going = asyncio.ensure_future(forward(gate, act))
        async with asyncio.timeout(10):
            await started.wait()
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
        (unknown,) = await events(recorder, EffectUnknown)
        assert "cancelled" in unknown.reason


async def test_a_mutation_that_ignores_its_cancellation_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate, started, end = gate_of(recorder), asyncio.Event(), asyncio.Event()

        async def act() -> str:
            started.set()
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    pass
            return ""

        going = asyncio.ensure_future(forward(gate, act))
        async with asyncio.timeout(20):
            await started.wait()
            gate.halt()
            with pytest.raises(EffectRefused):
                await going
        assert len(await events(recorder, EffectUnknown)) == 1
        end.set()
        await asyncio.sleep(0)


async def test_a_caller_cancelled_while_its_intent_is_written_leaves_nothing_open(tmp_path: Path) -> None:
    disk = Disk()
    async with recording(tmp_path, io=disk) as recorder:
        gate, act = gate_of(recorder), Acts()
        disk.gate.clear()
        going = asyncio.ensure_future(forward(gate, act))
        await until(lambda: (tmp_path / "journal.jsonl").stat().st_size > 0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        disk.gate.set()
        (failed,) = await events(recorder, EffectFailed)
        assert (failed.sent, act.done, recorder.state().effects_open) == (False, 0, ())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BackendRefused("no", status=403), EffectFailed),
        (Conflict("changed"), EffectFailed),
        (BackendUnreachable("no answer"), EffectUnknown),
        (RuntimeError("what is this"), EffectUnknown),
    ],
)
async def test_what_the_back_end_said_decides_between_failed_and_unknown(
    tmp_path: Path, error: Exception, kind: type[EffectFailed] | type[EffectUnknown]
) -> None:
    async with recording(tmp_path) as recorder:

        async def act() -> str:
            raise error

        with pytest.raises(type(error)):
            await forward(gate_of(recorder), act)
        assert len(await events(recorder, kind)) == 1


Step = st.sampled_from(["halt", "resume", "forward", "abort", "turn"])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(Step, max_size=30))
def test_no_forward_act_ever_runs_while_halted(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_random_sequence(Path(folder), steps))


async def _random_sequence(folder: Path, steps: list[str]) -> None:
    async with recording(folder) as recorder:
        gate = gate_of(recorder)
        ran, aborted = 0, 0

        async def act() -> str:
            nonlocal ran
            assert not gate.halted
            ran += 1
            # A HALT cuts it here; going on after one would be a mutation under HALT.
            await asyncio.sleep(0)
            assert not gate.halted
            return ""

        async def stop() -> str:
            nonlocal aborted
            aborted += 1
            return ""

        going: list[asyncio.Future[str]] = []
        for step in steps:
            if step == "halt":
                gate.halt()
            elif step == "resume":
                gate.resume()
            elif step == "forward":
                going.append(asyncio.ensure_future(forward(gate, act)))
            elif step == "abort":
                going.append(asyncio.ensure_future(abort(gate, stop)))
            else:
                await asyncio.sleep(0.002)
        results = await asyncio.gather(*going, return_exceptions=True)
        for result in results:
            assert not isinstance(result, BaseException) or (
                isinstance(result, EffectRefused) and result.reason == "halt"
            )
        assert aborted == steps.count("abort")
        done, unknown = await _settled(recorder)
        assert len(done) + len(unknown) >= ran + aborted


async def _settled(recorder: Recorder) -> tuple[list[EffectDone], list[EffectUnknown]]:
    return await events(recorder, EffectDone), await events(recorder, EffectUnknown)
