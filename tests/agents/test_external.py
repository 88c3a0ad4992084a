"""Agents that are not ours: whatever they do, the call ends, nothing is left, and only an answer counts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cockpit.agentkit.context import Handles
from cockpit.agentkit.external import RULE, ExternalAgents, roster_with
from cockpit.agents.roster import ROSTER, find
from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.conductor.calls import AgentCalls, CallResult
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.dispatch import LocalDispatch
from cockpit.evidence.recompute import verdict_problem
from cockpit.journal.events import (
    AgentFailed,
    ArtifactWritten,
    EffectDone,
    EffectIntended,
    EffectUnknown,
    GateJudged,
    Noted,
)
from cockpit.plan.load import LoadedPlan
from cockpit.plan.operations import External
from cockpit.rpc.messages import Op
from cockpit.verdicts.gates import VALIDITY_S
from tests.conductor.support import events, gate_of, plan_of, recording, until

PROGRAM = Path(__file__).with_name("external_agent.py")
AGENT = "A15"


@dataclass
class Outside:
    """A run one of whose agents is not ours."""

    calls: AgentCalls
    recorder: Recorder
    gate: EffectsGate

    async def call(self, op: Op = "VERIFY") -> CallResult:
        """Call the agent."""
        async with asyncio.timeout(40):
            return await self.calls.call(AGENT, find(AGENT).name, "P0", op)

    async def failed(self, op: Op = "VERIFY") -> AgentFailed:
        """Call the agent and return the record of the failure there must be."""
        result = await self.call(op)
        assert not result.ok and result.response is None
        assert await events(self.recorder, GateJudged) == []
        found: AgentFailed = (await events(self.recorder, AgentFailed))[-1]
        assert found.kind == result.status
        return found


@asynccontextmanager
async def outside(folder: Path, deadline: float = 20.0, **given: Any) -> AsyncIterator[Outside]:
    clock = SystemClock()
    plan = plan_of(clock, external={AGENT: {"deadline": deadline, **given}})
    loaded = LoadedPlan(plan, b"", "b" * 64, folder)
    async with recording(folder) as recorder:
        gate = gate_of(recorder, clock=clock)

        def secret(external: External) -> str:
            assert external.token is not None
            return external.token.read(folder)

        external = ExternalAgents(
            loaded,
            folder,
            recorder,
            secret=secret,
            note=lambda text: void(recorder.note(Noted(level="info", text=text))),
        )
        dispatch = LocalDispatch(loaded, folder, clock, recorder, Handles(), gate, external)
        yield Outside(AgentCalls(dispatch, recorder, clock, deadline=30.0), recorder, gate)


def void(_: object) -> None:
    """Let go of what is not waited for."""


def command(how: str, *more: object) -> list[str]:
    return [sys.executable, "-I", str(PROGRAM), how, *map(str, more)]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


# -- a command ----------------------------------------------------------------------------------------


async def test_a_command_answers_like_one_of_ours(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("good")) as made:
        result = await made.call()
        assert result.ok, result
        (judged,) = await events(made.recorder, GateJudged)
        assert (judged.agent, judged.verdict, judged.metrics) == (AGENT, "pass", {"unsigned": 0})
        assert judged.images and judged.plan_sha256 == "b" * 64
        assert judged.valid_s == VALIDITY_S["supply_chain"]
        (noted,) = await events(made.recorder, Noted)
        assert noted.text == f"{AGENT} (external) says: a word to standard error"


async def test_its_verdict_can_be_judged_again_from_what_is_stored(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("good")) as made:
        await made.call()
        (judged,) = await events(made.recorder, GateJudged)
        verdict = json.loads(made.recorder.blob(judged.verdict_blob))
        assert verdict["details"]["rule"]["name"] == RULE
        assert verdict_problem(judged, made.recorder.blob) == ""


@pytest.mark.parametrize(("how", "why"), [("says-pass", "unsigned is 3"), ("no-threshold", "no threshold")])
async def test_a_pass_its_own_numbers_do_not_bear_out_is_a_fail(tmp_path: Path, how: str, why: str) -> None:
    async with outside(tmp_path, command=command(how)) as made:
        assert not (await made.call()).ok
        (judged,) = await events(made.recorder, GateJudged)
        assert judged.verdict == "fail" and why in judged.reason
        assert verdict_problem(judged, made.recorder.blob) == ""


async def test_it_sees_no_secret_and_is_told_what_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEASE_TOKEN", "hunter2")
    seen = tmp_path / "seen.json"
    async with outside(tmp_path, command=command("environment", seen)) as made:
        assert (await made.call("PLAN")).status == "ok"
    found = json.loads(seen.read_text())
    assert "hunter2" not in json.dumps(found["env"])
    assert set(found["env"]) - {"LC_CTYPE"} == {
        "PATH", "LANG", "HOME", "TMPDIR", "COCKPIT_AGENT", "COCKPIT_AGENT_NAME", "COCKPIT_ARTIFACTS",
        "COCKPIT_CALL",
    }  # fmt: skip
    assert Path(found["env"]["HOME"]).name not in os.listdir(Path(found["env"]["HOME"]).parent)
    assert found["cwd"] == str(tmp_path)
    release = found["request"]["inputs"]["params"]["release"]
    assert (release["agent"], release["id"]) == (find(AGENT).name, AGENT)
    assert release["judged"]["plan_sha256"] == "b" * 64


async def test_a_path_in_a_command_starts_at_the_plan(tmp_path: Path) -> None:
    script = tmp_path / "tools" / "agent.sh"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -I {PROGRAM} good\n")
    script.chmod(0o700)
    async with outside(tmp_path, command=["tools/agent.sh"]) as made:
        assert (await made.call()).ok


async def test_its_artifacts_lie_in_its_own_folder(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("artifact")) as made:
        assert (await made.call("EVIDENCE")).ok
        (written,) = await events(made.recorder, ArtifactWritten)
        assert written.path == "A15/report.json"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("report.json", "not below A15/"), ("A3/report.json", "not below A15/"),
        ("A15/../../journal.jsonl", "does not match"), ("/etc/passwd", "does not match"),
        ("A15/other.json", "not there"), ("A15", "not below A15/"),
    ],
)  # fmt: skip
async def test_an_artifact_elsewhere_is_refused(tmp_path: Path, named: str, why: str) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "report.json").write_bytes(b"{}")
    async with outside(tmp_path, command=command("artifact-named", named)) as made:
        failure = await made.failed("EVIDENCE")
        assert failure.kind == "invalid" and why in failure.reason


@pytest.mark.parametrize(("how", "why"), [("artifact-link", "leads out"), ("artifact-pipe", "not a plain")])
async def test_an_artifact_that_is_no_file_of_its_own_is_refused(tmp_path: Path, how: str, why: str) -> None:
    secret = tmp_path / "run.key"
    secret.write_text("a key")
    async with outside(tmp_path, command=command(how, secret)) as made:
        failure = await made.failed("EVIDENCE")
        assert failure.kind == "invalid" and why in failure.reason


@pytest.mark.parametrize(
    ("how", "kind", "why"),
    [
        ("garbage", "invalid", "not JSON"),
        ("half", "invalid", "no whole line"),
        ("two", "invalid", "more than one line"),
        ("silent", "invalid", "no whole line"),
        ("deaf", "invalid", "AgentResponse"),
        ("huge", "invalid", f"more than {MAX_MESSAGE_BYTES} bytes"),
        ("other-trace", "invalid", "another request"),
        ("other-agent", "invalid", "Somebody Else"),
        ("status", "crash", "status 3"),
    ],
)
async def test_what_is_no_answer_fails_the_call(tmp_path: Path, how: str, kind: str, why: str) -> None:
    async with outside(tmp_path, command=command(how)) as made:
        failure = await made.failed("APPLY" if how == "status" else "VERIFY")
        assert (failure.kind, why in failure.reason) == (kind, True), failure


async def test_a_result_that_is_not_ok_is_kept_as_it_is(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("fail")) as made:
        result = await made.call("PLAN")
        assert (result.status, result.ok) == ("fail", False)


async def test_only_the_end_of_a_flood_on_standard_error_is_kept(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("noisy")) as made:
        assert (await made.call("PLAN")).status == "ok"
        (noted,) = await events(made.recorder, Noted)
        assert len(noted.text) < 1200


async def test_one_that_is_late_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with outside(tmp_path, command=command("late", pid), deadline=2.0) as made:
        failure = await made.failed()
        assert failure.kind == "timeout" and "2 s" in failure.reason
    await until(lambda: not alive(int(pid.read_text())))


@pytest.mark.parametrize("how", ["leaves", "leaves-session"])
async def test_what_it_leaves_behind_is_ended(tmp_path: Path, how: str) -> None:
    pid = tmp_path / "pid"
    async with outside(tmp_path, command=command(how, pid)) as made:
        assert (await made.call("PLAN")).status == "ok"
    await until(lambda: not alive(int(pid.read_text())))


async def test_a_grandchild_in_a_session_of_its_own_ends_with_a_late_call(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with outside(tmp_path, command=command("late-with-child", pid), deadline=3.0) as made:
        assert (await made.failed()).kind == "timeout"
    await until(lambda: not alive(int(pid.read_text())))


async def test_a_call_that_is_cancelled_takes_its_processes_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with outside(tmp_path, command=command("late-with-child", pid)) as made:
        task = asyncio.create_task(made.call())
        await until(lambda: pid.exists() and pid.read_text())
        task.cancel()
        await asyncio.wait((task,), timeout=20)
        assert task.cancelled()
        await until(lambda: not alive(int(pid.read_text())))


async def test_one_that_cannot_be_started_fails_the_call(tmp_path: Path) -> None:
    async with outside(tmp_path, command=["no-such-program"]) as made:
        failure = await made.failed("APPLY")
        assert failure.kind == "crash" and "cannot be started" in failure.reason


async def test_a_change_passes_the_effects_gate(tmp_path: Path) -> None:
    async with outside(tmp_path, command=command("good")) as made:
        assert (await made.call("APPLY")).status == "ok"
        (intended,) = await events(made.recorder, EffectIntended)
        assert (intended.verb, intended.target, intended.by) == ("external", f"{AGENT} APPLY", AGENT)
        assert len(await events(made.recorder, EffectDone)) == 1
        made.gate.halt()
        assert (await made.call("APPLY")).status == "refused"
        assert len(await events(made.recorder, EffectIntended)) == 1


async def test_a_halt_ends_a_change_under_way(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with outside(tmp_path, command=command("late", pid)) as made:
        task = asyncio.create_task(made.call("APPLY"))
        await until(lambda: pid.exists() and pid.read_text())
        made.gate.halt()
        assert (await task).status == "refused"
        await until(lambda: not alive(int(pid.read_text())))
        assert len(await events(made.recorder, EffectUnknown)) == 1


# -- a URL --------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    application = web.Application(client_max_size=4 << 20)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/agents/supply-chain"
    finally:
        await runner.cleanup()


def well(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "phase": request["phase"], "agent": find(AGENT).name, "result": "ok", "notes": "n", "next": "n",
        "trace_id": request["trace_id"], **changes,
    }  # fmt: skip


async def test_a_url_is_posted_to_with_its_token_and_the_trace(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-a-test\n")
    seen: list[tuple[str, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, dict(request.headers)))
        return web.json_response(well(await request.json()))

    async with served(handler) as url, outside(tmp_path, url=url, token="file:token") as made:
        assert (await made.call("PLAN")).status == "ok"
    ((method, headers),) = seen
    assert (method, headers["Authorization"]) == ("POST", "Bearer a-token-of-a-test")
    assert headers["traceparent"].startswith("00-")


async def _status(request: web.Request) -> web.Response:
    return web.Response(status=500)


async def _denied(request: web.Request) -> web.Response:
    return web.Response(status=403)


async def _redirect(request: web.Request) -> web.Response:
    if request.path == "/elsewhere":
        return web.json_response(well(await request.json()))
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def _garbage(request: web.Request) -> web.Response:
    return web.Response(body=b"<html>")


async def _huge(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    try:
        for _ in range(1600):
            await answer.write(b"x" * 65536)
    except ConnectionError:
        pass
    return answer


async def _packed(request: web.Request) -> web.Response:
    answer = web.json_response(well(await request.json()))
    answer.headers["Content-Encoding"] = "gzip"
    return answer


async def _other_trace(request: web.Request) -> web.Response:
    return web.json_response(well(await request.json(), trace_id="f" * 32))


async def _artifact(request: web.Request) -> web.Response:
    artifact = {"path": "A15/report.json", "sha256": "0" * 64, "type": "report"}
    return web.json_response(well(await request.json(), artifacts=[artifact]))


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (_status, "crash"), (_denied, "crash"), (_redirect, "crash"), (_garbage, "invalid"),
        (_huge, "invalid"), (_packed, "crash"), (_other_trace, "invalid"), (_artifact, "invalid"),
    ],
)  # fmt: skip
async def test_a_url_that_does_not_answer_fails_the_call(tmp_path: Path, handler: Any, kind: str) -> None:
    async with served(handler) as url, outside(tmp_path, url=url) as made:
        assert (await made.failed("APPLY")).kind == kind


async def test_a_url_that_is_late_fails_the_call(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    async with served(handler) as url, outside(tmp_path, url=url, deadline=1.0) as made:
        assert (await made.failed()).kind == "timeout"
        over.set()


async def test_a_url_nobody_serves_fails_the_call(tmp_path: Path) -> None:
    async with served(_status) as url:
        pass
    async with outside(tmp_path, url=url) as made:
        assert (await made.failed("APPLY")).kind == "crash"


# -- the roster ---------------------------------------------------------------------------------------


def test_what_the_plan_gives_to_others_counts_as_built() -> None:
    left = next(info.id for info in ROSTER if not info.built) if any(not i.built for i in ROSTER) else "A2"
    given = {info.id: info for info in roster_with(ROSTER, [left])}
    assert given[left].built
    assert [info.id for info in roster_with(ROSTER, [left])] == [info.id for info in ROSTER]
    assert all(given[info.id].built == info.built for info in ROSTER if info.id != left)


def test_an_agent_the_roster_does_not_have_cannot_be_given() -> None:
    with pytest.raises(UsageError, match="A99"):
        roster_with(ROSTER, ["A15", "A99"])


def test_tests_can_tell_the_living_from_the_dead() -> None:
    assert alive(os.getpid())
    assert not alive(2**22 + 1)
