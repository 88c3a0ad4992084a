"""The audit of a release's flags: what each was before, what was set and when it was seen, and the drills.

Kept beside the journal as `flags.json`, saved before a flag is changed and again after, so that a ROLLBACK
knows what to restore whatever became of the conductor in between. The artifact `flags/audit.json` is a copy
of it, made with each answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.common import write_json
from cockpit.base.errors import BackendGarbage
from cockpit.base.files import write_private
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events_work import DrillRun, FlagChanged
from cockpit.rpc.messages import Artifact
from cockpit.verdicts.flag_definitions import Definition, Scope

AUDIT = "flags/audit.json"
KEPT = "flags.json"


@dataclass
class Audit:
    """`originals` and `set`: definition and scope by flag; `changes` and `drills`: rows, oldest first."""

    originals: dict[str, dict[str, Any]] = field(default_factory=dict)
    set: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    drills: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """What VERIFY says: proof of dashboards and alerts, flags that expired, the verdict."""

    @staticmethod
    def read(context: Context) -> Audit:
        """Return the audit so far, an empty one before the first; raises BackendGarbage for a broken one."""
        try:
            raw = (context.run_dir / KEPT).read_bytes()
        except FileNotFoundError:
            return Audit()
        except OSError as error:
            raise BackendGarbage(f"{KEPT} cannot be read: {error.strerror}") from None
        try:
            document = json.loads(raw)
            audit = Audit(
                originals=document["originals"],
                set=document["set"],
                changes=document["changes"],
                drills=document["drills"],
            )
            for one in (*audit.originals.values(), *audit.set.values()):
                Scope.of(one["scope"])
                if not isinstance(one["definition"], dict):
                    raise ValueError("a definition is no object")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Nothing must be restored from a guess.
            raise BackendGarbage(f"{KEPT} is not as it was written") from None
        return audit

    def save(self, context: Context) -> None:
        """Put the audit on disk."""
        write_private(context.run_dir / KEPT, json.dumps(self._document(context), indent=2).encode())

    def write(self, context: Context) -> Artifact:
        """Put the audit on disk, and into the evidence."""
        self.save(context)
        return write_json(context, AUDIT, self._document(context), "evidence")

    def _document(self, context: Context) -> dict[str, Any]:
        return {
            "version": context.plan.target_version,
            "rehearsal": context.plan.rehearsal,
            "originals": self.originals,
            "set": self.set,
            "changes": self.changes,
            "drills": self.drills,
            **self.more,
        }

    def remember(self, flag: str, definition: Definition, scope: Scope, at: str) -> None:
        """Keep what a flag was before this release first changed it."""
        self.originals.setdefault(flag, {"definition": definition, "scope": scope.document(), "at": at})

    def scope_set(self, flag: str) -> Scope | None:
        """Return the scope this release gave a flag, None where it gave none."""
        row = self.set.get(flag)
        return None if row is None else Scope.of(row["scope"])

    def original(self, flag: str) -> Scope | None:
        """Return the scope a flag had before, None where it was not touched."""
        row = self.originals.get(flag)
        return None if row is None else Scope.of(row["scope"])


def events_of(audit: Mapping[str, Any], trace_id: str) -> list[Event]:
    """Return what one call did, as events; rows of other calls, and what cannot be read, give none."""
    found: list[Event] = []
    for row in _rows(audit, "changes", trace_id):
        found.append(
            FlagChanged(
                flag=visible(str(row.get("flag")), limit=200),
                was=visible(str(row.get("was")), limit=500),
                now=visible(str(row.get("now")), limit=500),
                scope=visible(str(row.get("scope")), limit=40),
                by=visible(str(row.get("by")), limit=80),
                seen_ms=_number(row.get("seen_ms")),
            )
        )
    for row in _rows(audit, "drills", trace_id):
        found.append(
            DrillRun(
                drill=visible(str(row.get("drill")), limit=200),
                kind="kill-switch",
                env=visible(str(row.get("env")), limit=20),
                passed=row.get("passed") is True,
                seconds=max(0.0, _number(row.get("kill_ms"))) / 1000,
                reason=visible(str(row.get("reason")), limit=500),
            )
        )
    return found


def _rows(audit: Mapping[str, Any], name: str, trace_id: str) -> list[dict[str, Any]]:
    rows = audit.get(name)
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and row.get("trace_id") == trace_id and row.get("done", True) is True
    ]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0
