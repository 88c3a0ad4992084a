"""Security: the Supply-Chain Lead (A15), what every image brings along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, together, write_json
from cockpit.backends.cluster import DEPLOYMENT
from cockpit.base.errors import BackendGarbage, BackendRefused, UsageError
from cockpit.base.threads import BoundedThreads
from cockpit.evidence.supply_chain_rule import SBOM, ServiceReport, reports
from cockpit.plan.model import Service
from cockpit.plan.values import ImageRef
from cockpit.rpc.messages import Artifact, GateVerdict

_MOST_BUNDLES = 40


class SupplyChainLead(GateAgent):
    """A15: resolves each image by digest and verifies signature, SBOM, provenance and vulnerabilities."""

    gate = "supply_chain"
    phase_gate = "supply_chain"

    def needs(self, context: Context) -> str:
        """Need the registry, and the cluster for the version before."""
        _ = context.registry, context.cluster
        return (
            f"verify signature, SBOM, provenance and vulnerabilities of {len(context.plan.services)} images"
        )

    async def measure(self, context: Context) -> Measured:
        """Read what is attached, judge, and write it out."""
        signing = context.plan.targets.signing
        answers: dict[str, bytes] = {"trusted_root": trusted_root(context.base / signing.trust_config)}
        found = await together({one.name: _entry(context, one) for one in context.plan.services})
        inventory = {name: entry for name, (entry, _) in found.items()}
        for _, bundles in found.values():
            answers |= bundles
        answers["inventory"] = json.dumps({"services": inventory}, sort_keys=True).encode()
        params = {
            "identity": signing.image_identity,
            "issuer": signing.image_issuer,
            "builder": signing.builder,
            "source": signing.source,
            "services": [one.name for one in context.plan.services],
            "budget": dict(context.plan.budgets.vulnerabilities_added),
        }
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "supply_chain",
            answers,
            params,
            {
                "inventory": query(
                    context, "images and what refers to them", "registry", samples=len(answers)
                ),
                "trusted_root": query(context, signing.trust_config, "files", samples=1),
            },
        )
        seen = await BoundedThreads("verifying", 1).run(
            lambda: reports(answers, params), deadline=context.plan.agent_deadline
        )
        return Measured(
            (verdict,), _written(context, inventory, answers, seen, verdict), reason_of((verdict,))
        )


def trusted_root(path: Path) -> bytes:
    """Return the trusted root (JSON) of a Sigstore client trust configuration; raises UsageError."""
    try:
        root = json.loads(path.read_bytes())["trustedRoot"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            "no trusted root can be read from the trust configuration", where=path.name
        ) from None
    return json.dumps(root, sort_keys=True).encode()


async def _entry(context: Context, service: Service) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a service's line of the inventory and the bundles attached to its images."""
    registry, image = context.registry, service.image
    try:
        resolved = await registry.resolve(image.repository, image.reference)
    except BackendRefused as error:
        if error.status != 404:
            raise
        resolved = ""  # an image that is not there has nothing that could be verified
    bundles = await registry.bundles(image.repository, resolved) if resolved else ()
    previous = await _previous(context, service)
    before: tuple[bytes, ...] = ()
    if previous is not None and previous.digest:
        try:
            before = await registry.bundles(previous.repository, previous.digest)
        except BackendRefused as error:
            if error.status != 404:
                raise
    if len(bundles) + len(before) > _MOST_BUNDLES:
        raise BackendGarbage(f"{len(bundles) + len(before)} bundles are attached to {service.name}'s images")
    kept = {f"bundle:{service.name}:{number}": raw for number, raw in enumerate(bundles)}
    kept_before = {f"previous:{service.name}:{number}": raw for number, raw in enumerate(before)}
    entry = {
        "image": image.text,
        "digest": image.digest,
        "resolved": resolved,
        "bundles": list(kept),
        "previous": previous.digest if previous is not None else "",
        "previous_bundles": list(kept_before),
    }
    return entry, {**kept, **kept_before}


async def _previous(context: Context, service: Service) -> ImageRef | None:
    """Return the image stable runs now: what the vulnerabilities are compared with."""
    try:
        stable = await context.cluster.get(DEPLOYMENT, service.stable_deployment)
    except BackendRefused as error:
        if error.status == 404:
            return None  # a new service: everything in it counts as added
        raise
    try:
        containers = stable["spec"]["template"]["spec"]["containers"]
        text = next(one["image"] for one in containers if one["name"] == service.container)
        return ImageRef.model_validate(text)
    except (KeyError, TypeError, StopIteration, ValueError):
        raise BackendGarbage(f"{service.stable_deployment} names no image for {service.container}") from None


def _written(
    context: Context,
    inventory: dict[str, Any],
    answers: dict[str, bytes],
    found: list[ServiceReport],
    verdict: GateVerdict,
) -> tuple[Artifact, ...]:
    at_deploy = {
        "images": {
            one.service: {
                "image": inventory[one.service]["image"],
                "digest": inventory[one.service]["resolved"],
                "verified": not one.problems,
                "problems": one.problems,
                "statements": sorted(one.statements),
            }
            for one in found
        },
        "verdict": summary(verdict),
    }
    if context.step:
        path = f"supply_chain/verify_at_step_{context.step}.json"
        return (write_json(context, path, at_deploy, "slsa"),)
    artifacts = [write_json(context, "supply_chain/verify_at_deploy.json", at_deploy, "slsa")]
    diff = {
        one.service: {
            "previous": inventory[one.service]["previous"],
            "added": one.added,
            "removed": one.removed,
        }
        for one in found
    }
    budget = dict(context.plan.budgets.vulnerabilities_added)
    artifacts.append(write_json(context, "supply_chain/vuln_diff.json", {"budget": budget, "services": diff}))
    for one in found:
        if SBOM in one.statements:
            path = f"sbom/{one.service}.spdx.json"
            artifacts.append(write_json(context, path, one.statements[SBOM]["predicate"], "sbom"))
        if one.bundles:
            # The bundles themselves, one a line: who has the build's trusted root can verify them again.
            lines = [
                json.dumps(json.loads(answers[name]), sort_keys=True, separators=(",", ":"))
                for name in one.bundles
            ]
            data = ("\n".join(lines) + "\n").encode()
            path = f"supply_chain/{one.service}.intoto.jsonl"
            artifacts.append(context.artifacts.write(path, data, "slsa"))
    return tuple(artifacts)
