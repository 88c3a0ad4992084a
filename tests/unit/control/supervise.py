"""Runs the supervisor with short times: `python supervise.py RUN_DIR SILENT UNHEARD COMMAND…`."""

from __future__ import annotations

import sys
from pathlib import Path

from cockpit.supervisor import Supervisor

if __name__ == "__main__":
    folder, silent, unheard, *command = sys.argv[1:]
    supervisor = Supervisor(
        Path(folder),
        command,
        starting=30.0,
        silent=float(silent),
        unheard_halt=float(unheard),
        pause=0.05,
    )
    sys.exit(supervisor.run())
