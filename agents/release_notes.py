"""Release notes from a commit range: conventional commits, the version they call for, risks and rollback."""

from __future__ import annotations

import re
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
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#+|~])")
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


def read(commit: Commit) -> Change:
    """Read a commit as a conventional commit (conventionalcommits.org, 1.0.0)."""
    match = _HEAD.fullmatch(commit.subject)
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
    )


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


def render(plan: Plan, state: ReleaseState, changes: list[Change], range_: tuple[str, str]) -> str:
    """Return the release notes as Markdown; commit texts are escaped, never taken as markup."""
    before, after = plan.targets.repository.from_ref, plan.target_version
    needed = needed_bump(changes)
    breaking = [text for change in changes for text in change.breaking]
    lines = [f"# {plan.repo} {after}", ""]
    if plan.rehearsal:
        lines += ["> Rehearsal: made with stand-ins. It shows the procedure, not a release.", ""]
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
    lines += _section("Breaking changes", [_plain(text) for text in breaking])
    for title, kinds in (("Features", ("feat",)), ("Fixes", ("fix",)), ("Performance", ("perf",))):
        lines += _section(title, [_line(change) for change in changes if change.kind in kinds])
    shown = ("feat", "fix", "perf")
    lines += _section("Other", [_line(change) for change in changes if change.kind not in shown])
    lines += _section("Risks", [_risk(plan, state, index) for index in range(len(plan.risks))])
    lines += ["## Rollback", "", *_rollback(plan), ""]
    lines += _section("Known issues", _known_issues(plan, changes))
    lines += ["## Images", "", *(f"- `{one.name}`: `{one.image.text}`" for one in plan.services), ""]
    return "\n".join(lines)


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
