"""An incident as it is kept in the run folder: `incidents/<id>.json`, and what of it the forge is told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cockpit.agentkit.context import Context
from cockpit.base.markdown import cell, escaped
from cockpit.base.text import visible
from cockpit.plan.model import Plan

FOLDER = "incidents"
_HANDLE = re.compile(r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})(?:/[A-Za-z0-9._-]{1,100})?")
_UNPLAIN = re.compile(r"[^A-Za-z0-9_.-]+")

Severity = Literal["sev1", "sev2", "sev3", "drill"]
Action = Literal["open", "update", "resolve"]
_Said = Annotated[str, Field(max_length=4000)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Frozen):
    """What APPLY and EVIDENCE are asked for: the parameter `incident`."""

    action: Action = "open"
    stop: Annotated[int, Field(ge=1, le=1000)] = 1
    severity: Literal["sev1", "sev2", "sev3"] = "sev2"
    reason: _Said = ""
    cause: _Said = ""
    gate: _Said = ""
    step: Annotated[int, Field(ge=0, le=100)] = 0
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    by: _Said = ""
    verified: bool = False
    text: _Said = ""
    """What an update or the resolution says besides what the journal tells."""


class IssueRef(_Frozen):
    """The incident's issue on the forge."""

    number: int
    url: str
    known: bool
    problem: str = ""


class Update(_Frozen):
    """A remark in the course of the incident; `posted` once it stands on the forge."""

    at: str
    name: str
    text: str
    posted: bool = False


class Incident(_Frozen):
    """An incident, or a drill of one; state is open, mitigated or resolved."""

    id: str
    key: str
    kind: Literal["incident", "drill"]
    title: str
    severity: Severity
    state: Literal["open", "mitigated", "resolved"]
    opened_at: str
    resolved_at: str = ""
    version: str
    rehearsal: bool
    stop: int
    step: int = 0
    weight: int = 0
    gate: str = ""
    reason: str = ""
    cause: str = ""
    by: str = ""
    roles: dict[str, list[str]]
    issue: IssueRef | None = None
    issue_problem: str = ""
    updates: tuple[Update, ...] = ()
    changed_by: str = ""
    """Trace id of the call that changed the state last."""
    filed_by: str = ""
    """Trace id of the call that filed the issue."""


def asked_of(context: Context) -> Asked | None:
    """Return the parameter `incident`, None without one; raises ValueError for one that is none."""
    given = context.request.inputs.params.get("incident")
    if given is None:
        return None
    try:
        return Asked.model_validate(given)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise ValueError(visible(f"incident.{where}: {wrong['msg']}", limit=300)) from None


def run_name(context: Context) -> str:
    """Return the run's id as a plain file name."""
    run = context.state().run
    return _UNPLAIN.sub("-", run.run_id if run is not None else context.run_dir.name).strip("-.") or "run"


def new(context: Context, asked: Asked | None) -> Incident:
    """Return an incident that begins now; without `asked` it is a drill."""
    run, plan = run_name(context), context.plan
    common: dict[str, Any] = {
        "opened_at": context.now(),
        "version": plan.target_version,
        "rehearsal": plan.rehearsal,
        "roles": roles_of(context),
        "changed_by": context.request.trace_id,
        "state": "open",
    }
    if asked is None:
        return Incident(
            id=f"DRILL-{run}",
            key=f"drill:{run}",
            kind="drill",
            title=f"Incident drill for {plan.target_version}",
            severity="drill",
            stop=0,
            cause="a drill: nothing is broken",
            **common,
        )
    where = f" at {asked.weight} %" if asked.weight else ""
    return Incident(
        id=identifier(context, asked),
        key=f"incident:{run}:{asked.stop}",
        kind="incident",
        title=visible(f"{asked.severity.upper()}: {plan.target_version} rolled back{where}", limit=200),
        severity=asked.severity,
        stop=asked.stop,
        step=asked.step,
        weight=asked.weight,
        gate=visible(asked.gate, limit=200),
        reason=visible(asked.reason, limit=100),
        cause=visible(asked.cause),
        by=visible(asked.by, limit=200),
        **common,
    )


def identifier(context: Context, asked: Asked | None) -> str:
    """Return the id of the incident (or drill) that is asked for: one a run and stop."""
    return f"DRILL-{run_name(context)}" if asked is None else f"INC-{run_name(context)}-{asked.stop}"


def roles_of(context: Context) -> dict[str, list[str]]:
    """Return who has which role: the first on call commands, the others respond."""
    plan, state = context.plan, context.state()
    operator = state.people.operator or (state.run.operator if state.run is not None else "")
    return {
        "commander": [plan.oncall[0]],
        "responders": list(plan.oncall[1:]),
        "operator": [operator] if operator else [],
        "communications": list(plan.cab),
        "scribe": ["the cockpit's journal"],
    }


def path_of(incident: str, suffix: str = ".json") -> str:
    """Return where a file of an incident lies."""
    return f"{FOLDER}/{incident}{suffix}"


def read(context: Context, incident: str) -> Incident | None:
    """Return an incident as it was kept; one that cannot be read is none."""
    try:
        return Incident.model_validate_json(context.artifacts.path(path_of(incident)).read_bytes())
    except (OSError, ValueError):
        return None


def encoded(incident: Incident) -> bytes:
    """Return an incident as it is kept."""
    text = json.dumps(incident.model_dump(), indent=2, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


# -- what people read ------------------------------------------------------------------------------------


def who(plan: Plan, names: list[str]) -> str:
    """Return names for a Markdown document; those on call are called by it, except in a rehearsal."""
    called = {*plan.oncall, *plan.cab}
    return (
        ", ".join(
            name if name in called and not plan.rehearsal and _HANDLE.fullmatch(name) else cell(name)
            for name in names
        )
        or "–"
    )


def body_of(plan: Plan, incident: Incident) -> str:
    """Return the text of the incident's issue and the head of its document."""
    rows = {
        "Severity": incident.severity,
        "Release": incident.version,
        "Opened": incident.opened_at,
        "Canary": f"step {incident.step}, {incident.weight} %" if incident.step else "",
        "Gate": incident.gate,
        "Reason": incident.reason,
        "Decided by": incident.by,
    }
    lines = []
    if incident.kind == "drill":
        lines += ["**This is a drill.** Nothing is broken.", ""]
    if incident.rehearsal:
        lines += ["**Rehearsal**: the systems and people named here are stand-ins.", ""]
    lines += [escaped(incident.cause, newlines=True) or "The cause is not known.", ""]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {name} | {cell(value)} |" for name, value in rows.items() if value]
    lines += ["", "### Roles", ""]
    lines += [f"- {role}: {who(plan, names)}" for role, names in incident.roles.items()]
    return "\n".join(lines) + "\n"


def labels_of(incident: Incident) -> tuple[str, ...]:
    """Return the labels of the incident's issue (seed section 16)."""
    if incident.kind == "drill":
        return ("type:ops", "risk:low", "drill")
    return ("type:ops", "risk:med" if incident.severity == "sev3" else "risk:high")


def document(plan: Plan, incident: Incident, timeline: Sequence[tuple[str, str]] = ()) -> str:
    """Return `incidents/<id>.md`; `timeline` are times and what happened then."""
    issue = incident.issue
    lines = [f"# {escaped(incident.title)}", "", f"`{incident.id}` · {incident.state}", ""]
    if issue is not None:
        lines += [f"Issue: {cell(issue.url)} (#\u200b{issue.number})", ""]
        lines += [f"Trouble with it: {cell(issue.problem)}", ""] if issue.problem else []
    else:
        lines += [f"No issue was filed: {cell(incident.issue_problem or 'not yet')}", ""]
    lines += [body_of(plan, incident), "### Updates", ""]
    lines += [
        f"- {update.at} {escaped(update.text, limit=2000)}{'' if update.posted else ' (only here)'}"
        for update in incident.updates
    ] or ["- none"]
    if incident.resolved_at:
        lines += ["", f"Resolved at {incident.resolved_at}."]
    if timeline:
        lines += ["", "### Timeline", ""]
        lines += [f"- {at} {escaped(what, limit=600)}" for at, what in timeline]
    return "\n".join(lines) + "\n"
