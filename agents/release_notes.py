"""Release notes from a commit range: conventional commits, the version they call for, risks and rollback."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cockpit.backends.forge import Commit
from cockpit.base.text import visible
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan

Bump = Literal["major", "minor", "patch"]

_HEAD = re.compile(r"([a-z]+)(?:\(([^)]{1,60})\))?(!)?: (.+)", re.ASCII)
_BREAKING = re.compile(r"^BREAKING[ -]CHANGE: (.+?)(?=\n[A-Z][A-Za-z-]*: |\n\n|\Z)", re.MULTILINE | re.DOTALL)
_KNOWN = re.compile(r"^Known[ -]issue: (.+)$", re.MULTILINE | re.IGNORECASE)
_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.-]+)?")
_PULL = re.compile(r"\(#(\d{1,9})\)$|^Merge pull request #(\d{1,9})\b")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#+|~])")
_MOST_FILES = 200
_ORDER: tuple[Bump, ...] = ("patch", "minor", "major")


@dataclass(frozen=True, slots=True)
class Change:
    """One commit, read as a conventional one; `kind` is `other` when it is none."""

    sha: str
    kind: str
    scope: str
    text: str
    breaking: tuple[str, ...]
    known_issues: tuple[str, ...]
    pull_request: str = ""
    """Its number, where the commit names it."""


def read(commit: Commit) -> Change:
    """Read a commit as a conventional commit (conventionalcommits.org, 1.0.0)."""
    match = _HEAD.fullmatch(commit.subject)
    pull = _PULL.search(commit.subject)
    breaking = tuple(" ".join(text.split()) for text in _BREAKING.findall(commit.body))
    if match is not None and match[3] and not breaking:
        breaking = (match[4],)
    return Change(
        sha=commit.sha,
        kind=match[1] if match is not None else "other",
        scope=(match[2] or "") if match is not None else "",
        text=match[4] if match is not None else commit.subject,
        breaking=breaking,
        known_issues=tuple(_KNOWN.findall(commit.body)),
        pull_request=next(filter(None, pull.groups()), "") if pull is not None else "",
    )


def new_migrations(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return the migration files that came with a release, by the folders called `migrations`."""
    known = set(before)
    return [path for path in after if path not in known and "migrations" in path.split("/")[:-1]]


def needed_bump(changes: list[Change]) -> Bump:
    """Return the version bump the changes call for (semver.org): the largest any of them does."""
    if any(change.breaking for change in changes):
        return "major"
    return "minor" if any(change.kind == "feat" for change in changes) else "patch"


def actual_bump(before: str, after: str) -> Bump | None:
    """Return the bump between two version tags, None when one is no version or it does not go up."""
    old, new = _VERSION.fullmatch(before), _VERSION.fullmatch(after)
    if old is None or new is None:
        return None
    left, right = tuple(map(int, old.groups()[:3])), tuple(map(int, new.groups()[:3]))
    if right <= left:
        return None
    if right[0] > left[0]:
        return "major"
    return "minor" if right[1] > left[1] else "patch"


def bump_problem(changes: list[Change], before: str, after: str) -> str:
    """Return why the version does not fit the changes; empty when it does or cannot be told."""
    if _VERSION.fullmatch(before) is None:
        return ""
    needed, actual = needed_bump(changes), actual_bump(before, after)
    if actual is None:
        return f"{after} does not follow {before}"
    if _ORDER.index(actual) < _ORDER.index(needed):
        return f"{before} → {after} is a {actual} release, and the changes call for a {needed} one"
    return ""


def render(
    plan: Plan,
    state: ReleaseState,
    changes: list[Change],
    range_: tuple[str, str],
    migrations: list[str],
) -> str:
    """Return the release notes as Markdown; commit texts are escaped, never taken as markup.

    `migrations`: paths of the migration files that came with this release.
    """
    before, after = plan.targets.repository.from_ref, plan.target_version
    needed = needed_bump(changes)
    breaking = [text for change in changes for text in change.breaking]
    lines = [f"# {plan.repo} {after}", ""]
    if plan.rehearsal:
        real = ", ".join(f"{name} {version}" for name, version in plan.real_servers.items())
        made = f"stand-ins, but for real {visible(real, limit=500)}" if real else "stand-ins"
        lines += [f"> Rehearsal: made with {made}. It shows the procedure, not a release.", ""]
    if state.reduced:
        lines += ["> REDUCED: " + _plain("; ".join(state.reduced)), ""]
    lines += [
        f"Changes from `{range_[0][:12]}` ({_plain(before)}) to `{range_[1][:12]}`: {len(changes)} commits.",
        "",
        "## Version",
        "",
        _semver(changes, breaking, before, after, needed),
        "",
    ]
    lines += _section("In this release", _contents(plan, state, changes, range_, migrations))
    lines += _section("Breaking changes", [_plain(text) for text in breaking])
    for title, kinds in (("Features", ("feat",)), ("Fixes", ("fix",)), ("Performance", ("perf",))):
        lines += _section(title, [_line(change) for change in changes if change.kind in kinds])
    shown = ("feat", "fix", "perf")
    lines += _section("Other", [_line(change) for change in changes if change.kind not in shown])
    lines += _section("Risks", [_risk(plan, state, index) for index in range(len(plan.risks))])
    lines += ["## Rollback", "", *_rollback(plan), ""]
    lines += _section("Known issues", _known_issues(plan, changes))
    lines += _section("Images", [_image(plan, state, index) for index in range(len(plan.services))])
    lines += _section("Feature flags", [_flag(plan, state, flag) for flag in plan.ga_flags])
    lines += _section("Migrations", [f"`{_code(path)}`" for path in migrations[:_MOST_FILES]])
    return "\n".join(lines)


def _contents(
    plan: Plan, state: ReleaseState, changes: list[Change], range_: tuple[str, str], migrations: list[str]
) -> list[str]:
    pulls = sorted({int(change.pull_request) for change in changes if change.pull_request})
    named = ", ".join(f"#{number}" for number in pulls[:_MOST_FILES])
    new = sum(bool(_before(plan, state, index)) for index in range(len(plan.services)))
    flags, files = len(plan.ga_flags), len(migrations)
    more = f", of which {_MOST_FILES} are listed" if files > _MOST_FILES else ""
    return [
        f"Commits: {len(changes)}, `{range_[0]}` to `{range_[1]}`",
        f"Pull requests: {named or 'none is named by the commits'}",
        f"Images: {len(plan.services)}, each by digest" + (f"; {new} replace a known one" if new else ""),
        f"Feature flags: {flags or 'none'}",
        f"Migration files: {files or 'none'}{more}",
    ]


def _before(plan: Plan, state: ReleaseState, index: int) -> str:
    return state.canary.stable_images.get(plan.services[index].stable_deployment, "")


def _image(plan: Plan, state: ReleaseState, index: int) -> str:
    one, before = plan.services[index], _before(plan, state, index)
    # What stable runs is known from the first step on; the notes before it cannot say.
    return f"`{one.name}`: `{one.image.text}`" + (f" in place of `{_code(before)}`" if before else "")


def _flag(plan: Plan, state: ReleaseState, flag: str) -> str:
    seen = next((one for one in state.work.flags if one.flag == flag), None)
    if seen is not None:
        return f"`{_code(flag)}`: {_plain(seen.now)} for {_plain(seen.scope)}"
    ramp = "ramps with the canary for pilot tenants" if plan.auto_ramp_flags else "not ramped"
    return f"`{_code(flag)}`: not flipped yet; {ramp}"


def _code(text: str) -> str:
    return visible(text, limit=300).replace("`", "ʼ")


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split()), limit=500))


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *([f"- {line}" for line in lines] or ["None."]), ""]


def _line(change: Change) -> str:
    scope = f"**{_plain(change.scope)}**: " if change.scope else ""
    return f"{scope}{_plain(change.text)} (`{change.sha[:9]}`)"


def _semver(changes: list[Change], breaking: list[str], before: str, after: str, needed: Bump) -> str:
    features = sum(change.kind == "feat" for change in changes)
    fixes = sum(change.kind == "fix" for change in changes)
    said = (
        f"{len(breaking)} breaking changes, {features} features and {fixes} fixes call for a "
        f"**{needed}** release (Semantic Versioning 2.0.0). "
    )
    problem = bump_problem(changes, before, after)
    if problem:
        return said + f"**This does not fit:** {_plain(problem)}."
    actual = actual_bump(before, after)
    return said + (f"{_plain(before)} → {after} is a {actual} release." if actual else f"It is {after}.")


def _risk(plan: Plan, state: ReleaseState, index: int) -> str:
    risk = plan.risks[index]
    known = {one.id: one for one in state.risks}
    status = known[risk.id].state if risk.id in known else risk.state
    triggers = (
        "; ".join(f"{trigger.threshold} for {trigger.lasts:g} s" for trigger in risk.triggers) or "no trigger"
    )
    return (
        f"**{risk.id}** ({risk.likelihood} likelihood, {risk.impact} impact, {status}; "
        f"{_plain(risk.owner)}): {_plain(triggers)}. "
        f"Mitigations: {_plain(', '.join(risk.mitigations) or 'none')}."
    )


def _rollback(plan: Plan) -> list[str]:
    steps = ", ".join(f"{step} %" for step in plan.canary.steps)
    lines = [
        f"The canary goes through {steps}; a breach of its limits takes all traffic back to stable at once "
        "and scales the canary down. Stable keeps its full size until the last step has passed.",
        "",
        "By hand: ROLLBACK in the cockpit or `cockpit rollback`, at any step.",
    ]
    own = [f"- {risk.id}: {_plain(risk.rollback)}" for risk in plan.risks if risk.rollback]
    return [*lines, "", *own] if own else lines


def _known_issues(plan: Plan, changes: list[Change]) -> list[str]:
    found = [_plain(text) for change in changes for text in change.known_issues]
    found += [f"{risk.id} is open: {_plain(risk.owner)}" for risk in plan.risks if risk.state == "open"]
    found += [
        f"exception {_plain(one.id)} until {one.expires.date().isoformat()}: {_plain(one.reason)}"
        for one in plan.exceptions
    ]
    return found
