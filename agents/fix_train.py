"""The fix train after a hard stop (seed section 8): a hotfix issue, and the next window that can take it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.cab_messages import FIX_TRAIN, Log, Reminder, about, span
from cockpit.backends.notices import Part
from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import BackendError, BackendRefused
from cockpit.base.markdown import escaped
from cockpit.base.text import visible
from cockpit.rpc.messages import Links
from cockpit.verdicts.calendar import next_window

_KIND: Literal["fix_train"] = "fix_train"
_HORIZON = timedelta(days=366)
_LABELS = ("type:fix", "hotfix", "risk:high")


def cause(context: Context) -> str:
    """Return why a fix train is asked for (`params["fix_train"]`, a text or `{"cause": …}`), or nothing."""
    asked = context.request.inputs.params.get("fix_train")
    if isinstance(asked, dict):
        asked = asked.get("cause") or asked.get("reason") or "the release was stopped"
    return visible(str(asked), limit=500) if asked else ""


def title(context: Context) -> str:
    """Return the title of the hotfix issue."""
    return visible(
        f"Hotfix for {context.plan.repo} {context.plan.target_version}: {cause(context)}", limit=200
    )


def window_text(window: tuple[datetime, datetime] | None) -> str:
    """Return the next window in words."""
    if window is None:
        return "no further window: the plan's calendar knows none, so the plan of the fix must name one"
    return f"the window {span(*window)}"


def window_of(context: Context) -> tuple[datetime, datetime] | None:
    """Return the next window that can take a fix."""
    return next_window(context.plan, context.clock.now(), _HORIZON)


async def schedule(context: Context, log: Log) -> tuple[Links, str]:
    """File the issue and set the window; return the link, and why the issue could not be filed."""
    window = window_of(context)
    log.window = (iso(window[0]), iso(window[1])) if window is not None else ("", "")
    key, said = _key(context), title(context)
    version, run = escaped(context.plan.target_version), escaped(about(context).run_id)
    lines = (
        f"Release {version} (run {run}) was stopped.",
        f"Cause: {escaped(cause(context), limit=2000)}",
        f"Next: {window_text(window)}.",
    )
    effects = context.effects
    assert effects is not None  # APPLY has checked
    try:
        filed = await effects.forward(
            "file",
            f"issue {key}",
            lambda: context.issue_tracker.file_once(_KIND, key, said, "\n\n".join(lines), _LABELS),
            env="all",
            by=context.info.id,
            detail=said,
        )
    except BackendMissing as missing:
        return Links(), str(missing)
    except BackendError as error:
        return Links(), visible(f"the hotfix issue was not filed: {error}", limit=500)
    log.issue = {
        "number": filed.number,
        "url": filed.url,
        "title": said,
        "key": key,
        "known": filed.known,
        "trace_id": context.request.trace_id,
    }
    log.withdrawn = False
    return Links(runs=[filed.url]), filed.problem


def reminder(context: Context, log: Log) -> Reminder:
    """Return the message that tells the board of it."""
    start, end = log.window
    window = (parse_iso(start), parse_iso(end)) if start and end else None
    parts = (
        Part("Fix train for "),
        Part(context.plan.target_version, "code"),
        Part(f": {window_text(window)}. Issue: "),
        Part(str(log.issue.get("url", "")) or "not filed yet", "outside"),
        Part(". Cause: "),
        Part(cause(context), "outside"),
    )
    return Reminder(f"cab.{FIX_TRAIN}", parts)


async def withdraw(context: Context, log: Log) -> list[str]:
    """Close the issue with a comment that says why, then look whether it is closed; return what is wrong."""
    number = log.issue.get("number")
    if not isinstance(number, int) or number < 1:
        return []
    effects = context.effects
    assert effects is not None  # ROLLBACK has checked

    async def close() -> None:
        tracker = context.issue_tracker
        await tracker.comment_once(number, f"{_key(context)}:withdrawn", "The fix train was withdrawn.")
        await tracker.close(number, reason="not_planned")

    try:
        await effects.forward("close", f"issue {number}", close, env="all", by=context.info.id)
        closed = (await context.issues.get(number)).state == "closed"
    except (BackendMissing, BackendError) as error:
        return [visible(f"issue {number} was not closed: {error}", limit=500)]
    if not closed:
        return [f"issue {number} is still open"]
    log.window = ("", "")
    return []


async def problems(context: Context) -> list[str]:
    """Look at the issue again: return what is wrong with it; raises BackendError, BackendMissing."""
    filed = [one for one in context.state().work.issues if one.kind == FIX_TRAIN]
    if not filed:
        return []
    number = filed[-1].number
    try:
        issue = await context.issues.get(number)
    except BackendRefused as error:
        if error.status != 404:
            raise
        return [f"the fix train's issue {number} is gone"]
    return [] if issue.key == filed[-1].key else [f"issue {number} is not the one that was filed"]


def _key(context: Context) -> str:
    return f"fix-train:{about(context).run_id}"
