"""Incidents: the Incident Commander (A37), from opening to postmortem, and the drill of phase P5.

For a hard stop (seed section 8) APPLY gets the parameter `incident` and opens, updates or resolves the
incident of that stop, once each even after a restart: as an issue where the plan names a forge, and always as
a document in the run folder. Without the parameter APPLY holds a drill: an incident opened, acknowledged and
resolved on the forge, which VERIFY then reads back.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents import postmortem
from cockpit.agents.common import blocked, fail_unmeasured, judge, query, reason_of, recorded, vouch
from cockpit.agents.forensics import INDEX, absent_of
from cockpit.agents.incident_record import (
    Asked,
    Incident,
    IssueRef,
    Update,
    asked_of,
    body_of,
    document,
    encoded,
    identifier,
    labels_of,
    new,
    path_of,
    read,
)
from cockpit.agents.incident_story import Story, read_story
from cockpit.base.errors import BackendError, EffectRefused, JournalError
from cockpit.base.files import sha256_hex
from cockpit.base.markdown import escaped
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.rpc.messages import Artifact, Links

_UNCONFIGURED = "no forge is configured in targets.issues: the incident is a document only"
_ACKNOWLEDGED, _RESOLVED, _EVIDENCE = "acknowledged", "resolved", "evidence"

T = TypeVar("T")


class IncidentCommander(Agent):
    """A37: opens the incident, keeps roles, timeline and updates, drafts the postmortem."""

    async def plan(self, context: Context) -> Outcome:
        """Say what would be filed, and where."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return _not_one(error)
        target = context.plan.targets.issues
        if asked is None:
            if target is None:
                return blocked("the drill needs a forge: targets.issues is not configured")
            said = f"APPLY will open, acknowledge and close a drill issue in {target.repository}"
            return Outcome("ok", said, "run APPLY")
        where = f"an issue in {target.repository}" if target is not None else _UNCONFIGURED
        return Outcome("ok", f"APPLY will {asked.action} {identifier(context, asked)}: {where}", "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Open, update or resolve the incident asked for; hold the drill when none is."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return _not_one(error)
        if context.effects is None:
            raise EffectRefused("incidents are only changed by APPLY", reason="capability")
        if asked is None:
            return await self._drill(context)
        incident = read(context, identifier(context, asked)) or new(context, asked)
        if asked.verified and incident.state == "open":
            incident = _changed(context, incident, state="mitigated")
        incident = await _file(context, incident)
        if asked.action == "update":
            story = await _story(context, asked.stop)
            incident = await _say(context, incident, _EVIDENCE, _update_text(context, asked, story))
        elif asked.action == "resolve":
            incident = await _resolve(context, incident, asked.text or "resolved")
        return _answer(context, incident, await _written(context, incident))

    async def _drill(self, context: Context) -> Outcome:
        if context.plan.targets.issues is None:
            return blocked("the drill needs a forge: targets.issues is not configured")
        incident = read(context, identifier(context, None)) or new(context, None)
        incident = await _file(context, incident)
        incident = await _say(context, incident, _ACKNOWLEDGED, "acknowledged: the roles are taken")
        incident = await _resolve(context, incident, "resolved: the drill is over")
        return _answer(context, incident, await _written(context, incident))

    async def verify(self, context: Context) -> Outcome:
        """Read the drill back from the forge and judge its course; for a stop, say what became of it."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return _not_one(error)
        incident = read(context, identifier(context, asked))
        if asked is not None:
            return _verified(incident)
        try:
            forge = context.issues
            if incident is None:
                return Outcome("fail", "no drill was held in this run", "run APPLY")
            found = await forge.find(incident.key)
            comments = await forge.comments(found.number) if found is not None else []
        except BackendMissing as missing:
            return blocked(str(missing))
        except BackendError as error:
            verdict = await fail_unmeasured(context, "dr", "dr", error)
            said = f"the drill could not be read back: {visible(str(error), limit=500)}"
            return Outcome("fail", said, "look at the forge, then run VERIFY again", verdicts=(verdict,))
        answers = {
            "issue": found.raw if found is not None else b"null",
            "comments": b"[" + b",".join(comment.raw for comment in comments) + b"]",
            "record": encoded(incident),
        }
        params = {
            "key": incident.key,
            "labels": [*labels_of(incident), "drill", "cockpit"],
            "comments": [f"{incident.key}:{_ACKNOWLEDGED}", f"{incident.key}:{_RESOLVED}"],
            "roles": sorted({name for names in incident.roles.values() for name in names}),
        }
        queries = {
            "issue": query(context, f"issue {incident.key}", "forge", samples=int(found is not None)),
            "comments": query(context, f"comments of {incident.key}", "forge", samples=len(comments)),
            "record": query(context, path_of(incident.id), "files", samples=1),
        }
        verdict = await judge(context, "dr", "dr", "incident_drill", answers, params, queries)
        passed = verdict.verdict == "pass"
        return Outcome(
            "ok" if passed else "fail",
            reason_of((verdict,)),
            "EVIDENCE, then go on" if passed else "look at the issue, then run APPLY and VERIFY again",
            verdicts=(verdict,),
        )

    async def rollback(self, context: Context) -> Outcome:
        """Close what a drill left open; an incident of a stop stays for people to resolve."""
        incident = read(context, identifier(context, None))
        if incident is None or incident.state == "resolved":
            return Outcome("ok", "no drill was left open: nothing to take back", "none")
        incident = await _resolve(context, incident, "resolved: the drill was broken off")
        return _answer(context, incident, await _written(context, incident))

    async def evidence(self, context: Context) -> Outcome:
        """Write the incident with its timeline and the draft of its postmortem, as the journal stands now."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return _not_one(error)
        if asked is None:
            return vouch(context, recorded(context))
        incident = read(context, identifier(context, asked))
        if incident is None:
            return Outcome("fail", "no incident was opened for this stop", "run APPLY first")
        try:
            story = await _story(context, asked.stop)
        except (JournalError, BackendError) as error:
            said = f"the journal cannot be read: {visible(str(error), limit=500)}"
            return Outcome("fail", said, "look at the run folder")
        artifacts = await _written(context, incident, story, _kept(context, asked))
        return Outcome(
            "ok",
            f"{incident.id}: timeline of {len(story.timeline)} lines and a draft of the postmortem",
            "people fill in what only they know",
            artifacts=artifacts,
        )


# -- what an incident goes through ------------------------------------------------------------------------


async def _file(context: Context, incident: Incident) -> Incident:
    """File the incident's issue unless it is filed; what stands in the way is kept with the incident."""
    if incident.issue is not None:
        return incident
    if context.plan.targets.issues is None:
        return incident.model_copy(update={"issue_problem": _UNCONFIGURED})
    # Kept before the forge is asked: the incident is there whatever becomes of its issue.
    await _written(context, incident)
    title, body, labels = incident.title, body_of(context.plan, incident), labels_of(incident)

    async def act() -> IssueRef:
        filed = await context.issue_tracker.file_once(incident.kind, incident.key, title, body, labels)
        return IssueRef(number=filed.number, url=filed.url, known=filed.known, problem=filed.problem)

    try:
        issue = await _effect(context, "file", f"issue {incident.key}", act)
    except (BackendError, EffectRefused) as error:
        return _troubled(incident, error)
    return incident.model_copy(
        update={"issue": issue, "issue_problem": "", "filed_by": context.request.trace_id}
    )


async def _say(context: Context, incident: Incident, name: str, text: str) -> Incident:
    """Add an update, and put it on the issue; one of that name that stands there already is left alone."""
    kept = {update.name: update for update in incident.updates}
    update = kept.get(name)
    if update is not None and update.posted:
        return incident
    if update is None:
        update = Update(at=context.now(), name=name, text=visible(text, newlines=True))
    if incident.issue is not None:
        number, key = incident.issue.number, f"{incident.key}:{name}"
        shown = escaped(update.text, newlines=True)

        async def act() -> bool:
            return await context.issue_tracker.comment_once(number, key, shown)

        try:
            await _effect(context, "comment", f"issue {key}", act)
            update = update.model_copy(update={"posted": True})
            incident = incident.model_copy(update={"issue_problem": ""})
        except (BackendError, EffectRefused) as error:
            incident = _troubled(incident, error)
    kept[name] = update
    return incident.model_copy(update={"updates": tuple(kept.values())})


async def _resolve(context: Context, incident: Incident, text: str) -> Incident:
    if incident.state == "resolved":
        return incident
    incident = await _say(context, incident, _RESOLVED, text)
    if incident.issue is not None:
        number = incident.issue.number

        async def act() -> None:
            await context.issue_tracker.close(number)

        try:
            await _effect(context, "close", f"issue {incident.key}", act)
        except (BackendError, EffectRefused) as error:
            return _troubled(incident, error)
    return _changed(context, incident, state="resolved", resolved_at=context.now(), issue_problem="")


def _troubled(incident: Incident, error: BackendError | EffectRefused) -> Incident:
    """Keep with the incident what stood in its way; a drill that is refused is refused as a call."""
    if incident.kind == "drill" and isinstance(error, EffectRefused):
        raise error
    return incident.model_copy(update={"issue_problem": visible(str(error), limit=500)})


def _changed(context: Context, incident: Incident, **fields: str) -> Incident:
    return incident.model_copy(update={**fields, "changed_by": context.request.trace_id})


async def _effect(context: Context, verb: str, target: str, act: Callable[[], Awaitable[T]]) -> T:
    if context.effects is None:
        raise EffectRefused("incidents are only changed by APPLY and ROLLBACK", reason="capability")
    return await context.effects.forward(verb, target, act, env="all", by=context.info.id)


async def _story(context: Context, number: int) -> Story:
    # A long journal takes seconds to read: not on the loop that aborts.
    return await BoundedThreads("the journal", 1).run(
        lambda: read_story(context.run_dir, number), deadline=context.plan.agent_deadline
    )


def _update_text(context: Context, asked: Asked, story: Story) -> str:
    state = "verified" if story.verified else "not finished: a person must act"
    lines = [asked.text] if asked.text else []
    lines += [f"The rollback is {state}."]
    lines += [
        f"{name.removesuffix('_s').replace('_', ' ')}: {value:.1f} s"
        for name, value in story.figures().items()
        if value is not None
    ]
    lines += ["Evidence:", *_kept(context, asked)]
    return "\n".join(lines)


def _kept(context: Context, asked: Asked) -> list[str]:
    """Return what was kept, with digests: the captures of this stop, their index, the packs so far."""
    lines: list[str] = []
    try:
        raw = context.artifacts.path(INDEX).read_bytes()
        for capture in json.loads(raw)["captures"]:
            if capture["incident"] == identifier(context, asked):
                kept = [row["path"] for row in capture["sources"] if row["path"]]
                folder = kept[0].split("/")[:4] if kept else []
                lines.append(
                    f"frozen at {capture['began_at']} ({capture['moment']}): {len(kept)} files "
                    f"below artifacts/{'/'.join(folder)}"
                )
                lines += [f"not there: {text}" for text in absent_of(capture)]
        lines.append(f"their hashes: {INDEX} sha256 {sha256_hex(raw)}")
    except (OSError, ValueError, KeyError, TypeError):
        lines.append("nothing was frozen")
    packs = context.state().packs
    return lines + [f"{pack.kind} pack {pack.path} sha256 {pack.sha256}" for pack in packs]


async def _written(
    context: Context, incident: Incident, story: Story | None = None, evidence: Sequence[str] = ()
) -> tuple[Artifact, ...]:
    """Keep the incident, its document and, with its story, the draft of the postmortem."""
    timeline = [(line.at, line.what) for line in story.timeline] if story is not None else []
    files = {
        path_of(incident.id): encoded(incident),
        path_of(incident.id, ".md"): document(context.plan, incident, timeline).encode("utf-8", "replace"),
    }
    if story is not None:
        text = postmortem.draft(context.plan, incident, story, evidence)
        files[path_of(incident.id, "-postmortem.md")] = text.encode("utf-8", "replace")
    threads = BoundedThreads("the disk", 1)
    return tuple(
        [
            await threads.run(
                lambda path=path, data=data: context.artifacts.write(path, data, "evidence"),  # type: ignore[misc]
                deadline=context.plan.agent_deadline,
            )
            for path, data in files.items()
        ]
    )


def _answer(context: Context, incident: Incident, artifacts: tuple[Artifact, ...]) -> Outcome:
    links = Links(runs=[incident.issue.url] if incident.issue is not None and incident.issue.url else [])
    trouble = incident.issue_problem or (incident.issue.problem if incident.issue is not None else "")
    if trouble and context.plan.targets.issues is not None:
        said = f"{incident.id} is {incident.state}, kept here; on the forge: {trouble}"
        then = "look at the forge, then run APPLY again: nothing is filed twice"
        return Outcome("blocked", visible(said, limit=2000), then, artifacts=artifacts, links=links)
    where = f"issue {incident.issue.url}" if incident.issue is not None else trouble
    return Outcome(
        "ok", f"{incident.id} is {incident.state}: {where}", "none", artifacts=artifacts, links=links
    )


def _verified(incident: Incident | None) -> Outcome:
    if incident is None:
        return Outcome("fail", "no incident was opened for this stop", "run APPLY")
    if incident.issue_problem:
        return Outcome("blocked", f"{incident.id}: {incident.issue_problem}", "run APPLY again")
    return Outcome("ok", f"{incident.id} is {incident.state}", "none")


def _not_one(error: ValueError) -> Outcome:
    return Outcome("fail", str(error), "give the parameter as the conductor does")
