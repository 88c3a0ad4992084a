"""What a request for approval has come to: pure functions of what was counted (design decision 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from cockpit.base.clock import parse_iso

Settled = Literal["", "granted", "rejected"]


class CountedStatement(Protocol):
    """A statement as recorded (`StatementView`)."""

    @property
    def by(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def counted(self) -> bool: ...
    @property
    def groups(self) -> Sequence[str]: ...


class Needed(Protocol):
    """How many of whom (`RequestView`, `ApprovalRequested`)."""

    @property
    def threshold(self) -> int: ...
    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def from_each(self) -> bool: ...


def settled(needed: Needed, statements: Iterable[CountedStatement]) -> Settled:
    """Return what counted statements come to: the first rejection binds, a threshold of people grants."""
    people: dict[str, set[str]] = {}
    for one in statements:
        if not one.counted:
            continue
        if one.decision == "reject":
            return "rejected"
        if one.decision == "approve":
            people.setdefault(one.by, set()).update(one.groups)
    if len(people) < max(1, needed.threshold):
        return ""
    if needed.from_each and set(needed.groups) - set().union(*people.values()):
        return ""
    return "granted"


class GlassRecord(Protocol):
    """A break-glass as recorded (`GlassView`)."""

    @property
    def glass(self) -> str: ...
    @property
    def gate(self) -> str: ...
    @property
    def expires(self) -> str: ...
    @property
    def second(self) -> str: ...
    @property
    def review_by(self) -> str: ...
    @property
    def reviewed_by(self) -> str: ...
    @property
    def accepted(self) -> bool: ...


@dataclass(frozen=True)
class GlassFacts:
    """What broken glass comes to. `overridden`: phase gate → glass. `problems`: reasons for a no-go."""

    overridden: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def glass_facts(glasses: Iterable[GlassRecord], now: datetime) -> GlassFacts:
    """Return which gates are overridden now, and which glass stands in the way.

    One whose review came out against it overrides nothing, so the gate's own fail stands again; one that was
    not reviewed in time is a problem for as long as nobody has looked at it, in force or not.
    """
    overridden: dict[str, str] = {}
    problems = []
    for one in glasses:
        if one.reviewed_by and not one.accepted:
            continue
        if one.review_by and not one.reviewed_by and now >= parse_iso(one.review_by):
            problems.append(f"break-glass {one.glass} over {one.gate} was not reviewed by {one.review_by}")
        if now < parse_iso(one.expires) and (one.second or one.review_by):
            overridden[one.gate] = one.glass
    return GlassFacts(overridden, tuple(problems))
