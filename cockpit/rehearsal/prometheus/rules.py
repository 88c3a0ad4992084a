"""Recording and alerting rules, evaluated at an interval into the store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cockpit.rehearsal.prometheus.promql import SUBQUERY_STEP_MS, Evaluator
from cockpit.rehearsal.prometheus.store import NAME, STALE, LabelKey, Labels, Series, Store
from cockpit.rehearsal.prometheus.syntax import parse
from cockpit.rehearsal.prometheus.vectors import Element, QueryFailed, without_name
from cockpit.rehearsal.prometheus.wire import number

_TEMPLATE = re.compile(r"\{\{\s*\$(?:labels\.([A-Za-z_][A-Za-z0-9_]*)|(value))\s*\}\}")


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """Stores the value of `expr` under the name `record`."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlertingRule:
    """Fires when `expr` has had a value for `hold_s` seconds (the rule file's `for`).

    Labels and annotations may hold `{{ $labels.name }}` and `{{ $value }}`; other templates are refused.
    """

    alert: str
    expr: str
    hold_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in (*self.labels.values(), *self.annotations.values()):
            if "{{" in _TEMPLATE.sub("", text):
                raise ValueError(f"alert {self.alert}: this template is not known to the stand-in: {text}")


Rule = RecordingRule | AlertingRule


@dataclass(slots=True)
class ActiveAlert:
    """A pending or firing alert; `since_ms` is when its expression began to have a value."""

    rule: AlertingRule
    labels: dict[str, str]
    annotations: dict[str, str]
    since_ms: int
    value: float
    firing: bool = False


class RuleRunner:
    """Evaluates rules in order; later ones see what earlier ones have recorded."""

    def __init__(
        self, rules: Sequence[Rule], store: Store, lookback_ms: int, interval_ms: int = SUBQUERY_STEP_MS
    ) -> None:
        self._rules = [(rule, parse(rule.expr)) for rule in rules]
        self._store = store
        self._lookback = lookback_ms
        self._interval = interval_ms
        self._active: list[dict[LabelKey, ActiveAlert]] = [{} for _ in rules]
        self._written: list[set[Series]] = [set() for _ in rules]
        self.errors: dict[str, str] = {}

    @property
    def alerts(self) -> list[ActiveAlert]:
        """All pending and firing alerts."""
        return [alert for active in self._active for alert in active.values()]

    def evaluate(self, now_ms: int) -> None:
        """Evaluate every rule at `now_ms`; one that fails is named in `errors` and keeps its state."""
        for index, (rule, expression) in enumerate(self._rules):
            name = rule.record if isinstance(rule, RecordingRule) else rule.alert
            try:
                value = Evaluator(self._store, self._lookback, now_ms, now_ms, step_ms=self._interval).vector(
                    expression, now_ms
                )
            except QueryFailed as error:
                self.errors[name] = str(error)
                continue
            self.errors.pop(name, None)
            if isinstance(rule, RecordingRule):
                samples = [
                    Element({**without_name(e.labels), **rule.labels, NAME: rule.record}, e.value)
                    for e in value
                ]
            else:
                samples = self._alert(rule, self._active[index], value, now_ms)
            self._write(index, samples, now_ms)

    def _alert(
        self, rule: AlertingRule, active: dict[LabelKey, ActiveAlert], value: list[Element], now_ms: int
    ) -> list[Element]:
        present: set[LabelKey] = set()
        for labels, number_now in value:
            base = without_name(labels)
            own = {name: _fill(text, base, number_now) for name, text in rule.labels.items()}
            full = {**base, **own, "alertname": rule.alert}
            key = frozenset(full.items())
            present.add(key)
            alert = active.setdefault(key, ActiveAlert(rule, full, {}, now_ms, number_now))
            alert.value = number_now
            alert.annotations = {k: _fill(text, base, number_now) for k, text in rule.annotations.items()}
            alert.firing = alert.firing or now_ms - alert.since_ms >= rule.hold_s * 1000
        for key in [key for key in active if key not in present]:
            del active[key]
        samples: list[Element] = []
        for alert in active.values():
            state = "firing" if alert.firing else "pending"
            samples.append(Element({**alert.labels, NAME: "ALERTS", "alertstate": state}, 1.0))
            samples.append(Element({**alert.labels, NAME: "ALERTS_FOR_STATE"}, alert.since_ms / 1000))
        return samples

    def _write(self, index: int, samples: list[Element], now_ms: int) -> None:
        written: set[Series] = set()
        for labels, value in samples:
            series = self._store.series(labels)
            series.append(now_ms, value)
            written.add(series)
        for series in self._written[index] - written:
            self._store.adopt(series).append(now_ms, STALE)
        self._written[index] = written


def _fill(text: str, labels: Labels, value: float) -> str:
    return _TEMPLATE.sub(lambda m: labels.get(m.group(1), "") if m.group(1) else number(value), text)
