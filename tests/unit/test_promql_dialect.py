"""What the stand-in takes for PromQL and for a regular expression: what Prometheus 2.42 does, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.rehearsal.prometheus.dialect import MAX_TOKENS
from cockpit.rehearsal.prometheus.promql import Evaluator
from cockpit.rehearsal.prometheus.regex import BadPattern, UnknownPattern, compile_pattern
from cockpit.rehearsal.prometheus.store import Store
from cockpit.rehearsal.prometheus.syntax import parse
from cockpit.rehearsal.prometheus.vectors import QueryFailed
from tests.contract.promql_cases import BAD_PATTERNS, PATTERNS


@pytest.mark.parametrize(
    "query",
    [
        "rate(m[300])",
        "m[5m:60]",
        "m offset 300",
        "m * 5m",
        "5m",
        '{"m"}',
        'm{"pod"="a"}',
        'm{pod="a" or pod="b"}',
        'sum by ("pod") (m)',
        "limitk(1, m)",
        "mad_over_time(m[5m])",
        "m + fill(0) n",
        "m[300y]",
        "1e309",
        '+"a"',
        "start()",
    ],
)
def test_what_later_versions_brought_is_no_promql(query: str) -> None:
    with pytest.raises(QueryFailed) as caught:
        parse(query)
    assert caught.value.kind == "bad_data"


@pytest.mark.parametrize(
    "query",
    [
        "m[5m:30s] @ start() offset -1h5m",
        "sum by (sum, by, abs) (m)",
        'm{or="a",by!="b"} # (((( "',
        "a:b:rate5m > 0x1F",
        'label_replace(m, "x", "5m", "y", `\\d+ "quoted"`)',
        "m # 5m {",
        '"a # b"',
    ],
)
def test_what_only_looks_like_it_is_taken(query: str) -> None:
    parse(query)


def test_raw_strings_have_no_escapes() -> None:
    assert Evaluator(Store(), 1, 0, 0).at(parse('`a\\d"\\`'), 0) == 'a\\d"\\'


@pytest.mark.parametrize("query", ["+".join(["1"] * 50_000), "sum(" * 12_000 + "m" + ")" * 12_000])
def test_a_query_deeper_than_the_parsers_stack_is_refused(query: str) -> None:
    with pytest.raises(QueryFailed, match=f"more than {MAX_TOKENS}|longer than"):
        parse(query)


@pytest.mark.parametrize(("pattern", "yes", "no"), PATTERNS)
def test_patterns_mean_what_they_mean_to_re2(pattern: str, yes: str, no: str) -> None:
    compiled = compile_pattern(pattern)
    assert compiled.fullmatch(yes)
    assert not compiled.fullmatch(no)


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_what_re2_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r"\pL", r"\p{Greek}", r"\Qa\E", "(?U)a+", "(?m)^a$", "[[:^alpha:]]", "(?i)ü"]
)
def test_what_cannot_be_translated_is_said(pattern: str) -> None:
    with pytest.raises(UnknownPattern):
        compile_pattern(pattern)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet="ab(|)[]^$*+?{}1,\\.:-iP<>=!d", max_size=12))
def test_any_pattern_is_translated_or_refused(pattern: str) -> None:
    try:
        compile_pattern(pattern).fullmatch("ab")
    except (BadPattern, UnknownPattern):
        pass


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet="ab5m()[]{}\"'`\\#:@,=~+- \n", max_size=20))
def test_any_query_is_parsed_or_refused(query: str) -> None:
    try:
        parse(query)
    except QueryFailed:
        pass
