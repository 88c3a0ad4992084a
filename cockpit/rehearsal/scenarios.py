"""The scenarios of the rehearsal: which fact of the world is wrong, and from when on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cockpit.base.errors import UsageError

FaultKind = Literal["sick-canary", "no-traffic", "metrics-outage"]


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
