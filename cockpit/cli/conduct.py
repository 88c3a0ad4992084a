"""The conductor process, as the supervisor starts it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from types import FrameType

from cockpit.base.errors import CockpitError
from cockpit.supervisor import SIGNALS

_early = 0


def _count(number: int, frame: FrameType | None) -> None:
    global _early
    _early += 1


def main(arguments: argparse.Namespace) -> int:
    """Run the conductor of one run folder."""
    # Before anything heavy is loaded: a signal in the first second must become an abort, not a dead process.
    for number in SIGNALS:
        signal.signal(number, _count)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    from cockpit.process import conduct

    try:
        return asyncio.run(
            conduct(
                arguments.plan,
                arguments.run,
                unattended=arguments.auto,
                resume=arguments.resume,
                sitting=arguments.sitting,
                closed_at=arguments.closed_at,
                told=arguments.told,
                reason=arguments.reason,
                takeover=arguments.takeover,
                signalled=lambda: _early,
            )
        )
    except CockpitError as error:
        print(f"conductor: {error}", file=sys.stderr)
        return 70
