"""Observability: the SLO Librarian (A11)."""

from __future__ import annotations

import io
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.asking import ask
from cockpit.agents.common import GateAgent, Measured, judge, reason_of, summary, write_json
from cockpit.plan.model import BaselineCheck, Canary
from cockpit.verdicts.questions import queries_for, window_text
from cockpit.verdicts.thresholds import parse

SEED_LEVELS = {"p95_ms": "p95_ms<=150", "error_rate": "error_rate<0.01"}
"""Thresholds of seed section 11, for levels the plan gives none for."""
RUNBOOK = "runbooks/canary-rollback.md"
"""Where every alert about a canary leads."""


class SloLibrarian(GateAgent):
    """A11: the levels of what serves prod now (P1), and of the canary under each step."""

    gate = "slo"
    phase_gate = "slo"

    def needs(self, context: Context) -> str:
        """Need the metrics back end."""
        _ = context.metrics
        return "measure latency, errors and burn rate, and render recording and alert rules"

    def blocked(self, context: Context) -> str:
        """Say so when the plan has nothing from which stable's levels could be asked."""
        if context.step == 0 and _stable_ratio(context.plan.canary) is None:
            return "canary.baseline has no check of kind `proportion`: stable's errors cannot be asked for"
        return ""

    async def measure(self, context: Context) -> Measured:
        """Ask, judge, and write the levels and the rules."""
        canary = context.plan.canary
        texts, params = _of_canary(canary) if context.step else _of_stable(canary)
        asked = await ask(context, texts, window_s=canary.bake)
        params |= {"now": asked.now, "max_sample_age": canary.max_sample_age}
        verdict = await judge(
            context, self.gate, self.phase_gate, "slo_levels", asked.answers, params, asked.queries
        )
        name = f"slo/canary_{context.step}.json" if context.step else "slo/p1.json"
        artifacts = [
            write_json(
                context,
                name,
                {
                    "about": f"canary, step {context.step}" if context.step else "stable, before the release",
                    "objective": canary.burn.objective,
                    "window_s": canary.bake,
                    "verdict": summary(verdict),
                },
            )
        ]
        if not context.step:
            artifacts.append(context.artifacts.write("slo/rules.yaml", rules_yaml(context), "dash"))
        return Measured((verdict,), tuple(artifacts), reason_of((verdict,)))


def _stable_ratio(canary: Canary) -> BaselineCheck | None:
    return next((one for one in canary.baseline if one.kind == "proportion"), None)


def _threshold(canary: Canary, metric: str) -> str:
    return next((one.threshold for one in canary.checks if one.metric == metric), SEED_LEVELS[metric])


def _of_stable(canary: Canary) -> tuple[dict[str, str], dict[str, Any]]:
    """Return queries and parameters for stable, made of the sides of the baseline checks."""
    ratio = _stable_ratio(canary)
    assert ratio is not None  # blocked() has said so before
    window = window_text(canary.bake)
    texts = {
        "errors": ratio.stable.replace("{window}", window),
        "requests": ratio.stable_total.replace("{window}", window),
    }
    levels: list[dict[str, Any]] = [
        {
            "metric": "error_rate",
            "threshold": _threshold(canary, "error_rate"),
            "kind": "ratio",
            "answers": ["errors", "requests"],
        }
    ]
    histogram = next((one for one in canary.baseline if one.kind == "histogram"), None)
    if histogram is not None:
        texts["buckets"] = histogram.stable.replace("{window}", window)
        levels.append(
            {
                "metric": "p95_ms",
                "threshold": _threshold(canary, "p95_ms"),
                "kind": "quantile",
                "share": 0.95,
                "scale": 1000,
                "answers": ["buckets"],
            }
        )
    for index, pair in enumerate(canary.burn.windows):
        for length, seconds in (("long", pair.long), ("short", pair.short)):
            texts[f"burn.{length}.{index}.errors"] = ratio.stable.replace("{window}", window_text(seconds))
            texts[f"burn.{length}.{index}.total"] = ratio.stable_total.replace(
                "{window}", window_text(seconds)
            )
    return texts, _params(canary, levels)


def _of_canary(canary: Canary) -> tuple[dict[str, str], dict[str, Any]]:
    """Return queries and parameters for the canary: the plan's own checks."""
    every = queries_for(canary, canary.bake)
    texts = {
        name: text
        for name, text in every.items()
        if name == "requests" or name.startswith(("check.", "burn."))
    }
    levels = [
        {
            "metric": one.metric,
            "threshold": one.threshold,
            "kind": "value",
            "answers": [f"check.{one.metric}"],
        }
        for one in canary.checks
    ]
    return texts, _params(canary, levels)


def _params(canary: Canary, levels: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "levels": levels,
        "requests": "requests",
        "min_requests": canary.min_requests,
        "burn": {
            "objective": canary.burn.objective,
            "windows": [
                {"long": pair.long, "short": pair.short, "factor": pair.factor}
                for pair in canary.burn.windows
            ],
        },
    }


def rules_yaml(context: Context) -> bytes:
    """Return Prometheus rules: recorded levels, and one multi-window burn-rate alert a pair of windows."""
    from ruamel.yaml import YAML

    canary = context.plan.canary
    budget = 1 - canary.burn.objective
    recorded = [
        {
            "record": f"canary:{check.metric}:{window_text(canary.bake)}",
            "expr": check.query.replace("{window}", window_text(canary.bake)),
        }
        for check in canary.checks
    ]
    alerts = []
    for pair in canary.burn.windows:
        sides = []
        for seconds in (pair.long, pair.short):
            window = window_text(seconds)
            errors = canary.burn.errors.replace("{window}", window)
            total = canary.burn.total.replace("{window}", window)
            name = f"canary:burn_rate:{window}"
            rule = {"record": name, "expr": f"(({errors}) / ({total})) / {budget:.12g}"}
            if rule not in recorded:
                recorded.append(rule)
            sides.append(f"{name} > {pair.factor:g}")
        alerts.append(
            {
                "alert": "CanaryErrorBudgetBurn",
                "expr": " and ".join(sides),
                "labels": {"severity": "critical", "release": context.plan.target_version},
                "annotations": {
                    "summary": f"the canary burns its error budget more than {pair.factor:g} times too fast",
                    "runbook_url": RUNBOOK,
                },
            }
        )
    # An absolute level that does not hold is an alert as well: the same limits the canary is judged by.
    for check in canary.checks:
        threshold = parse(check.threshold)
        beyond = {"<=": ">", "<": ">=", ">=": "<", ">": "<=", "==": "!="}[threshold.op]
        alerts.append(
            {
                "alert": f"Canary_{check.metric}",
                "expr": f"canary:{check.metric}:{window_text(canary.bake)} {beyond} {threshold.value:.12g}",
                "labels": {"severity": "critical" if check.critical else "warning"},
                "annotations": {
                    "summary": f"{threshold} does not hold on the canary",
                    "runbook_url": RUNBOOK,
                },
            }
        )
    document = {
        "groups": [
            {"name": "release-levels", "rules": recorded},
            {"name": "release-alerts", "rules": alerts},
        ]
    }
    out = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(document, out)
    return out.getvalue().encode()
