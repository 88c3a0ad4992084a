"""A HALT that does not depend on the socket: a file the conductor takes, or else the supervisor acts on."""

from __future__ import annotations

from pathlib import Path

from cockpit.base.files import write_private

HALT_REQUEST = "halt.request"


def leave_halt_request(run_dir: Path, by: str) -> None:
    """Leave a HALT beside the socket; removed by the conductor when it has acted on it."""
    write_private(run_dir / HALT_REQUEST, by.encode())
