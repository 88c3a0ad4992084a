"""Rules never raise and never pass on answers that are no measurement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import UsageError
from cockpit.verdicts.rules import RULES, find
from cockpit.verdicts.rules.perf import headroom_load, load_latency
from cockpit.verdicts.rules.schema_compat import Unknown, breaks, check_known

TIME = {"now": 100.0, "max_sample_age": 10.0}
PARAMS: dict[str, dict[str, Any]] = {
    "slo_levels": {
        **TIME,
        "levels": [
            {"metric": "error_rate", "threshold": "error_rate<0.01", "kind": "value", "answers": ["a"]}
        ],
        "requests": "a",
        "min_requests": 1,
        "burn": {"objective": 0.99, "windows": [{"long": 8, "short": 2, "factor": 6}]},
    },
    "smoke_paths": {"paths": [{"name": "a", "status": 200, "contains": ""}]},
    "load_latency": {
        "threshold": "p95_ms<=150",
        "errors": "error_rate<0.01",
        "profiles": ["a"],
        "services": ["web"],
        "min_requests": 1,
    },
    "latency_now": {**TIME, "threshold": "p95_ms<=150", "min_requests": 1},
    "headroom_load": {
        "threshold": "headroom>=0.2",
        "target_rps": 10,
        "services": ["web"],
        "steps": ["a"],
        "min_requests": 1,
    },
    "headroom_utilisation": {**TIME, "threshold": "headroom>=0.2", "services": ["web"]},
    "policy_admission": {"met": []},
    "contracts_compatible": {
        "contracts": [{"name": "x", "schemas": {"shared": {"from": "a", "to": "a"}}, "samples": []}]
    },
    "named_checks": {"required": []},
    "go_no_go": {"now": "2025-09-23T08:00:00Z"},
    "supply_chain": {
        "identity": "i",
        "issuer": "s",
        "builder": "b",
        "source": "s",
        "services": ["web"],
        "budget": {"high": 0},
    },
    "cab_record": {"now": "2025-09-23T08:00:00Z"},
    "decision_table": {"actions": ["promote"], "always": [], "obligations": ["step_up"]},
    "error_budget": {
        "parts": [{"name": "a", "start": 0.0, "end": 100.0, "asked_at": 100.0, "rate": False}],
        "min_requests": 1,
        "objective": 0.99,
        "period_s": 2592000.0,
        "max_age": 10.0,
    },
    "flag_scopes": {
        "flags": {"search": {"scope": "all", "on": ["t1"], "off": [], "shown": True}},
        "now": 100.0,
        "kill_bound_ms": 1000.0,
    },
    "incident_drill": {
        "key": "drill:a",
        "labels": ["drill"],
        "comments": ["drill:a:resolved"],
        "roles": ["@sre"],
    },
    "kpi_regressions": {
        "kpis": [{"name": "a", "better": "higher", "max_regression": 0.05}],
        "at": {"before": 50.0, "after": 100.0},
        "max_age": 10.0,
        "min_requests": 1,
    },
    "soak": {
        "checks": [{"metric": "error_rate", "threshold": "error_rate<0.01"}],
        "since": 0.0,
        "now": 100.0,
        "step": 10.0,
        "lasts": 100.0,
    },
    "runbook_lint": {
        "sets": {"own": ["a"], "release": []},
        "rules": [{"answer": "a", "form": "file"}],
        "links": {},
        "incidents": [],
        "today": "2025-09-23",
        "as_of": "2025-09-23",
        "drilled_within": 365,
    },
    "chaos_drill": {
        "experiments": [{"name": "a", "service": "web", "most": 1, "recovers_within": 5}],
        "checks": [{"metric": "error_rate", "threshold": "error_rate<0.01"}],
        "window": 2.0,
        "now": 100.0,
        "max_age": 10.0,
        "rollback": [],
    },
    "unmeasured": {},
    "external_statement": {"index": 0},
}
OURS = sorted(set(RULES) - {"canary_look"})
NAMES = [
    "a",
    "input",
    "decision",
    "checks",
    "facts",
    "inventory",
    "trusted_root",
    "busy",
    "workers",
    "response",
    "error",
]
MORE = {
    "chaos_drill": ["a.record", "a.before.error_rate", "a.after.error_rate", "now.a", "now.error_rate"],
    "runbook_lint": ["own.a"],
    "cab_record": ["record"],
    "decision_table": ["table", "decisions"],
    "error_budget": ["a.errors", "a.requests"],
    "flag_scopes": ["catalogue", "seen.search", "proof", "drill"],
    "incident_drill": ["issue", "comments", "record"],
    "kpi_regressions": ["a.after", "a.before", "requests.after", "requests.before"],
    "soak": ["check.error_rate"],
}
"""Answers a rule reads besides, by rule."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def as_answer(value: Any) -> bytes:
    """Return a value as the result of a metrics query."""
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": value}}).encode()


garbage = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(
        lambda value: json.dumps(
            {"status": "success", "data": {"resultType": "vector", "result": value}}
        ).encode()
    ),
    json_values.map(lambda value: json.dumps({"services": value, "checks": value, "engine": value}).encode()),
    st.just(b'{"checks": [{"name": "a", "ok": "true"}]}'),
    st.just(b""),
)


def test_every_rule_of_the_registry_is_there() -> None:
    assert set(PARAMS) == set(OURS)
    for name in RULES:
        assert callable(find(name))
    with pytest.raises(UsageError):
        find("__import__")


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_garbage_is_never_a_pass(name: str, data: st.DataObject) -> None:
    answers = {one: data.draw(garbage) for one in [*NAMES, *MORE.get(name, ())]}
    judgement = find(name)(answers, PARAMS[name])
    if name == "contracts_compatible" and judgement.passed:
        # `true`, `{}` and schemas of annotations alone are schemas: nothing was broken between them.
        assert isinstance(json.loads(answers["a"]), dict | bool)
        return
    assert not judgement.passed


@pytest.mark.parametrize("name", OURS)
def test_no_answers_and_no_parameters_are_never_a_pass(name: str) -> None:
    assert not find(name)({}, PARAMS[name]).passed
    assert not find(name)({"a": b"{}"}, {}).passed
    assert not find(name)(
        dict.fromkeys([*NAMES, *MORE.get(name, ())], b'{"error": "timeout", "text": "x"}'), PARAMS[name]
    ).passed


EMPTY: dict[str, dict[str, Any]] = {
    "slo_levels": {"levels": []},
    "smoke_paths": {"paths": []},
    "load_latency": {"profiles": []},
    "headroom_load": {"steps": []},
    "named_checks": {},
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_list_of_checks_fails(name: str) -> None:
    empty = EMPTY[name]
    answers = {"a": b"{}", "checks": b'{"checks": []}'}
    assert find(name)(answers, {**PARAMS[name], **empty}).outcome == "fail"


def run(name: str, **service: Any) -> bytes:
    figures = {
        "intended": 100,
        "good": 100,
        "good_in_window": 100,
        "errors": 0,
        "dropped": 0,
        "cut": 0,
        "buckets": {"400": 100},
        "late": {"0": 100},
    }
    return json.dumps(
        {"profile": name, "rps": 100, "seconds": 1, "services": {"web": {**figures, **service}}}
    ).encode()


def test_load_counts_what_was_not_answered_as_infinitely_late() -> None:
    params = PARAMS["load_latency"]
    assert load_latency({"a": run("a")}, params).passed
    cut = run("a", good=94, good_in_window=94, cut=6, buckets={"400": 94})
    judgement = load_latency({"a": cut}, {**params, "errors": "error_rate<0.5"})
    assert judgement.outcome == "fail" and judgement.metrics["p95_ms"] is None


def test_load_of_a_late_generator_is_no_measurement() -> None:
    assert (
        load_latency({"a": run("a", late={"500": 100})}, PARAMS["load_latency"]).outcome == "provider_error"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"good": 99}, {"good": -1}, {"buckets": {"400": 99}}, {"good": True}, {"late": {}}, {"cut": 1}],
)
def test_counts_that_do_not_add_up_are_no_measurement(wrong: dict[str, Any]) -> None:
    assert load_latency({"a": run("a", **wrong)}, PARAMS["load_latency"]).outcome == "provider_error"


def test_headroom_counts_by_its_lower_bound() -> None:
    params = {**PARAMS["headroom_load"], "target_rps": 79}
    judgement = headroom_load({"a": run("a")}, params)
    # 100 a second are seen, 80 are certain: 79 of 80 leave almost nothing.
    assert judgement.outcome == "fail"
    assert judgement.metrics["estimate_web"] == pytest.approx(0.21)
    assert judgement.metrics["headroom"] == pytest.approx(1 - 79 / 80)


# -- compatibility of schemas --------------------------------------------------------------------------


def fixed(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for objects with all of `required` and some of `optional`."""
    found: st.SearchStrategy[Any] = st.fixed_dictionaries(required, optional=optional)
    return found


leaves: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    fixed({}, {"type": st.sampled_from(["string", "null", "boolean"])}),
    fixed(
        {"type": st.sampled_from(["integer", "number"])},
        {
            "minimum": st.integers(-2, 2),
            "maximum": st.integers(0, 4),
            "exclusiveMinimum": st.integers(-2, 1),
            "multipleOf": st.sampled_from([1, 2]),
        },
    ),
    fixed(
        {"type": st.just("string")},
        {"minLength": st.integers(0, 2), "maxLength": st.integers(1, 3), "pattern": st.just("^a")},
    ),
    fixed({"enum": st.lists(st.sampled_from([1, "a", None, True]), min_size=1, unique_by=repr)}, {}),
    fixed({"const": st.sampled_from([1, "a", None])}, {}),
)
small: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: (
        fixed(
            {"type": st.just("array")},
            {"items": inner, "minItems": st.integers(0, 2), "uniqueItems": st.booleans()},
        )
        | fixed(
            {"type": st.just("object")},
            {
                "properties": st.dictionaries(st.sampled_from(["p", "q"]), inner, max_size=2),
                "required": st.lists(st.sampled_from(["p", "q"]), unique=True),
                "additionalProperties": st.booleans(),
                "maxProperties": st.integers(0, 3),
            },
        )
    ),
    max_leaves=4,
)
values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 3, -1, 0.5, "", "a", "ab", "abc", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "q", "r"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(narrower=small, wider=small, tried=st.lists(values, min_size=1, max_size=12))
def test_what_is_called_compatible_is(narrower: Any, wider: Any, tried: list[Any]) -> None:
    from jsonschema import Draft202012Validator

    if breaks(narrower, wider):
        return
    left, right = Draft202012Validator(narrower), Draft202012Validator(wider)
    for value in tried:
        assert not left.is_valid(value) or right.is_valid(value), (narrower, wider, value)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(schema=small)
def test_a_schema_is_compatible_with_itself_and_with_anything(schema: Any) -> None:
    assert breaks(schema, schema) == []
    assert breaks(schema, True) == [] and breaks(schema, {}) == []
    assert breaks(False, schema) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"type": "object"}, {"type": "object", "required": ["id"]}),
        ({"type": ["string", "null"]}, {"type": "string"}),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}),
        ({"type": "string"}, {"type": "string", "maxLength": 10}),
        ({"type": "number"}, {"type": "integer"}),
        ({"type": "object"}, {"type": "object", "additionalProperties": False}),
        ({"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {"type": "integer"}}),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}},
            {"type": "object", "properties": {"a": {"type": "integer"}}},
        ),
    ],
)
def test_breaking_changes_are_seen_and_their_reverse_is_fine(before: Any, after: Any) -> None:
    assert breaks(before, after)
    if after != {"type": "array", "items": {"type": "integer"}} and "properties" not in after:
        assert breaks(after, before) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/x"},
        {"oneOf": [{}]},
        {"patternProperties": {}},
        {"if": {}},
        {"properties": {"a": {"not": {}}}},
        {"items": [{}]},
        {"type": "strange"},
        {"required": "id"},
        {"minimum": "1"},
        {"minLength": True},
        [],
        "schema",
        None,
    ],
)
def test_what_is_not_understood_is_never_called_compatible(schema: Any) -> None:
    with pytest.raises(Unknown):
        check_known(schema)
    with pytest.raises(Unknown):
        breaks(True, schema)
    raw = json.dumps(schema).encode()
    assert (
        find("contracts_compatible")({"a": raw}, PARAMS["contracts_compatible"]).outcome == "provider_error"
    )
