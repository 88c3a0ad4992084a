"""`cockpit halt` and `cockpit rollback` from another shell: confirmed by their effect in the journal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendUnreachable, UsageError
from cockpit.cli.auto import watch
from cockpit.cli.folders import find_run
from cockpit.cli.launch import Signals, plan_of, start_supervisor
from cockpit.cli.status import state_of
from cockpit.control.client import ControlClient, operator
from cockpit.control.halt_file import leave_halt_request

_EFFECT_WITHIN = 30.0
"""Seconds; long enough for the supervisor to replace a conductor that does not answer."""


def main(arguments: argparse.Namespace) -> int:
    """Send the command; return 0 when its effect is recorded, 1 when it could not be confirmed."""
    folder = find_run(arguments.run)
    if (state := state_of(folder)).closed is not None:
        if arguments.command == "rollback" and state.canary.released and state.rollback is None:
            return _undo(folder, arguments.reason)
        raise UsageError(f"that run has ended: {state.closed.outcome}", where=str(folder))
    return asyncio.run(_stop(folder, arguments.command, arguments.reason, wait=arguments.wait))


async def _stop(folder: Path, kind: str, reason: str, *, wait: bool) -> int:
    client = ControlClient(folder, source="shell")
    try:
        if kind == "halt":
            leave_halt_request(folder, operator())  # even when nobody listens on the socket
        await client.connect(hello=False)
        reply = await client.send("halt" if kind == "halt" else "rollback", reason=reason)
        problem = "" if reply.ok else reply.text
    except BackendUnreachable as error:
        problem = str(error)
    finally:
        await client.close()
    clock = SystemClock()
    give_up = clock.monotonic() + _EFFECT_WITHIN
    while clock.monotonic() < give_up:
        state = state_of(folder)
        if kind == "halt" and state.halt is not None and (state.halt.active or state.rollback):
            print(f"HALT is in force since {state.halt.at}: nothing forward goes out")
            return 0
        if kind == "rollback" and state.rollback is not None:
            settled = state.rollback.status != "running"
            if settled or not wait:
                print(f"rollback {state.rollback.status}")
                return 0 if state.rollback.status != "unfinished" else 1
            give_up = clock.monotonic() + _EFFECT_WITHIN
        elif state.closed is not None:
            problem = f"the run has ended: {state.closed.outcome}"
            break
        await clock.sleep(0.1)
    print(f"cockpit: {kind} is not confirmed: {problem or 'no effect was recorded'}", file=sys.stderr)
    rollback = state_of(folder).rollback
    for command in rollback.fallback if rollback is not None else ():
        print(f"  {command}", file=sys.stderr)
    return 1


def _undo(folder: Path, reason: str) -> int:
    """Roll back a release that is out, in another sitting of its run: stable gets its images back."""
    if not reason.strip():
        raise UsageError(
            "rolling back a release that is out needs a reason", where=str(folder), hint="--reason TEXT"
        )
    plan = plan_of(folder)
    signals = Signals()
    supervisor = signals.start(
        lambda: start_supervisor(plan, folder, auto=True, sitting="rollback", reason=reason)
    )
    return watch(folder, supervisor, "text")
