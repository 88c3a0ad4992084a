"""The decision table and its rule: a changed cell flips the verdict, and a table that cannot fail fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from cockpit.base.errors import UsageError
from cockpit.verdicts.decision_table import cases_of, merged, read_table
from cockpit.verdicts.policy_decision import read_decision, stored
from cockpit.verdicts.rule import Judgement
from cockpit.verdicts.rules import find
from cockpit.verdicts.rules.authz import bundled

MFA = {"name": "step_up_mfa", "max_age_s": 900}
TABLE: dict[str, Any] = {
    "format": 1,
    "base": {"gates": {"slo": "pass"}, "subject": {"groups": []}},
    "subjects": {"ann": {"id": "ann", "groups": ["sre"]}, "guest": {"id": "guest"}},
    "cases": [
        {"name": "bare", "subject": "ann", "action": "go", "environment": "prod", "allow": True}
        | {"obligations": [MFA], "unmet": ["step_up_mfa"]},
        {"name": "fresh", "subject": "ann", "action": "go", "environment": "prod", "allow": True}
        | {"obligations": [MFA], "mfa_age_s": 5},
        {"name": "no", "subject": ["ann", "guest"], "action": "go", "environment": ["prod", "dev"]}
        | {"allow": False, "with": {"gates": {"slo": "fail"}}},
    ],
}
PARAMS = {"actions": ["go"], "always": [], "obligations": ["step_up_mfa"]}
Change = Callable[[dict[str, Any], list[dict[str, Any]]], Any]


def answers_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a policy says that is as the table expects."""
    return [
        {
            "allow": one.allow,
            "obligations": [{"name": other.name, **other.params} for other in one.obligations],
            "reasons": [] if one.allow else ["denied"],
        }
        for one in cases_of(table)
    ]


def judged(table: dict[str, Any], said: list[dict[str, Any]], inputs: list[Any] | None = None) -> Judgement:
    asked = inputs or [one.input for one in cases_of(table)]
    raws = tuple(
        stored(engine="opa", path="p/decision", policy="", input=one, answer=json.dumps({"result": answer}))
        for one, answer in zip(asked, said, strict=True)
    )
    answers = {"table": json.dumps(table).encode(), "decisions": bundled(raws)}
    return find("decision_table")(answers, PARAMS)


def test_a_table_that_is_met_passes() -> None:
    judgement = judged(TABLE, answers_of(TABLE))
    assert judgement.outcome == "pass", judgement.reason
    assert judgement.metrics["cases"] == 6 and judgement.metrics["denied"] == 4


FLIPS: dict[str, Change] = {
    "expected allow": lambda table, said: table["cases"][2].update(allow=True),
    "expected obligation": lambda table, said: table["cases"][0].update(obligations=[], unmet=[]),
    "expected parameter": lambda table, said: table["cases"][1]["obligations"][0].update(max_age_s=60),
    "expected unmet": lambda table, said: table["cases"][0].update(unmet=[]),
    "the factor's age": lambda table, said: table["cases"][1].update(mfa_age_s=901),
    "decided allow": lambda table, said: said[3].update(allow=True),
    "decided deny": lambda table, said: said[0].update(allow=False),
    "no obligation asked": lambda table, said: said[0].update(obligations=[]),
    "another obligation asked": lambda table, said: said[0]["obligations"].append({"name": "new_thing"}),
    "no deny": lambda table, said: (table["cases"].pop(2), [said.pop() for _ in range(4)]),
    "nothing unmet": lambda table, said: (table["cases"].pop(0), said.pop(0)),
    "nothing": lambda table, said: (table.update(cases=[]), [said.pop() for _ in range(6)]),
}


@pytest.mark.parametrize("change", FLIPS.values(), ids=FLIPS.keys())
def test_one_cell_flips_the_verdict(change: Change) -> None:
    table = copy.deepcopy(TABLE)
    said = answers_of(table)
    change(table, said)
    # Decided on what the table asks; only expectation or decision differs.
    judgement = judged(table, said)
    assert judgement.outcome == "fail" and judgement.reason


def test_decisions_on_other_questions_prove_nothing() -> None:
    inputs = [one.input for one in cases_of(TABLE)]
    inputs[0] = {**inputs[0], "environment": "dev"}
    assert judged(TABLE, answers_of(TABLE), inputs).outcome == "provider_error"


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"table": json.dumps(TABLE).encode()},
        {"table": json.dumps(TABLE).encode(), "decisions": b'{"decisions": []}'},
        {"table": json.dumps(TABLE).encode(), "decisions": b'{"decisions": ["x", "x", "x", "x", "x", "x"]}'},
        {"table": b"[]", "decisions": b'{"decisions": []}'},
        {"table": b"\xff", "decisions": b""},
    ],
)
def test_answers_that_cannot_be_read_are_no_pass(answers: dict[str, bytes]) -> None:
    assert find("decision_table")(answers, PARAMS).outcome in ("provider_error", "no_data")


def test_cases_are_every_combination_laid_over_the_base() -> None:
    cases = cases_of(TABLE)
    assert [one.name for one in cases[2:]] == [
        "no: ann go prod",
        "no: ann go dev",
        "no: guest go prod",
        "no: guest go dev",
    ]
    assert cases[2].input == {
        "action": "go",
        "environment": "prod",
        "gates": {"slo": "fail"},
        "subject": {"id": "ann", "groups": ["sre"], "mfa_age_s": None, "reason": ""},
    }
    assert cases[5].input["subject"]["groups"] == []
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": []}) == {
        "a": {"b": 3, "c": 2},
        "d": [],
    }


def test_a_plan_s_table_extends_the_built_in_one() -> None:
    own = {
        "format": 1,
        "extends": "built-in",
        "subjects": {"bot": {"id": "bot"}},
        "cases": [
            {"name": "no", "subject": "bot", "action": "go", "environment": "prod", "allow": False},
            {"name": "more", "subject": "ann", "action": "stop", "environment": "prod", "allow": True},
        ],
    }
    table = read_table(json.dumps(own).encode(), builtin=json.dumps(TABLE).encode())
    names = [one.name for one in cases_of(table)]
    assert names == ["bare: ann go prod", "fresh: ann go prod", "no: bot go prod", "more: ann stop prod"]


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format": lambda table: table.update(format=2),
    "extends nothing known": lambda table: table.update(extends="other"),
    "cases are no list": lambda table: table.update(cases={}),
    "a case is no object": lambda table: table["cases"].append("x"),
    "no name": lambda table: table["cases"][0].pop("name"),
    "no expectation": lambda table: table["cases"][0].pop("allow"),
    "expectation is a text": lambda table: table["cases"][0].update(allow="true"),
    "misspelt expectation": lambda table: table["cases"][0].update(obligation=[]),
    "unknown subject": lambda table: table["cases"][0].update(subject="eve"),
    "no action": lambda table: table["cases"][0].update(action=[]),
    "the same case twice": lambda table: table["cases"].append(table["cases"][0]),
    "obligation without a name": lambda table: table["cases"][0].update(obligations=[{"max_age_s": 1}]),
    "age is a text": lambda table: table["cases"][0].update(mfa_age_s="5"),
    "reason is a number": lambda table: table["cases"][0].update(reason=5),
    "too many": lambda table: table["cases"][2].update(action=[f"a{number}" for number in range(300)]),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_table_that_cannot_be_read_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    table = copy.deepcopy(TABLE)
    change(table)
    with pytest.raises(UsageError):
        cases_of(read_table(json.dumps(table).encode()))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b" " * (2 << 20), b"[" * 100_000])
def test_bytes_that_are_no_table_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        read_table(data)


def test_a_stored_decision_can_be_read_again() -> None:
    raw = stored(engine="opa", path="p", policy="", input={"a": 1}, answer='{"result": {"allow": true}}')
    decision = read_decision(raw)
    assert decision.allow and decision.raw == raw
