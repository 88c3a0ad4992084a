"""PromQL's syntax tree, read: matchers, matching, durations, and what an absent series would be called."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal

import promql_parser as ast

from cockpit.rehearsal.prometheus.dialect import check
from cockpit.rehearsal.prometheus.regex import BadPattern, UnknownPattern, compile_pattern
from cockpit.rehearsal.prometheus.store import NAME, Matcher
from cockpit.rehearsal.prometheus.vectors import ALL_LABELS, Grouping, Matching, QueryFailed, execution

_PIECES = re.compile(r"""`([^`]*)`|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\#[^\n]*""", re.DOTALL)
_ILLEGAL = "illegal regex for "
_OPS: dict[str, Literal["=", "!=", "=~", "!~"]] = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}


def parse(query: str) -> Any:
    """Parse a query into its syntax tree; raises QueryFailed(bad_data)."""
    if len(query) > 100_000:
        raise QueryFailed("bad_data", 'invalid parameter "query": longer than 100000 characters')
    return _parsed(query, "query")


def selector_matchers(text: str) -> list[Matcher]:
    """Parse a series selector as `match[]` takes it; raises QueryFailed(bad_data)."""
    expression = _parsed(text, "match[]")
    if not isinstance(expression, ast.VectorSelector):
        raise QueryFailed("bad_data", 'invalid parameter "match[]": not a series selector')
    return matchers_of(expression)


def _parsed(text: str, parameter: str) -> Any:
    quoted = _quoted(text)
    check(quoted)
    try:
        return ast.parse(quoted)
    except ValueError as error:
        said = str(error)
    if said.startswith(_ILLEGAL):
        # The parser has regular expressions of its own, which are not quite Prometheus'.
        try:
            compile_pattern(said.removeprefix(_ILLEGAL))
        except BadPattern:
            pass
        except UnknownPattern as error:
            raise execution(f"the stand-in does not know this regular expression: {error}") from None
        else:
            raise execution(f"the stand-in does not know this regular expression: {said}")
    raise QueryFailed("bad_data", f'invalid parameter "{parameter}": parse error: {said}')


def _quoted(query: str) -> str:
    """Return `query` with its raw strings (`` `…` ``) as quoted ones: the parser would look for escapes."""
    if "`" not in query:
        return query
    return _PIECES.sub(
        lambda piece: _quote(piece.group(1)) if piece.group(1) is not None else piece.group(), query
    )


def _quote(raw: str) -> str:
    escaped = raw.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def matchers_of(selector: Any) -> list[Matcher]:
    """Return the matchers of a vector selector, its metric name among them."""
    if selector.matchers.or_matchers:
        raise execution("the stand-in does not know `or` between label matchers")
    out = [] if selector.name is None else [Matcher(NAME, "=", selector.name)]
    for matcher in selector.matchers.matchers:
        op = _OPS.get(str(matcher.op).rsplit(".", 1)[-1])
        if op is None:
            raise execution(f"the stand-in does not know the matcher {matcher.op}")
        out.append(Matcher(matcher.name, op, matcher.value))
    return out


def matching_of(modifier: Any) -> Matching:
    """Return how a binary operator's vectors meet, from its modifier (None: on all labels)."""
    if modifier is None:
        return Matching()
    if modifier.fill_values.lhs is not None or modifier.fill_values.rhs is not None:
        raise execution("the stand-in does not know the fill modifier")
    grouping = ALL_LABELS
    if modifier.matching is not None:
        on = str(modifier.matching.type).endswith("Include")
        grouping = Grouping(keep=on, names=frozenset(modifier.matching.labels))
    card = str(modifier.card).rsplit(".", 1)[-1]
    many = {"ManyToOne": "left", "OneToMany": "right"}.get(card, "")
    return Matching(grouping, many, tuple(modifier.group_labels or ()))


def milliseconds(duration: timedelta | None) -> int:
    """Return a duration in milliseconds; none is zero."""
    return 0 if duration is None else round(duration.total_seconds() * 1000)


def absent_labels(node: Any) -> dict[str, str]:
    """Return the labels an absent series would certainly have had: those of unambiguous equality matchers."""
    node = unwrapped(node)
    if isinstance(node, ast.MatrixSelector):
        node = node.vector_selector
    if not isinstance(node, ast.VectorSelector):
        return {}
    labels: dict[str, str] = {}
    unsure: set[str] = set()
    for matcher in matchers_of(node):
        if matcher.name == NAME:
            continue
        if matcher.op == "=" and matcher.name not in labels:
            labels[matcher.name] = matcher.value
        else:
            unsure.add(matcher.name)
    return {name: value for name, value in labels.items() if name not in unsure and value}


def result_type(node: Any) -> Literal["matrix", "string", "value"]:
    """Return what an expression gives: a range vector, a string, or an instant vector or scalar."""
    node = unwrapped(node)
    if isinstance(node, (ast.MatrixSelector, ast.SubqueryExpr)):
        return "matrix"
    return "string" if isinstance(node, ast.StringLiteral) else "value"


def has_one_name(node: Any) -> bool:
    """Tell whether a range selector names its metric, so that all its series have the same name."""
    node = unwrapped(node)
    return isinstance(node, ast.MatrixSelector) and node.vector_selector.name is not None


def unwrapped(node: Any) -> Any:
    """Return the expression inside any parentheses."""
    while isinstance(node, ast.ParenExpr):
        node = node.expr
    return node
