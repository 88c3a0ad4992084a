"""Policy decisions: deny is the default of everything, and the engine's known dangers lead to a deny."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.backends.policy import EmbeddedRego, encode_input, problems
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.files import sha256_hex
from cockpit.verdicts.rules.decision import read_decision

REASONS = """
package reasons
import rego.v1

default allow := false
allow if count(deny) == 0
deny contains message if {
    input.reason == "bad"
    message := "the reason is bad"
}
deny contains message if {
    not input.reason
    message := "no reason"
}
deny contains message if {
    input.show
    message := sprintf("shown: %s", [input.show])
}
deny contains "not the number" if {
    input.number != 9007199254740992
}
"""


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    write(tmp_path, "reasons", REASONS)
    return tmp_path


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "policy.rego").write_text(source)


async def test_an_allow_names_its_bundle_and_its_input(bundles: Path) -> None:
    asked = {"reason": "good", "number": 2**53}
    decision = await EmbeddedRego(bundles).decide("reasons", asked)
    assert decision.allow and decision.denials == ()
    assert decision.input_sha256 == sha256_hex(encode_input(asked))
    assert read_decision(decision.raw) == decision
    write(bundles, "reasons", REASONS + "# changed\n")
    again = await EmbeddedRego(bundles).decide("reasons", asked)
    assert again.bundle_sha256 != decision.bundle_sha256


@pytest.mark.parametrize(
    "asked",
    [
        {"reason": "bad"},
        {"reason": 'bad", "reason": "good'},
        {},
        {"reason": False},
        {"reason": "good", "show": 'quote " backslash \\ newline \n bell \x07 é 日本 \U0001f600'},
        {"reason": "good", "number": 2**53 - 1},
    ],
    ids=["bad", "quotes", "empty", "false", "odd text", "number"],
)
async def test_denials(bundles: Path, asked: dict[str, Any]) -> None:
    number = {"number": 2**53, **asked}
    decision = await EmbeddedRego(bundles).decide("reasons", number)
    expected_deny = asked.get("reason") != 'bad", "reason": "good'
    # A quote does not end the text: this reason is simply another one than `bad`.
    assert decision.allow is not expected_deny
    assert bool(decision.denials) is expected_deny


@pytest.mark.parametrize(
    "value",
    ["nul \x00 cuts", 2**80, -(2**70), float("nan"), float("inf"), "x" * 70_000, "\ud800", b"bytes", {1: 2}],
    ids=["nul", "huge", "negative", "nan", "inf", "long", "surrogate", "bytes", "key"],
)
async def test_what_the_engine_misreads_is_denied_unasked(bundles: Path, value: Any) -> None:
    for asked in ({"reason": "good", "x": value}, {"reason": "good", "x": [{"deep": value}]}):
        decision = await EmbeddedRego(bundles).decide("reasons", asked)
        assert not decision.allow and "cannot be decided on" in decision.denials[0]


async def test_nesting_has_a_bound(bundles: Path) -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    assert not (await EmbeddedRego(bundles).decide("reasons", {"reason": "good", "x": deep})).allow


NO_ALLOW = {
    "undefined": "package p\nimport rego.v1\nallow if input.never\ndeny contains x if { x := input.n }",
    "text": 'package p\nimport rego.v1\nallow := "true"\ndeny := set()',
    "number": "package p\nimport rego.v1\nallow := 1\ndeny := set()",
    "no deny": "package p\nimport rego.v1\nallow := true",
    "deny is text": 'package p\nimport rego.v1\nallow := true\ndeny := "nothing"',
    "deny of numbers": "package p\nimport rego.v1\nallow := true\ndeny := {1}",
    "obligations are no set": 'package p\nimport rego.v1\nallow := true\ndeny := set()\nobligations := "x"',
    "another package": "package q\nimport rego.v1\nallow := true\ndeny := set()",
}


@pytest.mark.parametrize("source", NO_ALLOW.values(), ids=NO_ALLOW.keys())
async def test_anything_but_a_literal_true_is_a_deny(tmp_path: Path, source: str) -> None:
    write(tmp_path, "p", source)
    decision = await EmbeddedRego(tmp_path).decide("p", {"a": 1})
    assert not decision.allow and decision.denials


@pytest.mark.parametrize(
    "source",
    [
        "package p\nthis is not rego",
        'package p\nimport rego.v1\nallow := to_number("x")\ndeny := set()',
        "package p\nimport rego.v1\nallow := true\nallow := false\ndeny := set()",
    ],
    ids=["syntax", "built-in error", "conflict"],
)
async def test_a_policy_that_fails_is_an_error_not_a_decision(tmp_path: Path, source: str) -> None:
    write(tmp_path, "p", source)
    with pytest.raises(BackendError):
        await EmbeddedRego(tmp_path).decide("p", {"a": 1})


@pytest.mark.parametrize("name", ["absent", "../reasons", "Reasons", "", "reasons/x", "a b"])
async def test_an_unknown_bundle_is_refused(bundles: Path, name: str) -> None:
    with pytest.raises(BackendRefused):
        await EmbeddedRego(bundles).decide(name, {"reason": "good"})


async def test_an_empty_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with pytest.raises(BackendRefused):
        await EmbeddedRego(tmp_path).decide("p", {})


async def test_a_decision_has_a_deadline(bundles: Path) -> None:
    with pytest.raises(BackendUnreachable):
        await EmbeddedRego(bundles, deadline=0.01).decide("reasons", {"reason": "good"})


async def test_a_policy_cannot_see_our_environment(tmp_path: Path) -> None:
    write(
        tmp_path,
        "p",
        "package p\nimport rego.v1\nallow := false\ndeny contains m if { m := json.marshal(opa.runtime()) }",
    )
    secret = "PATH_OF_THE_TEST"
    os.environ[secret] = "s3cret-value"
    try:
        decision = await EmbeddedRego(tmp_path).decide("p", {"a": 1})
        assert "s3cret-value" not in json.dumps(decision.denials)
        assert "s3cret-value" not in decision.raw.decode()
    except BackendGarbage:
        pass  # an engine without opa.runtime cannot show it either
    finally:
        del os.environ[secret]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_ordinary_input_is_fit(value: Any) -> None:
    assert list(problems({"x": value})) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"bundle_sha256": "x", "input_sha256": "y"}',
        b'{"bundle_sha256": 1, "input_sha256": "y", "engine": {}}',
        b"\xff",
    ],
)
def test_a_stored_decision_that_is_none(raw: bytes) -> None:
    with pytest.raises(BackendGarbage):
        read_decision(raw)
