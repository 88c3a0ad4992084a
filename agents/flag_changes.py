"""Changing a flag: read, record what it was, write under the fence, wait until the service says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cockpit.agentkit.context import Context, Effects
from cockpit.agents.flag_audit import Audit
from cockpit.base.errors import BackendError, BackendGarbage, Conflict
from cockpit.base.text import visible
from cockpit.verdicts.flag_definitions import (
    ALL,
    OFF,
    Definition,
    Scope,
    definition_of,
    read_catalogue,
    scope_of,
    with_scope,
    write_catalogue,
)
from cockpit.verdicts.rules.flags import value_of
from cockpit.verdicts.rules.reading import Trouble

PROBES = ("cockpit-probe-1", "cockpit-probe-2", "cockpit-probe-3")
"""Tenants that do not exist: they stand for everybody who is no pilot tenant."""

SAMPLE = tuple(f"cockpit-probe-{number}" for number in range(1, 101))
"""Tenants a share is measured with."""

DRILL_FLAG = "release-cockpit-kill-switch-drill"
"""The flag of the kill-switch drill: no code asks for it, so that switching it concerns nobody."""

_PAUSE = 0.02


class Refused(Exception):
    """A change that must not be made, or that the service does not show; `next` is what to do about it."""

    def __init__(self, what: str, following: str = "configure it, then run it again") -> None:
        super().__init__(what)
        self.what = visible(what, limit=2000)
        self.next = following


def tenants_of(scope: Scope, pilots: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who must see a flag of this scope and who must not, of pilot tenants and probes.

    Of a share only its named tenants are sure.
    """
    everybody = (*pilots, *PROBES)
    if scope == ALL:
        return everybody, ()
    if scope == OFF:
        return (), everybody
    others = tuple(one for one in everybody if one not in scope.tenants)
    return scope.tenants, () if scope.kind == "share" else others


def touched(audit: Audit) -> list[str]:
    """Return the flags this release changed, or may have, and has not restored."""
    return [flag for flag, row in audit.originals.items() if not row.get("restored")]


async def change(context: Context, effects: Effects, audit: Audit, flag: str, scope: Scope | None) -> str:
    """Give a flag a scope, None for what it had before this release; return what was done, in a sentence.

    Raises Refused for a flag that must not be touched and for a change the service does not show in time.
    """
    current = _definition((await context.flags.read()).text, flag)
    was = scope_of(current)
    wanted = _original(audit, flag, current) if scope is None else with_scope(current, scope)
    if scope is not None and was is None:
        raise Refused(f"{flag}: its targeting is not the cockpit's and would be lost")
    now = scope_of(wanted)
    if scope is None and was == OFF and now != OFF:
        # Somebody switched it off in the meantime: what is off stays off.
        _settled(audit, flag)
        return f"{flag}: was switched off by somebody, and stays off"
    row: dict[str, Any] = {
        "flag": flag,
        "was": str(was),
        "now": str(now),
        "scope": now.short if now is not None else "as before",
        "by": context.info.id,
        "at": context.now(),
        "phase": context.request.phase,
        "step": context.step,
        "op": context.request.op,
        "fence": context.state().fence,
        "seen_ms": None,
        "done": False,
        "trace_id": context.request.trace_id,
    }
    if scope is not None and was is not None:
        audit.remember(flag, current, was, context.now())
        audit.originals[flag].pop("restored", None)
    if wanted != current:
        audit.changes.append(row)
        audit.save(context)  # before it happens: a ROLLBACK must know what to restore
        started = context.clock.monotonic()
        await _set(context, effects, flag, current, wanted, f"{flag}: {was} → {now}")
        row["done"] = True
    if scope is not None:
        audit.set[flag] = {"definition": wanted, "scope": scope.document()}
    audit.save(context)
    if wanted != current:
        row["seen_ms"] = await _until_seen(context, flag, now, started)
    if scope is None:
        _settled(audit, flag)
    if wanted == current:
        return f"{flag}: {now} already"
    return f"{flag}: {was} → {now}, seen after {row['seen_ms']:.0f} ms"


async def drill(context: Context, effects: Effects, audit: Audit) -> dict[str, Any]:
    """Drill the kill switch on a flag of its own: on for all, off, and as it was; return the drill's row.

    Measured is the time from sending the switch to the service saying off to everybody asked.
    """
    pilots = context.plan.pilot_tenants
    row: dict[str, Any] = {
        "drill": DRILL_FLAG,
        "env": "prod",
        "passed": False,
        "kill_ms": None,
        "asked": len((*pilots, *PROBES)),
        "at": context.now(),
        "reason": "",
        "before": await _drill_flag(context),
        "done": False,
        "trace_id": context.request.trace_id,
    }
    audit.drills.append(row)
    audit.save(context)
    base = _drill_definition(context)
    on, off = with_scope(base, ALL), with_scope(base, OFF)
    try:
        await _set(context, effects, DRILL_FLAG, row["before"], on, f"{DRILL_FLAG}: on", verb="drill")
        await _until_seen(context, DRILL_FLAG, ALL, context.clock.monotonic())
        started = context.clock.monotonic()
        await _set(context, effects, DRILL_FLAG, on, off, f"{DRILL_FLAG}: kill", verb="drill")
        row["kill_ms"] = await _until_seen(context, DRILL_FLAG, OFF, started)
        row["passed"] = True
        row["reason"] = f"off for {row['asked']} tenants after {row['kill_ms']:.0f} ms"
    except (Refused, BackendError) as error:
        row["reason"] = visible(str(error), limit=500)
    try:
        await end_drill(context, effects, row)
    except (Refused, BackendError) as error:
        row["passed"] = False
        row["reason"] = visible(f"{row['reason']}; the drill's flag was not put back: {error}", limit=500)
    audit.save(context)
    return row


async def end_drill(context: Context, effects: Effects, row: dict[str, Any]) -> None:
    """Put the drill's flag back to what it was before; `row` is the drill's."""
    now = await _drill_flag(context)
    if now != row["before"]:
        said = f"{DRILL_FLAG}: as before"
        await _set(context, effects, DRILL_FLAG, now, row["before"], said, verb="drill")
    row["done"] = True


async def _drill_flag(context: Context) -> Definition | None:
    try:
        found: Definition | None = read_catalogue((await context.flags.read()).text)["flags"].get(DRILL_FLAG)
    except ValueError as error:
        raise Refused(str(error), "mend the flag definitions") from None
    return found


def _drill_definition(context: Context) -> Definition:
    return {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "metadata": {"owner": context.plan.oncall[0], "purpose": "kill-switch drill; no code asks for it"},
    }


def _definition(text: str, flag: str) -> Definition:
    try:
        return definition_of(read_catalogue(text), flag)
    except ValueError as error:
        raise Refused(str(error), "mend the flag definitions") from None


def _original(audit: Audit, flag: str, current: Definition) -> Definition:
    """Return what a flag was; only who sees it is restored, not what else was changed in it since."""
    before: Definition = audit.originals[flag]["definition"]
    restored = {**current, "state": before["state"], "defaultVariant": before["defaultVariant"]}
    restored.pop("targeting", None)
    if "targeting" in before:
        restored["targeting"] = before["targeting"]
    return restored


def _settled(audit: Audit, flag: str) -> None:
    audit.originals[flag]["restored"] = True
    audit.set.pop(flag, None)


async def _set(
    context: Context,
    effects: Effects,
    flag: str,
    current: Definition | None,
    definition: Definition | None,
    said: str,
    *,
    verb: str = "flip",
) -> None:
    """Write a definition (None: no flag) in the place of the one read before, through the effects.

    Raises Conflict when somebody else changed the flag in between.
    """
    fence = context.state().fence

    def edit(text: str) -> str:
        try:
            document = read_catalogue(text)
        except ValueError as error:
            raise BackendGarbage(str(error)) from None
        found = document["flags"].get(flag)
        if found == definition:
            return text
        if found != current:
            raise Conflict(f"{flag} was changed by somebody else since it was read")
        if definition is None:
            document["flags"].pop(flag)
        else:
            document["flags"][flag] = definition
        return write_catalogue(document)

    async def act() -> None:
        await context.flag_writer.change(edit, fence=fence)

    await effects.forward(verb, f"flag {said}", act, env="prod", by=context.info.id, detail=f"fence {fence}")


async def _until_seen(context: Context, flag: str, scope: Scope | None, started: float) -> float:
    """Wait until the service shows a scope; return the milliseconds since `started`. Raises Refused."""
    target = context.plan.targets.flags
    assert target is not None  # there is a handle, so there is a target
    on, off = tenants_of(scope, context.plan.pilot_tenants) if scope is not None else ((), ())
    while True:
        said = await _not_yet(context, flag, on, off)
        took = context.clock.monotonic() - started
        if not said:
            return round(took * 1000, 3)
        if took > target.settle:
            raise Refused(
                f"{flag}: set to {scope}, and after {target.settle:g} s the service does not show it: {said}",
                "look at the flag service, or run ROLLBACK",
            )
        await context.clock.sleep(_PAUSE)


async def _not_yet(context: Context, flag: str, on: Sequence[str], off: Sequence[str]) -> str:
    """Return who does not see what they should; empty when everybody does."""
    try:
        rows = await context.flags.evaluate(flag, (*on, *off))
        for row in rows:
            if value_of(row.status, row.body.decode("utf-8", "replace"), flag) is not (row.tenant in on):
                return f"{row.tenant} {'does not see' if row.tenant in on else 'still sees'} it"
    except (BackendError, Trouble) as error:
        return visible(str(error), limit=300)
    return ""
