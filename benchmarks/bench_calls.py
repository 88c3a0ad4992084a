"""An agent call beside its schema validations alone.

The call is a whole one: request built, checked and sent, checked again on the agent's side, an agent that
does nothing, its response checked on both sides, its bytes kept as a blob, two records in the journal. The
messages are as small as they get, which makes what is not validation stand out most.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report, parse_arguments, percentile
from benchmarks.scene import plan, recorder
from cockpit.agentkit.context import Handles
from cockpit.agents.roster import ROSTER
from cockpit.base.clock import SystemClock
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.dispatch import LocalDispatch
from cockpit.journal.base import Event
from cockpit.journal.events import Noted
from cockpit.rpc.messages import AgentRequest, AgentResponse
from cockpit.rpc.validate import schema_of, validator_of

CALLS = 160
ROUNDS = 7
AT_ONCE = 8
"""How many calls a phase makes at once."""


class _Held:
    held = True
    fenced_out = False


class Unwritten:
    """A recorder that writes nothing: what is left of a call is messages and dispatch."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    async def record(self, event: Event) -> None:
        """Take an event and forget it."""

    def note(self, event: Event) -> None:
        """Take an event and forget it."""

    async def keep_all(self, parts: Sequence[bytes]) -> list[str]:
        """Return what digests look like."""
        return ["sha256:" + "0" * 64 for _ in parts]


class Keeping:
    """A dispatch that keeps the last request and response, to validate the very same ones alone."""

    def __init__(self, inner: LocalDispatch) -> None:
        self._inner = inner
        self.request = self.response = b""

    async def call(self, agent: str, request: bytes) -> bytes:
        """Pass the call on."""
        self.request = request
        self.response = await self._inner.call(agent, request)
        return self.response


def trivial_agent() -> tuple[str, str]:
    """Return id and name of an agent that only answers: one that is declared and not built."""
    info = next(info for info in ROSTER if not info.built)
    return info.id, info.name


async def spread(call: Callable[[], Awaitable[object]], count: int, at_once: int) -> list[float]:
    """Make `count` calls, `at_once` of them at a time; return each one's seconds."""
    left = iter(range(count))
    took: list[float] = []

    async def worker() -> None:
        for _ in left:
            start = time.perf_counter()
            await call()
            took.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return took


def validations(request: bytes, response: bytes, count: int) -> None:
    """Do what jsonschema does in `count` calls: each message twice, once a side."""
    documents = ((AgentRequest, json.loads(request)), (AgentResponse, json.loads(response)))
    for _ in range(count):
        for model, document in documents:
            for _side in range(2):
                if next(iter(validator_of(model).iter_errors(document)), None) is not None:
                    raise AssertionError("the messages of the benchmark are valid")


async def measure(report: Report, folder: Path) -> None:
    """Measure calls and validations in turns, so that both meet the same moments of the machine."""
    loaded = plan(folder)
    clock = SystemClock()
    async with recorder(folder / "run") as recording:
        gate = EffectsGate(recording, _Held(), clock, loaded.plan.window_utc, frozenset({"prod"}))
        local = LocalDispatch(loaded, recording.run_dir, clock, recording, Handles(), gate)
        dispatch = Keeping(local)
        unwritten: Any = Unwritten(recording.run_dir)
        journaled, bare = (
            _caller(AgentCalls(dispatch, keeper, clock, deadline=60)) for keeper in (recording, unwritten)
        )
        await spread(journaled, 20, 1)
        await _rounds(report, recording, dispatch, journaled, bare)
    _schemas(report)


def _caller(calls: AgentCalls) -> Callable[[], Awaitable[None]]:
    agent, name = trivial_agent()

    async def one() -> None:
        result = await calls.call(agent, name, "P1", "VERIFY")
        if result.response is None:
            raise AssertionError(f"the call failed: {result.reason}")

    return one


async def _rounds(
    report: Report,
    recording: Recorder,
    dispatch: Keeping,
    journaled: Callable[[], Awaitable[None]],
    bare: Callable[[], Awaitable[None]],
) -> None:
    alone: list[tuple[float, ...]] = []
    unwritten: list[tuple[float, ...]] = []
    written: list[tuple[float, ...]] = []
    single: list[float] = []
    synced: list[float] = []
    for _ in range(ROUNDS):
        before = _clocks()
        validations(dispatch.request, dispatch.response, CALLS)
        alone.append(_each(before))
        before = _clocks()
        await spread(bare, CALLS, AT_ONCE)
        unwritten.append(_each(before))
        before = _clocks()
        await spread(journaled, CALLS, AT_ONCE)
        written.append(_each(before))
        single += await spread(journaled, CALLS // 8, 1)
        synced += await spread(lambda: recording.record(Noted(level="info", text="one")), CALLS // 8, 1)
    validation, plain, call = _best(alone), _best(unwritten), _best(written)
    report.add("four validations of a call alone", validation[0] * 1e6, "µs of the loop")
    report.add("a call, nothing written", plain[0] * 1e6, "µs of the loop")
    report.add("a call, nothing written : its validations", plain[0] / validation[0], "times", at_most=1.5)
    report.add(f"a call, journaled, {AT_ONCE} at once", call[0] * 1e6, "µs of the loop")
    report.add("a call, journaled : its validations", call[0] / validation[0], "times", at_most=1.5)
    report.add("the same with the threads that write to disk", call[1] / validation[1], "times")
    report.add("the same by the clock on the wall", call[2] / validation[2], "times")
    report.add("a call, journaled, one at a time, p50", percentile(single, 50) * 1e6, "µs on the wall")
    report.add("one record written and synced, p50", percentile(synced, 50) * 1e6, "µs on the wall")


def _best(rounds: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(min, zip(*rounds, strict=True)))


def _clocks() -> tuple[float, float, float]:
    """Return CPU seconds of this thread (the event loop's), of the process, and seconds on the wall."""
    return time.thread_time(), time.process_time(), time.perf_counter()


def _each(before: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple((now - then) / CALLS for now, then in zip(_clocks(), before, strict=True))


def _schemas(report: Report) -> None:
    start = time.perf_counter()
    for model in (AgentRequest, AgentResponse):
        schema_of(model)
    report.add("making the two schemas, once a process", (time.perf_counter() - start) * 1e6, "µs")


def main() -> int:
    """Measure and print."""
    arguments = parse_arguments("Measure agent calls (about 10 seconds).")
    report = Report("agent calls")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        asyncio.run(measure(report, Path(name)))
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
