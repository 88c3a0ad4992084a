"""DR, chaos, incidents: the Chaos Captain (A36), experiments with rails in an environment before prod.

An experiment kills pods of one service, never more than the plan allows, and waits until as many are ready
and the steady state holds again. The rails, in their order: never in prod (the plan is refused, this agent
refuses, the effects gate refuses), every pod ready and the steady state held before, no more pods than
`most`, and no further experiment once one does not recover in time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.chaos_run import checks_of, chosen, deployment_of, env_of, look_at, pods_of, run, steady
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
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events_work import DrillRun
from cockpit.plan.operations import Chaos, Experiment
from cockpit.rpc.messages import Artifact, Query

FOLDER = "chaos"
VERDICT = "chaos/all_experiments.json"
"""No experiment has this name: theirs have no underscore."""
RULE = "chaos_drill"


class ChaosCaptain(Agent):
    """A36: kills pods within rails, measures how long it takes to recover, stops when it does not."""

    async def plan(self, context: Context) -> Outcome:
        """Name the pods that would be killed, after a look at the steady state."""
        try:
            chaos = _rails(context)
            looks = {one.name: await look_at(context, chaos, one) for one in chaos.experiments}
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return blocked(str(refused))
        wrong = [f"{name}: {look.problem}" for name, look in looks.items() if look.problem]
        if wrong:
            said = visible(f"the steady state does not hold: {'; '.join(wrong)}", limit=2000)
            return Outcome("fail", said, "nothing is killed until it holds; then run PLAN again")
        lines = [
            f"{one.name}: {', '.join(pod.name for pod in chosen(looks[one.name].workload, one))} of "
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
            record = await run(context, context.effects, chaos, one)
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
            verdict = await fail_unmeasured(context, "chaos", "chaos", error, env=env_of(context))
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
            "checks": checks_of(chaos),
            "window": chaos.window,
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
            looks = {one.name: await look_at(context, chaos, one) for one in chaos.experiments}
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


def _rails(context: Context) -> Chaos:
    """Return the drills the plan asks for; raises Refused where they must not be held."""
    chaos = context.plan.chaos
    if chaos is None:
        raise Refused("the plan has no drills (`chaos`)")
    if env_of(context) == "prod":
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
        {one.name: context.drills.workload(deployment_of(context, one)) for one in chaos.experiments}
    )
    asked, _ = await steady(context, chaos, "now")
    answers, queries = dict(asked.answers), dict(asked.queries)
    for one in chaos.experiments:
        record = records[one.name] or {}
        for name, text in record["answers"].items():
            answers[name] = str(text).encode()
            queries[name] = Query.model_validate(record["queries"][name])
        kept = {name: value for name, value in record.items() if name not in ("answers", "queries")}
        answers[f"{one.name}.record"] = _encoded(kept)
        queries[f"{one.name}.record"] = query(context, path_of(one), "files", samples=1)
        answers[f"now.{one.name}"] = _encoded(pods_of(pods[one.name]))
        text = f"pods of {deployment_of(context, one)} in {chaos.namespace}"
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
