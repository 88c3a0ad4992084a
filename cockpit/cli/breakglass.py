"""`cockpit break-glass`: override a failed phase gate, signed, for a while (gates.md, reading 16)."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from datetime import timedelta
from pathlib import Path

from cockpit.base.clock import SystemClock, iso
from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.cli.approve import WITHIN
from cockpit.cli.folders import find_run
from cockpit.cli.signer import approvals_of, confirmed, plan_of_run, signer_of
from cockpit.cli.status import state_of
from cockpit.control.client import ControlClient
from cockpit.rpc.approval import SHORTEST_REASON, GlassPredicate, glass_statement

_USE_WITHIN = timedelta(minutes=10)


def main(arguments: argparse.Namespace) -> int:
    """Return 0 when it was taken (a second person may still have to sign), 1 when it was refused."""
    folder = find_run(arguments.run)
    state = state_of(folder)
    loaded = plan_of_run(folder, state, arguments.plan)
    run, policy = state.run, approvals_of(loaded).break_glass
    if run is None or policy is None:
        raise UsageError("the plan allows no break-glass", hint="it has no `approvals.break_glass`")
    gate, reason = arguments.gate, arguments.reason.strip()
    if gate not in policy.overridable:
        raise UsageError(
            f"{visible(gate, limit=40)} can not be overridden",
            hint=f"the plan lists {', '.join(policy.overridable)}",
        )
    if len(reason) < SHORTEST_REASON:
        raise UsageError(
            f"break-glass needs a reason for access of {SHORTEST_REASON} characters or more",
            hint="--reason TEXT",
        )
    failed = [one for one in state.gates if one.phase_gate == gate and one.verdict != "pass"]
    signer = signer_of(loaded, arguments)
    print(f"{run.version} to {run.environment}, run {run.run_id}")
    for one in failed:
        print(f"  failed: {gate} by {one.agent} ({one.env}): {visible(one.reason)}")
    then = (
        "once a second person has signed"
        if policy.second_person
        else f"at once, to be reviewed within {policy.review_within:g} s"
    )
    print(f"{signer.person.id} ({signer.person.identity}) overrides it for {policy.expires:g} s, {then}")
    print(f"  because: {visible(reason)}")
    if not confirmed(arguments, "Break the glass? The verdict stays what it is."):
        raise UsageError("nothing was signed")
    now = SystemClock().now()
    predicate = GlassPredicate(
        release=run.version,
        run_id=run.run_id,
        plan_sha256=run.plan_sha256,
        gate=gate,
        reason=reason,
        asker=signer.person.id,
        signed_at=iso(now),
        expires=iso(now + _USE_WITHIN),
        nonce=secrets.token_hex(16),
    )
    images = {service.name: service.image.digest for service in loaded.plan.services}
    raw = asyncio.run(signer.sign(glass_statement(predicate, images)))
    return asyncio.run(_send(folder, gate, reason, raw, signer.person.id, second=policy.second_person))


async def _send(folder: Path, gate: str, reason: str, raw: bytes, by: str, *, second: bool) -> int:
    client = ControlClient(folder, source="shell", by=by)
    try:
        await client.connect(hello=False)
        reply = await client.send(
            "break-glass", gate=gate, reason=reason, statement=raw.decode(), deadline=WITHIN
        )
    finally:
        await client.close()
    if not reply.ok:
        print(f"cockpit: break-glass is refused: {visible(reply.text, limit=500)}", file=sys.stderr)
        return 1
    print(
        f"taken: {gate} "
        + ("waits for its second person: cockpit approve --list" if second else "is overridden")
    )
    return 0
