"""One chaos experiment (A36): what it looks at, what it kills, how it waits for the service to come back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cockpit.agentkit.context import Context, Effects
from cockpit.agents.asking import Asked, ask
from cockpit.backends.drills import PodSeen, WorkloadSeen
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, Conflict
from cockpit.base.text import visible
from cockpit.plan.operations import Chaos, Experiment
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.rules.chaos import steady_state
from cockpit.verdicts.rules.reading import Trouble

VERB = "chaos"
_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an experiment's service and the steady state; `problem` is empty while all is well."""

    workload: WorkloadSeen
    asked: Asked
    problem: str


def env_of(context: Context) -> str:
    """Return the environment the effects gate is told: prod's namespace is prod, whatever it is called."""
    chaos = context.plan.chaos
    if chaos is None or chaos.namespace == context.plan.targets.kubernetes.namespace:
        return "prod"
    return chaos.environment


def checks_of(chaos: Chaos) -> list[dict[str, str]]:
    return [{"metric": one.metric, "threshold": one.threshold} for one in chaos.steady]


def chosen(workload: WorkloadSeen, experiment: Experiment) -> tuple[PodSeen, ...]:
    """Return the pods to kill: of the ready ones the first by name, never more than `most`."""
    return workload.ready[: experiment.most]


async def steady(context: Context, chaos: Chaos, prefix: str) -> tuple[Asked, str]:
    """Ask the steady checks; return the answers under `<prefix>.<metric>` and what does not hold."""
    window = window_text(chaos.window)
    texts = {f"{prefix}.{one.metric}": one.query.replace("{window}", window) for one in chaos.steady}
    asked = await ask(context, texts, window_s=chaos.window)
    try:
        problems, _ = steady_state(
            asked.answers,
            checks_of(chaos),
            prefix=prefix,
            now=asked.now,
            max_age=context.plan.canary.max_sample_age,
        )
    except (Trouble, BackendGarbage) as trouble:
        problems = [visible(str(trouble), limit=300)]
    return asked, "; ".join(problems)


async def look_at(context: Context, chaos: Chaos, experiment: Experiment, prefix: str = "look") -> Look:
    """Look at the pods first: what is short of pods is not steady, whatever the metrics say."""
    workload = await context.drills.workload(deployment_of(context, experiment))
    asked, problem = await steady(context, chaos, prefix)
    if len(workload.ready) < workload.wanted or not workload.ready:
        problem = f"{len(workload.ready)} of {workload.wanted} pods of {workload.deployment} are ready"
    return Look(workload, asked, problem)


def deployment_of(context: Context, experiment: Experiment) -> str:
    services = {service.name: service for service in context.plan.services}
    return services[experiment.service].stable_deployment


async def run(context: Context, effects: Effects, chaos: Chaos, one: Experiment) -> dict[str, Any]:
    """Run an experiment; return its record, whatever became of it."""
    before = await look_at(context, chaos, one, f"{one.name}.before")
    record = _record(context, chaos, one, before)
    if before.problem:
        return record | {"reason": f"not begun: the steady state did not hold before: {before.problem}"}
    targets = chosen(before.workload, one)
    started = context.clock.monotonic()
    record["times"]["killed_at"] = _time(context)
    for pod in targets:

        async def act(pod: PodSeen = pod) -> None:
            await context.drill_ground.kill(pod)

        try:
            detail = f"{one.name}: {pod.uid}"
            target = f"pod {chaos.namespace}/{pod.name}"
            await effects.forward(
                VERB, target, act, env=env_of(context), by=context.info.id, detail=visible(detail, limit=300)
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

    It counts only over a whole window since the kill: just after it, metrics have not seen anything of it yet
    and would still look well.
    """
    deployment, killed = deployment_of(context, one), set(record["killed"])
    wanted, give_up = record["before"]["wanted"], started + one.recovers_within
    problem = ""
    while True:
        try:
            workload = await context.drills.workload(deployment)
            record["after"] = pods_of(workload)
            ready = [pod for pod in workload.ready if pod.uid not in killed]
            if len(ready) >= max(wanted, workload.wanted) and not killed & {p.uid for p in workload.ready}:
                record["times"]["ready_at"] = record["times"]["ready_at"] or _time(context)
                left = started + chaos.window - context.clock.monotonic()
                if left > 0:
                    problem = f"the pods are ready; the steady state can be told in {left:.1f} s"
                    await context.clock.sleep(min(left, _PAUSE))
                    continue
                asked, problem = await steady(context, chaos, f"{one.name}.after")
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
        "before": pods_of(before.workload),
        "after": pods_of(before.workload),
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


def pods_of(workload: WorkloadSeen) -> dict[str, Any]:
    return {"wanted": workload.wanted, "pods": [asdict(pod) for pod in workload.pods]}


def _time(context: Context) -> float:
    return round(context.clock.now().timestamp(), 3)
