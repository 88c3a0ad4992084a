"""The scenarios of the rehearsal: which fact of the world is wrong, and from when on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cockpit.base.errors import UsageError

FaultKind = Literal["sick-canary", "slow-canary", "leaky-canary", "no-traffic", "metrics-outage"]
Part = Literal["rejects", "breaks-glass", "vanishes", "absent"]
"""What the people of a rehearsal do when their turn comes; absent ones leave it to whoever sits there."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks when the route in prod first gives the canary `at_weight` percent or more."""

    kind: FaultKind
    at_weight: int


@dataclass(frozen=True)
class Scenario:
    """One rehearsal: its name, what is wrong with the world in a sentence, and the facts behind it."""

    name: str
    summary: str
    fault: Fault | None = None
    unsigned_service: str = ""
    """The service whose candidate image carries no signature."""
    tagged_service: str = ""
    """The service whose image the plan names by a tag that can be moved."""
    slow_candidate: bool = False
    """The candidate needs longer for a request, so a pod of it saturates earlier."""
    blind_candidate: bool = False
    """The candidate's search finds nothing for most of what users ask, and answers 200."""
    lax_service: str = ""
    """The service whose canary Deployment lets its container escalate privileges."""
    unready_service: str = ""
    """The service of which one stable pod in prod stops being ready once the world is up."""
    signing_outage: bool = False
    """The CA and the transparency log refuse connections once the world is up."""
    short_window: bool = False
    """The release window ends while the second step is under way."""
    people: Part | None = None
    """The plan asks people instead of waiving it, and they act; None: nobody is asked."""


_TABLE = (
    Scenario("green", "Nothing is wrong with the world: the candidate is as good as stable."),
    Scenario(
        "slo-breach-10",
        "The canary pods begin to fail and to slow down when they first get 10 % of the traffic.",
        fault=Fault("sick-canary", 10),
    ),
    Scenario(
        "slo-breach-50",
        "The canary pods begin to fail and to slow down when they first get 50 % of the traffic.",
        fault=Fault("sick-canary", 50),
    ),
    Scenario(
        "unsigned-image",
        "The candidate image of one service was never signed.",
        unsigned_service="search",
    ),
    Scenario(
        "mutable-tag",
        "The plan names the image of one service by a tag instead of a digest.",
        tagged_service="web",
    ),
    Scenario(
        "no-traffic",
        "The users go away at the moment the canary first gets weight.",
        fault=Fault("no-traffic", 1),
    ),
    Scenario(
        "metrics-outage",
        "Prometheus answers 503 from the moment the canary first gets weight.",
        fault=Fault("metrics-outage", 1),
    ),
    Scenario(
        "low-headroom",
        "A pod of the candidate saturates at little more than the baseline rate.",
        slow_candidate=True,
    ),
    Scenario(
        "policy-deny",
        "A canary Deployment lets its container escalate privileges.",
        lax_service="reports",
    ),
    Scenario(
        "signing-outage",
        "The certificate authority and the transparency log refuse connections.",
        signing_outage=True,
    ),
    Scenario(
        "slow-canary",
        "The canary pods answer late, and without errors, from 50 % of the traffic on.",
        fault=Fault("slow-canary", 50),
    ),
    Scenario(
        "stable-sick",
        "One stable pod in prod is not ready when the canary is to begin.",
        unready_service="reports",
    ),
    Scenario(
        "approval-rejected",
        "A person who is asked to approve the promotion rejects it.",
        people="rejects",
    ),
    Scenario(
        "break-glass",
        "Policy denies a canary Deployment; two people break the glass over that gate.",
        lax_service="ingest",
        people="breaks-glass",
    ),
    Scenario(
        "critical-breach",
        "The canary pods give tenants the data of other tenants from 50 % of the traffic on.",
        fault=Fault("leaky-canary", 50),
    ),
    Scenario(
        "window-closes",
        "The release window ends while the second step is under way.",
        short_window=True,
    ),
    Scenario(
        "kpi-regression",
        "The candidate's search finds nothing for most of what users ask.",
        blind_candidate=True,
    ),
    Scenario(
        "operator-lost",
        "The operator's terminal dies in the second step.",
        people="vanishes",
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _TABLE}
"""All scenarios by name, `green` first."""


def scenario(name: str) -> Scenario:
    """Return the scenario called `name`; raises UsageError, which lists the names there are."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UsageError(
            f"there is no scenario {name!r}", hint="choose one of " + ", ".join(SCENARIOS)
        ) from None
