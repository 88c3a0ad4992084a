"""The Grafana dashboard of the cockpit's own metrics, made by code: `python -m cockpit.dashboard` prints it.

It is kept as `runbooks/dashboards/cockpit.json` and asks for a Prometheus data source when it is imported.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Literal

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_ON = '{release=~"$release", env=~"$env"}'
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its queries (PromQL with `{on}` for the chosen release) by what the legend says."""

    title: str
    about: str
    queries: tuple[tuple[str, str], ...]
    kind: Literal["stat", "timeseries", "state-timeline"] = "timeseries"
    unit: str = "short"
    width: int = 8
    red_above: float | None = None
    """From this value on the panel is red."""


PANELS: tuple[Panel, ...] = (
    Panel("HALT in force", "Nothing forward goes out while this is 1.",
          (("HALT", "cockpit_halt_in_force{on}"),), "stat", width=4, red_above=1),
    Panel("Waiting for people", "Questions and approvals without an answer.",
          (("questions", "cockpit_questions_waiting{on}"), ("approvals", "cockpit_approvals_waiting{on}")),
          "stat", width=6),
    Panel("Rollback", "1 at the state the abort is in.",
          (("{{state}}", "cockpit_rollback_state{on}"),), "stat", width=6),
    Panel("Rollback took", "From the begin of the abort to its verification; five minutes are the goal.",
          (("seconds", "cockpit_rollback_seconds{on}"),), "stat", "s", 4, red_above=300),
    Panel("Silence", "Seconds since the journal's last record.",
          (("silence", "time() - cockpit_journal_last_record_timestamp_seconds{on}"),), "stat", "s", 4),
    Panel("Canary weight", "Desired and observed must agree before a step's clock starts.",
          (("{{kind}}", "cockpit_canary_weight_percent{on}"), ("step", "cockpit_canary_step{on}")),
          unit="percent", width=12),
    Panel("Looks at the canary", "Outcomes of the analysis a minute.",
          (("{{outcome}}", "sum by (outcome) (rate(cockpit_canary_looks_total{on}[5m])) * 60"),), width=12),
    Panel("Required gates", "Absent: not evaluated, which is never a pass.",
          (("{{gate}}", "cockpit_required_gate_passing{on}"),), "state-timeline", width=12),
    Panel("Phase gates", "The last verdict of each agent.",
          (("{{phase_gate}} by {{agent}}", "cockpit_gate_passing{on}"),), "state-timeline", width=12),
    Panel("Verdicts", "Verdicts by outcome.",
          (("{{verdict}} {{outcome}}",
            "sum by (verdict, outcome) (increase(cockpit_gate_verdicts_total{on}[10m]))"),)),
    Panel("Agent calls", "Calls a minute by how they ended.",
          (("{{result}}", "sum by (result) (rate(cockpit_agent_calls_total{on}[5m])) * 60"),
           ("under way", "cockpit_agent_calls_running{on}"))),
    Panel("Agent calls, 95th percentile", "How long an operation takes.",
          (("{{op}}", "histogram_quantile(0.95, sum by (le, op) "
            "(rate(cockpit_agent_call_seconds_bucket{on}[10m])))"),), unit="s"),
    Panel("Effects", "Mutations by lane and how they ended; unknown ones must be looked at.",
          (("{{lane}} {{status}}", "sum by (lane, status) (increase(cockpit_effects_total{on}[5m]))"),
           ("{{lane}} in flight", "cockpit_effects_in_flight{on}"))),
    Panel("Phases", "Which phases are under way.",
          (("{{phase}}", "cockpit_phase_running{on}"),), "state-timeline"),
    Panel("Phases took", "Seconds a phase took.",
          (("{{phase}} {{result}}", "cockpit_phase_seconds{on}"),), unit="s"),
    Panel("Journal", "Records, and gaps in them.",
          (("records", "cockpit_journal_records{on}"),
           ("gaps", "sum(cockpit_journal_gaps_total{on})"))),
    Panel("HALTs and front ends", "What triggered HALTs, and who watches.",
          (("HALT by {{trigger}}", "cockpit_halts_total{on}"), ("front ends", "cockpit_front_ends{on}"))),
    Panel("Messages and telemetry", "Messages that failed, and telemetry that was lost.",
          (("{{macro}} failed", 'sum by (macro) (cockpit_messages_total{release=~"$release", ok="false"})'),
           ("telemetry lost", "cockpit_telemetry_lost{on}"))),
    Panel("Run", "The run, its commit and, once it has ended, its exit code.",
          (("{{run}} {{sha}}", "cockpit_run_info{on}"), ("exit", "cockpit_run_exit_code{on}")),
          "stat", width=24),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON model."""
    return {
        "title": "Release Cockpit",
        "uid": "release-cockpit",
        "description": "What a release does: gates, canary, calls, effects, people. One run a release.",
        "tags": ["release", "cockpit"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("release", "label_values(cockpit_journal_records, release)"),
                _variable("env", 'label_values(cockpit_journal_records{release=~"$release"}, env)'),
            ]
        },
        "annotations": {"list": [_annotation()]},
        "panels": _placed(),
    }


def rendered() -> str:
    """Return the text of the dashboard's file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _annotation() -> dict[str, Any]:
    return {
        "name": "HALT",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f"changes(cockpit_halt_in_force{_ON}[1m]) > 0",
        "titleFormat": "HALT began or ended",
    }


def _placed() -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    x = y = height = 0
    for number, panel in enumerate(PANELS, 1):
        tall = 4 if panel.kind == "stat" else 8
        if x + panel.width > _WIDTH:
            x, y, height = 0, y + height, 0
        placed.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": tall}))
        x, height = x + panel.width, max(height, tall)
    return placed


def _panel(number: int, panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.red_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.red_above}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.replace("{on}", _ON),
                "legendFormat": legend,
            }
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(rendered())
