"""Reading stored answers for a rule: every way in which one is no measurement has its outcome."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from cockpit.base.errors import BackendGarbage
from cockpit.base.text import visible
from cockpit.verdicts.answers import Sample, parse_answer, read_error
from cockpit.verdicts.baseline import Histogram
from cockpit.verdicts.questions import error_of
from cockpit.verdicts.rule import Judgement, Outcome, Rule


class Trouble(Exception):
    """An answer that cannot be judged, with the outcome it leads to."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome: Outcome = outcome
        self.reason = reason


def never_raises(rule: Callable[[Mapping[str, bytes], Mapping[str, Any]], Judgement]) -> Rule:
    """Make a rule total: what it cannot read is `provider_error`, and no answers at all are `no_data`."""

    @functools.wraps(rule)
    def total(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
        if not answers:
            return Judgement("no_data", "nothing was answered")
        try:
            return rule(answers, params)
        except Trouble as trouble:
            return Judgement(trouble.outcome, visible(trouble.reason, limit=1000))
        except BackendGarbage as garbage:
            return Judgement("provider_error", visible(str(garbage), limit=1000))
        except Exception as error:  # noqa: BLE001 - answers are anybody's bytes; a rule must end in an outcome
            said = visible(f"{type(error).__name__}: {error}", limit=300)
            return Judgement("provider_error", f"the stored answers cannot be judged: {said}")

    return total


def raw_of(answers: Mapping[str, bytes], name: str) -> bytes:
    """Return an answer that came; raises Trouble for one that did not."""
    raw = answers.get(name)
    if raw is None:
        raise Trouble("provider_error", f"{name}: was not asked")
    error = error_of(raw)
    if error is not None:
        raise Trouble("provider_error", f"{name}: {error}")
    return raw


def document(answers: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return an answer that is a JSON object."""
    raw = raw_of(answers, name)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise Trouble("provider_error", f"{name}: not JSON") from None
    if not isinstance(found, dict):
        raise Trouble("provider_error", f"{name}: not a JSON object")
    return found


def samples(answers: Mapping[str, bytes], name: str, *, now: float, max_age: float) -> tuple[Sample, ...]:
    """Return the samples of a metrics answer: whole, fresh, and at least one."""
    raw = raw_of(answers, name)
    refused = read_error(raw)
    if refused is not None:
        raise Trouble("provider_error", f"{name}: {refused[0]}: {refused[1]}")
    found, warnings = parse_answer(raw)
    if warnings:
        raise Trouble("provider_error", f"{name}: a partial answer ({visible(warnings[0], limit=200)})")
    for sample in found:
        if abs(now - sample.timestamp) > max_age:
            raise Trouble("provider_error", f"{name}: a sample {now - sample.timestamp:.1f} s old")
    if not found:
        raise Trouble("no_data", f"{name}: no series")
    if any(math.isnan(sample.value) for sample in found):
        raise Trouble("no_data", f"{name}: the value is NaN")
    return found


def value(answers: Mapping[str, bytes], name: str, *, now: float, max_age: float) -> float:
    """Return the one number, finite and not negative, of a metrics answer."""
    found = samples(answers, name, now=now, max_age=max_age)
    if len(found) != 1:
        raise Trouble("provider_error", f"{name}: {len(found)} series where one number is expected")
    if not math.isfinite(found[0].value) or found[0].value < 0:
        raise Trouble("provider_error", f"{name}: {found[0].value:g} is no measurement")
    return found[0].value


def histogram(answers: Mapping[str, bytes], name: str, *, now: float, max_age: float) -> Histogram:
    """Return the histogram of a metrics answer with `le` labels."""
    buckets: dict[float, float] = {}
    for sample in samples(answers, name, now=now, max_age=max_age):
        bound = float(sample.labels.get("le", "nan"))
        if math.isnan(bound) or bound in buckets:
            raise Trouble("provider_error", f"{name}: the buckets are no histogram")
        buckets[bound] = sample.value
    try:
        return Histogram.of(buckets)
    except ValueError as error:
        raise Trouble("provider_error", f"{name}: {error}") from None


def finite(number: float) -> float | None:
    """Return a number as a metric can carry it: six digits, None for what is not finite."""
    return float(f"{number:.6g}") if math.isfinite(number) else None
