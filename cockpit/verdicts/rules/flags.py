"""Feature flags as users see them, against what was set; their catalogue, proof and kill switch (`authz`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.flag_definitions import hygiene, read_catalogue
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, never_raises, raw_of

PROVING = ("A13", "A39")
"""Whose verdicts prove a flag's dashboards and alerts: by a metric `flag_<name>` that is true."""

_DEVIATIONS = 4
"""Standard deviations by which a sample of tenants may miss a share."""


@never_raises
def flag_scopes(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge each flag of `params["flags"]`: who must see it, who must not, and whether it may be shown.

    A flag has `scope` (words), `on` and `off` (tenants) and `shown` (whether it was shown to anybody by this
    release); one shown to a share has `sampled`, tenants of whom about `percent` must see it. Answers:
    `catalogue` (the definitions), `seen.<flag>` (`rows` of tenant, status and body), `proof` (`verdicts` of
    PROVING and a `waiver`) and, where `params["kill_bound_ms"]` is given, `drill`. `params["now"]` is in Unix
    seconds.
    """
    flags: Mapping[str, Mapping[str, Any]] = params["flags"]
    metrics: Metrics = {"flags": len(flags), "tenants_asked": 0, "wrong": None}
    thresholds = ["wrong==0", "catalogue_problems==0", "unproven==0"]
    bound = params.get("kill_bound_ms")
    if bound is not None:
        thresholds.append(f"kill_ms<={float(bound):.12g}")
    try:
        if not flags:
            raise Trouble("fail", "there is no flag to look at")
        wrong = [said for name, flag in flags.items() for said in _wrong(answers, name, flag, metrics)]
        metrics["wrong"] = len(wrong)
        now = datetime.fromtimestamp(float(params["now"]), UTC)
        problems = _catalogue(answers, list(flags), now)
        metrics["catalogue_problems"] = len(problems)
        unproven, waived = _unproven(answers, flags)
        metrics["unproven"] = 0 if waived else len(unproven)
        metrics["unproven_waived"] = len(unproven) if waived else 0
        drilled = [] if bound is None else _drill(answers, float(bound), metrics)
    except Trouble as trouble:
        return Judgement(trouble.outcome, visible(trouble.reason, limit=1000), metrics, tuple(thresholds))
    said = [*wrong, *problems, *drilled]
    if unproven and not waived:
        said.append(f"shown without verified dashboards and alerts: {', '.join(unproven)}")
    if said:
        return Judgement("fail", visible("; ".join(said), limit=1000), metrics, tuple(thresholds))
    scopes = ", ".join(f"{name} {flag['scope']}" for name, flag in flags.items())
    note = f"; dashboards and alerts of {', '.join(unproven)} NOT verified: {waived}" if unproven else ""
    return Judgement("pass", visible(f"as set: {scopes}{note}", limit=1000), metrics, tuple(thresholds))


def value_of(status: int, body: str, flag: str) -> bool:
    """Return what an OFREP answer says of a boolean flag; raises Trouble for an error or another answer."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Trouble("provider_error", f"{flag}: the flag service's answer is not JSON") from None
    if not isinstance(found, dict) or found.get("key") != flag:
        raise Trouble("provider_error", f"{flag}: the flag service answered about something else")
    if status in (400, 404):
        code = visible(str(found.get("errorCode")), limit=60)
        raise Trouble("fail", f"{flag}: cannot be evaluated: {code}")
    if status != 200 or not isinstance(found.get("value"), bool):
        raise Trouble("provider_error", f"{flag}: the flag service gave no true or false")
    return bool(found["value"])


def _wrong(answers: Mapping[str, bytes], name: str, flag: Mapping[str, Any], metrics: Metrics) -> list[str]:
    rows = document(answers, f"seen.{name}").get("rows")
    if not isinstance(rows, list):
        raise Trouble("provider_error", f"seen.{name}: has no rows")
    seen = {str(row["tenant"]): value_of(row["status"], row["body"], name) for row in rows}
    metrics["tenants_asked"] = int(metrics["tenants_asked"] or 0) + len(seen)
    sampled = list(flag.get("sampled", []))
    if not flag["on"] and not flag["off"] and not sampled:
        raise Trouble("fail", f"{name}: nobody was asked what they see")
    found = []
    if sampled:
        if any(tenant not in seen for tenant in sampled):
            raise Trouble("no_data", f"{name}: not everybody of the sample was asked")
        share, count = float(flag["percent"]) / 100, len(sampled)
        inside = sum(seen[tenant] for tenant in sampled)
        if abs(inside - share * count) > _DEVIATIONS * math.sqrt(count * share * (1 - share)) + 1:
            found.append(f"{name} ({flag['scope']}): {inside} of {count} sampled tenants see it")
    for wanted, tenants in ((True, flag["on"]), (False, flag["off"])):
        missing = [tenant for tenant in tenants if tenant not in seen]
        if missing:
            raise Trouble("no_data", f"{name}: {', '.join(missing[:5])} was not asked")
        others = [tenant for tenant in tenants if seen[tenant] is not wanted]
        if others:
            word = "does not see" if wanted else "sees"
            found.append(f"{name} ({flag['scope']}): {', '.join(others[:5])} {word} it")
    return found


def _catalogue(answers: Mapping[str, bytes], flags: list[str], now: datetime) -> list[str]:
    try:
        found = read_catalogue(raw_of(answers, "catalogue").decode("utf-8", "replace"))
    except ValueError as error:
        raise Trouble("fail", str(error)) from None
    return hygiene(found, flags, now)


def _unproven(answers: Mapping[str, bytes], flags: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return the flags shown without proof, and by whom and why that is waived (empty: it is not)."""
    proof = document(answers, "proof")
    waiver = proof.get("waiver")
    waived = f"waived by {waiver['owner']}: {waiver['reason']}" if isinstance(waiver, dict) else ""
    return unproven_of(proof, [name for name, flag in flags.items() if flag["shown"]]), waived


def unproven_of(proof: Mapping[str, Any], flags: list[str]) -> list[str]:
    """Return the flags not every agent of PROVING has verified dashboards and alerts of."""
    verdicts = proof.get("verdicts")
    proven: dict[str, set[str]] = {}
    for one in verdicts if isinstance(verdicts, list) else []:
        for name in one["flags"]:
            proven.setdefault(str(name), set()).add(str(one["agent"]))
    return [name for name in flags if not set(PROVING) <= proven.get(name, set())]


def _drill(answers: Mapping[str, bytes], bound: float, metrics: Metrics) -> list[str]:
    drill = document(answers, "drill")
    metrics["kill_ms"] = None
    took = drill.get("kill_ms")
    if drill.get("passed") is not True or isinstance(took, bool) or not isinstance(took, (int, float)):
        return [f"the kill switch was not proven: {visible(str(drill.get('reason', '')), limit=200)}"]
    if not math.isfinite(took):
        raise Trouble("provider_error", "drill: its time is no number")
    metrics["kill_ms"] = round(float(took), 3)
    return [] if took <= bound else [f"the kill switch took {took:.0f} ms, at most {bound:.0f} allowed"]
