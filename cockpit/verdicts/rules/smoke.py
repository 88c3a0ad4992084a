"""Smoke paths: each stored answer has the status and content the plan expects (seed section 17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, never_raises


@never_raises
def smoke_paths(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge `params["paths"]` (`name`, `status`, `contains`); an answer is `{"status": …, "body": …}`."""
    thresholds = ("smoke_failed==0",)
    paths = params["paths"]
    if not paths:
        return Judgement("fail", "the plan names no smoke path", {}, thresholds)
    failed = {}
    for path in paths:
        wrong = problem(answers, path)
        if wrong:
            failed[path["name"]] = wrong
    metrics: Metrics = {"smoke_paths": len(paths), "smoke_failed": len(failed)}
    if failed:
        said = "; ".join(f"{name}: {wrong}" for name, wrong in failed.items())
        return Judgement("fail", visible(said, limit=1000), metrics, thresholds)
    return Judgement("pass", f"all {len(paths)} smoke paths answered as they must", metrics, thresholds)


def problem(answers: Mapping[str, bytes], path: Mapping[str, Any]) -> str:
    """Return what is wrong with the answer of one path, or nothing; raises Trouble when none came."""
    answer = document(answers, path["name"])
    status, body = answer.get("status"), answer.get("body")
    if type(status) is not int or not isinstance(body, str):
        raise Trouble("provider_error", f"{path['name']}: not an answer")
    if status != path["status"]:
        return f"status {status} instead of {path['status']}"
    if path["contains"] not in body:
        return f"the answer does not contain {path['contains']!r}"
    return ""
