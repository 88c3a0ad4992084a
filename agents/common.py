"""What the measuring agents share: one way from a measurement to outcomes, and from an error to a verdict."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cockpit.agentkit.agent import Outcome, ReadOnlyAgent
from cockpit.agentkit.artifacts import Kind
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.base.errors import BackendError, BackendGarbage, BackendUnreachable, UsageError
from cockpit.base.files import sha256_hex
from cockpit.base.tasks import first_error
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.rpc.messages import Artifact, GateVerdict, Query, WireGate
from cockpit.verdicts.questions import error_answer
from cockpit.verdicts.rules import find

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement gave: verdicts, files already written, and a sentence for people."""

    verdicts: tuple[GateVerdict, ...]
    artifacts: tuple[Artifact, ...]
    notes: str
    next: str = "EVIDENCE, then go on"

    @property
    def ok(self) -> bool:
        """Tell whether there are verdicts and all of them pass."""
        return bool(self.verdicts) and all(verdict.verdict == "pass" for verdict in self.verdicts)


async def judge(
    context: Context,
    gate: WireGate,
    phase_gate: str,
    rule: str,
    answers: Mapping[str, bytes],
    params: Mapping[str, Any],
    queries: Mapping[str, Query],
    *,
    env: str | None = None,
) -> GateVerdict:
    """Judge stored answers by the rule of that name, the one that recomputing finds.

    In a thread: keeping answers waits for the disk and some rules verify signatures, and neither may hold up
    the loop that moves traffic.
    """
    # Parameters go through JSON, so that the rule sees now exactly what it will see offline.
    plain = json.loads(json.dumps(params, allow_nan=False))
    return await BoundedThreads("judging", 1).run(
        lambda: context.judge(gate, phase_gate, rule, find(rule), answers, plain, queries=queries, env=env),
        deadline=context.plan.agent_deadline,
    )


async def fail_unmeasured(
    context: Context, gate: WireGate, phase_gate: str, error: Exception, *, env: str | None = None
) -> GateVerdict:
    """Return the verdict on a gate that an error left unmeasured: `provider_error`, never a pass."""
    kind = "garbage" if isinstance(error, BackendGarbage) else "http"
    if isinstance(error, BackendUnreachable):
        kind = "cut"
    answers = {"error": error_answer(kind, visible(str(error), limit=400))}
    return await judge(context, gate, phase_gate, "unmeasured", answers, {}, {}, env=env)


async def together(work: Mapping[str, Coroutine[Any, Any, T]]) -> dict[str, T]:
    """Do several things at once and return their results by name; the first error is raised as itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = {name: tasks.create_task(one) for name, one in work.items()}
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return {name: task.result() for name, task in running.items()}


def reason_of(verdicts: tuple[GateVerdict, ...]) -> str:
    """Return the reasons of the verdicts that fail, or else of all."""
    wrong = [verdict for verdict in verdicts if verdict.verdict != "pass"]
    return "; ".join(
        f"{verdict.details.phase_gate} {verdict.details.outcome}: {verdict.details.reason}"
        for verdict in wrong or verdicts
    )


def write_json(context: Context, path: str, document: Any, kind: Kind = "report") -> Artifact:
    """Write an artifact as indented JSON with sorted members."""
    data = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return context.artifacts.write(path, data.encode("utf-8", "backslashreplace") + b"\n", kind)


def summary(verdict: GateVerdict) -> dict[str, Any]:
    """Return what an artifact says of a verdict: the expanded form of seed section 11."""
    return {
        "gate": verdict.gate,
        "phase_gate": verdict.details.phase_gate,
        "env": verdict.env,
        "verdict": verdict.verdict,
        "outcome": verdict.details.outcome,
        "reason": verdict.details.reason,
        "metrics": verdict.metrics,
        "thresholds": verdict.thresholds,
        "queries": [query.model_dump() for query in verdict.details.queries],
    }


class GateAgent(ReadOnlyAgent):
    """An agent that judges one phase gate: VERIFY measures, EVIDENCE vouches for what VERIFY wrote."""

    gate: WireGate
    phase_gate: str

    def __init__(self) -> None:
        self._written: tuple[Artifact, ...] = ()

    @abstractmethod
    async def measure(self, context: Context) -> Measured:
        """Measure and judge; raise BackendError when a back end does not answer as it must."""

    @abstractmethod
    def needs(self, context: Context) -> str:
        """Touch every handle the measurement needs; return what it will do, in a sentence."""

    def blocked(self, context: Context) -> str:
        """Return why this cannot be done with the plan as it is; empty when it can."""
        return ""

    async def plan(self, context: Context) -> Outcome:
        """Say what VERIFY will measure; APPLY changes nothing."""
        try:
            said = self.needs(context)
        except BackendMissing as missing:
            return blocked(str(missing))
        reason = self.blocked(context)
        if reason:
            return blocked(reason)
        return Outcome("ok", f"APPLY changes nothing. VERIFY will {said}", "run VERIFY")

    async def verify(self, context: Context) -> Outcome:
        """Measure, judge and write the artifacts."""
        self._written = ()
        try:
            self.needs(context)
            reason = self.blocked(context)
            if reason:
                return blocked(reason)
            measured = await self.measure(context)
        except BackendMissing as missing:
            return blocked(str(missing))
        except (BackendError, UsageError) as error:
            verdict = await fail_unmeasured(context, self.gate, self.phase_gate, error)
            return Outcome(
                "fail",
                f"{self.phase_gate} could not be measured: {visible(str(error), limit=500)}",
                "look at the back end, then run VERIFY again",
                verdicts=(verdict,),
            )
        self._written = measured.artifacts
        return Outcome(
            "ok" if measured.ok else "fail",
            measured.notes,
            measured.next if measured.ok else "mend what the reasons name, then run VERIFY again",
            artifacts=measured.artifacts,
            verdicts=measured.verdicts,
        )

    async def evidence(self, context: Context) -> Outcome:
        """Name the artifacts VERIFY wrote, after reading them again."""
        return vouch(context, self._written or recorded(context))


def recorded(context: Context) -> tuple[Artifact, ...]:
    """Return the artifacts the journal says this agent wrote."""
    own = [one for one in context.state().artifacts if one.agent == context.info.id]
    return tuple(Artifact.model_validate({"path": a.path, "sha256": a.sha256, "type": a.kind}) for a in own)


def vouch(context: Context, artifacts: tuple[Artifact, ...]) -> Outcome:
    """Return the outcome of EVIDENCE: the artifacts, if every one is still as it was written."""
    for artifact in artifacts:
        try:
            same = sha256_hex(context.artifacts.path(artifact.path).read_bytes()) == artifact.sha256
        except OSError:
            same = False
        if not same:
            return Outcome("fail", f"{artifact.path} is not as VERIFY wrote it", "run VERIFY again")
    if not artifacts:
        return Outcome("fail", "nothing has been measured yet: there is no evidence", "run VERIFY first")
    return Outcome("ok", f"{len(artifacts)} artifacts are as VERIFY wrote them", "none", artifacts=artifacts)


def blocked(reason: str) -> Outcome:
    """Return the outcome for something that is not configured."""
    return Outcome("blocked", reason, "configure it in the plan, or leave this agent out")


def query(context: Context, text: str, backend: Any, *, samples: int = 0, **more: Any) -> Query:
    """Return the description of a question put now."""
    return Query(text=text[:4000], backend=backend, asked_at=context.now(), samples=samples, **more)
