"""What an earlier conductor of a run had seen through the metrics back end, read back from its looks.

At 100 % stable serves nobody and is compared as it was in the last look before; a series that was there
before a step and vanished is a fail. Both are in the stored looks, answer by answer.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cockpit.base.errors import BackendGarbage, JournalError
from cockpit.journal.events import AnyEvent, LookTaken
from cockpit.plan.model import Canary
from cockpit.verdicts.answers import parse_answer
from cockpit.verdicts.questions import RULE_LOOK, plain, queries_for, stable_names

_LOOKS_BACK = 60
"""How many stored looks are read at most, the latest first: what none of them saw is not missed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer or the error kept in its place, with what the record of the question needs."""

    query: str
    raw: bytes
    asked_at: str
    evaluated_at: float | None = None
    clock_offset_s: float | None = None

    @property
    def useful(self) -> bool:
        """Whether it holds samples."""
        if self.evaluated_at is None:
            return False
        try:
            samples, _ = parse_answer(self.raw)
        except BackendGarbage:
            return False
        return bool(samples)


@dataclass(slots=True)
class Recalled:
    """What the looks had seen.

    `step`: of the last look, 0 for none. `seen_before`: series with samples before that step. `seen`: with
    samples ever. `carried`: stable's last answers that held samples. `away`: the last look got no answer.
    """

    step: int = 0
    seen_before: frozenset[str] = frozenset()
    seen: set[str] = field(default_factory=set)
    carried: dict[str, Answered] = field(default_factory=dict)
    away: bool = False


def recall(events: Iterable[AnyEvent], blob: Callable[[str], bytes], canary: Canary) -> Recalled:
    """Return what the looks of a journal had seen.

    A look whose answers are not to be had (redacted, not stored) or were judged by another plan's canary is
    passed over. Raises JournalError when the journal cannot be read.
    """
    found, stable = Recalled(), stable_names(canary)
    wanted = frozenset(queries_for(canary, canary.bake))
    looks = deque((one for one in events if isinstance(one, LookTaken) and one.answers), _LOOKS_BACK)
    for look in reversed(looks):
        if found.step and wanted <= found.seen and set(stable) <= set(found.carried):
            break
        stored = _stored(look, blob, plain(canary))
        if stored is None:
            continue
        if not found.step:
            found.step, found.away = look.step, look.outcome == "provider_error"
        if look.step == found.step:
            # After an outage a look goes without; those before it know.
            found.seen_before |= frozenset(stored[0]["seen_before"])
            found.seen |= found.seen_before
        for name, answer in stored[1].items():
            if not answer.useful:
                continue
            found.seen.add(name)
            if name in stable:
                found.carried.setdefault(name, answer)
    return found


def _stored(
    look: LookTaken, blob: Callable[[str], bytes], canary: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Answered]] | None:
    try:
        document = json.loads(blob(look.answers))
        rule, asked = document["rule"], document["queries"]
        params: dict[str, Any] = rule["params"]
        if rule["name"] != RULE_LOOK or params["canary"] != canary:
            return None
        answers = {
            str(name): Answered(
                str(asked[name]["text"]),
                blob(digest),
                str(asked[name]["asked_at"]),
                asked[name]["evaluated_at"],
                asked[name]["clock_offset_s"],
            )
            for name, digest in rule["answers"].items()
        }
    except (JournalError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return params, answers
