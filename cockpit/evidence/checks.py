"""What a verification found: named checks, each with its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cockpit.base.text import visible

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing checked, whether it held, and what to know about it."""

    name: str
    ok: bool
    detail: str = ""


def passed(checks: Iterable[Check]) -> bool:
    """Return whether there were checks and all of them held: nothing checked is nothing shown."""
    outcomes = [check.ok for check in checks]
    return bool(outcomes) and all(outcomes)


def said(problems: Sequence[str], good: str) -> str:
    """Return what a check says: `good`, or the first problems and how many more there are."""
    if not problems:
        return good
    more = f" (and {len(problems) - _MOST_NAMED} more)" if len(problems) > _MOST_NAMED else ""
    return visible("; ".join(problems[:_MOST_NAMED]), limit=1000) + more
