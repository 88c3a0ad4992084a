"""Reliability economics: the Feature Flag Butler (A55), ramp, GA flip and kill switch of the plan's flags.

What is asked of APPLY is in its parameters: `{"ramp": weight}` after a canary step gives the flags to as many
pilot tenants as the weight is a share of them, and to nobody else (gates.md, reading 6); `{"flip": true}` in
P8 drills the kill switch and then gives them to everybody; `{"drill": true}` only drills.
"""

from __future__ import annotations

import json
from typing import Any

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context, Effects
from cockpit.agents.common import blocked, fail_unmeasured, judge, query, reason_of, recorded, summary, vouch
from cockpit.agents.flag_audit import Audit
from cockpit.agents.flag_changes import (
    PROBES,
    SAMPLE,
    Refused,
    change,
    drill,
    end_drill,
    tenants_of,
    touched,
)
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.rpc.messages import GateVerdict, Query
from cockpit.verdicts.flag_definitions import (
    ALL,
    OFF,
    Scope,
    definition_of,
    expired,
    hygiene,
    read_catalogue,
    scope_of,
)
from cockpit.verdicts.rules.flags import PROVING, unproven_of

RULE = "flag_scopes"


class FlagButler(Agent):
    """A55: keeps the flag catalogue, ramps flags to pilot tenants, flips them for GA, drills the switch."""

    async def plan(self, context: Context) -> Outcome:
        """Show who sees each flag now and who would after APPLY."""
        try:
            file = await context.flags.read()
            wanted = _wanted(context)
            document = _document(file.text)
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return blocked(refused.what)
        problems = hygiene(document, context.plan.ga_flags, context.clock.now())
        if problems:
            return Outcome("fail", visible("; ".join(problems), limit=2000), "mend the flag definitions")
        lines = []
        for flag in context.plan.ga_flags:
            now = scope_of(definition_of(document, flag))
            lines.append(f"{flag}: {now} → {wanted}" if wanted and wanted != now else f"{flag}: {now} stays")
        stale = [flag for flag in expired(document, context.clock.now()) if flag not in context.plan.ga_flags]
        if stale:
            lines.append(f"expired in the catalogue: {', '.join(stale)}")
        if wanted and (unproven := _unproven(context)):
            if not _waiver(context):
                return blocked(_refusal(unproven))
            lines.append(f"dashboards and alerts of {', '.join(unproven)} are not verified, which is waived")
        return Outcome("ok", visible("; ".join(lines), limit=4000), "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Ramp, flip or drill as the parameters say; nothing without them."""
        effects = _effects(context)
        drilling = bool(_params(context).get("flip") or _params(context).get("drill"))
        try:
            wanted = _wanted(context)
            if wanted is None and not drilling:
                return Outcome("ok", _nothing(context), "run VERIFY")
            if wanted is not None:
                await self._may(context)
            audit = Audit.read(context)
        except BackendMissing as missing:
            return blocked(str(missing))
        except Refused as refused:
            return Outcome("blocked", refused.what, refused.next)
        said = []
        try:
            if drilling:
                row = await drill(context, effects, audit)
                said.append(f"kill switch: {row['reason']}")
                if not row["passed"]:
                    raise Refused("it did not hold", "mend it before any flag is flipped")
            for flag in context.plan.ga_flags if wanted is not None else ():
                said.append(await change(context, effects, audit, flag, wanted or OFF))
        except (Refused, BackendError) as error:
            # What was changed before stays on record with it.
            following = error.next if isinstance(error, Refused) else "run VERIFY, or ROLLBACK"
            said.append(visible(str(error), limit=1000))
            artifact = audit.write(context)
            return Outcome("fail", visible("; ".join(said), limit=4000), following, artifacts=(artifact,))
        artifact = audit.write(context)
        return Outcome("ok", visible("; ".join(said), limit=4000), "run VERIFY", artifacts=(artifact,))

    async def verify(self, context: Context) -> Outcome:
        """Ask the service what pilot tenants and outsiders see, and hold it to what was set."""
        try:
            _ = context.flags
            if not context.plan.ga_flags:
                return blocked("the plan names no flag (`ga_flags`)")
            audit = Audit.read(context)
            verdict = await _judged(context, audit)
        except BackendMissing as missing:
            return blocked(str(missing))
        except BackendError as error:
            verdict = await fail_unmeasured(context, "policy", "authz", error)
            said = f"the flags could not be measured: {visible(str(error), limit=500)}"
            return Outcome(
                "fail", said, "look at the flag service, then run VERIFY again", verdicts=(verdict,)
            )
        audit.more = {
            "looked_at": context.now(),
            "step": context.step,
            "proof": _proof(context),
            "verdict": summary(verdict),
        }
        artifact = audit.write(context)
        passed = verdict.verdict == "pass"
        return Outcome(
            "ok" if passed else "fail",
            reason_of((verdict,)),
            "EVIDENCE, then go on" if passed else "run ROLLBACK, or set the flags right and run VERIFY again",
            artifacts=(artifact,),
            verdicts=(verdict,),
        )

    async def rollback(self, context: Context) -> Outcome:
        """Give every flag that was touched what it had before, and look whether the service says so."""
        effects = _effects(context)
        try:
            audit = Audit.read(context)
            flags = touched(audit)
            cut = [row for row in audit.drills if row.get("done") is not True]
            if not flags and not cut:
                return Outcome("ok", "no flag was changed: nothing to restore", "none")
            said, open_ = [], []
            for row in cut:
                try:
                    await end_drill(context, effects, row)
                    said.append("the drill's flag is as before")
                except (Refused, BackendError) as error:
                    open_.append(f"the drill's flag: {visible(str(error), limit=300)}")
            for flag in flags:
                try:
                    said.append(await change(context, effects, audit, flag, None))
                except (Refused, BackendError) as error:
                    open_.append(f"{flag}: {visible(str(error), limit=300)}")
        except BackendMissing as missing:
            return blocked(str(missing))
        artifact = audit.write(context)
        if open_:
            text = visible(f"not restored: {'; '.join(open_)}", limit=4000)
            return Outcome("fail", text, "set these flags by hand, then run VERIFY", artifacts=(artifact,))
        return Outcome("ok", visible("; ".join(said), limit=4000), "none", artifacts=(artifact,))

    async def evidence(self, context: Context) -> Outcome:
        """Name the audit, after reading it again."""
        return vouch(context, recorded(context))

    async def _may(self, context: Context) -> None:
        """Raise Refused for a change that must not be made now."""
        document = _document((await context.flags.read()).text)
        problems = hygiene(document, context.plan.ga_flags, context.clock.now())
        if problems:
            raise Refused("; ".join(problems), "mend the flag definitions")
        unproven = _unproven(context)
        if unproven and not _waiver(context):
            raise Refused(_refusal(unproven))


def _effects(context: Context) -> Effects:
    if context.effects is None:
        raise EffectRefused("flags are only changed by APPLY and ROLLBACK", reason="capability")
    return context.effects


def _params(context: Context) -> dict[str, Any]:
    return context.request.inputs.params


def _nothing(context: Context) -> str:
    if "ramp" in _params(context) and not context.plan.auto_ramp_flags:
        return "auto_ramp_flags is off: the flags stay as they are until the flip"
    return "neither a ramp nor a flip was asked for: the flags stay as they are"


def _wanted(context: Context) -> Scope | None:
    """Return who is to see the GA flags after APPLY, None for no change; raises Refused."""
    plan, params = context.plan, _params(context)
    if not plan.ga_flags:
        raise Refused("the plan names no flag (`ga_flags`)")
    if params.get("flip"):
        # Reading 6: the flip is in P8, after P7, when the release is out.
        if context.request.phase != "P8" or not context.state().canary.released:
            raise Refused("the GA flip is in P8, of a release that is out")
        return ALL
    weight = params.get("ramp")
    if weight is None or not plan.auto_ramp_flags:
        return None
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 100:
        raise Refused("`ramp` is the weight of a canary step, 1 to 100")
    if not plan.pilot_tenants:
        raise Refused("the plan names no pilot tenants: in the canary nobody else may see a flag")
    # A share of the pilot tenants, in the plan's order; the first one from the first step on.
    count = -(-len(plan.pilot_tenants) * weight // 100)
    return Scope("pilot", tuple(plan.pilot_tenants[:count]))


def _document(text: str) -> dict[str, Any]:
    try:
        return read_catalogue(text)
    except ValueError as error:
        raise Refused(str(error), "mend the flag definitions") from None


# -- proof of dashboards and alerts -------------------------------------------------------------------


def _proof(context: Context) -> dict[str, Any]:
    """Return which flags' dashboards and alerts were verified by whom, and the waiver of it if any."""
    rows = []
    for gate in context.state().gates:
        if gate.agent in PROVING and gate.verdict == "pass":
            named = [f for f in context.plan.ga_flags if gate.metrics.get(f"flag_{f}") is True]
            rows.append({"agent": gate.agent, "gate": gate.phase_gate, "flags": named, "at": gate.at})
    return {"verdicts": rows, "waiver": _waiver(context)}


def _waiver(context: Context) -> dict[str, str] | None:
    for one in context.plan.waivers:
        if one.what == "flag-proof":
            return {"owner": one.owner, "reason": one.reason}
    return None


def _unproven(context: Context) -> list[str]:
    return unproven_of(_proof(context), list(context.plan.ga_flags))


def _refusal(flags: list[str]) -> str:
    return (
        f"dashboards (A13) and alerts (A39) of {', '.join(flags)} are not verified: they must be there "
        "before a flag is shown; or the plan waives `flag-proof`, with owner and reason"
    )


# -- judging ------------------------------------------------------------------------------------------


async def _judged(context: Context, audit: Audit) -> GateVerdict:
    """Ask about every flag and judge; a flag this release has not set is held to its own definition."""
    file = await context.flags.read()
    flags: dict[str, dict[str, Any]] = {}
    answers, queries = {"catalogue": file.text.encode()}, {}
    queries["catalogue"] = query(context, "the flag definitions", "kubernetes", samples=1)
    for flag in context.plan.ga_flags:
        scope = audit.scope_set(flag) or _defined(file.text, flag)
        on, off = tenants_of(scope, context.plan.pilot_tenants) if scope else ((), PROBES)
        sampled = SAMPLE if scope is not None and scope.kind == "share" else ()
        rows = await context.flags.evaluate(flag, (*on, *off, *sampled))
        answers[f"seen.{flag}"] = json.dumps(
            {
                "rows": [
                    {"tenant": one.tenant, "status": one.status, "body": one.body.decode("utf-8", "replace")}
                    for one in rows
                ]
            },
            sort_keys=True,
        ).encode()
        text = f"POST /ofrep/v1/evaluate/flags/{flag} for {len(rows)} tenants"
        queries[f"seen.{flag}"] = query(context, text, "http", samples=len(rows))
        shown = audit.scope_set(flag) not in (None, OFF, audit.original(flag))
        flags[flag] = {"scope": str(scope), "on": list(on), "off": list(off), "shown": shown}
        if scope is not None and sampled:
            flags[flag] |= {"sampled": list(sampled), "percent": scope.percent}
    answers["proof"] = json.dumps(_proof(context), sort_keys=True).encode()
    queries["proof"] = query(context, f"verdicts of {' and '.join(PROVING)}", "journal")
    params: dict[str, Any] = {"flags": flags, "now": context.clock.now().timestamp()}
    if any(audit.scope_set(flag) == ALL for flag in flags):
        # Nothing is given to everybody without a switch that was seen to work.
        assert context.plan.targets.flags is not None
        params["kill_bound_ms"] = context.plan.targets.flags.settle * 1000
        last = audit.drills[-1] if audit.drills else {"passed": False, "reason": "it was not drilled"}
        answers["drill"] = json.dumps(last, sort_keys=True).encode()
        queries["drill"] = Query(text="the last drill", backend="journal", asked_at=context.now())
    return await judge(context, "policy", "authz", RULE, answers, params, queries)


def _defined(text: str, flag: str) -> Scope | None:
    try:
        return scope_of(definition_of(read_catalogue(text), flag))
    except ValueError:
        return None  # the rule reads the same text, and says what is wrong with it
