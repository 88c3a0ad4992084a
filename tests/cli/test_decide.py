"""`cockpit approve`, `break-glass` and `step-up` as processes, against a conductor's desks."""

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

import pyotp
import pytest
from msgspec.structs import replace

from cockpit.base.clock import SystemClock
from cockpit.base.files import sha256_hex
from cockpit.base.tasks import alongside
from cockpit.conductor.approvals import FOLDER, ApprovalDesk
from cockpit.conductor.breakglass import BreakGlassDesk
from cockpit.conductor.checker import SigstoreChecker
from cockpit.conductor.control import ControlServer
from cockpit.conductor.desks import Desks
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.step_up import StepUpDesk
from cockpit.journal.events_people import ApprovalReceived, ApprovalRequested, BreakGlassUsed
from cockpit.plan.load import parse_plan
from cockpit.plan.registry import Registry
from cockpit.rehearsal.release_plan import dump
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.conductor.support import FastClock, ToldPolicy, events, gate_of, on_disk, recording, until
from tests.conductor.test_approvals import SUBJECT, opened, verdict_failed
from tests.contract.approval_support import TOTP, approvals
from tests.unit.plan.test_refuse import data

REASON = "the canary plan was walked through with the operator"


@dataclass
class Desk:
    """A run with its desks, and the folder next door where somebody else sits."""

    folder: Path
    server: SigstoreServer
    recorder: Recorder
    desks: Desks

    async def asked(self, asked: str = "promote", requester: str = "@dee") -> str:
        return await self.desks.approvals.ask(asked, SUBJECT, "promote v3.0.0", requester)

    async def run(
        self, *words: str, who: str = "@ann", env: dict[str, str] | None = None, folder: bool = True
    ) -> tuple[int, str]:
        """Run a command as somebody; return its status and all it said."""
        place = ("--run", str(self.folder)) if folder else ()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cockpit", *words, *place,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "COCKPIT_OPERATOR": who, **(env or {})},
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in said
        return process.returncode, said.decode()


def plan_text(server: SigstoreServer, folder: Path, *, rehearsal: bool = True, **changes: Any) -> bytes:
    plan = data()
    people = approvals(**changes).model_dump(mode="json")
    plan["targets"]["signing"] |= {
        "issuer": server.issuer,
        "token_url": server.token_url,
        "token_secret": f"file:{folder / 'secret'}",
        "trust_config": str(folder / "trust.json"),
    }
    for person in people["people"]:
        if person["totp"]:
            person["totp"] = person["totp"]["ref"]
    waivers = [one for one in plan["waivers"] if one["what"] != "approvals"]
    return dump({**plan, "rehearsal": rehearsal, "approvals": people, "waivers": waivers}).encode()


@asynccontextmanager
async def desk(
    folder: Path, *, listens: bool = True, rehearsal: bool = True, **changes: Any
) -> AsyncIterator[Desk]:
    async with asyncio.timeout(110), SigstoreServer() as server, recording(folder / "run") as recorder:
        (folder / "secret").write_text(server.token_secret)
        (folder / "trust.json").write_text(server.trust_config())
        (folder / "run" / "trusted_root.json").write_text(server.trusted_root())
        raw = plan_text(server, folder, rehearsal=rehearsal, **changes)
        (folder / "release.yaml").write_bytes(raw)
        plan = parse_plan(raw, "release.yaml", base=folder).plan
        sha = sha256_hex(raw)
        run = replace(opened(plan), plan_sha256=sha, plan_blob=recorder.keep(raw))
        await recorder.record(run)
        clock = SystemClock()
        assert plan.approvals is not None
        registry = Registry(plan.approvals, plan.targets.signing.issuer)
        checker = SigstoreChecker(plan, registry, folder / "run" / "trusted_root.json")
        approve = ApprovalDesk(plan, sha, recorder, clock, checker, policy=ToldPolicy(), unattended=False)
        made = Desks(
            approve,
            BreakGlassDesk(plan, sha, recorder, checker, approve, ToldPolicy()),
            StepUpDesk(registry, recorder, clock, lambda reference: reference.read(folder)),
            recorder,
            clock,
        )
        people = People(
            effects=gate_of(recorder),
            recorder=recorder,
            clock=FastClock(),
            on_halt="ask",
            bound=1e6,
            unattended=False,
        )
        control = ControlServer(folder / "run", people, desks=made, may_resume=ToldPolicy().resume)
        if listens:
            await control.start()
        try:
            async with alongside(made.watch()):
                yield Desk(folder / "run", server, recorder, made)
        finally:
            if listens:
                await control.stop()


async def test_approving_from_another_shell(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        request = await made.asked()
        code, said = await made.run("approve", "--reason", REASON)
        assert (code, f"{request}: taken, and counted" in said) == (0, True), said
        # What is signed is shown first.
        for part in (SUBJECT["promotion pack"], "@ann (ann@example.org) signs: approve", REASON, "@dee"):
            assert part in said
        (given,) = await events(made.recorder, ApprovalReceived)
        assert (given.by, given.decision, given.reason, given.counted) == ("@ann", "approve", REASON, True)
        code, said = await made.run("approve", "--list")
        assert (code, "granted" in said, "@ann approve" in said) == (0, True, True)
        code, said = await made.run("approve", request, "--reason", REASON, who="bob")
        assert (code, "granted already" in said) == (64, True)


async def test_rejecting_from_another_shell(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        request = await made.asked()
        code, said = await made.run("approve", request, "--reject", "--reason", "not today", "--as", "@cem")
        assert code == 0, said
        assert [one.result for one in made.recorder.state().people.requests] == ["rejected"]


async def test_from_another_machine_and_back(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        request = await made.asked()
        carried = made.folder / FOLDER / f"{request}.request.json"
        out = tmp_path / "ann.sigstore.json"
        words = ("approve", "--request", str(carried), "--out", str(out), "--reason", REASON)
        plan = str(tmp_path / "release.yaml")
        code, said = await made.run(*words, "--plan", plan, folder=False)
        assert (code, "hand it in" in said) == (0, True), said
        assert not on_disk(made.folder, ApprovalReceived)
        code, said = await made.run("approve", "--bundle", str(out))
        assert (code, f"{request}: taken, and counted" in said) == (0, True), said
        altered = tmp_path / "altered.json"
        altered.write_bytes(carried.read_bytes().replace(b"promote v3.0.0", b"promote v3.0.1"))
        words = ("approve", "--request", str(altered), "--out", str(out), "--reason", REASON)
        code, said = await made.run(*words, "--plan", plan, folder=False)
        # Signing something else is possible and worth nothing.
        code, said = await made.run("approve", request, "--bundle", str(out))
        assert (code, "does not count" in said) == (1, True), said


async def test_where_nobody_listens_a_statement_is_left_for_the_next_sitting(tmp_path: Path) -> None:
    async with desk(tmp_path, listens=False) as made:
        request = await made.asked()
        code, said = await made.run("approve", "--reason", REASON)
        assert (code, "left in" in said) == (0, True), said
        await until(lambda: on_disk(made.folder, ApprovalReceived))
        await until(lambda: made.recorder.state().people.requests[0].result == "granted")
        assert request.startswith("promote-")


@pytest.mark.parametrize(
    ("words", "who", "problem"),
    [
        (("approve",), "@ann", "needs a reason"),
        (("approve", "--reason", REASON), "@eve", "nobody in the plan"),
        (("approve", "--reason", REASON), "@dee", "asked for this"),
        (("approve", "promote-9", "--reason", REASON), "@ann", "no request promote-9"),
        (("approve", "--request", "x", "--reason", REASON), "@ann", "--plan, --out"),
        (("approve", "--bundle", "release.yaml", "--reason", REASON), "@ann", "release.yaml"),
        (("break-glass", "perf"), "@ann", "20 characters"),
        (("break-glass", "tenant_isolation", "--reason", REASON), "@ann", "can not be overridden"),
        (("step-up",), "@ann", "no one-time password"),
    ],
)
async def test_what_cannot_be_is_said_before_anything_is_signed(
    tmp_path: Path, words: tuple[str, ...], who: str, problem: str
) -> None:
    async with desk(tmp_path) as made:
        await made.asked()
        code, said = await made.run(*words, who=who)
        assert (code, problem in said) == (64, True), said
        assert len(made.server.log) == 0
        assert not on_disk(made.folder, ApprovalReceived)


async def test_a_real_plan_asks_for_a_persons_own_proof(tmp_path: Path) -> None:
    async with desk(tmp_path, rehearsal=False) as made:
        request = await made.asked()
        code, said = await made.run("approve", "--reason", REASON)
        assert (code, "nothing proves that you are @ann" in said) == (64, True), said
        mine = {"SIGSTORE_ID_TOKEN": made.server.token("bob@example.org")}
        code, said = await made.run("approve", "--reason", REASON, env=mine)
        assert code == 1, said  # a token of somebody else
        mine = {"SIGSTORE_ID_TOKEN": made.server.token("ann@example.org")}
        code, said = await made.run("approve", "--reason", REASON, env=mine)
        assert (code, f"{request}: taken" in said) == (0, True), said


async def test_break_glass_and_its_second_person(tmp_path: Path) -> None:
    people = [
        {"id": f"@{one}", "identity": f"{one}@example.org", "groups": ["sre"], "totp": f"file:totp-{one}"}
        for one in ("ann", "bob")
    ]
    changes: dict[str, Any] = {
        "people": people,
        "rules": [{"asked": "break-glass", "step_up": "totp"}],
    }
    for one in ("ann", "bob"):
        (tmp_path / f"totp-{one}").write_text(TOTP)
    async with desk(tmp_path, **changes) as made:
        state = made.recorder.state()
        assert state.run is not None
        await made.recorder.record(verdict_failed("perf", state.run.plan_sha256))
        code, said = await made.run("break-glass", "perf", "--reason", REASON)
        assert (code, "waits for its second person" in said) == (0, True), said
        assert "failed: perf by A26" in said
        (asked,) = on_disk(made.folder, ApprovalRequested)
        code, said = await made.run("approve", "--reason", REASON, who="@bob")
        assert (code, "second factor" in said) == (1, True), said
        code, said = await made.run("step-up", pyotp.TOTP(TOTP).now(), who="@bob")
        assert code == 0, said
        code, said = await made.run("approve", "glass-1", "--reason", REASON, who="@bob")
        assert code == 0, said
        (used,) = on_disk(made.folder, BreakGlassUsed)
        assert (used.gate, used.by, used.second, used.reason) == ("perf", "@ann", "@bob", REASON)
        assert json.loads(made.recorder.blob(asked.blob))["about"]["gate"] == "perf"
