"""`cockpit step-up`: show a second factor, which counts for a few minutes."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from pathlib import Path

from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.cli.folders import find_run
from cockpit.cli.signer import plan_of_run, signer_of
from cockpit.cli.status import state_of
from cockpit.control.client import ControlClient

_WITHIN = 30.0


def main(arguments: argparse.Namespace) -> int:
    """Return 0 when the second factor holds, 1 when it does not."""
    folder = find_run(arguments.run)
    signer = signer_of(plan_of_run(folder, state_of(folder), arguments.plan), arguments)
    if arguments.device:
        answer = asyncio.run(signer.token())
    elif arguments.code:
        answer = arguments.code
    elif sys.stdin.isatty():
        answer = getpass.getpass(f"One-time password of {signer.person.id}: ")
    else:
        answer = sys.stdin.readline(100)
    if not answer.strip():
        raise UsageError("no one-time password was given")
    return asyncio.run(_show(folder, signer.person.id, answer.strip()))


async def _show(folder: Path, by: str, answer: str) -> int:
    client = ControlClient(folder, source="shell", by=by)
    try:
        await client.connect(hello=False)
        reply = await client.send("step-up", answer=answer, deadline=_WITHIN)
    finally:
        await client.close()
    if reply.ok:
        print(f"{by}: the second factor holds for five minutes")
        return 0
    print(f"cockpit: {visible(reply.text, limit=300)}", file=sys.stderr)
    return 1
