"""Judging everything again from the stored answers, offline: each verdict, each look at the canary.

What is recomputed must be what the journal recorded: outcome, verdict, metrics, thresholds, reason. An
unknown rule, a missing answer or a redacted one is a broken check: what cannot be recomputed is not proven.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.base.text import visible
from cockpit.evidence.checks import Check, said
from cockpit.evidence.texts import recorded, written
from cockpit.journal.events import AnyEvent, GateJudged, LookTaken
from cockpit.rpc.messages import GateVerdict
from cockpit.rpc.validate import check as check_message
from cockpit.verdicts import rules
from cockpit.verdicts.analysis import look_of
from cockpit.verdicts.gates import contradiction
from cockpit.verdicts.questions import RULE_LOOK

Blobs = Callable[[str], bytes]
"""Gives the data of `sha256:<hex>` or raises a CockpitError."""


def recompute(events: Iterable[AnyEvent], blob: Blobs, canary: Mapping[str, Any] | None) -> list[Check]:
    """Judge every verdict and look of a journal again; a journal without any of a kind says so and holds.

    `canary` is the plan's section (`plain`) that every look must have been judged by; None fails every look.
    """
    verdicts = [event for event in events if isinstance(event, GateJudged)]
    looks = [event for event in events if isinstance(event, LookTaken)]
    return [
        _check("verdicts recomputed", verdicts, lambda event: verdict_problem(event, blob), _gate_name),
        _check("canary looks recomputed", looks, lambda event: look_problem(event, blob, canary), _look_name),
    ]


def verdict_problem(event: GateJudged, blob: Blobs) -> str:
    """Return how a recorded verdict differs from what its rule makes of the stored answers; empty when it
    does not.

    Raises CockpitError when it cannot be recomputed.
    """
    verdict = check_message(GateVerdict, blob(event.verdict_blob))
    problem = _event_problem(event, verdict)
    if problem:
        return problem
    name, params, answers = _rule_of(verdict.details.rule, blob)
    judgement = rules.find(name)(answers, params)
    wanted = {
        "outcome": judgement.outcome,
        "verdict": "pass" if judgement.passed else "fail",
        "metrics": _plain(judgement.metrics),
        "thresholds": list(judgement.thresholds),
        "reason": judgement.reason[:2000],
    }
    found = {
        "outcome": verdict.details.outcome,
        "verdict": verdict.verdict,
        "metrics": _plain(verdict.metrics),
        "thresholds": list(verdict.thresholds),
        "reason": verdict.details.reason,
    }
    return _difference(found, wanted)


def look_problem(event: LookTaken, blob: Blobs, canary: Mapping[str, Any] | None) -> str:
    """Return how a recorded look differs from the same look judged again by the plan; raises CockpitError."""
    document = _object(blob(event.answers))
    name, params, answers = _rule_of(document.get("rule"), blob)
    if name != RULE_LOOK:
        return f"it was made by the rule {visible(name, limit=60)}"
    if canary is None or params.get("canary") != canary:
        return "it was not judged by the canary section of the plan"
    steps = canary["steps"]
    if not 1 <= event.step <= len(steps) or params.get("weight") != steps[event.step - 1]:
        return "it was judged at another weight than the plan's for its step"
    look = look_of(answers, params)
    wanted = {
        "outcome": look.outcome,
        "critical": look.critical,
        "reason": recorded(look.reason),
        "requests": look.requests,
        "metrics": _plain(look.metrics),
        "burn": _plain(look.burn),
    }
    found = {
        "outcome": event.outcome,
        "critical": event.critical,
        "reason": event.reason,
        "requests": event.requests,
        "metrics": _plain(event.metrics),
        "burn": _plain(event.burn),
    }
    return _difference(found, wanted)


def _check(
    name: str, events: list[Any], problem_of: Callable[[Any], str], name_of: Callable[[Any], str]
) -> Check:
    problems: list[str] = []
    for event in events:
        try:
            problem = problem_of(event)
        except CockpitError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - the parameters in a pack are anybody's
            problem = f"{type(error).__name__}: {error}"
        if problem:
            problems.append(f"{name_of(event)}: {problem}")
    return Check(name, not problems, said(problems, f"{len(events)} judged again, all alike"))


def _gate_name(event: GateJudged) -> str:
    return f"record {event.seq}, {event.phase_gate} by {event.agent}"


def _look_name(event: LookTaken) -> str:
    return f"record {event.seq}, look {event.look} of step {event.step}"


def _rule_of(rule: object, blob: Blobs) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str):
        raise EvidenceError("it names no rule and cannot be recomputed")
    params, answers = rule.get("params"), rule.get("answers")
    if not isinstance(params, dict) or not isinstance(answers, dict):
        raise EvidenceError("its rule has no parameters or answers")
    return rule["name"], params, {str(name): blob(str(digest)) for name, digest in answers.items()}


def _event_problem(event: GateJudged, verdict: GateVerdict) -> str:
    details = verdict.details
    found = {
        "gate": event.gate,
        "phase_gate": event.phase_gate,
        "env": event.env,
        "verdict": event.verdict,
        "outcome": event.outcome,
        "reason": event.reason,
        "metrics": _plain(event.metrics),
        "thresholds": list(event.thresholds),
        "images": dict(event.images),
        "plan_sha256": event.plan_sha256,
        "valid_s": event.valid_s,
    }
    wanted = {
        "gate": verdict.gate,
        "phase_gate": details.phase_gate,
        "env": verdict.env,
        "verdict": verdict.verdict,
        "outcome": details.outcome,
        "reason": recorded(details.reason),
        "metrics": written(_plain(verdict.metrics)),
        "thresholds": written(list(verdict.thresholds)),
        "images": dict(details.judged.images),
        "plan_sha256": details.judged.plan_sha256,
        "valid_s": details.judged.valid_s,
    }
    difference = _difference(found, wanted)
    if difference:
        return f"the record is not the verdict: {difference}"
    return contradiction(event) if event.verdict == "pass" else ""


def _object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise EvidenceError("the stored document is not a JSON object")
    return document


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    # As JSON keeps them: what is no number is null.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name, value in wanted.items():
        if found[name] != value:
            return f"{name} is recorded as {_short(found[name])} and comes out as {_short(value)}"
    return ""


def _short(value: Any) -> str:
    return visible(json.dumps(value, default=str, sort_keys=True), limit=120)
