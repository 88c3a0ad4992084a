"""What runs on this machine, read from outside: commands, children, sessions, folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_POLL = 0.2


def commands() -> Iterator[tuple[int, list[str]]]:
    """Yield every process that is no zombie, with its command."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(words):
            yield int(name), words


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the processes a process has started, whichever of its threads did."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(one) for one in (task / "children").read_text(encoding="ascii").split()]
    return found


def below(pid: int) -> set[int]:
    """Return the processes a process has started, and those they have."""
    found = set(children(pid))
    return found.union(*(below(one) for one in found))


def session(pid: int) -> int:
    """Return the session of a process, -1 when it has gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def folder_of(pid: int) -> str:
    """Return where a process runs, nothing when it has gone."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def until(check: Callable[[], bool], within: float) -> bool:
    """Poll until something is so; tell whether it came to be."""
    give_up = time.monotonic() + within
    while not check():
        if time.monotonic() > give_up:
            return False
        time.sleep(_POLL)
    return True
