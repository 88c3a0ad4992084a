"""Runbooks, alerts, docs: the Comms Bard (A41), release notes and the messages of seed section 13.

Every message goes once to each webhook it is for, even when the conductor is killed in the middle:

1. A row for it is put into `comms/log.json` before anything is sent, with its key and its time.
2. The post passes the effects gate: intent on disk before, result after.
3. What was delivered becomes a `comms.posted.v1` in the journal, from the row, when the agent has answered.

Who takes the run up again looks at the journal and at the rows, and skips what was delivered. A message
whose outcome nobody recorded is sent again with the same key and the same time: a receiver that looks at its
key (the cockpit's own, CloudEvents' source and id, an alert's labels, a pager's dedup_key) takes it once.
Slack does not look at keys: killed between its answer and the row, it can show a message twice.

A receiver that does not answer costs its deadline and nothing else: that a message did not arrive is
recorded, shown and tried again by an APPLY without a macro, and never fails the release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents import macros, release_notes
from cockpit.agents.common import blocked, together, write_json
from cockpit.agents.macros import MACROS, Notice, notice_of
from cockpit.backends.notices import Message
from cockpit.backends.notify_shapes import speaks
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.plan.model import Webhook
from cockpit.rpc.messages import Artifact

LOG = "comms/log.json"
NOTES = "release_notes.md"
_AGAIN = "look at the receiver, then run APPLY again: nobody gets it twice"


@dataclass(frozen=True, slots=True)
class Row:
    """A message to one webhook: `name` tells it from the run's others, `macro` is what it is.

    `ok` once it was delivered, else `reason` says why not; `trace_id` is that of the last attempt.
    """

    key: str
    name: str
    macro: str
    webhook: str
    at: str
    step: int = 0
    weight: int = 0
    gate: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    trace_id: str = ""
    ok: bool = False
    reason: str = ""

    @property
    def notice(self) -> Notice:
        """Return the notice it is of."""
        return Notice(self.macro, self.step, self.weight, self.gate, self.facts)


class CommsBard(Agent):
    """A41: writes the release notes and posts each message once, even after a restart."""

    async def plan(self, context: Context) -> Outcome:
        """Show the message that would be posted, and to whom."""
        try:
            _ = context.forge, context.webhooks
        except BackendMissing as missing:
            return blocked(str(missing))
        if not context.plan.targets.webhooks:
            return blocked("targets.webhooks names no receiver")
        macro = context.request.inputs.params.get("macro")
        if macro is None:
            return Outcome(
                "ok", "APPLY posts only what did not arrive; EVIDENCE writes the notes", "run VERIFY"
            )
        if macro not in MACROS:
            return _unknown(macro)
        rows = [row for row, _, _ in _wanted(context, macro, read_log(context))]
        if not rows:
            return Outcome("ok", f"APPLY posts nothing: {macro} was posted, or is for nobody", "run APPLY")
        names = ", ".join(row.webhook for row in rows)
        return Outcome("ok", f"APPLY will post to {names}: {rows[0].text}", "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Post the message `params["macro"]` to each receiver that has not had it; without one, what is left.

        Parameters beside `macro`: `step`, `weight`, `gate` and the facts of `macros.FACTS`.
        """
        macro = context.request.inputs.params.get("macro")
        if macro is not None and macro not in MACROS:
            return _unknown(macro)
        if context.effects is None:
            raise EffectRefused("messages are only posted by APPLY", reason="capability")
        _ = context.webhooks  # BackendMissing, before anything is recorded as tried
        log = read_log(context)
        wanted = _wanted(context, macro, log) if macro is not None else _left(context, log)
        if not wanted:
            said = (
                "no message was asked for"
                if macro is None
                else f"{macro} had been posted before, or is for nobody"
            )
            return Outcome("ok", said, "run VERIFY", artifacts=(_write_log(context, log),))
        # On disk before anything goes out: whoever takes the run up again sends the same message.
        _write_log(context, _merged(log, [row for row, _, _ in wanted]))
        posted = await together(
            {f"{row.name} {row.webhook}": _post(context, row, hook, text) for row, hook, text in wanted}
        )
        rows = [row for row, _ in posted.values()]
        artifact = _write_log(context, _merged(log, rows))
        refused = next((error for _, error in posted.values() if error is not None), None)
        if refused is not None:
            raise refused
        return _posted(rows, artifact)

    async def verify(self, context: Context) -> Outcome:
        """Check that the version fits the changes, and say what did not arrive."""
        missing = [row for row in read_log(context) if not row.ok]
        undelivered = ", ".join(f"{row.name} to {row.webhook} ({row.reason})" for row in missing)
        # A receiver's trouble is no reason not to release: it is told, not judged.
        said = f"not delivered: {undelivered}" if missing else "every message so far was delivered"
        if context.step:
            return Outcome("ok", visible(said, limit=2000), _AGAIN if missing else "none")
        try:
            changes, _ = await _changes(context)
        except BackendMissing as error:
            return blocked(str(error))
        except BackendError as error:
            return blocked(f"the commit range cannot be read: {visible(str(error), limit=500)}")
        repository = context.plan.targets.repository
        problem = release_notes.bump_problem(changes, repository.from_ref, context.plan.target_version)
        if not changes:
            problem = "there is no commit in the range: nothing would be released"
        if problem:
            return Outcome("fail", problem, "name the version the changes call for")
        needed = release_notes.needed_bump(changes)
        notes = f"{len(changes)} changes call for a {needed} release; {said}"
        return Outcome("ok", visible(notes, limit=2000), _AGAIN if missing else "run EVIDENCE")

    async def rollback(self, context: Context) -> Outcome:
        """Say what can be done: a message that was posted stays posted."""
        count = sum(row.ok for row in read_log(context))
        if not count:
            return Outcome("ok", "no message was posted: nothing to take back", "none")
        return Outcome(
            "ok",
            f"{count} messages were posted and cannot be taken back",
            "post a correction: APPLY with macro=correction, of=<macro>, text=<what is so>",
        )

    async def evidence(self, context: Context) -> Outcome:
        """Write the release notes; the log of messages is as APPLY left it."""
        try:
            changes, range_ = await _changes(context)
            migrations = await _migrations(context)
        except BackendMissing as error:
            return blocked(str(error))
        except BackendError as error:
            return blocked(f"the commit range cannot be read: {visible(str(error), limit=500)}")
        text = release_notes.render(context.plan, context.state(), changes, range_, migrations)
        notes = context.artifacts.write(NOTES, text.encode("utf-8", "backslashreplace"), "report")
        log = _write_log(context, read_log(context))
        return Outcome(
            "ok", f"release notes of {len(changes)} changes written", "none", artifacts=(notes, log)
        )


def _posted(rows: list[Row], artifact: Artifact) -> Outcome:
    good = ", ".join(f"{row.name} to {row.webhook}" for row in rows if row.ok)
    bad = "; ".join(f"{row.name} to {row.webhook}: {row.reason}" for row in rows if not row.ok)
    said = "; ".join(filter(None, (f"posted {good}" if good else "", f"NOT delivered: {bad}" if bad else "")))
    return Outcome("ok", visible(said, limit=2000), _AGAIN if bad else "none", artifacts=(artifact,))


def _unknown(macro: object) -> Outcome:
    said = f"there is no message {visible(str(macro), limit=80)!r}"
    return Outcome("fail", said, f"ask for one of {', '.join(MACROS)}")


# -- what is to be posted -----------------------------------------------------------------------------

_Wanted = list[tuple[Row, Webhook, Message]]


def _wanted(context: Context, macro: str, log: list[Row]) -> _Wanted:
    """Return a macro's messages to the receivers that have not had it."""
    notice = notice_of(macro, context.request.inputs.params)
    before = {(row.name, row.webhook): row for row in log}
    found: _Wanted = []
    for hook in macros.receivers(context.plan, macro):
        known = before.get((notice.name, hook.name))
        if _was_delivered(context, known, notice.name, hook.name):
            continue
        # The first attempt says what is sent, and when it was: an event keeps its time.
        made = _message(
            context, known.notice if known else notice, hook, known.at if known else context.now()
        )
        if speaks(hook.kind, made):
            found.append((_row(made, known.notice if known else notice, hook), hook, made))
    return found


def _left(context: Context, log: list[Row]) -> _Wanted:
    """Return every message that was to be posted and did not arrive."""
    hooks = {hook.name: hook for hook in context.plan.targets.webhooks}
    found: _Wanted = []
    for row in log:
        hook = hooks.get(row.webhook)
        if (
            hook is not None
            and row.macro in MACROS
            and not _was_delivered(context, row, row.name, row.webhook)
        ):
            made = _message(context, row.notice, hook, row.at)
            found.append((_row(made, row.notice, hook), hook, made))
    return found


def _was_delivered(context: Context, row: Row | None, name: str, webhook: str) -> bool:
    # The journal first; the row knows of what was delivered just before a crash.
    return (name, webhook) in context.state().work.posted or (row is not None and row.ok)


def _message(context: Context, notice: Notice, hook: Webhook, at: str) -> Message:
    state = context.state()
    return macros.message(
        context.plan,
        state,
        notice,
        run_id=_run_id(context),
        webhook=hook.name,
        at=at,
        trace_id=context.request.trace_id,
        matters=macros.open_matters(state.work.posted, hook.name),
    )


def _row(made: Message, notice: Notice, hook: Webhook) -> Row:
    return Row(
        key=made.key,
        name=notice.name,
        macro=notice.macro,
        webhook=hook.name,
        at=made.at,
        step=notice.step,
        weight=notice.weight,
        gate=notice.gate,
        facts=dict(notice.facts),
        text=made.text,
        trace_id=made.trace_id,
        reason="not answered yet",
    )


def _run_id(context: Context) -> str:
    run = context.state().run
    return run.run_id if run is not None else context.run_dir.name


async def _post(
    context: Context, row: Row, hook: Webhook, message: Message
) -> tuple[Row, EffectRefused | None]:
    effects = context.effects
    assert effects is not None  # apply() has checked
    try:
        await effects.forward(
            "post",
            f"webhook {hook.name}: {row.name}",
            lambda: context.webhooks.send(hook, message),
            env="all",
            by=context.info.id,
            detail=row.key,
        )
    except BackendError as error:
        return replace(row, reason=visible(str(error), limit=300)), None
    except EffectRefused as error:
        # Told to the caller once the others are done: what they delivered must be known first.
        return replace(row, reason=visible(str(error), limit=300)), error
    return replace(row, ok=True, reason=""), None


# -- the log ------------------------------------------------------------------------------------------


def read_log(context: Context) -> list[Row]:
    """Return the rows of this run's message log; one that cannot be read is an empty one."""
    try:
        rows = json.loads(context.artifacts.path(LOG).read_bytes())["messages"]
        return [Row(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _merged(log: list[Row], rows: list[Row]) -> list[Row]:
    # Only the last attempt at a message stays: what counts is whether it arrived.
    new = {(row.name, row.webhook) for row in rows}
    return [*(row for row in log if (row.name, row.webhook) not in new), *rows]


def _write_log(context: Context, rows: list[Row]) -> Artifact:
    ordered = sorted(rows, key=lambda row: (row.at, row.name, row.webhook))
    return write_json(context, LOG, {"messages": [asdict(row) for row in ordered]})


async def _changes(context: Context) -> tuple[list[release_notes.Change], tuple[str, str]]:
    target = context.plan.targets.repository
    commits = await context.forge.commits(target.from_ref, target.to_ref)
    range_ = (await context.forge.resolve(target.from_ref), await context.forge.resolve(target.to_ref))
    return [release_notes.read(commit) for commit in commits], range_


async def _migrations(context: Context) -> list[str]:
    target = context.plan.targets.repository
    before, after = [await context.forge.list_at(ref) for ref in (target.from_ref, target.to_ref)]
    return release_notes.new_migrations(before, after)
