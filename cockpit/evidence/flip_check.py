"""Whether each flip of a GA flag, which comes after the release, was allowed on its own.

- Where the plan wants flips approved, a grant of `flip` is in force, for this very pack and these images.
- The last time policy was asked about `flip` it allowed it, with every obligation met.

A ramp to pilot tenants goes along with a step (gates.md, reading 6) and needs no more than the step does; a
flag set back is a step of an abort and needs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.evidence.checks import Check, said
from cockpit.evidence.grants import granted
from cockpit.evidence.order import unsent
from cockpit.journal.events import AnyEvent, EffectIntended, EvidenceSealed, Released
from cockpit.journal.events_people import PolicyDecided
from cockpit.journal.fold_people import PeopleFold
from cockpit.plan.model import Plan

FLIPS = "flips granted"


def flips_granted(events: Sequence[AnyEvent], plan: Plan | None, blob: Callable[[str], bytes]) -> Check:
    """Check what allowed each flip of a journal; the signatures themselves are those of `approvals hold`."""
    held_back, fold = unsent(events), PeopleFold()
    problems: list[str] = []
    count, pack = 0, ""
    out = allowed = False
    for event in events:
        if isinstance(event, Released):
            out, allowed = True, False
        elif isinstance(event, EvidenceSealed) and event.kind == "promotion":
            pack = event.sha256
        elif isinstance(event, PolicyDecided) and event.action == "flip":
            allowed = event.allow and not event.unmet
        elif isinstance(event, EffectIntended) and out and _flips(event) and event.seq not in held_back:
            count += 1
            found = [] if allowed else ["policy had not allowed it"]
            found += _unapproved(event, fold, plan, pack, blob)
            problems += [f"record {event.seq}, {visible(event.target, limit=100)}: {one}" for one in found]
        handler = fold.handlers.get(type(event))
        if handler is not None:
            handler(event)
    return Check(FLIPS, not problems, said(problems, f"{count} flips" if count else "no GA flag was flipped"))


def _flips(event: EffectIntended) -> bool:
    return (event.lane, event.verb) == ("forward", "flip")


def _unapproved(
    event: EffectIntended, fold: PeopleFold, plan: Plan | None, pack: str, blob: Callable[[str], bytes]
) -> list[str]:
    if plan is None:
        return ["there is no plan to hold it against"]
    if plan.approvals is None or plan.approvals.rule("flip") is None:
        return []
    try:
        if granted(fold.snapshot().requests, "flip", event.at, plan, pack, blob):
            return []
    except (CockpitError, ValueError) as error:
        return [visible(str(error), limit=300)]
    return ["nobody had approved the flip of this pack and these images"]
