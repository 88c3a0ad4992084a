"""`python -m cockpit.rehearsal.real`: says, as JSON, what a command has to be put behind to use real servers.

`{"enter": […]}` leads into a network namespace and is empty within one. Exit code 64, with what is missing,
where real servers cannot run.
"""

from __future__ import annotations

import json
import sys

from cockpit.base.errors import UsageError
from cockpit.rehearsal.real.binaries import missing, share
from cockpit.rehearsal.real.namespace import entering, inside
from cockpit.rehearsal.real.provided import FILES, NEEDED


def main() -> int:
    """Say it; return the exit code."""
    try:
        if gone := missing(NEEDED):
            raise UsageError(
                f"these real servers are not there: {', '.join(gone)}", hint="run: make backends"
            )
        for name in FILES:
            share(name)
        print(json.dumps({"enter": [] if inside() else entering([])}))
        return 0
    except UsageError as error:
        print(error, file=sys.stderr)
        return 64


if __name__ == "__main__":
    sys.exit(main())
