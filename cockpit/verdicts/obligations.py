"""Obligations: what a policy that allows something asks for besides, and which facts meet it.

Pure, so that a stored decision can be held against the stored facts again. An obligation nobody here knows,
or whose parameters are not exactly those known, is never met: a policy written for a newer cockpit must not
be weaker under this one.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cockpit.base.text import visible


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something asked for besides, e.g. `step_up_mfa` with `{"max_age_s": 900}`; `params` are JSON values."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={_short(value)}" for name, value in sorted(self.params.items()))
        shown = visible(self.name, limit=80)
        return f"{shown}({inner})" if inner else shown


@dataclass(frozen=True, slots=True)
class Met:
    """The facts obligations are held against.

    `mfa_age_s`: seconds since `subject` last showed a second factor, None when never. `reason`: what they
    said why they act. `second_person`: who else stands by the act, empty when nobody does.
    """

    subject: str
    mfa_age_s: float | None = None
    reason: str = ""
    second_person: str = ""


def problem(obligation: Obligation, facts: Met) -> str:
    """Return why an obligation is not met, `""` when it is."""
    known = KNOWN.get(obligation.name)
    if known is None:
        shown = visible(obligation.name, limit=80)
        return f"{shown!r} is an obligation nobody here knows: it cannot be met"
    return known(obligation.params, facts)


def unmet(obligations: Iterable[Obligation], facts: Met) -> tuple[tuple[Obligation, str], ...]:
    """Return the obligations that are not met, each with why."""
    found = ((one, problem(one, facts)) for one in obligations)
    return tuple((one, why) for one, why in found if why)


def said(text: str) -> str:
    """Return a reason as its length is counted: what cannot be seen, and repeated blanks, count nothing."""
    seen = (char if unicodedata.category(char)[0] not in "CZ" else " " for char in text)
    return " ".join("".join(seen).split())


def _step_up(params: Mapping[str, Any], facts: Met) -> str:
    most = _number(params, "max_age_s")
    if most is None:
        return _unreadable("step_up_mfa", params)
    age = facts.mfa_age_s
    if age is None:
        return f"step_up_mfa: {_who(facts)} has shown no second factor; at most {most:g} s old is asked"
    # A factor of the future, or of no time at all, is not a fresh one.
    if not (math.isfinite(age) and 0 <= age <= most):
        return f"step_up_mfa: the second factor of {_who(facts)} is {age:.0f} s old; {most:g} s is allowed"
    return ""


def _reason(params: Mapping[str, Any], facts: Met) -> str:
    least = _number(params, "min_length")
    if least is None:
        return _unreadable("reason_for_access", params)
    length = len(said(facts.reason))
    if length < max(least, 1):
        return (
            f"reason_for_access: a reason of at least {max(least, 1):g} characters is asked, {length} given"
        )
    return ""


def _second_person(params: Mapping[str, Any], facts: Met) -> str:
    if params:
        return _unreadable("second_person", params)
    second = said(facts.second_person)
    if not second:
        return f"second_person: nobody stands by {_who(facts)}"
    if second.casefold() == said(facts.subject).casefold():
        return f"second_person: {_who(facts)} cannot be their own second person"
    return ""


KNOWN: dict[str, Callable[[Mapping[str, Any], Met], str]] = {
    "step_up_mfa": _step_up,
    "reason_for_access": _reason,
    "second_person": _second_person,
}
"""Name → what says why it is not met."""


def _number(params: Mapping[str, Any], name: str) -> float | None:
    value = params.get(name)
    if set(params) != {name} or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _unreadable(name: str, params: Mapping[str, Any]) -> str:
    return f"{name}: asked with {_short(dict(params))}, which nobody here understands: it cannot be met"


def _who(facts: Met) -> str:
    return visible(facts.subject, limit=80) or "the subject"


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = "…"
    return visible(text, limit=120)
