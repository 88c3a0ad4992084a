"""The conductor process, as the supervisor starts it."""

from __future__ import annotations

import argparse
import asyncio
import sys

from cockpit.base.errors import CockpitError


def main(arguments: argparse.Namespace) -> int:
    """Run the conductor of one run folder."""
    from cockpit.base.files import write_private
    from cockpit.supervisor import EXIT
    from cockpit.wiring import conduct

    try:
        return asyncio.run(
            conduct(arguments.plan, arguments.run, unattended=arguments.auto, resume=arguments.resume)
        )
    except CockpitError as error:
        # Nothing was begun that a restart could finish: say so, and do not come back.
        print(f"conductor: {error}", file=sys.stderr)
        write_private(arguments.run / EXIT, b"70")
        return 70
