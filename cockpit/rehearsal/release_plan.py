"""Builds `release.yaml` of a rehearsal, as data, and writes it with comments for the reader."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from cockpit.base.promql import window_text
from cockpit.rehearsal.pace import Pace, seconds
from cockpit.rehearsal.plan_looks import canary, chaos, kpis, p95_ms, stages
from cockpit.rehearsal.plan_people import approvals
from cockpit.rehearsal.scenarios import Scenario
from cockpit.rehearsal.topology import (
    CANDIDATE_VERSION,
    FLAGS,
    GA_FLAGS,
    LOADED,
    PILOT_TENANTS,
    PROD,
    ROUTE,
    SERVICES,
)

Data = dict[str, Any]

PHASES = ("P0", "P1", "P2", "P3", "P4", "P6")
AGENTS = (
    "A1", "A2", "A3", "A4", "A9", "A11", "A15", "A19", "A20", "A23", "A26", "A27", "A41", "A43", "A46", "A60",
)  # fmt: skip
REQUIRED_GATES = ("slo", "perf", "supply_chain", "migrations", "policy")
RELEASE_IDENTITY = "release@intelgraph.io"
BASELINE_RPS = 26.0
SPIKE_RPS = 36.0
STAGES_RUN = True
"""Whether the release takes dev and stage before prod."""
GA_RUN = True
"""Whether flags ramp, and P8 flips them and looks at the KPIs."""
DRILLS_RUN = True
"""Whether P5 holds its drills."""

_OPEN_SECONDS = 4 * 3600.0
# Longer steps: however fast this machine is, the window then ends between the first and the last of them.
_SHORT_WINDOW_BAKES = 2


@dataclass(frozen=True)
class ImageTrust:
    """Who signs the images, and what their provenance says of builder and source."""

    identity: str
    issuer: str
    builder: str
    source: str


@dataclass(frozen=True)
class Endpoints:
    """Where the stand-ins of one world listen, and the files the plan refers to (relative to the plan)."""

    kubernetes: str
    kubernetes_token: str
    prometheus: str
    registry: str
    entry: str
    load: str
    stages: Mapping[str, str]
    """Where each namespace before prod is entered."""
    token_url: str
    token_secret: str
    issuer: str
    trust_config: str
    repository: str
    from_ref: str
    to_ref: str
    webhook: str
    webhook_secret: str
    issues: str
    issues_repository: str
    issues_token: str
    flags: str
    policy: str = ""
    """An OPA the release puts its policy into; empty: it decides by itself."""
    policy_token: str = ""
    kubernetes_ca: str = ""
    """Who signed the API server's certificate; empty where it speaks plain HTTP."""
    profile: str = "embedded"
    """The trust profile of what signs."""
    login: str = ""
    """The broker people log in at; empty where that is the issuer itself."""
    real: Mapping[str, str] = field(default_factory=dict)
    """The servers that are the real ones, and their versions; what is not named is a stand-in."""
    webhooks: Mapping[str, str] = field(default_factory=dict)
    """Where messages of other shapes than the cockpit's own are posted to."""


_RECEIVERS = (
    ("team-chat", "slack", ("release",)),
    ("alerts", "alertmanager", ("oncall",)),
    ("pager", "pager", ("oncall",)),
    ("delivery-events", "cdevents", ("release",)),
)
"""Who is told besides: a webhook's name, its shape, and what it is for."""


_EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_HOURS = [
    {"zone": "UTC", "days": _EVERY_DAY, "start": "00:00", "end": "13:00"},
    {"zone": "UTC", "days": _EVERY_DAY, "start": "12:00", "end": "01:00"},
]
"""Hours for a fix train to go in: they overlap, so that no rehearsal is ever outside of all of them."""
_FLAG_PROOF = {
    "what": "flag-proof",
    "owner": "@product",
    "reason": "the demo platform has no dashboard and no alert for a single flag",
}


def build(
    endpoints: Endpoints,
    images: Mapping[str, str],
    trust: ImageTrust,
    pace: Pace,
    now: datetime,
    scenario: Scenario,
) -> Data:
    """Return the plan as data; `images` maps each service to the reference to release.

    What is wrong with a world, the cockpit has to find out: of the scenario the plan holds what a real plan
    would, its window and the people it asks.
    """
    bake = pace.bake * (_SHORT_WINDOW_BAKES if scenario.short_window else 1)
    plan: Data = {
        "format": 1,
        "rehearsal": True,
        **({"real_servers": dict(endpoints.real)} if endpoints.real else {}),
        "repo": "intelgraph-platform",
        "target_version": CANDIDATE_VERSION,
        "environment": "prod",
        "window_utc": _window(now, pace.second_step if scenario.short_window else _OPEN_SECONDS),
        "oncall": ["@sre", "@platform", "@security", "@product"],
        "pilot_tenants": list(PILOT_TENANTS),
        "ga_flags": list(GA_FLAGS),
        "auto_ramp_flags": False,
        "budgets": {
            "preview_day_usd": 3,
            "max_image_mb": {"gateway": 180, "web": 220, "services/*": 200},
            "vulnerabilities_added": {"critical": 0, "high": 0},
        },
        "oidc_issuer": endpoints.issuer,
        "scim_baseurl": "https://api.intelgraph.io/scim/v2",
        "rto": "30m",
        "rpo": "5m",
        "headroom_target": 0.2,
        "services": [{"name": service, "image": images[service]} for service in SERVICES],
        "phases": list(PHASES),
        "agents": list(AGENTS),
        "required_gates": list(REQUIRED_GATES),
        "canary": canary(pace, bake=bake),
        "targets": _targets(endpoints, trust, pace),
        "agent_deadline": "60s",
        "on_halt": "ask",
        "halt_bound": seconds(pace.halt_bound),
        "waivers": [
            {
                "what": "approvals",
                "owner": "@sre",
                "reason": f"a rehearsal on {_servers(endpoints)} moves no user; "
                "nobody is asked to sign for it",
            },
            {
                "what": "standby",
                "owner": "@platform",
                "reason": "a rehearsal runs on one machine; the supervisor resumes it into an abort",
            },
        ],
        "risks": _risks(pace),
        "exceptions": [],
    }
    if scenario.people is not None:
        plan["approvals"] = approvals(endpoints.login)
        plan["waivers"] = [entry for entry in plan["waivers"] if entry["what"] != "approvals"]
        plan["on_operator_lost"] = "continue"
        plan["on_crash"] = "continue"
        plan["operator_lost_after"] = seconds(pace.operator_lost_after)
    if STAGES_RUN:
        plan["stages"] = stages(dict(endpoints.stages), pace)
    if GA_RUN:
        _add(plan, "P8", "A54", "A55")
        plan["auto_ramp_flags"] = True
        plan["waivers"].append(_FLAG_PROOF)
        # Every day before T-0 has gone by when the window opens; the one after it is short.
        plan["calendar"] = {"day": seconds(pace.day), "windows": _HOURS}
        plan["kpis"] = kpis()
    if DRILLS_RUN:
        _add(plan, "P5", "A36", "A37", "A38")
        plan["chaos"] = chaos(pace)
    return plan


def _add(plan: Data, phase: str, *agents: str) -> None:
    plan["phases"] = sorted({*plan["phases"], phase})
    plan["agents"] = sorted({*plan["agents"], *agents}, key=lambda agent: int(agent[1:]))


def dump(plan: Mapping[str, Any]) -> str:
    """Return the plan as YAML with a comment above each part."""
    document = CommentedMap(plan)
    document.yaml_set_start_comment(
        f"Release plan of a rehearsal: {_which(plan)} on this machine.\n"
        "Evidence made with it shows that the procedure works, not that the release is good.\n"
    )
    for key, comment in _COMMENTS.items():
        if key not in document:
            continue
        document.yaml_set_comment_before_after_key(key, before="\n" + comment)
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue().rstrip() + "\n"


def _which(plan: Mapping[str, Any]) -> str:
    if "real_servers" in plan:
        return "every target is a stand-in, but for the servers that `real_servers` names,"
    return "every target is a stand-in"


_COMMENTS = {
    "real_servers": "Which targets are real servers, and their versions; every other one is a stand-in.",
    "repo": "Run inputs (seed, section 1).",
    "services": "What is released: the image of each service, by digest.",
    "phases": "Phases and agents that are left out make the release run as REDUCED.",
    "canary": "The canary's steps, and the looks at it: absolute, against stable, burn rate.",
    "targets": "The back ends. Secrets are files beside this plan, named here and never written here.",
    "agent_deadline": "Deadlines.",
    "stages": "Environments that take the release before prod.",
    "calendar": "T-14 to T+1 with a short day, and the hours in which prod may be changed.",
    "chaos": "Drills in stage, and what must hold there.",
    "kpis": "Business figures, looked at after the release.",
    "approvals": "People, what they are asked, and what an emergency may override.",
    "waivers": "What this release does without, said outright.",
    "risks": "Risk register (seed, section 12); each trigger is measured by a query.",
}


def _servers(endpoints: Endpoints) -> str:
    return "servers of this machine" if endpoints.real else "stand-ins"


def _window(now: datetime, lasts: float) -> str:
    start, end = now - timedelta(minutes=5), now + timedelta(seconds=lasts)
    return f"{start:%Y-%m-%d %H:%M:%S} → {end:%Y-%m-%d %H:%M:%S}"


def _targets(endpoints: Endpoints, trust: ImageTrust, pace: Pace) -> Data:
    engine = {"engine": "opa", "url": endpoints.policy, "token": endpoints.policy_token}
    return {
        **({"policy": engine} if endpoints.policy else {}),
        "kubernetes": {
            "url": endpoints.kubernetes,
            "token": endpoints.kubernetes_token,
            **({"ca_file": endpoints.kubernetes_ca} if endpoints.kubernetes_ca else {}),
            "namespace": PROD,
            "route": ROUTE,
            "lease": "release-cockpit",
            "lease_seconds": pace.lease,
            "deadline": "10s",
        },
        "prometheus": {"url": endpoints.prometheus, "deadline": "5s"},
        "registry": {"url": endpoints.registry},
        "signing": {
            "profile": endpoints.profile,
            "trust_config": endpoints.trust_config,
            "token_url": endpoints.token_url,
            "token_secret": endpoints.token_secret,
            "identity": RELEASE_IDENTITY,
            "issuer": endpoints.issuer,
            "image_identity": trust.identity,
            "image_issuer": trust.issuer,
            "builder": trust.builder,
            "source": trust.source,
            "deadline": "20s",
        },
        "repository": {
            "path": endpoints.repository,
            "from_ref": endpoints.from_ref,
            "to_ref": endpoints.to_ref,
        },
        "webhooks": [
            {"name": "release-channel", "url": endpoints.webhook, "secret": endpoints.webhook_secret},
            *(
                {
                    "name": name,
                    "url": endpoints.webhooks[kind],
                    "secret": endpoints.webhook_secret,
                    "kind": kind,
                    "audience": list(audience),
                }
                for name, kind, audience in _RECEIVERS
                if kind in endpoints.webhooks
            ),
        ],
        "load": {
            "url": endpoints.load,
            "environment": "stage",
            "baseline_rps": BASELINE_RPS,
            "spike_rps": SPIKE_RPS,
            "seconds": seconds(pace.load),
            "services": list(LOADED),
            # Wider than the canary's: it is measured where it is sent, with the sender's own delays.
            "threshold": "p95_ms<=250",
            # The same on every machine, whatever is installed there.
            "generator": "builtin",
        },
        "issues": {
            "url": endpoints.issues,
            "repository": endpoints.issues_repository,
            "token": endpoints.issues_token,
        },
        "flags": {
            "namespace": PROD,
            "configmap": FLAGS,
            "evaluate_url": endpoints.flags,
            "settle": "10s",
        },
        "entry_url": endpoints.entry,
        "smoke": [
            {"name": f"{service}-health", "path": f"/{service}/healthz", "contains": '"status": "ok"'}
            for service in SERVICES
        ]
        + [
            {"name": "search-finds", "path": "/search/query?q=ship", "contains": '"total": 3'},
            {"name": "realtime-resumes", "path": "/realtime/events?since=40", "contains": '"seq": 41'},
            {"name": "report-renders", "path": "/reports/render?name=weekly", "contains": '"pages"'},
            {"name": "ingest-accepts", "path": "/ingest/items", "contains": '"accepted": 1'},
            {"name": "nowhere", "path": "/nowhere", "status": 404},
        ],
    }


def _risks(pace: Pace) -> list[Data]:
    window = window_text(pace.bake)
    lasts = seconds(pace.trigger_for)
    search = f'namespace="{PROD}",service="search"'
    delivery = f'rt_delivery_lag_seconds_bucket{{namespace="{PROD}"}}'
    return [
        {
            "id": "R-SCHEMA-CUTOVER",
            "owner": "@schema",
            "likelihood": "medium",
            "impact": "high",
            "mitigations": [
                "shadow parity >= 99.5%",
                "dual-write",
                "rollback SQL tested",
                "contract 7d later",
            ],
            "triggers": [
                {
                    # The demo platform has no database of its own; search stands for what waits on one.
                    "threshold": "db_query_latency_p95>300",
                    "query": p95_ms(search).replace("{window}", window),
                    "unit": "ms",
                    "for": lasts,
                }
            ],
            "rollback": "revert image digest, disable flag, run backout SQL",
            "state": "mitigated",
        },
        {
            "id": "R-REALTIME-LAG",
            "owner": "@realtime",
            "likelihood": "medium",
            "impact": "medium",
            "mitigations": ["QoS degrade", "resume checkpoint", "coalesce diffs"],
            "triggers": [
                {
                    "threshold": "rt_delivery_lag_p95>800",
                    "query": (f"1000 * histogram_quantile(0.95, sum by (le) (rate({delivery}[{window}])))"),
                    "unit": "ms",
                    "for": lasts,
                }
            ],
            "rollback": "revert image digest, resume from checkpoint",
            "state": "mitigated",
        },
    ]
