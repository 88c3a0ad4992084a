"""A terminal of 120 by 40 with a command in it, for people who sit before one and may vanish."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Mapping, Sequence

_ROWS, _COLUMNS = 40, 120
_CHUNK = 1 << 16


class Terminal:
    """A command on a terminal of its own; what it paints is read and thrown away."""

    def __init__(self, process: asyncio.subprocess.Process, screen: int) -> None:
        self._process = process
        self._screen = screen
        asyncio.get_running_loop().add_reader(screen, self._look)

    @classmethod
    async def open(cls, command: Sequence[str], environment: Mapping[str, str]) -> Terminal:
        """Start `command`; raises OSError when there is no terminal to be had or nothing to start."""
        screen, inside = pty.openpty()
        try:
            fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=inside,
                stdout=inside,
                stderr=inside,
                env={**environment, "TERM": "xterm-256color"},
                start_new_session=True,
            )
        except BaseException:
            os.close(screen)
            raise
        finally:
            os.close(inside)
        return cls(process, screen)

    @property
    def pid(self) -> int:
        """Return the process id of the command."""
        return self._process.pid

    async def die(self) -> None:
        """Take the terminal away and end the command at once, as a power cut does; safe to repeat."""
        if self._screen >= 0:
            asyncio.get_running_loop().remove_reader(self._screen)
            if self._process.returncode is None:
                self._process.kill()
            os.close(self._screen)
            self._screen = -1
        await self._process.wait()

    def _look(self) -> None:
        try:
            seen = os.read(self._screen, _CHUNK)
        except OSError:
            seen = b""
        if not seen:  # the command has ended and closed its side
            asyncio.get_running_loop().remove_reader(self._screen)
