"""Who may do what: the stored decisions of the release policy, held to the stored table (gate `authz`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cockpit.base.errors import BackendGarbage, UsageError
from cockpit.base.text import visible
from cockpit.verdicts.decision_table import Case, cases_of, read_table
from cockpit.verdicts.obligations import Obligation, unmet
from cockpit.verdicts.policy_decision import Decision, input_of, read_decision
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, never_raises, raw_of

THRESHOLDS = ("mismatches==0", "uncovered==0")
_SHOWN = 10


@never_raises
def decision_table(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Pass when every decision is the one its cell expects: allow, obligations, and which of them are open.

    Answers: `table`, as `decision_table.read_table` gives it, and `decisions`, `{"decisions": [raw, …]}` in
    the order of its cases. A table that cannot fail is no test: each action of `params["actions"]` needs an
    allow in prod, all but those of `params["always"]` a deny too, and each of `params["obligations"]` a case
    in which it is met and one in which it is not.
    """
    try:
        cases = cases_of(read_table(raw_of(answers, "table")))
    except UsageError as error:
        raise Trouble("provider_error", str(error)) from None
    raws = document(answers, "decisions").get("decisions")
    if not isinstance(raws, list) or not all(isinstance(one, str) for one in raws):
        raise Trouble("provider_error", "the decisions cannot be read")
    if len(raws) != len(cases):
        raise Trouble("provider_error", f"{len(raws)} decisions for {len(cases)} cases")
    wrong: list[str] = []
    engines: set[str] = set()
    for case, raw in zip(cases, raws, strict=True):
        decision = read_decision(raw.encode())
        engines.add(decision.engine)
        if json.dumps(input_of(raw.encode()), sort_keys=True) != json.dumps(case.input, sort_keys=True):
            raise Trouble("provider_error", f"{case.name}: decided on another input")
        problem = mismatch(case, decision)
        if problem:
            wrong.append(f"{case.name}: {problem}")
    missing = uncovered(cases, params)
    metrics: Metrics = {
        "cases": len(cases),
        "mismatches": len(wrong),
        "uncovered": len(missing),
        "allowed": sum(case.allow for case in cases),
        "denied": sum(not case.allow for case in cases),
        "engine": "+".join(sorted(engines)),
    }
    if wrong or missing:
        said = "; ".join([*wrong[:_SHOWN], *(f"no case: {one}" for one in missing[:_SHOWN])])
        return Judgement("fail", visible(said, limit=1000), metrics, THRESHOLDS)
    said = f"all {len(cases)} decisions are as the table expects"
    return Judgement("pass", said, metrics, THRESHOLDS)


def mismatch(case: Case, decision: Decision) -> str:
    """Return how a decision differs from its cell, `""` when it does not."""
    if decision.allow is not case.allow:
        found = "allowed" if decision.allow else "denied"
        return f"{found} ({'; '.join(decision.reasons) or 'no reason'})"
    if not case.allow:
        return ""  # what is asked besides does not matter where nothing is allowed
    asked, expected = _ordered(decision.obligations), _ordered(case.obligations)
    if asked != expected:
        return f"asks for {_listed(asked)} instead of {_listed(expected)}"
    left = tuple(sorted(one.name for one, _ in unmet(decision.obligations, case.facts)))
    if left != case.unmet:
        return f"leaves {', '.join(left) or 'nothing'} unmet instead of {', '.join(case.unmet) or 'nothing'}"
    return ""


def uncovered(cases: tuple[Case, ...], params: Mapping[str, Any]) -> list[str]:
    """Return what a table must hold and does not."""
    allowed: set[Any] = set()
    denied: set[Any] = set()
    for case in cases:
        if case.input.get("environment") == "prod":
            (allowed if case.allow else denied).add(case.input.get("action"))
    missing = [f"{one} allowed in prod" for one in params["actions"] if one not in allowed]
    missing += [
        f"{one} denied in prod"
        for one in params["actions"]
        if one not in denied and one not in params["always"]
    ]
    for name in params["obligations"]:
        holding = [case for case in cases if case.allow and name in {one.name for one in case.obligations}]
        missing += [f"{name} met"] if not any(name not in case.unmet for case in holding) else []
        missing += [f"{name} unmet"] if not any(name in case.unmet for case in holding) else []
    return missing


def _ordered(obligations: tuple[Obligation, ...]) -> list[Obligation]:
    return sorted(obligations, key=str)


def _listed(obligations: list[Obligation]) -> str:
    return ", ".join(map(str, obligations)) or "nothing"


def bundled(raws: tuple[bytes, ...]) -> bytes:
    """Return stored decisions as the answer `decisions`; raises BackendGarbage for one that is not text."""
    try:
        return json.dumps({"decisions": [one.decode() for one in raws]}, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise BackendGarbage("a stored decision is not UTF-8") from None
