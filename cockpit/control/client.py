"""The front ends' end of the control socket."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cockpit.base.errors import BackendUnreachable
from cockpit.control.halt_file import leave_halt_request
from cockpit.control.messages import MAX_COMMAND_BYTES, Command, Kind, Reply, decode_reply, encode

SOCKET = "control.sock"
API_SOCKET = "api.sock"
"""Promote and Rollback v2 over HTTP (seed section 7)."""


@contextmanager
def socket_address(run_dir: Path, name: str = SOCKET) -> Iterator[str]:
    """Give an address for the socket `name` in `run_dir` short enough for the system (about 100 bytes).

    On Linux a long folder is reached through its descriptor; elsewhere the path must be short enough.
    """
    path = str(run_dir / name)
    if len(os.fsencode(path)) < 100 or sys.platform != "linux":
        yield path
        return
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def operator() -> str:
    """Return the name of the person at the keyboard: `COCKPIT_OPERATOR`, else the login name."""
    named = os.environ.get("COCKPIT_OPERATOR", "").strip()
    if named:
        return named[:100]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


class ControlClient:
    """A connection to the conductor; commands may be sent at once, replies are matched by id."""

    def __init__(self, run_dir: Path, *, source: str, by: str = "") -> None:
        self._run_dir = run_dir
        self._source = source
        self._by = by or operator()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Tell whether a connection is up."""
        return self._writer is not None and not self._writer.is_closing()

    async def connect(self, *, deadline: float = 2.0, hello: bool = True) -> None:
        """Connect and, with `hello`, attach as a front end with control; raises BackendUnreachable."""
        try:
            async with asyncio.timeout(deadline):
                with socket_address(self._run_dir) as address:
                    self._reader, self._writer = await asyncio.open_unix_connection(
                        address, limit=MAX_COMMAND_BYTES
                    )
        except (OSError, TimeoutError) as error:
            raise BackendUnreachable(
                f"no conductor answers ({str(error) or 'time-out'})",
                where=str(self._run_dir / SOCKET),
                hint="see `cockpit status`; the release may have ended",
            ) from None
        if hello:
            await self.send("hello")

    async def send(
        self,
        kind: Kind,
        *,
        reason: str = "",
        question: str = "",
        answer: str = "",
        agent: str = "",
        gate: str = "",
        to: str = "",
        seconds: float = 0.0,
        statement: str = "",
        deadline: float = 5.0,
    ) -> Reply:
        """Send a command (fields as in Command) and wait for the reply.

        Raises BackendUnreachable when the conductor is gone.
        A HALT is also left as a file: a conductor that does not take it is replaced by the supervisor.
        """
        if kind == "halt":
            leave_halt_request(self._run_dir, self._by, self._source)
        if self._reader is None or self._writer is None:
            raise BackendUnreachable("not connected to the conductor", where=str(self._run_dir))
        command = Command(
            id=secrets.token_hex(4),
            kind=kind,
            by=self._by,
            source=self._source,
            reason=reason,
            question=question,
            answer=answer,
            agent=agent,
            gate=gate,
            to=to,
            seconds=seconds,
            statement=statement,
        )
        try:
            async with asyncio.timeout(deadline), self._lock:
                self._writer.write(encode(command))
                await self._writer.drain()
                while True:
                    line = await self._reader.readline()
                    if not line:
                        raise ConnectionResetError("the conductor closed the connection")
                    reply = decode_reply(line)
                    if reply.id == command.id:
                        return reply
        except (OSError, TimeoutError, ValueError, msgspec.DecodeError) as error:
            await self.close()
            raise BackendUnreachable(
                f"the conductor did not take `{kind}`: {str(error) or 'time-out'}", where=str(self._run_dir)
            ) from None

    async def close(self) -> None:
        """Close the connection; the conductor records that the front end left."""
        if self._writer is not None:
            self._writer.close()
            try:
                await self._writer.wait_closed()
            except OSError:
                pass
        self._reader = self._writer = None
