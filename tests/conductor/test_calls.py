"""Calling agents: whatever an agent does, the call ends, is recorded, and only a valid answer counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cockpit.base.clock import VirtualClock
from cockpit.base.errors import BackendUnreachable, EffectRefused
from cockpit.base.files import sha256_hex
from cockpit.conductor.calls import AgentCalls, CallResult
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import AgentAnswered, AgentCalled, AgentFailed, ArtifactWritten, GateJudged
from cockpit.rpc.messages import Op
from tests.conductor.support import events, recording

Answer = Callable[[dict[str, Any]], bytes | Awaitable[bytes]]


@dataclass
class Agents:
    """A dispatch that answers as a test says; `asked` is what came."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def call(self, agent: str, request: bytes) -> bytes:
        """Return what the test's agent returns."""
        self.asked.append(json.loads(request))
        given = self.answer(self.asked[-1])
        return given if isinstance(given, bytes) else await given


def good(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "phase": request["phase"], "agent": "Smoke", "result": "ok", "notes": "all well", "next": "go on",
        "trace_id": request["trace_id"], **changes,
    }  # fmt: skip


def verdict(**changes: Any) -> dict[str, Any]:
    return {
        "gate": "slo", "env": "prod", "verdict": "pass", "metrics": {"p95_ms": 12.5},
        "thresholds": ["p95_ms<=150"],
        "details": {
            "phase_gate": "slo", "outcome": "pass",
            "judged": {"images": {"web": "sha256:" + "a" * 64}, "env": "prod", "plan_sha256": "b" * 64,
                       "valid_s": 60},
        },
        **changes,
    }  # fmt: skip


def raw(**changes: Any) -> Answer:
    return lambda request: json.dumps(good(request, **changes)).encode()


def text(template: str) -> Answer:
    """Answer with a good response in which `@@` stands for the template."""
    return lambda request: json.dumps(good(request, notes="@@")).replace('"@@"', template).encode()


@asynccontextmanager
async def calls_to(
    folder: Path, answer: Answer, *, deadline: float = 10.0
) -> AsyncIterator[tuple[AgentCalls, Recorder, Agents]]:
    agents = Agents(answer)
    async with recording(folder) as recorder:
        yield AgentCalls(agents, recorder, VirtualClock(auto=True), deadline=deadline), recorder, agents


async def call(calls: AgentCalls, op: Op = "VERIFY") -> CallResult:
    async with asyncio.timeout(20):
        return await calls.call("A43", "Smoke", "P6", op)


async def failed(folder: Path, answer: Answer, op: Op = "VERIFY", *, deadline: float = 10.0) -> AgentFailed:
    """Call, and return the record of the failure there must be."""
    async with calls_to(folder, answer, deadline=deadline) as (calls, recorder, _):
        result = await call(calls, op)
        assert (result.ok, result.response) == (False, None)
        assert await events(recorder, AgentAnswered) == []
        assert await events(recorder, GateJudged) == []
        found = await events(recorder, AgentFailed)
        assert found[-1].kind == result.status
        return found[-1]


async def test_a_good_answer_is_recorded_with_its_verdicts_and_artifacts(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/report.json").write_bytes(b"{}")
    artifact = {"path": "report.json", "sha256": sha256_hex(b"{}"), "type": "report"}
    async with calls_to(tmp_path, raw(verdicts=[verdict()], artifacts=[artifact])) as (
        calls,
        recorder,
        agents,
    ):
        result = await call(calls)
        assert result.ok
        (judged,) = await events(recorder, GateJudged)
        assert (judged.agent, judged.verdict, judged.metrics) == ("A43", "pass", {"p95_ms": 12.5})
        (written,) = await events(recorder, ArtifactWritten)
        assert written.path == "report.json"
        (answered,) = await events(recorder, AgentAnswered)
        assert json.loads(recorder.blob(answered.response))["trace_id"] == agents.asked[0]["trace_id"]


async def test_a_number_beyond_64_bits_can_be_recorded(tmp_path: Path) -> None:
    async with calls_to(tmp_path, raw(verdicts=[verdict(metrics={"p95_ms": 10**30})])) as (
        calls,
        recorder,
        _,
    ):
        assert (await call(calls)).ok
        (judged,) = await events(recorder, GateJudged)
        assert judged.metrics["p95_ms"] == 10**30


async def test_a_failing_verdict_is_never_ok(tmp_path: Path) -> None:
    bad = verdict(verdict="fail", details={**verdict()["details"], "outcome": "fail"})
    async with calls_to(tmp_path, raw(verdicts=[verdict(), bad])) as (calls, _, _agents):
        assert not (await call(calls)).ok


INVALID: dict[str, Answer] = {
    "nothing": lambda _: b"",
    "not JSON": lambda _: b"<html>502</html>",
    "not UTF-8": lambda _: b"\xff\xfe{}",
    "a list": lambda _: b"[]",
    "half a message": lambda request: json.dumps(good(request)).encode()[:-9],
    "another trace id": raw(trace_id="f" * 32),
    "another phase": raw(phase="P0"),
    "another agent": raw(agent="Auditor"),
    "no trace id": lambda request: json.dumps({**good(request), "trace_id": ""}).encode(),
    "an unknown field": raw(verdict="pass"),
    "an unknown result": raw(result="fine"),
    "a result of the wrong type": raw(result=True),
    "100 MB": lambda _: b'{"notes": "' + b"x" * (100 << 20) + b'"}',
    "deep nesting": lambda _: b"[" * 400_000,
    "deep nesting in its place": text("[" * 30_000 + "]" * 30_000),
    "NaN": text("NaN"),
    "NaN in a verdict": lambda r: json.dumps(
        good(r, verdicts=[verdict(metrics={"p95_ms": float("nan")})])
    ).encode(),
    "infinity in a verdict": lambda r: json.dumps(good(r, verdicts=[verdict(metrics={"p95_ms": 0})]))
    .replace('"p95_ms": 0', '"p95_ms": 1e999')
    .encode(),
    "a number beyond reading": text("9" * 6000),
    "a member twice": lambda r: json.dumps(good(r)).replace("{", '{"result": "fail", ', 1).encode(),
    "half a surrogate": text('"\\ud800"'),
    "half a surrogate in a verdict": lambda r: json.dumps(
        good(r, verdicts=[verdict(details={**verdict()["details"], "rule": {"name": "@@"}})])
    ).replace("@@", "\\ud800").encode(),
    "a verdict too long for a line": raw(verdicts=[verdict(metrics={"note": "x" * 400_000})]),
    "a pass outside of the five": raw(
        verdicts=[verdict(details={**verdict()["details"], "outcome": "maybe"})]
    ),
    "a threshold that is code": raw(verdicts=[verdict(thresholds=["__import__('os')"])]),
    "an artifact that is not there": raw(
        artifacts=[{"path": "nowhere.json", "sha256": "a" * 64, "type": "report"}]
    ),
    "an artifact with another hash": raw(
        artifacts=[{"path": "report.json", "sha256": "a" * 64, "type": "report"}]
    ),
    "an artifact outside of the folder": raw(
        artifacts=[{"path": "../journal.jsonl", "sha256": "a" * 64, "type": "report"}]
    ),
    "an artifact by its full path": raw(
        artifacts=[{"path": "/etc/hostname", "sha256": "a" * 64, "type": "report"}]
    ),
    "an artifact that is a folder": raw(artifacts=[{"path": "sub", "sha256": "a" * 64, "type": "report"}]),
    "501 artifacts": raw(
        artifacts=[{"path": f"f{n}", "sha256": "a" * 64, "type": "report"} for n in range(501)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(INVALID))
async def test_an_answer_that_is_none_fails_the_call(tmp_path: Path, what: str) -> None:
    (tmp_path / "artifacts/sub").mkdir(parents=True)
    (tmp_path / "artifacts/report.json").write_bytes(b"{}")
    failure = await failed(tmp_path, INVALID[what])
    assert failure.kind == "invalid", failure.reason
    assert 0 < len(failure.reason) <= 4000


@pytest.mark.parametrize("op", ["PLAN", "APPLY", "ROLLBACK", "EVIDENCE"])
async def test_only_verify_may_give_a_passing_verdict(tmp_path: Path, op: Op) -> None:
    failure = await failed(tmp_path, raw(verdicts=[verdict()]), op)
    assert (failure.kind, "VERIFY" in failure.reason) == ("invalid", True)


async def _never() -> bytes:
    await asyncio.Event().wait()
    return b""


async def _too_late(request: dict[str, Any]) -> bytes:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
    return json.dumps(good(request)).encode()


async def test_an_answer_that_never_comes_is_a_time_out(tmp_path: Path) -> None:
    assert (await failed(tmp_path, lambda _: _never(), deadline=0.05)).kind == "timeout"


async def test_an_answer_that_comes_too_late_does_not_count(tmp_path: Path) -> None:
    assert (await failed(tmp_path, _too_late, deadline=0.05)).kind == "timeout"


async def test_an_agent_that_ignores_its_cancellation_is_left_behind(tmp_path: Path) -> None:
    end = asyncio.Event()

    async def stubborn() -> bytes:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        return b""

    try:
        assert (await failed(tmp_path, lambda _: stubborn(), deadline=0.05)).kind == "timeout"
    finally:
        end.set()
        await asyncio.sleep(0)


async def test_a_caller_that_is_cancelled_is_not_held_up_by_the_agent(tmp_path: Path) -> None:
    end, started = asyncio.Event(), asyncio.Event()

    async def stubborn() -> bytes:
        started.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                pass
        return b""

    async with calls_to(tmp_path, lambda _: stubborn()) as (calls, recorder, _):
        going = asyncio.ensure_future(call(calls))
        async with asyncio.timeout(20):
            await started.wait()
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
        (failure,) = await events(recorder, AgentFailed)
        assert failure.kind == "cancelled"
        end.set()
        await asyncio.sleep(0)


def _raise(error: BaseException) -> Answer:
    def answer(_: dict[str, Any]) -> bytes:
        raise error

    return answer


@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom \x1b[31m"), BackendUnreachable("no answer"), RecursionError("too deep"),
     asyncio.CancelledError(), TimeoutError("of its own")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize(("op", "attempts"), [("VERIFY", 2), ("PLAN", 2), ("EVIDENCE", 2), ("APPLY", 1),
                                             ("ROLLBACK", 1)])  # fmt: skip
async def test_a_crash_is_tried_again_once_where_nothing_is_changed(
    tmp_path: Path, error: BaseException, op: Op, attempts: int
) -> None:
    async with calls_to(tmp_path, _raise(error)) as (calls, recorder, agents):
        result = await call(calls, op)
        assert (result.status, result.ok, len(agents.asked)) == ("crash", False, attempts)
        failures = await events(recorder, AgentFailed)
        assert [failure.kind for failure in failures] == ["crash"] * attempts
        assert "\x1b" not in failures[0].reason
        assert [called.attempt for called in await events(recorder, AgentCalled)] == [1, 2][:attempts]


async def test_the_second_attempt_may_succeed(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> bytes:
        if len(agents.asked) == 1:
            raise RuntimeError("once")
        return json.dumps(good(request)).encode()

    async with calls_to(tmp_path, answer) as (calls, _, agents):
        assert (await call(calls)).ok


@pytest.mark.parametrize("answer", [lambda _: b"{}", lambda _: _never()], ids=["invalid", "timeout"])
async def test_only_a_crash_is_tried_again(tmp_path: Path, answer: Answer) -> None:
    async with calls_to(tmp_path, answer, deadline=0.05) as (calls, _, agents):
        await call(calls)
        assert len(agents.asked) == 1


async def test_what_the_effects_gate_refused_is_a_refused_call(tmp_path: Path) -> None:
    failure = await failed(tmp_path, _raise(EffectRefused("HALT is in force", reason="halt")))
    assert failure.kind == "refused"
