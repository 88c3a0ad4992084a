"""What a verification found: named checks, each with its outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
