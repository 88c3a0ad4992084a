"""Security and compliance: the Auditor (A20), chain, heads, artifacts and replay."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.base.errors import JournalError
from cockpit.base.files import sha256_file
from cockpit.base.threads import BoundedThreads
from cockpit.journal.fold import Fold
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.state import ReleaseState, encode
from cockpit.journal.upcast import decode
from cockpit.journal.verify import JournalReport, verify_journal

_SAMPLE = 20
_RETRIES = 20

T = TypeVar("T")

REQUIRED = ("chain", "heads", "artifacts", "replay")


class Auditor(GateAgent):
    """A20: verifies the journal again from its files, samples artifacts, and replays the run."""

    gate = "policy"
    phase_gate = "audit"

    def needs(self, context: Context) -> str:
        """Need nothing but the run folder."""
        return "verify chain and heads, hash a sample of artifacts, and compare a replay with the state"

    async def measure(self, context: Context) -> Measured:
        """Check all four and write the proof."""
        checks, proof = await _checks(context)
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "named_checks",
            {"checks": json.dumps({"checks": checks}, sort_keys=True).encode()},
            {"required": list(REQUIRED)},
            {"checks": query(context, JOURNAL_NAME, "journal", samples=proof["records"])},
        )
        artifact = write_json(
            context, "audit/proof.json", {**proof, "checks": checks, "verdict": summary(verdict)}, "evidence"
        )
        return Measured((verdict,), (artifact,), reason_of((verdict,)))


async def _checks(context: Context) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    state = context.state()
    checks: list[dict[str, Any]] = []
    proof: dict[str, Any] = {"records": 0, "root": "", "heads_checked": 0, "at": context.now()}
    try:
        report = await _settled(context)
    except JournalError as error:
        checks.append(_check("chain", False, str(error)))
        return checks, proof
    proof |= {"records": report.records, "root": report.root, "heads_checked": report.heads_checked}
    problems = "; ".join(problem.what for problem in report.problems[:5])
    checks.append(_check("chain", report.ok, problems or f"{report.records} records, root {report.root}"))
    # From the end of the first phase on there is a head outside the file; before, there is none to check.
    expected = any(phase.ended_at for phase in state.phases)
    checks.append(
        _check(
            "heads",
            report.heads_checked > 0 or not expected,
            f"{report.heads_checked} signed heads match" if report.heads_checked else "there are no heads",
        )
    )
    checks.append(await _artifacts(context, state))
    checks.append(await _threads(context, lambda: _replay(context, state)))
    return checks, proof


async def _threads(context: Context, call: Callable[[], T]) -> T:
    # A long journal takes seconds to read: not on the loop that moves traffic.
    return await BoundedThreads("the journal", 1).run(call, deadline=context.plan.agent_deadline)


async def _settled(context: Context) -> JournalReport:
    """Verify the journal while it grows.

    A last record that is just being written looks torn, and a head put beside it after the lines were read
    looks like one of a journal cut short: both are looked at again, and only what stays is a finding.
    """
    for _ in range(_RETRIES):
        report = await _threads(context, lambda: verify_journal(context.run_dir))
        if report.ok or not all("torn" in one.what or "cut off" in one.what for one in report.problems):
            return report
        await context.clock.sleep(0.05)
    return report


async def _artifacts(context: Context, state: ReleaseState) -> dict[str, Any]:
    """Hash a random sample of the artifacts: nobody can know beforehand which ones."""
    paths = [one.path for one in state.artifacts]
    chosen = secrets.SystemRandom().sample(paths, min(_SAMPLE, len(paths)))
    wrong = _changed(context, state, chosen)
    for _ in range(_RETRIES):
        if not wrong:
            break
        # Another agent may have written its file anew a moment before the journal says so.
        await context.clock.sleep(0.1)
        wrong = _changed(context, context.state(), list(wrong))
    said = "; ".join(wrong.values()) or f"{len(chosen)} of {len(paths)} artifacts are as recorded"
    return _check("artifacts", not wrong, said)


def _changed(context: Context, state: ReleaseState, paths: list[str]) -> dict[str, str]:
    known = {one.path: one.sha256 for one in state.artifacts}
    wrong = {}
    for path in paths:
        try:
            if sha256_file(context.artifacts.path(path)) != known.get(path):
                wrong[path] = f"{path} was changed"
        except OSError:
            wrong[path] = f"{path} is missing"
    return wrong


def _replay(context: Context, state: ReleaseState) -> dict[str, Any]:
    """Fold the journal up to the record the live state is of, and compare bit for bit."""
    fold = Fold()
    try:
        for events in verified_events(context.run_dir / JOURNAL_NAME, decode):
            for event in events:
                if event.seq > state.seq:
                    break
                fold.apply(event)
    except JournalError as error:
        return _check("replay", False, str(error))
    same = encode(fold.snapshot()) == encode(state)
    said = f"the replay of {state.seq + 1} records " + (
        "gives the live state, bit for bit" if same else "gives another state than the live one"
    )
    return _check("replay", same, said)


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}
