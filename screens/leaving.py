"""Leaving the screen whatever becomes of the terminal: by signal, and when the terminal is gone or frozen.

Textual writes through a thread with a bounded queue; when the terminal goes away that thread ends and the
event loop waits for room for ever. A screen has nothing to save, so it is then ended from outside the loop.
It must not linger: while it lives, the conductor believes that a person is there to decide.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_GRACE_S = 3.0
_LOOK_EVERY_S = 1.0


@contextmanager
def leaving(loop: asyncio.AbstractEventLoop, leave: Callable[[], object]) -> Iterator[None]:
    """While this is open, a signal calls `leave` in the loop; if that does not do, the process is ended.

    The same goes for a terminal that has gone away without a signal.
    """
    asked, done = threading.Event(), threading.Event()
    descriptor = sys.stdin.fileno()
    before = _attributes(descriptor)

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        loop.call_soon_threadsafe(leave)

    def watch() -> None:
        while not done.is_set() and not asked.wait(_LOOK_EVERY_S):
            if before is not None and _attributes(descriptor) is None:
                loop.call_soon_threadsafe(leave)
                break
        if not done.wait(_GRACE_S):
            if before is not None and _attributes(descriptor) is not None:
                termios.tcsetattr(descriptor, termios.TCSANOW, before)
            os._exit(0)

    # Handlers of Python itself, not of the loop: they are also run while the loop is stuck.
    old = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    watcher = threading.Thread(target=watch, name="terminal watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        asked.set()
        watcher.join(_GRACE_S)
        for number, handler in old.items():
            signal.signal(number, handler)


def _attributes(descriptor: int) -> list[int | list[bytes | int]] | None:
    try:
        return termios.tcgetattr(descriptor)
    except (termios.error, OSError):
        return None
