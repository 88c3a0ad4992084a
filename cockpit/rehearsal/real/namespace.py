"""A network namespace with nothing but loopback in it: `python -m cockpit.rehearsal.real.namespace COMMAND…`.

Several of the real servers open a port for their metrics on every interface and cannot be told not to. In
here there is only loopback, so nothing they open can be reached from outside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from cockpit.base.errors import UsageError

_SIOCSIFFLAGS = 0x8914
_UP_RUNNING = 0x41
_MODULE = "cockpit.rehearsal.real.namespace"


def inside() -> bool:
    """Tell whether this process is in such a namespace: no interface but loopback."""
    return {name for _, name in socket.if_nameindex()} <= {"lo"}


def entering(command: Sequence[str]) -> list[str]:
    """Return `command` as it has to be started to run in a namespace of its own.

    Raises UsageError where this machine has no `unshare`.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise UsageError("real servers need `unshare` (util-linux), and it is not installed")
    # Root needs no user namespace, and keeps its right to become somebody else.
    how = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    return [unshare, *how, sys.executable, "-m", _MODULE, "--inside", *command]


def loopback_up() -> None:
    """Bring loopback up, which a new namespace has not done; raises OSError without the right to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _UP_RUNNING))


def main(arguments: Sequence[str]) -> int:
    """Become the command; returns only when that cannot be done."""
    command = list(arguments)
    try:
        if command[:1] == ["--inside"]:
            loopback_up()
            command = command[1:]
        elif command:
            command = entering(command)
        if not command:
            print("say which command to run in the namespace", file=sys.stderr)
            return 64
        found = command[0] if Path(command[0]).is_absolute() else shutil.which(command[0]) or command[0]
        os.execv(found, [found, *command[1:]])  # noqa: S606 - the person's own command, no shell
    except (OSError, UsageError) as error:
        print(f"no network namespace for {command[:1]}: {error}", file=sys.stderr)
        return 70


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
