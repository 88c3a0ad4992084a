"""The seam of every gate: a rule is a pure function of stored answers, so that anyone can evaluate it again.

An agent measures, stores each raw answer by digest, and calls its rule with exactly those bytes; the verdict
names the rule, its parameters and the digests. `evidence verify --recompute` calls the same rule offline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Outcome = Literal["pass", "fail", "no_data", "low_traffic", "provider_error"]
Metrics: TypeAlias = dict[str, float | int | str | bool | None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule found: one of the five outcomes of gates.md, the metrics and the reason in words."""

    outcome: Outcome
    reason: str
    metrics: Metrics = field(default_factory=dict)
    thresholds: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether this is a pass; nothing but `pass` is."""
        return self.outcome == "pass"


Rule: TypeAlias = Callable[[Mapping[str, bytes], Mapping[str, Any]], Judgement]
"""answers by name (raw bytes) and parameters (JSON values) → judgement. Must not raise on garbage answers:
an answer that cannot be read is `provider_error`."""
