"""Performance: the Capacity Oracle (A27), headroom by stepped load or by utilisation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec

from cockpit.agentkit.context import Context
from cockpit.agents.asking import ask
from cockpit.agents.common import GateAgent, Measured, judge, reason_of, summary, write_json
from cockpit.agents.performance import figures, load_paths, load_query, place, refused, steady
from cockpit.backends.load import LoadProfile
from cockpit.base.child import in_child
from cockpit.base.errors import BackendError, BackendGarbage, BackendUnreachable
from cockpit.rpc.messages import Artifact
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.rules.load_result import LoadResult

FACTORS = (1.0, 1.5, 1.75, 2.0)
"""Steps of the curve, as multiples of the baseline rate."""

_SATURATED = 0.9  # below this share of good answers in time, more load shows nothing new
_REPEATING = 0.5  # the share of the agent's deadline within which what went wrong is tried again
_PLOT_DEADLINE = 15.0

BUSY = (
    'sum by (service) (rate(worker_busy_seconds_total{{namespace="{namespace}",track="{track}"}}[{window}]))'
)
WORKERS = 'sum by (service) (worker_count{{namespace="{namespace}",track="{track}"}})'
"""Utilisation as services expose it: seconds their workers were busy, and how many workers there are."""


class CapacityOracle(GateAgent):
    """A27: how much more each service could carry; what counts is the lower bound."""

    gate = "perf"
    phase_gate = "perf"

    def needs(self, context: Context) -> str:
        """Need the metrics under a canary step, the load generator else."""
        if context.step:
            _ = context.metrics
            return "compute each service's headroom from its utilisation"
        load = place(context)
        return f"raise the load on {load.environment} in {len(FACTORS)} steps until services saturate"

    def blocked(self, context: Context) -> str:
        """Refuse prod for load, and load without anything to send it with."""
        return "" if context.step else refused(context)

    async def measure(self, context: Context) -> Measured:
        """Measure by the way that fits the moment."""
        return await (self._utilisation(context) if context.step else self._curve(context))

    async def _utilisation(self, context: Context) -> Measured:
        plan = context.plan
        fill = {
            "namespace": plan.targets.kubernetes.namespace,
            "track": "canary",
            "window": window_text(plan.canary.bake),
        }
        texts = {"busy": BUSY.format(**fill), "workers": WORKERS.format(**fill)}
        asked = await ask(context, texts, window_s=plan.canary.bake)
        params = {
            "threshold": _threshold(context),
            "services": [one.name for one in plan.services],
            "now": asked.now,
            "max_sample_age": plan.canary.max_sample_age,
        }
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "headroom_utilisation",
            asked.answers,
            params,
            asked.queries,
        )
        document = {"about": f"canary, step {context.step}", "verdict": summary(verdict)}
        artifact = write_json(context, f"perf/headroom_step_{context.step}.json", document)
        return Measured((verdict,), (artifact,), reason_of((verdict,)))

    async def _curve(self, context: Context) -> Measured:
        load = place(context)
        paths = load_paths(context.plan)
        # The steps together must leave room in the agent's deadline.
        seconds = min(load.seconds, context.plan.agent_deadline * 0.4 / len(FACTORS))
        enough = context.clock.monotonic() + context.plan.agent_deadline * _REPEATING
        results: dict[str, LoadResult] = {}
        for number, factor in enumerate(FACTORS):
            profile = LoadProfile(f"step_{number}", load.baseline_rps * factor, seconds, paths)
            if await self._step(context, profile, results, enough):
                continue
            if context.clock.monotonic() >= enough:
                break
            # A saturated service saturates again; a hiccup of the machine does not come twice.
            await context.clock.sleep(seconds)
            again = replace(profile, name=f"{profile.name}_again")
            if not await self._step(context, again, results, enough):
                break
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "headroom_load",
            {name: result.raw for name, result in results.items()},
            {
                "threshold": _threshold(context),
                "target_rps": load.baseline_rps,
                "services": list(load.services),
                "steps": list(results),
                "min_requests": 1,
            },
            {name: load_query(context, result) for name, result in results.items()},
            env=load.environment,
        )
        points = [{"rps": one.rps, "services": figures(one)} for one in results.values()]
        artifacts = [
            write_json(
                context,
                "perf/headroom.json",
                {
                    "target_rps_per_service": load.baseline_rps,
                    "generator": list(results.values())[-1].by,
                    "uncertainty": "lower bound: best rate of good answers, less two standard deviations",
                    "saturated": _saturated(list(results.values())[-1]),
                    "steps": points,
                    "verdict": summary(verdict),
                },
            )
        ]
        notes = reason_of((verdict,))
        try:
            artifacts.append(await _plot(context, points))
        except BackendError as error:
            # The picture illustrates; the figures above are the evidence.
            notes += f"; the curve could not be drawn: {error}"
        return Measured((verdict,), tuple(artifacts), notes)

    async def _step(
        self, context: Context, profile: LoadProfile, results: dict[str, LoadResult], enough: float
    ) -> bool:
        """Run one step and keep its result; tell whether the service carried it.

        From `enough` on, by the clock, a generator that was late is not given a second try: what it measured
        is judged as it is, rather than all of it lost to the agent's deadline.
        """
        run = steady if context.clock.monotonic() < enough else _once
        try:
            results[profile.name] = await run(context, profile)
        except BackendUnreachable:
            if not results:
                raise
            return False  # it answered before and is buried now: what was measured before counts
        return not _saturated(results[profile.name])


async def _once(context: Context, profile: LoadProfile) -> LoadResult:
    return await context.load.run(profile)


def _threshold(context: Context) -> str:
    return f"headroom>={context.plan.headroom_target:.12g}"


def _saturated(result: LoadResult) -> bool:
    # Every service: as long as one still answers in time, the next step says more about it.
    return all(one.good_in_window < _SATURATED * one.intended for one in result.services)


async def _plot(context: Context, points: list[dict[str, Any]]) -> Artifact:
    """Draw the curve in a child process: matplotlib is slow to load and heavy to keep."""
    series: dict[str, dict[str, list[float]]] = {}
    for point in points:
        for service, values in point["services"].items():
            one = series.setdefault(service, {"rps": [], "good_rps": [], "p95_ms": []})
            one["rps"].append(point["rps"])
            one["good_rps"].append(values["good_rps"])
            one["p95_ms"].append(math.nan if values["p95_ms"] is None else values["p95_ms"])
    request = msgspec.json.encode({"version": context.plan.target_version, "series": series})
    png = await in_child(
        "cockpit.agents.curve_plot", request, what="drawing the curve", deadline=_PLOT_DEADLINE
    )
    if not png.startswith(b"\x89PNG\r\n"):
        raise BackendGarbage("drawing the curve gave no picture")
    return context.artifacts.write("perf/curve.png", png, "dash")
