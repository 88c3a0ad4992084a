"""What agents' artifacts say that belongs into the journal: signatures, risks, messages.

Agents only answer; whoever holds the journal calls this with an answer and records what it returns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cockpit.agentkit.artifacts import FOLDER
from cockpit.agents import cab_messages, chaos, comms, flag_audit, kpi, notary, tags
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events import ArtifactSigned, EvidencePending, MessagePosted, RiskChanged
from cockpit.journal.events_work import IncidentChanged, IssueFiled
from cockpit.journal.state import ReleaseState
from cockpit.rpc.messages import AgentResponse

_REGISTER = re.compile(r"risk/register(_[a-z0-9_]+)?\.json")
_INCIDENT = re.compile(r"incidents/[A-Za-z0-9_.-]+\.json")


def events_of(agent: str, response: AgentResponse, run_dir: Path, state: ReleaseState) -> list[Event]:
    """Return the events an agent's valid answer gives rise to, leaving out what the state already says.

    Read from the artifacts the answer names (their hashes have been checked). Never raises: a file that
    cannot be read gives none.
    """
    named = {artifact.path for artifact in response.artifacts}
    if agent == "A1":
        cut = [_read(run_dir, path) for path in tags.PATHS.values() if path in named]
        return [event for one in cut for event in tags.events_of(one, state)]
    if agent == "A2" and cab_messages.CALENDAR in named:
        return cab_messages.events_of(_read(run_dir, cab_messages.CALENDAR), response.trace_id, state)
    if agent == "A3" and notary.INDEX in named:
        return _signatures(_read(run_dir, notary.INDEX), state)
    if agent == "A36":
        drills = [_read(run_dir, path) for path in sorted(named - {chaos.VERDICT})]
        return [event for one in drills for event in chaos.events_of(one, response.trace_id)]
    if agent == "A37":
        kept = [_read(run_dir, path) for path in sorted(named) if _INCIDENT.fullmatch(path)]
        return [event for one in kept for event in _incidents(one, response.trace_id)]
    registers = sorted(path for path in named if _REGISTER.fullmatch(path))
    if agent == "A4" and registers:
        return _risks(_read(run_dir, registers[0]), state)
    if agent == "A41" and comms.LOG in named:
        return _messages(_read(run_dir, comms.LOG), response, state)
    if agent == "A43":
        report, issues = (_read(run_dir, path) if path in named else {} for path in (kpi.REPORT, kpi.ISSUES))
        return kpi.events_of(report, issues, response.trace_id)
    if agent == "A55" and flag_audit.AUDIT in named:
        return flag_audit.events_of(_read(run_dir, flag_audit.AUDIT), response.trace_id)
    return []


def _read(run_dir: Path, path: str) -> dict[str, Any]:
    try:
        document = json.loads((run_dir / FOLDER / path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _signatures(index: dict[str, Any], state: ReleaseState) -> list[Event]:
    known = {(one.path, one.sha256, one.bundle) for one in state.artifacts}
    found: list[Event] = [
        ArtifactSigned(
            path=row["path"],
            sha256=row["sha256"],
            bundle=row["bundle"],
            log_index=row["log_index"],
            entry_id=row["entry_id"],
        )
        for row in index.get("signed", [])
        if (row["path"], row["sha256"], row["bundle"]) not in known
    ]
    reason = visible("; ".join(index.get("reasons", [])) or "not signed yet", limit=500)
    return found + [EvidencePending(what=path, reason=reason) for path in index.get("pending", [])]


def _incidents(one: dict[str, Any], trace_id: str) -> list[Event]:
    """Return what this call changed about an incident: its state, and the issue it filed."""
    issue = one.get("issue") or {}
    found: list[Event] = []
    if issue and one.get("filed_by") == trace_id:
        found.append(
            IssueFiled(
                kind=one["kind"],
                key=one["key"],
                number=issue["number"],
                url=issue["url"],
                title=one["title"],
                known=issue["known"],
            )
        )
    if one.get("changed_by") == trace_id:
        found.append(
            IncidentChanged(
                incident=one["id"],
                state=one["state"],
                severity=one["severity"],
                title=one["title"],
                url=issue.get("url", ""),
            )
        )
    return found


def _risks(register: dict[str, Any], state: ReleaseState) -> list[Event]:
    known = {one.id: (one.state, one.rating) for one in state.risks}
    return [
        RiskChanged(id=row["id"], state=row["state"], rating=row["rating"], reason=row["reason"])
        for row in register.get("risks", [])
        if known.get(row["id"]) != (row["state"], row["rating"])
    ]


def _messages(log: dict[str, Any], response: AgentResponse, state: ReleaseState) -> list[Event]:
    # What was delivered and is not in the journal yet, whoever did it: its conductor may have been killed.
    # What was not delivered is told by the call that tried, whose trace id is on its rows.
    posted = set(state.work.posted)
    return [
        MessagePosted(
            macro=row["name"], webhook=row["webhook"], ok=row["ok"], text=row["text"], reason=row["reason"]
        )
        for row in log.get("messages", [])
        if (
            (row["name"], row["webhook"]) not in posted if row["ok"] else row["trace_id"] == response.trace_id
        )
    ]
