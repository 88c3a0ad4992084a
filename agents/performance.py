"""Performance: the Perf Engineer (A26), baseline and spike by open-loop load."""

from __future__ import annotations

from typing import Any

from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.asking import ask
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.backends.http import origin
from cockpit.backends.load import LoadProfile
from cockpit.plan.model import Load, Plan
from cockpit.rpc.messages import Artifact
from cockpit.verdicts.questions import queries_for
from cockpit.verdicts.rules.load_result import LoadResult
from cockpit.verdicts.rules.perf import MAX_LATE_MS
from cockpit.verdicts.thresholds import parse

MAX_ERRORS = "error_rate<0.01"
"""Share of requests without a good answer, as seed section 11 has it."""


class PerfEngineer(GateAgent):
    """A26: latency under baseline and spike load on stage (P1), and of the canary under its own traffic."""

    gate = "perf"
    phase_gate = "perf"

    def needs(self, context: Context) -> str:
        """Need the metrics under a canary step, the load generator and a place to load else."""
        if context.step:
            _ = context.metrics
            return "hold the canary's latency under its own traffic to the threshold of the load"
        load = place(context)
        return f"send {load.baseline_rps:g} and {load.spike_rps:g} requests/s a service to {load.environment}"

    def blocked(self, context: Context) -> str:
        """Refuse prod, whatever the plan calls it; under a step, say what is missing to measure."""
        if not context.step:
            return refused(context)
        load = context.plan.targets.load
        if load is None:
            return "targets.load is not given: there is no threshold to hold the latency to"
        metric = parse(load.threshold).metric
        if not any(one.metric == metric for one in context.plan.canary.checks):
            return f"canary.checks measures no {metric}"
        return ""

    async def measure(self, context: Context) -> Measured:
        """Measure by the way that fits the moment: load would disturb a canary that has users."""
        return await (self._canary(context) if context.step else self._loaded(context))

    async def _canary(self, context: Context) -> Measured:
        canary, load = context.plan.canary, context.plan.targets.load
        assert load is not None  # blocked() has said so before
        metric = parse(load.threshold).metric
        texts = queries_for(canary, canary.bake)
        names = {"requests": "requests", "latency": f"check.{metric}"}
        asked = await ask(context, {name: texts[own] for name, own in names.items()}, window_s=canary.bake)
        params = {
            "threshold": load.threshold,
            "min_requests": canary.min_requests,
            "now": asked.now,
            "max_sample_age": canary.max_sample_age,
        }
        verdict = await judge(
            context, self.gate, self.phase_gate, "latency_now", asked.answers, params, asked.queries
        )
        document = {"about": f"canary, step {context.step}", "verdict": summary(verdict)}
        artifact = write_json(context, f"perf/latency_step_{context.step}.json", document)
        return Measured((verdict,), (artifact,), reason_of((verdict,)))

    async def _loaded(self, context: Context) -> Measured:
        load = place(context)
        rates = {"baseline": load.baseline_rps, "spike": load.spike_rps}
        paths = load_paths(context.plan)
        results = {
            name: await steady(context, LoadProfile(name, rate, load.seconds, paths))
            for name, rate in rates.items()
        }
        params: dict[str, Any] = {
            "threshold": load.threshold,
            "errors": MAX_ERRORS,
            "profiles": list(rates),
            "services": list(load.services),
            "min_requests": context.plan.canary.min_requests,
        }
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "load_latency",
            {name: result.raw for name, result in results.items()},
            params,
            {name: load_query(context, result) for name, result in results.items()},
            env=load.environment,
        )
        artifacts = tuple(
            result_file(context, f"perf/{name}.json", load, result, verdict=summary(verdict))
            for name, result in results.items()
        )
        return Measured((verdict,), artifacts, reason_of((verdict,)))


async def steady(context: Context, profile: LoadProfile) -> LoadResult:
    """Run a profile, once more when the generator itself could not keep its schedule."""
    result = await context.load.run(profile)
    if all(one.late_ms <= MAX_LATE_MS for one in result.services):
        return result
    return await context.load.run(profile)


def place(context: Context) -> Load:
    """Return where load may go; raises BackendMissing when the plan names no such place."""
    _ = context.load
    if context.plan.targets.load is None:
        raise BackendMissing("targets.load is not given: there is no environment to load")
    return context.plan.targets.load


def refused(context: Context) -> str:
    """Return why load cannot be sent: nothing to send it with, or it would reach users. Empty when it can."""
    load = place(context)
    if context.load.lacking:
        return context.load.lacking
    if context.load.environment not in ("dev", "stage"):
        return "load is never sent to prod"
    if origin(context.load.target) != origin(load.url):
        return "the load generator does not point at the plan's targets.load"
    entry = context.plan.targets.entry_url
    if entry is not None and origin(load.url) == origin(entry):
        return "targets.load is where users enter prod: load is never sent there"
    return ""


def load_paths(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the paths that load each service: its smoke paths that answer 200, else its health path."""
    load = plan.targets.load
    services = load.services if load is not None else ()
    found = {}
    for service in services:
        own = [
            one.path
            for one in plan.targets.smoke
            if one.status == 200 and one.path.startswith(f"/{service}/")
        ]
        found[service] = tuple(own) or (f"/{service}/healthz",)
    return found


def load_query(context: Context, result: LoadResult) -> Any:
    """Return the description of a load run for a verdict."""
    text = f"{result.profile}: {result.rps:g} requests/s a service for {result.seconds:g} s, open loop"
    text += f", by {result.by}"
    return query(context, text, "load", samples=result.intended, window_s=result.seconds)


def figures(result: LoadResult) -> dict[str, Any]:
    """Return a run's figures by service, for people; times in ms, infinity as None."""
    return {
        one.service: {
            "intended": one.intended,
            "good": one.good,
            "errors": one.errors,
            "dropped": one.dropped,
            "cut": one.cut,
            "sent_late_ms": round(one.late_ms, 2),
            "good_rps": round(one.good_in_window / result.seconds, 2),
            **{
                f"p{round(share * 100)}_ms": round(one.percentile_ms(share), 2)
                if one.percentile_ms(share) != float("inf")
                else None
                for share in (0.5, 0.95, 0.99)
            },
        }
        for one in result.services
    }


def result_file(
    context: Context, path: str, load: Load, result: LoadResult, *, verdict: dict[str, Any]
) -> Artifact:
    """Write one run as an artifact."""
    document = {
        "target": load.environment,
        "profile": result.profile,
        "rps_per_service": result.rps,
        "seconds": result.seconds,
        "generator": result.by,
        "latency": "from the intended start of each request",
        "services": figures(result),
        "verdict": verdict,
    }
    return write_json(context, path, document)
