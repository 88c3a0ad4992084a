"""What PromQL of Prometheus 2.42 is, of all that the parser takes: it also knows what later versions brought.

There, a number may stand for a duration and a duration for a number, a name may be quoted, and there are
more functions. A stand-in that took those would let a plan pass that the real server refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cockpit.rehearsal.prometheus.vectors import QueryFailed, execution

MAX_TOKENS = 4000
"""More would be deeper than the parser's stack."""
_LONGEST_MS = (1 << 63) // 1_000_000
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<duration>(?:[0-9]+(?:ms|[smhdwy]))+)(?![A-Za-z0-9_.])
    |(?P<number>0[xX][0-9A-Fa-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<name>[A-Za-z_:][\w:]*)
    |(?P<sign>.)""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_PART = re.compile(r"([0-9]+)(ms|[smhdwy])", re.ASCII)
_UNITS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_KEYWORDS = _LABEL_LISTS | {"and", "or", "unless", "bool", "offset", "atan2"}
_AGGREGATIONS = "avg bottomk count count_values group max min quantile stddev stdvar sum topk"
_FUNCTIONS = """
    abs absent absent_over_time acos acosh asin asinh atan atanh avg_over_time ceil changes clamp clamp_max
    clamp_min cos cosh count_over_time day_of_month day_of_week day_of_year days_in_month deg delta deriv exp
    floor histogram_count histogram_fraction histogram_quantile histogram_sum holt_winters hour idelta
    increase irate label_join label_replace last_over_time ln log10 log2 max_over_time min_over_time
    minute month pi
    predict_linear present_over_time quantile_over_time rad rate resets round scalar sgn sin sinh sort
    sort_desc sqrt stddev_over_time stdvar_over_time sum_over_time tan tanh time timestamp vector year
"""
AGGREGATIONS = frozenset(_AGGREGATIONS.split())
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Every function of Prometheus 2.42."""


def _bad(message: str) -> QueryFailed:
    return QueryFailed("bad_data", f'invalid parameter "query": parse error: {message}')


@dataclass
class _Reading:
    """Where in a query we are: open brackets, each with the word before it, and what came last."""

    open: list[tuple[str, str]] = field(default_factory=list)
    last: str = ""
    last_kind: str = ""
    before_last: str = ""

    @property
    def bracket(self) -> str:
        return self.open[-1][0] if self.open else ""

    @property
    def in_labels(self) -> bool:
        return bool(self.open) and self.open[-1] in (("(", word) for word in _LABEL_LISTS)

    @property
    def after_offset(self) -> bool:
        before = self.before_last if self.last in ("-", "+") else self.last
        return before.lower() == "offset"


def check(query: str) -> None:
    """Refuse what is no PromQL of Prometheus 2.42; raises QueryFailed.

    Whatever this lets through, the parser has still to take. Raw strings are quoted ones by now.
    """
    reading = _Reading()
    tokens = [found for found in _TOKEN.finditer(query) if found.lastgroup != "space"]
    if len(tokens) > MAX_TOKENS:
        raise execution(f"the stand-in does not know queries of more than {MAX_TOKENS} words and signs")
    for index, found in enumerate(tokens):
        kind, text = str(found.lastgroup), found.group()
        if kind == "text":
            _string(reading, text)
        elif kind in ("duration", "number"):
            _quantity(reading, kind, text)
        elif kind == "name":
            following = tokens[index + 1].group() if index + 1 < len(tokens) else ""
            _word(reading, text, following)
        elif text in "([{":
            reading.open.append((text, reading.last.lower() if reading.last_kind == "name" else ""))
        elif text in ")]}" and reading.open:
            reading.open.pop()
        elif text == "-" and reading.last == "@":
            raise execution("the stand-in does not know an @ modifier before 1970")
        reading.before_last, reading.last, reading.last_kind = reading.last, text, kind


def _string(reading: _Reading, text: str) -> None:
    if reading.last in ("+", "-") and reading.before_last in ("", "(", ","):
        raise _bad("unary expression only allowed on expressions of type scalar or instant vector")
    if (reading.bracket == "{" and reading.last in ("{", ",")) or reading.in_labels:
        raise _bad(f"unexpected string {text[:40]} in label matching, expected identifier")


def _quantity(reading: _Reading, kind: str, text: str) -> None:
    wanted = reading.bracket == "[" or reading.after_offset
    if kind == "duration":
        if not wanted:
            raise _bad(f'unexpected duration "{text[:40]}"')
        if sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text)) > _LONGEST_MS:
            raise _bad("duration out of range")
    elif wanted:
        raise _bad(f'unexpected number "{text[:40]}", expected duration')
    elif "x" not in text.lower() and float(text) == float("inf"):
        raise _bad(f'error parsing number: "{text[:40]}": value out of range')


def _word(reading: _Reading, text: str, following: str) -> None:
    if reading.bracket == "[" and text.startswith(":") and (step := _TOKEN.fullmatch(text, 1)):
        if step.lastgroup in ("duration", "number"):  # a subquery's: `[5m:30s]`
            _quantity(reading, step.lastgroup, step.group())
        return
    if reading.bracket == "{":
        if text.lower() == "or" and reading.last_kind == "text":
            raise _bad('unexpected identifier "or" in label matching, expected "," or "}"')
        return
    if following != "(" or reading.in_labels or text.lower() in _KEYWORDS:
        return
    at_modifier = reading.last == "@" and text.lower() in ("start", "end")
    if not (at_modifier or text in FUNCTIONS or text.lower() in AGGREGATIONS):
        raise _bad(f'unknown function with name "{text[:40]}"')
