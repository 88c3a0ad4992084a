"""Runbooks, alerts, docs: the Comms Bard (A41), release notes and the messages of seed section 13."""

from __future__ import annotations

import json
from typing import Any

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents import release_notes
from cockpit.agents.common import blocked, together, write_json
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.plan.model import Plan, Webhook
from cockpit.rpc.messages import Artifact

LOG = "comms/log.json"
NOTES = "release_notes.md"
MACROS = ("start", "breach", "ga")

_TITLES = {
    "slo": "SLO",
    "perf": "Perf",
    "supply_chain": "SupplyChain",
    "migrations": "Migrations",
    "policy": "Policy",
    "dr": "DR",
}


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
        names = ", ".join(one.name for one in context.plan.targets.webhooks)
        if macro is None:
            return Outcome("ok", "APPLY posts nothing; EVIDENCE writes the release notes", "run VERIFY")
        if macro not in MACROS:
            return _unknown(macro)
        return Outcome("ok", f"APPLY will post to {names}: {text_of(context, macro)}", "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Post the message `params["macro"]` to every receiver that has not had it."""
        macro = context.request.inputs.params.get("macro")
        if macro is None:
            return Outcome("ok", "no message was asked for", "run VERIFY")
        if macro not in MACROS:
            return _unknown(macro)
        if context.effects is None:
            raise EffectRefused("messages are only posted by APPLY", reason="capability")
        log = read_log(context)
        key = key_of(context, macro)
        text = text_of(context, macro)
        had = {row["webhook"] for row in log if row["key"] == key and row["ok"]}
        waiting = [one for one in context.plan.targets.webhooks if one.name not in had]
        posted = await together({one.name: _post(context, one, macro, text, key) for one in waiting})
        # Only the last attempt at a message stays: what counts is whether it arrived.
        kept = [row for row in log if row["key"] != key or row["webhook"] not in posted]
        artifact = _write_log(context, [*kept, *posted.values()])
        failed = [f"{row['webhook']}: {row['reason']}" for row in posted.values() if not row["ok"]]
        if failed:
            return Outcome(
                "blocked",
                visible(f"the {macro} message was not delivered: {'; '.join(failed)}", limit=2000),
                "look at the receiver, then run APPLY again: nobody gets it twice",
                artifacts=(artifact,),
            )
        said = f"{macro} posted to {', '.join(posted)}" if posted else f"{macro} had been posted before"
        return Outcome("ok", said, "none", artifacts=(artifact,))

    async def verify(self, context: Context) -> Outcome:
        """Check that every message arrived and that the version fits the changes."""
        missing = [row for row in read_log(context) if not row["ok"]]
        if missing:
            names = ", ".join(f"{row['macro']} to {row['webhook']}" for row in missing)
            return Outcome("fail", f"not delivered: {names}", "run APPLY again")
        if context.step:
            return Outcome("ok", "every message so far was delivered", "none")
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
        return Outcome("ok", f"{len(changes)} changes call for a {needed} release", "run EVIDENCE")

    async def rollback(self, context: Context) -> Outcome:
        """Say what can be done: a message that was posted stays posted."""
        count = sum(row["ok"] for row in read_log(context))
        if not count:
            return Outcome("ok", "no message was posted: nothing to take back", "none")
        return Outcome(
            "ok", f"{count} messages were posted and cannot be taken back", "the breach message corrects them"
        )

    async def evidence(self, context: Context) -> Outcome:
        """Write the release notes; the log of messages is as APPLY left it."""
        try:
            changes, range_ = await _changes(context)
        except BackendMissing as error:
            return blocked(str(error))
        except BackendError as error:
            return blocked(f"the commit range cannot be read: {visible(str(error), limit=500)}")
        text = release_notes.render(context.plan, context.state(), changes, range_)
        notes = context.artifacts.write(NOTES, text.encode("utf-8", "backslashreplace"), "report")
        log = _write_log(context, read_log(context))
        return Outcome(
            "ok", f"release notes of {len(changes)} changes written", "none", artifacts=(notes, log)
        )


def _unknown(macro: object) -> Outcome:
    said = f"there is no message {visible(str(macro), limit=80)!r}"
    return Outcome("fail", said, f"ask for one of {', '.join(MACROS)}")


def key_of(context: Context, macro: str) -> str:
    """Return the idempotency key of a message: one a run, and for a breach one a step."""
    run = context.state().run
    parts = [run.run_id if run is not None else context.run_dir.name, macro]
    if macro == "breach":
        parts.append(str(context.step))
    return ":".join(parts)


def text_of(context: Context, macro: str) -> str:
    """Return a message of seed section 13, filled in."""
    plan, params = context.plan, context.request.inputs.params
    if macro == "start":
        gates = "/".join(_TITLES[gate] for gate in plan.required_gates)
        return (
            f"Cutting `{plan.target_version}` — stage canary. Gates: {gates}. Evidence to follow. "
            f"On-call: {','.join(plan.oncall)}."
        )
    if macro == "breach":
        step = visible(str(params.get("weight", context.step)), limit=10)
        gate = visible(str(params.get("gate", "unknown")), limit=100)
        return f"Canary breach at **{step}%** — **auto-rollback**. Gate: {gate}. Evidence + traces attached."
    return f"**{plan.target_version}** at 100%. {_flags(plan)} Evidence attached; {_kpi(plan)}."


def _flags(plan: Plan) -> str:
    flags = ",".join(plan.ga_flags)
    # The message must not say more than this run does.
    flips = "P8" in plan.phases and "A55" in plan.agents
    return f"GA flags flipped: {flags}." if flips else f"GA flags not flipped by this run: {flags}."


def _kpi(plan: Plan) -> str:
    scheduled = "P8" in plan.phases and "A43" in plan.agents
    return "+24h KPI scheduled" if scheduled else "+24h KPI not part of this run"


def read_log(context: Context) -> list[dict[str, Any]]:
    """Return the rows of this run's message log; one that cannot be read is an empty one."""
    try:
        rows = json.loads(context.artifacts.path(LOG).read_bytes())["messages"]
        return [row for row in rows if isinstance(row, dict) and {"key", "webhook", "ok"} <= row.keys()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write_log(context: Context, rows: list[dict[str, Any]]) -> Artifact:
    return write_json(context, LOG, {"messages": sorted(rows, key=lambda row: (row["at"], row["webhook"]))})


async def _post(context: Context, webhook: Webhook, macro: str, text: str, key: str) -> dict[str, Any]:
    params = context.request.inputs.params
    payload = {
        "kind": macro,
        "text": text,
        "version": context.plan.target_version,
        "repo": context.plan.repo,
        "rehearsal": context.plan.rehearsal,
        "step": context.step,
        "weight": params.get("weight", 0),
        "gate": visible(str(params.get("gate", "")), limit=100),
        "trace_id": context.request.trace_id,
    }
    row: dict[str, Any] = {
        "key": key,
        "macro": macro,
        "webhook": webhook.name,
        "text": text,
        "step": context.step,
        "at": context.now(),
        "trace_id": context.request.trace_id,
        "ok": False,
        "reason": "",
    }
    effects = context.effects
    assert effects is not None  # apply() has checked
    try:
        await effects.forward(
            "post",
            f"webhook {webhook.name}: {macro}",
            # The same key at each attempt: a receiver that had it drops it.
            lambda: context.webhooks.post(webhook.url, macro, payload, key=key),
            env="all",
            by=context.info.id,
            detail=key,
        )
    except BackendError as error:
        return {**row, "reason": visible(str(error), limit=300)}
    return {**row, "ok": True}


async def _changes(context: Context) -> tuple[list[release_notes.Change], tuple[str, str]]:
    target = context.plan.targets.repository
    commits = await context.forge.commits(target.from_ref, target.to_ref)
    range_ = (await context.forge.resolve(target.from_ref), await context.forge.resolve(target.to_ref))
    return [release_notes.read(commit) for commit in commits], range_
