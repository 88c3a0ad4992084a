"""CI/CD and platform: the Policy Gatekeeper (A9)."""

from __future__ import annotations

import copy
import json
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.backends.cluster import DEPLOYMENT
from cockpit.backends.policy import encode_input
from cockpit.plan.model import Service

BUNDLE = "admission"
MET_BY = {"verify signatures at deploy": "A15"}
"""Obligation of the policy → the agent that meets it."""


class PolicyGatekeeper(GateAgent):
    """A9: decides by Rego whether what runs, and what is to run, is admissible."""

    gate = "policy"
    phase_gate = "policy_ci"

    def needs(self, context: Context) -> str:
        """Need the policy engine and the cluster."""
        _ = context.policy, context.cluster
        return "decide by Rego on the live Deployments, the canary's pods to be, and the plan's images"

    async def measure(self, context: Context) -> Measured:
        """Read the Deployments, add the candidate's, decide."""
        found = await context.cluster.list(DEPLOYMENT)
        # What a controller writes is no matter of policy, and status is not what anybody asked for.
        live = [_essential(one) for one in found]
        asked = {
            "deployments": live + [_candidate(one, live) for one in context.plan.services],
            "images": [{"service": one.name, "image": one.image.text} for one in context.plan.services],
        }
        decision = await context.policy.decide(BUNDLE, asked)
        answers = {"input": encode_input(asked), "decision": decision.raw}
        met = [text for text, agent in MET_BY.items() if agent in context.plan.agents]
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "policy_admission",
            answers,
            {"met": met},
            {
                "input": query(context, "deployments of the namespace", "kubernetes", samples=len(found)),
                "decision": query(context, f"data.{BUNDLE} ({decision.bundle_sha256})", "policy", samples=1),
            },
        )
        artifact = write_json(
            context,
            "policy/admission.json",
            {
                "bundle": BUNDLE,
                "bundle_sha256": decision.bundle_sha256,
                "deployments": sorted(one["metadata"]["name"] for one in live),
                "images": asked["images"],
                "denials": list(decision.denials),
                "obligations": list(decision.obligations),
                "met": met,
                "verdict": summary(verdict),
            },
        )
        return Measured((verdict,), (artifact,), reason_of((verdict,)))


def _essential(deployment: dict[str, Any]) -> dict[str, Any]:
    metadata = deployment.get("metadata", {})
    return {
        "metadata": {name: metadata[name] for name in ("name", "namespace", "labels") if name in metadata},
        "spec": json.loads(json.dumps(deployment.get("spec"))),
    }


def _candidate(service: Service, live: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the canary's Deployment as the release will make it: what is there, with the new image."""
    wanted = service.canary_deployment
    found = next((one for one in live if one["metadata"].get("name") == wanted), None)
    if found is None:
        # Denied by the policy: a Deployment without containers, named so that the reason can be read.
        return {"metadata": {"name": f"{wanted} (missing)"}, "spec": {}}
    planned: dict[str, Any] = copy.deepcopy(found)
    planned["metadata"]["name"] = f"{wanted} (planned)"
    spec = planned.get("spec")
    template = spec.get("template", {}) if isinstance(spec, dict) else {}
    for container in template.get("spec", {}).get("containers", []):
        if container.get("name") == service.container:
            container["image"] = service.image.text
    return planned
