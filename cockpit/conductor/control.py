"""The control socket: how front ends speak to the conductor. Owner-only, bounded, one line a command."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import msgspec

from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.conductor.people import People, Stop
from cockpit.control.client import SOCKET, socket_address
from cockpit.control.halt_file import HALT_REQUEST
from cockpit.control.messages import MAX_COMMAND_BYTES, Command, Reply, decode_command, encode

_MOST_CONNECTIONS = 32
_SILENT = 10.0
"""Seconds an attached front end may go without a command or a ping."""


class ControlServer:
    """Serves the control socket of one run."""

    def __init__(self, run_dir: Path, people: People) -> None:
        self._run_dir = run_dir
        self._people = people
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; raises UsageError when the socket cannot be made."""
        path = self._run_dir / SOCKET
        path.unlink(missing_ok=True)
        try:
            with socket_address(self._run_dir) as address:
                before = os.umask(0o177)
                try:
                    self._server = await asyncio.start_unix_server(
                        self._serve, address, limit=MAX_COMMAND_BYTES
                    )
                finally:
                    os.umask(before)
        except OSError as error:
            raise UsageError(
                f"the control socket cannot be made: {error.strerror or error}",
                where=str(path),
                hint="choose a shorter --out folder on a local file system",
            ) from None

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()
        (self._run_dir / SOCKET).unlink(missing_ok=True)

    def take_halt_request(self) -> None:
        """Act on a HALT left as a file, if there is one; then remove it, which acknowledges it."""
        path = self._run_dir / HALT_REQUEST
        try:
            text = path.read_bytes()[:1000].decode("utf-8", "replace")
        except OSError:
            return
        self._people.halt(text.strip() or "unknown", "command", "")
        self._acknowledge()

    def _acknowledge(self) -> None:
        try:
            (self._run_dir / HALT_REQUEST).unlink(missing_ok=True)
        except OSError:
            pass  # a disk that fails: the supervisor may replace us, and what resumes aborts

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= _MOST_CONNECTIONS or not _own_user(writer):
            writer.close()
            return
        self._writers.add(writer)
        attached = ""
        try:
            while True:
                try:
                    # A front end that hangs or whose terminal froze attends to nothing: it counts as gone.
                    async with asyncio.timeout(_SILENT if attached else None):
                        line = await reader.readline()
                except TimeoutError:
                    break
                except ValueError:
                    break  # a line beyond the limit: whatever comes after it cannot be told apart
                if not line.endswith(b"\n"):
                    break
                try:
                    command = decode_command(line)
                except (msgspec.DecodeError, RecursionError) as error:
                    writer.write(encode(Reply("", False, f"not a command: {visible(str(error), limit=200)}")))
                    await writer.drain()
                    continue
                if command.kind == "hello" and not attached:
                    attached = command.source or "unnamed"
                    self._people.attach(attached)
                writer.write(encode(self._act(command)))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            if attached:
                self._people.detach(attached)
            writer.close()

    def _act(self, command: Command) -> Reply:
        if command.kind == "halt":
            # First of all, before anything is written: the epoch.
            self._people.halt(
                command.by, "key" if command.source in ("tui", "follow") else "command", command.reason
            )
            self._acknowledge()
        if command.kind not in ("hello", "ping"):
            self._people.received(command.id, command.kind, command.by, command.reason, command.source)
        problem = ""
        if command.kind == "resume":
            problem = self._people.resume(command.by, command.reason)
        elif command.kind == "rollback":
            cause = command.reason or "ROLLBACK, the reason follows"
            problem = self._people.stop(Stop("manual", f"ROLLBACK by {command.by}: {cause}", command.by))
        elif command.kind == "reason":
            self._people.reason(command.by, command.reason)
        elif command.kind == "note":
            self._people.note(command.by, command.reason)
        elif command.kind == "answer":
            problem = self._people.answer(command.question, command.answer, command.by, command.reason)
        elif command.kind == "stay":
            self._people.note(command.by, "stays halted")
        return Reply(command.id, not problem, problem)


def _own_user(writer: asyncio.StreamWriter) -> bool:
    """Tell whether the peer is this user (or root): the socket's rights say so, where the system can tell."""
    peer = writer.get_extra_info("socket")
    if not hasattr(socket, "SO_PEERCRED") or peer is None:
        return True  # the file's rights (0600) are what there is
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (os.getuid(), 0)
