"""The draft of a postmortem: what the journal knows is filled in, what only people know is asked.

Blameless: it tells what was seen and decided, with which information, and never whose fault it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cockpit.agents.incident_record import Incident, who
from cockpit.agents.incident_story import Story
from cockpit.base.markdown import cell, escaped
from cockpit.plan.model import Plan

_ASK = "_To be filled in by people:_"
_FIGURES = {
    "time_to_detect_s": "Time to detect (traffic on the canary → first sign)",
    "time_to_stop_s": "Time to stop (first sign → rollback began)",
    "time_to_mitigate_s": "Time to mitigate (first sign → no traffic on the canary)",
    "time_to_restore_s": "Time to restore, MTTR (first sign → rollback verified)",
}


def draft(plan: Plan, incident: Incident, story: Story, evidence: Sequence[str]) -> str:
    """Return the draft as Markdown; `evidence` are lines about what was kept."""
    sections = (
        _head(plan, incident),
        _summary(incident, story),
        _times(story),
        _looks(story),
        _decisions(story),
        _timeline(story),
        _stages(story),
        _evidence(evidence),
        _people(incident),
    )
    return "\n".join(line for section in sections for line in (*section, "")) + "\n"


def _head(plan: Plan, incident: Incident) -> list[str]:
    lines = [f"# Postmortem (draft): {escaped(incident.title)}", ""]
    if incident.rehearsal:
        lines += ["**Rehearsal**: stand-ins and compressed time; the figures are of the rehearsal.", ""]
    lines += [
        f"- Incident: `{incident.id}`, {incident.severity}, {incident.state}",
        f"- Issue: {cell(incident.issue.url) if incident.issue else 'none was filed'}",
        *(f"- {role.capitalize()}: {who(plan, names)}" for role, names in incident.roles.items()),
        "",
        "This draft looks for causes in systems and in what they showed, not for anybody's fault.",
    ]
    return lines


def _summary(incident: Incident, story: Story) -> list[str]:
    if story.verified:
        end = f"The rollback was verified at {story.verified}."
    elif story.unfinished:
        end = f"The rollback was **not finished**: {escaped(story.unfinished)}"
    else:
        end = "No end of the rollback is on record."
    cause = escaped(story.cause) or "no cause is on record"
    where = f"at step {story.step}, {story.weight} % of the traffic" if story.step else "before any step"
    return [
        "## Summary",
        "",
        f"{cell(incident.version)} was stopped {where}: {cause}. {end}",
        *(f"- {cell(name)}: {cell(proof)}" for name, proof in story.proof.items()),
        *(["", "By hand, if it is still needed:", ""] if story.fallback else []),
        *(f"    {command}" for command in story.fallback),
    ]


def _times(story: Story) -> list[str]:
    detected = f"{story.detected} by {cell(story.detected_by)}" if story.detected else "–"
    rows = {
        "Traffic on the canary at this step": story.exposed,
        "Detected": detected,
        "Halted": story.halted,
        "Rollback began": story.began,
        "No traffic on the canary": story.traffic_off,
        "Verified": story.verified,
    }
    lines = ["## Times", "", "| | UTC |", "| --- | --- |"]
    lines += [f"| {name} | {value or 'not on record'} |" for name, value in rows.items()]
    lines += ["", "| figure | seconds |", "| --- | --- |"]
    for name, value in story.figures().items():
        lines.append(f"| {_FIGURES[name]} | {'not known' if value is None else f'{value:.3f}'} |")
    return lines


def _looks(story: Story) -> list[str]:
    lines = ["## What the last looks said", ""]
    if not story.looks:
        return [*lines, "No look at the canary is on record."]
    lines += ["| at | step | look | outcome | reason | metrics |", "| --- | --- | --- | --- | --- | --- |"]
    for look in story.looks:
        metrics = json.dumps(look.metrics, sort_keys=True)
        critical = " (critical)" if look.critical else ""
        lines.append(
            f"| {look.at} | {look.step} | {look.look} | {cell(look.outcome)}{critical} "
            f"| {cell(look.reason)} | {cell(metrics, limit=400)} |"
        )
    return lines


def _decisions(story: Story) -> list[str]:
    lines = ["## What was decided, by whom, knowing what", ""]
    lines += [
        f"- {one.at} {cell(one.by)}: {cell(one.what)}{': ' if one.why else ''}{escaped(one.why, limit=600)}"
        for one in story.decisions
    ] or ["- nothing is on record"]
    return lines


def _timeline(story: Story) -> list[str]:
    lines = ["## Timeline", ""]
    if story.left_out:
        lines += [f"{story.left_out} lines are left out; the journal has all of them.", ""]
    return lines + [f"- {line.at} {escaped(line.what, limit=600)}" for line in story.timeline]


def _stages(story: Story) -> list[str]:
    lines = ["## What followed", ""]
    lines += [
        f"- {cell(name)}: {'done' if stage.ok else '**not done**'}, {escaped(stage.detail, limit=600)}"
        for name, stage in story.stages.items()
    ] or ["- nothing is on record yet"]
    if story.fix_train is not None:
        train = story.fix_train
        lines.append(
            f"- fix train: {cell(train.issue)}, window {cell(train.window_start)} → {cell(train.window_end)}"
        )
    return lines


def _evidence(evidence: Sequence[str]) -> list[str]:
    return ["## Evidence", "", *(f"- {cell(line, limit=600)}" for line in evidence or ["none was kept"])]


def _people(incident: Incident) -> list[str]:
    asked = (
        ("Impact", "who noticed what, for how long; requests and tenants concerned"),
        ("Causes", "what in code, configuration or environment made it possible; why no gate saw it before"),
        ("What went well", "what shortened it"),
        ("Where we were lucky", "what could have made it worse"),
        ("What to change", "each with an owner and a date, filed as an issue"),
    )
    lines: list[str] = []
    for title, question in asked:
        lines += [f"## {title}", "", f"{_ASK} {question}.", ""]
    return lines[:-1]
