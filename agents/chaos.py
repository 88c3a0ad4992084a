"""DR, chaos, incidents: the Chaos Captain (A36), experiments with rails in an environment before prod.

An experiment kills pods of one service, never more than the plan allows, and waits until as many are ready
and the steady state holds again. The rails, in their order: never in prod (the plan is refused, this agent
refuses, the effects gate refuses), every pod ready and the steady state held before, no more pods than
`most`, and no further experiment once one does not recover in time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context, Effects
from cockpit.agents.asking import Asked, ask
from cockpit.agents.common import (
    blocked,
    fail_unmeasured,
    judge,
    query,
    reason_of,
    recorded,
    summary,
    together,
    vouch,
    write_json,
)
from cockpit.backends.drills import PodSeen, WorkloadSeen
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, Conflict, EffectRefused
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events_work import DrillRun
from cockpit.plan.operations import Chaos, Experiment
from cockpit.rpc.messages import Artifact, Query
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.rules.chaos import steady_state
from cockpit.verdicts.rules.reading import Trouble

FOLDER = "chaos"
VERDICT = "chaos/all_experiments.json"
"""No experiment has this name: theirs have no underscore."""
RULE = "chaos_drill"
VERB = "chaos"
_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an experiment's service and the steady state; `problem` is empty while all is well."""

    workload: WorkloadSeen
    asked: Asked
    problem: str


class ChaosCaptain(Agent):
    """A36: kills pods within rails, measures how long it takes to recover, stops when it does not."""

    async def plan(self, context: Context) -> Outcome:
        """Name the pods that would be killed, after a look at the steady state."""
        try:
            chaos = _rails(context)
            looks = {one.name: await _look(context, chaos, one) for one in chaos.experiments}
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return blocked(str(refused))
        wrong = [f"{name}: {look.problem}" for name, look in looks.items() if look.problem]
        if wrong:
            said = visible(f"the steady state does not hold: {'; '.join(wrong)}", limit=2000)
            return Outcome("fail", said, "nothing is killed until it holds; then run PLAN again")
        lines = [
            f"{one.name}: {', '.join(pod.name for pod in _chosen(looks[one.name].workload, one))} of "
            f"{len(looks[one.name].workload.ready)} ready pods, back within {one.recovers_within:g} s"
            for one in chaos.experiments
        ]
        text = f"APPLY will kill in {chaos.environment}, namespace {chaos.namespace}: {'; '.join(lines)}"
        return Outcome("ok", visible(text, limit=4000), "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Run the experiments one after the other; the first that does not recover ends it."""
        if context.effects is None:
            raise EffectRefused("pods are only killed by APPLY", reason="capability")
        try:
            chaos = _rails(context)
            _ = context.metrics, context.drill_ground
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return blocked(str(refused))
        artifacts: list[Artifact] = []
        said: list[str] = []
        for one in chaos.experiments:
            if (kept := _kept(context, one)) is not None and kept["times"]["recovered_at"] is not None:
                said.append(f"{one.name}: drilled in this run already")
                continue
            record = await _run(context, context.effects, chaos, one)
            artifacts.append(write_json(context, path_of(one), record, "evidence"))
            said.append(f"{one.name}: {record['reason']}")
            if not record["passed"]:
                text = visible("; ".join(said), limit=4000)
                following = "look at the environment; no further experiment is run"
                return Outcome("fail", text, following, artifacts=tuple(artifacts))
        text = visible("; ".join(said), limit=4000)
        return Outcome("ok", text, "run VERIFY", artifacts=tuple(artifacts))

    async def verify(self, context: Context) -> Outcome:
        """Look again, and judge the experiments from what was stored."""
        try:
            chaos = _rails(context)
            _ = context.metrics, context.drills
            records = {one.name: _kept(context, one) for one in chaos.experiments}
            missing = [name for name, record in records.items() if record is None]
            if missing:
                return Outcome("fail", f"not drilled in this run: {', '.join(missing)}", "run APPLY")
            answers, queries, now = await _answers(context, chaos, records)
        except BackendMissing as missing_backend:
            return blocked(str(missing_backend))
        except Refused as refused:
            return blocked(str(refused))
        except BackendError as error:
            verdict = await fail_unmeasured(context, "chaos", "chaos", error, env=_env(context))
            said = f"the drills could not be verified: {visible(str(error), limit=500)}"
            return Outcome("fail", said, "look at the back end, then run VERIFY again", verdicts=(verdict,))
        params = {
            "experiments": [
                {
                    "name": one.name,
                    "service": one.service,
                    "most": one.most,
                    "recovers_within": one.recovers_within,
                }
                for one in chaos.experiments
            ],
            "checks": _checks(chaos),
            "now": round(now, 3),
            "max_age": context.plan.canary.max_sample_age,
            "rollback": _rollbacks(context),
        }
        verdict = await judge(
            context, "chaos", "chaos", RULE, answers, params, queries, env=chaos.environment
        )
        document = {
            "rehearsal": context.plan.rehearsal,
            "environment": chaos.environment,
            "namespace": chaos.namespace,
            "experiments": {name: _facts(record) for name, record in records.items() if record},
            "rollback_drills": params["rollback"],
            "verdict": summary(verdict),
        }
        passed = verdict.verdict == "pass"
        return Outcome(
            "ok" if passed else "fail",
            reason_of((verdict,)),
            "EVIDENCE, then go on" if passed else "mend what the reasons name, then run APPLY and VERIFY",
            artifacts=(write_json(context, VERDICT, document, "evidence"),),
            verdicts=(verdict,),
        )

    async def rollback(self, context: Context) -> Outcome:
        """Look that nothing is left of the experiments: a killed pod is made anew by its controller."""
        try:
            chaos = _rails(context)
            looks = {one.name: await _look(context, chaos, one) for one in chaos.experiments}
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return blocked(str(refused))
        wrong = [f"{name}: {look.problem}" for name, look in looks.items() if look.problem]
        if wrong:
            text = visible(f"a pod kill leaves no fault to remove, yet {'; '.join(wrong)}", limit=2000)
            return Outcome("fail", text, f"look at the namespace {chaos.namespace}, then run ROLLBACK again")
        return Outcome("ok", "a pod kill leaves no fault: every pod is ready, the steady state holds", "none")

    async def evidence(self, context: Context) -> Outcome:
        """Name the records of the experiments, after reading them again."""
        return vouch(context, recorded(context))


class Refused(Exception):
    """A rail holds the drill back; the text says which."""


def path_of(experiment: Experiment) -> str:
    """Return where an experiment's record is kept among the artifacts."""
    return f"{FOLDER}/{experiment.name}.json"


def _env(context: Context) -> str:
    """Return the environment the effects gate is told: prod's namespace is prod, whatever it is called."""
    chaos = context.plan.chaos
    if chaos is None or chaos.namespace == context.plan.targets.kubernetes.namespace:
        return "prod"
    return chaos.environment


def _rails(context: Context) -> Chaos:
    """Return the drills the plan asks for; raises Refused where they must not be held."""
    chaos = context.plan.chaos
    if chaos is None:
        raise Refused("the plan has no drills (`chaos`)")
    if _env(context) == "prod":
        raise Refused(f"{chaos.namespace} is prod: drills are never held there")
    if context.drills.namespace != chaos.namespace:
        raise Refused(f"the drills would reach {context.drills.namespace}, not {chaos.namespace}")
    known = {service.name for service in context.plan.services}
    unknown = sorted({one.service for one in chaos.experiments} - known)
    if unknown:
        raise Refused(f"{', '.join(unknown)}: no service of the release")
    needed = sum(one.recovers_within for one in chaos.experiments)
    if needed >= context.plan.agent_deadline:
        raise Refused(
            f"the experiments may take {needed:g} s to recover, an agent has "
            f"{context.plan.agent_deadline:g} s (`agent_deadline`)"
        )
    return chaos


def _checks(chaos: Chaos) -> list[dict[str, str]]:
    return [{"metric": one.metric, "threshold": one.threshold} for one in chaos.steady]


def _chosen(workload: WorkloadSeen, experiment: Experiment) -> tuple[PodSeen, ...]:
    """Return the pods to kill: of the ready ones the first by name, never more than `most`."""
    return workload.ready[: experiment.most]


async def _steady(context: Context, chaos: Chaos, prefix: str) -> tuple[Asked, str]:
    """Ask the steady checks; return the answers under `<prefix>.<metric>` and what does not hold."""
    window = window_text(chaos.window)
    texts = {f"{prefix}.{one.metric}": one.query.replace("{window}", window) for one in chaos.steady}
    asked = await ask(context, texts, window_s=chaos.window)
    try:
        problems, _ = steady_state(
            asked.answers,
            _checks(chaos),
            prefix=prefix,
            now=asked.now,
            max_age=context.plan.canary.max_sample_age,
        )
    except (Trouble, BackendGarbage) as trouble:
        problems = [visible(str(trouble), limit=300)]
    return asked, "; ".join(problems)


async def _look(context: Context, chaos: Chaos, experiment: Experiment, prefix: str = "look") -> Look:
    """Look at the pods first: what is short of pods is not steady, whatever the metrics say."""
    workload = await context.drills.workload(_deployment(context, experiment))
    asked, problem = await _steady(context, chaos, prefix)
    if len(workload.ready) < workload.wanted or not workload.ready:
        problem = f"{len(workload.ready)} of {workload.wanted} pods of {workload.deployment} are ready"
    return Look(workload, asked, problem)


def _deployment(context: Context, experiment: Experiment) -> str:
    services = {service.name: service for service in context.plan.services}
    return services[experiment.service].stable_deployment


# -- one experiment -----------------------------------------------------------------------------------


async def _run(context: Context, effects: Effects, chaos: Chaos, one: Experiment) -> dict[str, Any]:
    """Run an experiment; return its record, whatever became of it."""
    before = await _look(context, chaos, one, f"{one.name}.before")
    record = _record(context, chaos, one, before)
    if before.problem:
        return record | {"reason": f"not begun: the steady state did not hold before: {before.problem}"}
    chosen = _chosen(before.workload, one)
    started = context.clock.monotonic()
    record["times"]["killed_at"] = _time(context)
    for pod in chosen:

        async def act(pod: PodSeen = pod) -> None:
            await context.drill_ground.kill(pod)

        try:
            detail = f"{one.name}: {pod.uid}"
            target = f"pod {chaos.namespace}/{pod.name}"
            await effects.forward(
                VERB, target, act, env=_env(context), by=context.info.id, detail=visible(detail, limit=300)
            )
        except (Conflict, BackendRefused) as error:
            # Another pod has the name by now, or it has gone by itself: that one was not killed by us.
            return record | {"reason": visible(f"{pod.name} was not killed: {error}", limit=500)}
        record["killed"].append(pod.uid)
    return await _recovered(context, chaos, one, record, started)


async def _recovered(
    context: Context, chaos: Chaos, one: Experiment, record: dict[str, Any], started: float
) -> dict[str, Any]:
    """Wait until as many pods are ready as before and the steady state holds; the record says when.

    The steady state counts from when the pods are ready: the series of a service nobody has yet missed would
    still look well.
    """
    deployment, killed = _deployment(context, one), set(record["killed"])
    wanted, give_up = record["before"]["wanted"], started + one.recovers_within
    problem = ""
    while True:
        try:
            workload = await context.drills.workload(deployment)
            record["after"] = _pods(workload)
            ready = [pod for pod in workload.ready if pod.uid not in killed]
            if len(ready) >= max(wanted, workload.wanted) and not killed & {p.uid for p in workload.ready}:
                record["times"]["ready_at"] = record["times"]["ready_at"] or _time(context)
                asked, problem = await _steady(context, chaos, f"{one.name}.after")
                _keep(record, asked, "after")
                if not problem:
                    record["times"]["recovered_at"] = _time(context)
                    took = context.clock.monotonic() - started
                    reason = f"{len(killed)} pod(s) killed, ready and steady again after {took:.1f} s"
                    return record | {"passed": took <= one.recovers_within, "seconds": took, "reason": reason}
            else:
                record["times"]["ready_at"] = None
                problem = f"{len(ready)} of {wanted} pods are ready"
        except BackendError as error:
            problem = visible(str(error), limit=300)
        if context.clock.monotonic() >= give_up:
            seconds = context.clock.monotonic() - started
            reason = f"stopped: not recovered within {one.recovers_within:g} s: {problem}"
            return record | {"seconds": seconds, "reason": visible(reason, limit=1000)}
        await context.clock.sleep(_PAUSE)


def _record(context: Context, chaos: Chaos, one: Experiment, before: Look) -> dict[str, Any]:
    record: dict[str, Any] = {
        "experiment": one.name,
        "kind": one.kind,
        "service": one.service,
        "environment": chaos.environment,
        "namespace": chaos.namespace,
        "deployment": before.workload.deployment,
        "rehearsal": context.plan.rehearsal,
        "plan_sha256": context.plan_sha256,
        "trace_id": context.request.trace_id,
        "most": one.most,
        "recovers_within": one.recovers_within,
        "before": _pods(before.workload),
        "after": _pods(before.workload),
        "killed": [],
        "times": {"steady_at": _time(context), "killed_at": None, "ready_at": None, "recovered_at": None},
        "asked": {"before": None, "after": None},
        "answers": {},
        "queries": {},
        "passed": False,
        "seconds": 0.0,
        "reason": "",
        "at": context.now(),
    }
    _keep(record, before.asked, "before")
    return record


def _keep(record: dict[str, Any], asked: Asked, moment: str) -> None:
    """Keep raw answers with the record: JSON as it came, text of anything else."""
    record["asked"][moment] = round(asked.now, 3)
    for name, raw in asked.answers.items():
        record["answers"][name] = raw.decode("utf-8", "replace")
        record["queries"][name] = asked.queries[name].model_dump(mode="json")


def _pods(workload: WorkloadSeen) -> dict[str, Any]:
    return {"wanted": workload.wanted, "pods": [asdict(pod) for pod in workload.pods]}


def _time(context: Context) -> float:
    return round(context.clock.now().timestamp(), 3)


# -- judging ------------------------------------------------------------------------------------------


def _kept(context: Context, one: Experiment) -> dict[str, Any] | None:
    """Return an experiment's record as the journal knows it; one that was changed since is none."""
    path = path_of(one)
    known = {artifact.path: artifact.sha256 for artifact in recorded(context)}
    try:
        raw = context.artifacts.path(path).read_bytes()
        if sha256_hex(raw) != known.get(path):
            return None
        record = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return None
    same = isinstance(record, dict) and record.get("plan_sha256") == context.plan_sha256
    return record if same and isinstance(record.get("times"), dict) else None


async def _answers(
    context: Context, chaos: Chaos, records: Mapping[str, dict[str, Any] | None]
) -> tuple[dict[str, bytes], dict[str, Query], float]:
    """Return the stored answers of every experiment beside those of now, and when now was."""
    pods = await together(
        {one.name: context.drills.workload(_deployment(context, one)) for one in chaos.experiments}
    )
    asked, _ = await _steady(context, chaos, "now")
    answers, queries = dict(asked.answers), dict(asked.queries)
    for one in chaos.experiments:
        record = records[one.name] or {}
        for name, text in record["answers"].items():
            answers[name] = str(text).encode()
            queries[name] = Query.model_validate(record["queries"][name])
        kept = {name: value for name, value in record.items() if name not in ("answers", "queries")}
        answers[f"{one.name}.record"] = _encoded(kept)
        queries[f"{one.name}.record"] = query(context, path_of(one), "files", samples=1)
        answers[f"now.{one.name}"] = _encoded(_pods(pods[one.name]))
        text = f"pods of {_deployment(context, one)} in {chaos.namespace}"
        queries[f"now.{one.name}"] = query(context, text, "kubernetes", samples=len(pods[one.name].pods))
    return answers, queries, asked.now


def _encoded(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _rollbacks(context: Context) -> list[dict[str, Any]]:
    """Return the drills of the automatic rollback this run's journal has; none is claimed beyond them."""
    drills = context.state().work.drills
    return [
        {"drill": one.drill, "seconds": one.seconds, "passed": one.passed, "at": one.at}
        for one in drills
        if one.kind == "rollback"
    ]


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    named = ("service", "killed", "times", "seconds", "passed", "reason", "at")
    return {name: record.get(name) for name in named}


def events_of(record: Mapping[str, Any], trace_id: str) -> list[Event]:
    """Return the drill one call ran, as an event; one of another call, or not begun, gives none."""
    if record.get("trace_id") != trace_id or not record.get("killed"):
        return []
    seconds = record.get("seconds")
    return [
        DrillRun(
            drill=visible(str(record.get("experiment")), limit=200),
            kind="chaos",
            env=visible(str(record.get("environment")), limit=20),
            passed=record.get("passed") is True,
            seconds=float(seconds) if isinstance(seconds, (int, float)) else 0.0,
            reason=visible(str(record.get("reason")), limit=500),
        )
    ]
