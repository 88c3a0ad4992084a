"""Which facts meet which obligation; what nobody knows or understands is never met."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cockpit.verdicts.obligations import KNOWN, Met, Obligation, problem, said, unmet

EVERYTHING = Met("ann", 1.0, "a reason that is quite long enough for anybody", "bob")
MFA = Obligation("step_up_mfa", {"max_age_s": 900})
REASON = Obligation("reason_for_access", {"min_length": 10})
SECOND = Obligation("second_person", {})


@pytest.mark.parametrize("one", [MFA, REASON, SECOND], ids=str)
def test_it_is_met_by_its_facts_and_by_nothing_less(one: Obligation) -> None:
    assert problem(one, EVERYTHING) == ""
    assert one.name in problem(one, Met("ann"))


@pytest.mark.parametrize("name", ["biometrics", "step_up_MFA", "step_up_mfa ", "", "stepupmfa", "\x1b[2J"])
def test_an_obligation_nobody_knows_is_never_met_and_is_named(name: str) -> None:
    why = problem(Obligation(name, {"max_age_s": 900}), EVERYTHING)
    assert "nobody here knows" in why and "\x1b" not in why
    assert name in why or "\x1b" in name


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("step_up_mfa", {}),
        ("step_up_mfa", {"max_age_s": "900"}),
        ("step_up_mfa", {"max_age_s": True}),
        ("step_up_mfa", {"max_age_s": None}),
        ("step_up_mfa", {"max_age_s": math.inf}),
        ("step_up_mfa", {"max_age_s": math.nan}),
        ("step_up_mfa", {"max_age_s": -1}),
        ("step_up_mfa", {"max_age_s": 900, "method": "webauthn"}),
        ("reason_for_access", {}),
        ("reason_for_access", {"min_length": "1"}),
        ("reason_for_access", {"min_length": 1, "ticket": True}),
        ("second_person", {"group": "security"}),
    ],
)
def test_parameters_that_are_not_understood_are_not_met(name: str, params: dict[str, Any]) -> None:
    why = problem(Obligation(name, params), EVERYTHING)
    assert name in why and "cannot be met" in why


@pytest.mark.parametrize(
    ("age", "met"),
    [
        (0, True),
        (900, True),
        (900.01, False),
        (-0.1, False),
        (math.nan, False),
        (math.inf, False),
        (None, False),
    ],
)
def test_a_second_factor_is_fresh_or_it_is_none(age: float | None, met: bool) -> None:
    assert (problem(MFA, Met("ann", age)) == "") is met


@pytest.mark.parametrize(
    ("reason", "met"),
    [
        ("ten chars!", True),
        ("nine char", False),
        ("   padded        ", False),
        ("a b c d e f", True),
        ("\u200b" * 20, False),
        ("\x00\x01\x02" * 20, False),
        ("é日本語のテキストですよ", True),
        ('"\n\\"\t', False),
        ("", False),
    ],
)
def test_a_reason_is_as_long_as_it_can_be_seen(reason: str, met: bool) -> None:
    assert (problem(REASON, Met("ann", reason=reason)) == "") is met


def test_a_reason_of_no_length_is_still_a_reason() -> None:
    assert problem(Obligation("reason_for_access", {"min_length": 0}), Met("ann")) != ""


@pytest.mark.parametrize(
    ("second", "met"), [("bob", True), ("ann", False), (" ANN\u200b", False), ("  ", False)]
)
def test_a_second_person_is_another_one(second: str, met: bool) -> None:
    assert (problem(SECOND, Met("ann", second_person=second)) == "") is met


def test_every_open_obligation_is_named_with_its_reason() -> None:
    left = unmet([MFA, Obligation("new_thing"), REASON, SECOND], Met("ann", 1.0, "", "bob"))
    assert [one.name for one, _ in left] == ["new_thing", "reason_for_access"]
    assert all(one.name in why for one, why in left)
    assert unmet([], Met("")) == ()


@given(
    st.text(max_size=30),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.booleans(), max_size=2),
)
def test_nothing_unknown_is_ever_met(name: str, params: dict[str, Any]) -> None:
    if name not in KNOWN:
        assert problem(Obligation(name, params), EVERYTHING)
        assert len(str(Obligation(name, params))) < 1000


@given(st.text(max_size=60))
def test_what_counts_of_a_text_is_no_longer_than_the_text(text: str) -> None:
    assert len(said(text)) <= len(text) and said(said(text)) == said(text)
