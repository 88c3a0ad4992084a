"""A HALT that does not depend on the socket: a file the conductor takes, or else the supervisor acts on."""

from __future__ import annotations

import os
from pathlib import Path

HALT_REQUEST = "halt.request"


def leave_halt_request(run_dir: Path, by: str, source: str = "shell") -> None:
    """Leave a HALT beside the socket; removed by the conductor when it has acted on it.

    Its lines are who, and from where: tui and follow for keys, as in a command. Not synced: it is for
    processes of this machine, and a HALT must not wait for a disk. Never raises.
    """
    try:
        fd = os.open(run_dir / HALT_REQUEST, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, by.encode()[:200] + b"\n" + source.encode()[:50])
        finally:
            os.close(fd)
    except OSError:
        pass  # the socket is the way that counts; this one is for when it fails
