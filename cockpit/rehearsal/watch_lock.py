"""Tells when the release a world was made for is over: its supervisor holds a lock for as long as it runs."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

_POLL = 0.25


def is_held(path: Path) -> bool:
    """Tell whether anyone holds an exclusive flock on `path`; a file that is not there is not held.

    Asking takes a shared lock for an instant, so holders should take theirs with a retry or by waiting.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)  # gives back the lock, too
    return False


async def until_released(path: Path, *, first: float, settle: float) -> str:
    """Wait until the lock was held and has been free for `settle` seconds; return why the wait is over.

    A lock that nobody takes within `first` seconds ends it, too. The settling time lets a supervisor hand
    the lock over to its successor.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    seen = False
    free_since: float | None = None
    while True:
        now = loop.time()
        if is_held(path):
            seen, free_since = True, None
        elif seen:
            free_since = now if free_since is None else free_since
            if now - free_since >= settle:
                return "the release is over"
        elif now - start >= first:
            return f"nobody took the lock within {first:g} s"
        await asyncio.sleep(_POLL)
