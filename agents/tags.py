"""Program: the signed tags the Release Conductor (A1) cuts, a release candidate first and the final one last.

`{"tag": "rc"}` cuts `release/vX.Y.Z-rc.N` before anything takes the images, `{"tag": "final"}` cuts `vX.Y.Z`
when the release is out. Both name commit, plan and images, and are signed with the run's key in git's SSH
format. A tag is never moved and never removed: what cannot be cut is said, and the release stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.common import write_json
from cockpit.backends.gittags import Tag
from cockpit.base import sshsig
from cockpit.base.errors import BackendError, Conflict, EffectRefused
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events_work import TagCut
from cockpit.journal.state import ReleaseState
from cockpit.rpc.messages import Artifact

Kind = Literal["rc", "final"]
FOLDER = "tags"
SIGNERS = f"{FOLDER}/allowed_signers"
PRINCIPAL = "cockpit@release-cockpit.dev"
_KINDS: dict[str, Kind] = {"rc": "rc", "final": "final"}
_ATTEMPTS = 8
_ABOUT = ("Cockpit-Plan", "Cockpit-Image")
"""Trailers that say what a candidate is of; who cut it, and when, is not part of that."""


def asked(context: Context) -> str:
    """Return the parameter `tag`, empty where the call is about no tag."""
    value = context.request.inputs.params.get("tag", "")
    return value if isinstance(value, str) else "?"


async def plan(context: Context) -> Outcome:
    """Say which tag APPLY would cut, at which commit."""
    return await _guarded(context, "plan")


async def apply(context: Context) -> Outcome:
    """Cut the tag asked for, unless this very run has cut it."""
    if context.effects is None:
        raise EffectRefused("tags are only cut by APPLY", reason="capability")
    return await _guarded(context, "apply")


async def verify(context: Context) -> Outcome:
    """Read the tag this run cut back from the repository, and check what it stands for and its signature."""
    return await _guarded(context, "verify")


def rollback(context: Context) -> Outcome:
    """Say that tags stay: they are immutable."""
    cut = [one.tag for one in context.state().work.tags]
    if not cut:
        return Outcome("ok", "no tag was cut: nothing to take back", "none")
    said = f"{', '.join(cut)} stay: tags are immutable, and a candidate that was not released is a candidate"
    return Outcome("ok", said, "none")


async def _guarded(context: Context, operation: str) -> Outcome:
    kind = _KINDS.get(asked(context))
    if kind is None:
        return Outcome("fail", "`tag` is `rc` or `final`", "give the parameter as the conductor does")
    try:
        if operation == "verify":
            return await _verified(context, kind)
        reason = _not_now(context, kind)
        if reason:
            return Outcome("blocked", reason, "cut it when that is so")
        if operation == "plan":
            return await _planned(context, kind)
        return await (_candidate(context) if kind == "rc" else _final(context))
    except BackendMissing as missing:
        return Outcome("blocked", str(missing), "give a repository that can be written")
    except BackendError as error:
        said = visible(f"the {kind} tag was not cut: {error}", limit=2000)
        return Outcome("blocked", said, "make the repository writable, or cut the tag by hand")


def _not_now(context: Context, kind: Kind) -> str:
    state = context.state()
    if kind == "rc":
        return "the release is out: there is nothing left to be a candidate" if state.canary.released else ""
    if state.rollback is not None:
        return f"the release was rolled back ({state.rollback.status}): it gets no final tag"
    return "" if state.canary.released else "the final tag is cut only of a release that is out"


async def _planned(context: Context, kind: Kind) -> Outcome:
    commit = await _commit(context, kind)
    if kind == "rc":
        same = await _same_candidate(context, commit)
        name = same.name if same is not None else await _next(context)
        verb = "use again" if same is not None else "cut"
    else:
        name, verb = context.plan.target_version, "cut"
        found = await context.tags.read(name)
        if found is not None and (reason := _foreign(context, found, commit)):
            return Outcome("blocked", reason, "a tag is never moved; look who cut it")
    where = context.plan.targets.repository.path
    return Outcome("ok", f"APPLY will {verb} {name} at {commit[:12]} in {where}", "run APPLY")


async def _candidate(context: Context) -> Outcome:
    commit = await _commit(context, "rc")
    same = await _same_candidate(context, commit)
    if same is not None:
        return _told(context, same, "rc", f"{same.name} stands for this commit, plan and images already")
    for _ in range(_ATTEMPTS):
        name = await _next(context)
        number = name.rpartition(".")[2]
        title = f"{context.plan.target_version} release candidate {number}"
        try:
            tag = await _cut(context, name, commit, title)
        except Conflict:
            continue  # somebody was faster: the number after theirs
        return _told(context, tag, "rc", f"cut {tag.name} at {commit[:12]}")
    return Outcome("blocked", "somebody else keeps cutting candidates of this version", "run APPLY again")


async def _final(context: Context) -> Outcome:
    commit, name = await _commit(context, "final"), context.plan.target_version
    found = await context.tags.read(name)
    if found is None:
        try:
            tag = await _cut(context, name, commit, f"{name} {_candidates(context)}".strip())
            return _told(context, tag, "final", f"cut {name} at {commit[:12]}")
        except Conflict:
            found = await context.tags.read(name)
    if found is None:
        return Outcome("blocked", f"{name} is being made by somebody else", "run APPLY again")
    reason = _foreign(context, found, commit)
    if reason:
        return Outcome("blocked", reason, "a tag is never moved; look who cut it")
    return _told(context, found, "final", f"{name} was cut by this run already")


def _foreign(context: Context, found: Tag, commit: str) -> str:
    """Return why a tag that is there is not the one this run would cut."""
    problem = found.problem(context.tags.public_key)
    if found.commit != commit:
        problem = f"it stands for {found.commit[:12]}, the release for {commit[:12]}"
    return f"{found.name} is there and not of this run: {problem}" if problem else ""


async def _cut(context: Context, name: str, commit: str, title: str) -> Tag:
    message = f"{title}\n\n{_trailers(context)}"
    effects = context.effects
    assert effects is not None  # apply() has checked
    return await effects.forward(
        "tag",
        f"refs/tags/{name}",
        lambda: context.tag_writer.cut(name, commit, message, context.clock.now()),
        env="all",
        by=context.info.id,
        detail=f"commit {commit}",
    )


async def _commit(context: Context, kind: Kind) -> str:
    """Return what is tagged: of the final tag the candidate's commit, wherever a branch went since."""
    cut = [one.commit for one in context.state().work.tags if one.kind == "rc"]
    if kind == "final" and cut:
        return cut[-1]
    return await context.forge.resolve(context.plan.targets.repository.to_ref)


def _candidates(context: Context) -> str:
    cut = [one.tag for one in context.state().work.tags if one.kind == "rc"]
    return f"(was {cut[-1]})" if cut else ""


def _trailers(context: Context) -> str:
    run, plan = context.state().run, context.plan
    lines = [f"Cockpit-Run: {run.run_id}" if run is not None else "Cockpit-Run: unknown"]
    lines += _about(context)
    if plan.rehearsal:
        lines.append("Cockpit-Rehearsal: true")
    return "\n".join(lines)


def _about(context: Context) -> list[str]:
    images = sorted((one.name, one.image.digest or one.image.text) for one in context.plan.services)
    return [
        f"Cockpit-Plan: sha256:{context.plan_sha256}",
        *(f"Cockpit-Image: {visible(name, limit=100)} {digest}" for name, digest in images),
    ]


def _prefix(context: Context) -> str:
    return f"release/{context.plan.target_version}-rc."


async def _numbers(context: Context) -> list[int]:
    prefix = _prefix(context)
    names = [name.removeprefix(prefix) for name in await context.tags.names(prefix)]
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,8}", name))


async def _next(context: Context) -> str:
    return f"{_prefix(context)}{max(await _numbers(context), default=0) + 1}"


async def _same_candidate(context: Context, commit: str) -> Tag | None:
    """Return the newest candidate when it is of this commit, plan and images and signed by this run."""
    numbers = await _numbers(context)
    if not numbers:
        return None
    tag = await context.tags.read(f"{_prefix(context)}{numbers[-1]}")
    if tag is None or tag.commit != commit or tag.problem(context.tags.public_key):
        return None
    named = [line for line in tag.message.splitlines() if line.partition(":")[0] in _ABOUT]
    return tag if named == _about(context) else None


async def _verified(context: Context, kind: Kind) -> Outcome:
    known = [one for one in context.state().work.tags if one.kind == kind]
    if not known:
        return Outcome("fail", f"this run has cut no {kind} tag", "run APPLY")
    wanted = known[-1]
    found = await context.tags.read(wanted.tag)
    if found is None:
        return Outcome("fail", f"{wanted.tag} is gone from the repository", "look who removed it")
    problem = found.problem(context.tags.public_key)
    if (found.object, found.commit) != (wanted.object, wanted.commit):
        problem = f"it was moved: {found.object[:12]} instead of {wanted.object[:12]}"
    if problem:
        return Outcome("fail", f"{wanted.tag}: {problem}", "look who changed it")
    said = f"{wanted.tag} is signed by {wanted.fingerprint} and stands for {wanted.commit[:12]}"
    return Outcome("ok", said, "none", artifacts=_written(context, found, kind))


# -- evidence -----------------------------------------------------------------------------------------


def _told(context: Context, tag: Tag, kind: Kind, said: str) -> Outcome:
    following = f"to publish it: git push REMOTE refs/tags/{tag.name}"
    return Outcome("ok", said, following, artifacts=_written(context, tag, kind))


def _written(context: Context, tag: Tag, kind: Kind) -> tuple[Artifact, ...]:
    """Keep the tag with its signature, who may sign such, and what both say in a form machines read."""
    public = context.tags.public_key
    text = f"{FOLDER}/{tag.name.replace('/', '-')}.tag"
    document = {
        "tag": tag.name,
        "kind": kind,
        "commit": tag.commit,
        "object": tag.object,
        "fingerprint": sshsig.fingerprint(public),
        "public_key": sshsig.public_line(public),
        "text": text,
        "rehearsal": context.plan.rehearsal,
        "verify": f"git -c gpg.ssh.allowedSignersFile={SIGNERS} tag -v {tag.name}",
    }
    return (
        context.artifacts.write(text, tag.text, "evidence"),
        context.artifacts.write(SIGNERS, sshsig.allowed_signer(PRINCIPAL, public).encode(), "evidence"),
        write_json(context, f"{FOLDER}/{kind}.json", document, "evidence"),
    )


PATHS: dict[Kind, str] = {"rc": f"{FOLDER}/rc.json", "final": f"{FOLDER}/final.json"}


def events_of(document: Mapping[str, Any], state: ReleaseState) -> list[Event]:
    """Return the tag a document tells of, unless the journal has it; what is none gives none."""
    fields = {name: document.get(name) for name in ("tag", "kind", "commit", "object", "fingerprint")}
    if not all(isinstance(value, str) and value for value in fields.values()):
        return []
    shown = {name: visible(str(value), limit=300) for name, value in fields.items()}
    cut = TagCut(
        tag=shown["tag"],
        kind=shown["kind"],
        commit=shown["commit"],
        object=shown["object"],
        fingerprint=shown["fingerprint"],
    )
    known = {(one.tag, one.object) for one in state.work.tags}
    return [] if (cut.tag, cut.object) in known else [cut]
