"""The decision table of the release policy: who × action × environment × second factor and reason.

One JSON document, so that it can be stored and held against the stored decisions offline:
`{"format": 1, "base": {…}, "subjects": {name: {…}}, "cases": [{…}]}`. A case names `name`, `action`,
`environment`, `subject` (each but the name may be a list: every combination is a case of its own), `with`
(merged over the base input), `mfa_age_s` and `reason`, and what is expected: `allow`, `obligations`
(`{"name": …, …}`) and `unmet` (names of those that the case's own facts leave open).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.verdicts.obligations import Met, Obligation

MAX_CASES = 1000
MAX_TABLE_BYTES = 1 << 20
_MEMBERS = frozenset(
    {"name", "action", "environment", "subject", "with", "mfa_age_s", "reason", "second_person"}
    | {"allow", "obligations", "unmet"}
)


@dataclass(frozen=True, slots=True)
class Case:
    """One cell: the input, the facts its obligations are held against, and what is expected."""

    name: str
    input: dict[str, Any]
    facts: Met
    allow: bool
    obligations: tuple[Obligation, ...]
    unmet: tuple[str, ...]


def read_table(data: bytes, *, builtin: bytes | None = None) -> dict[str, Any]:
    """Read a table; with `"extends": "built-in"` its cases are put over those of `builtin`, by name.

    Raises UsageError for what is no table.
    """
    document = _document(data)
    extends = document.pop("extends", None)
    if extends is None:
        return document
    if extends != "built-in" or builtin is None:
        raise UsageError("a decision table extends `built-in` or nothing")
    below = _document(builtin)
    own = {str(case.get("name")): case for case in document["cases"]}
    cases = [own.pop(str(case.get("name")), case) for case in below["cases"]]
    return {
        "format": 1,
        "base": merged(below["base"], document["base"]),
        "subjects": {**below["subjects"], **document["subjects"]},
        "cases": [*cases, *own.values()],
    }


def cases_of(table: Mapping[str, Any]) -> tuple[Case, ...]:
    """Return every case of a table; raises UsageError for one that cannot be read."""
    found: list[Case] = []
    for case in table["cases"]:
        found += _expanded(case, table["base"], table["subjects"])
        if len(found) > MAX_CASES:
            raise UsageError(f"a decision table of more than {MAX_CASES} cases")
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the decision table has two cases {visible(twice, limit=120)!r}")
    return tuple(found)


def merged(below: Any, above: Any) -> Any:
    """Return `above` laid over `below`: objects member by member, anything else in its place."""
    if isinstance(below, dict) and isinstance(above, dict):
        both = {**below, **above}
        return {
            name: merged(below[name], above[name]) if name in below and name in above else value
            for name, value in both.items()
        }
    return above


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_TABLE_BYTES:
        raise UsageError(f"a decision table of {len(data)} bytes; at most {MAX_TABLE_BYTES}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("the decision table is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != 1:
        raise UsageError("the decision table is not of format 1")
    table = {"base": {}, "subjects": {}, "cases": [], **document}
    if not isinstance(table["base"], dict) or not isinstance(table["subjects"], dict):
        raise UsageError("the decision table's base and subjects are objects")
    if not isinstance(table["cases"], list) or not all(isinstance(one, dict) for one in table["cases"]):
        raise UsageError("the decision table's cases are a list of objects")
    return table


def _expanded(case: dict[str, Any], base: Any, subjects: dict[str, Any]) -> Iterator[Case]:
    name = case.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError("a case of the decision table has no name")
    shown = visible(name, limit=120)
    if set(case) - _MEMBERS:
        # A misspelt expectation would expect nothing.
        raise UsageError(f"case {shown!r}: unknown members {sorted(set(case) - _MEMBERS)}")
    axes = [
        _texts(case.get(axis), f"case {shown!r}: {axis}") for axis in ("subject", "action", "environment")
    ]
    for who, action, environment in itertools.product(*axes):
        if not isinstance(subjects.get(who), dict):
            raise UsageError(f"case {shown!r}: there is no subject {visible(who, limit=80)!r}")
        factor, reason = case.get("mfa_age_s"), case.get("reason", "")
        second = case.get("second_person", "")
        if isinstance(factor, bool) or not isinstance(factor, (int, float, type(None))):
            raise UsageError(f"case {shown!r}: mfa_age_s is a number of seconds")
        if not isinstance(reason, str) or not isinstance(second, str):
            raise UsageError(f"case {shown!r}: reason and second_person are texts")
        subject = {**subjects[who], "mfa_age_s": factor, "reason": reason}
        question = merged(base, {"action": action, "environment": environment, "subject": subject})
        yield Case(
            name=f"{name}: {who} {action} {environment}",
            input=merged(question, case.get("with", {})),
            facts=Met(str(subject.get("id", "")), factor, reason, second),
            allow=_boolean(case.get("allow"), shown),
            obligations=_obligations(case.get("obligations", []), shown),
            unmet=tuple(sorted(_texts(case.get("unmet", []), f"case {shown!r}: unmet", empty=True))),
        )


def _texts(value: Any, what: str, *, empty: bool = False) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not (found or empty) or not all(isinstance(one, str) for one in found):
        raise UsageError(f"{what} is a text, or a list of texts")
    return found


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"case {name!r}: `allow` is true or false")
    return value


def _obligations(value: Any, name: str) -> tuple[Obligation, ...]:
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in value
    ):
        raise UsageError(f"case {name!r}: obligations are objects with a name")
    return tuple(
        Obligation(one["name"], {key: inner for key, inner in one.items() if key != "name"}) for one in value
    )
