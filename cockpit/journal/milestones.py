"""When a release's promotion began and when it was out, read from its journal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cockpit.base.clock import parse_iso
from cockpit.journal.events import Released, StepStarted
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode


@dataclass(frozen=True, slots=True)
class Milestones:
    """Moments of a release, None for what did not happen yet."""

    promoted: datetime | None
    """When the first step began: no user had met the new version before."""
    released: datetime | None
    """When stable ran the new version and carried all traffic."""


def milestones(run_dir: Path) -> Milestones:
    """Read the moments from a run folder; raises JournalError for a journal that is not whole."""
    promoted = released = None
    for events in verified_events(run_dir / JOURNAL_NAME, decode):
        for event in events:
            if isinstance(event, StepStarted) and promoted is None:
                promoted = parse_iso(event.at)
            elif isinstance(event, Released):
                released = parse_iso(event.at)
    return Milestones(promoted, released)
