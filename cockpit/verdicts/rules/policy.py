"""Admission: the stored policy decision, held to the stored input it was made on (gate `policy_ci`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.decision import read_decision
from cockpit.verdicts.rules.reading import Trouble, document, never_raises, raw_of


@never_raises
def policy_admission(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Pass when the decision on exactly this input allows, denies nothing, and every obligation is met.

    Answers: `input`, `decision`. `params["met"]` lists the obligations that are met. That images are named by
    digest is looked at a second time, without the policy engine.
    """
    decision = read_decision(raw_of(answers, "decision"))
    asked = document(answers, "input")
    if decision.input_sha256 != hashlib.sha256(answers["input"]).hexdigest() and decision.allow:
        raise Trouble("provider_error", "the decision was made on another input")
    images, deployments = asked.get("images"), asked.get("deployments")
    denials = list(decision.denials)
    if not isinstance(images, list) or not images or not isinstance(deployments, list) or not deployments:
        denials.append("there is nothing to decide on")
    else:
        denials += [
            f"plan: {one.get('service')} is not named by digest"
            for one in images
            if "@sha256:" not in str(one.get("image")) and decision.allow
        ]
    open_obligations = sorted(set(decision.obligations) - set(params["met"]))
    thresholds = ("denials==0", "obligations_open==0")
    metrics: Metrics = {
        "denials": len(denials),
        "obligations_open": len(open_obligations),
        "deployments": len(deployments) if isinstance(deployments, list) else 0,
        "bundle_sha256": decision.bundle_sha256,
    }
    if denials or not decision.allow:
        said = "; ".join(denials[:10]) or "denied"
        return Judgement("fail", visible(said, limit=1000), metrics, thresholds)
    if open_obligations:
        said = "; ".join(f"obligation not met: {one}" for one in open_obligations)
        return Judgement("fail", visible(said, limit=1000), metrics, thresholds)
    return Judgement("pass", "the policy allows it and every obligation is met", metrics, thresholds)
