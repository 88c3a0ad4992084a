"""The control socket: how front ends speak to the conductor. Owner-only, bounded, one line a command."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.conductor.desks import KINDS, Desks
from cockpit.conductor.people import People, Stop
from cockpit.control.client import SOCKET, socket_address
from cockpit.control.halt_file import HALT_REQUEST
from cockpit.control.messages import MAX_COMMAND_BYTES, Command, Reply, decode_command, encode

MayResume = Callable[[str, str], Awaitable[str]]
"""Says, of who and why, what stands against ending a HALT, or nothing."""
Act = Callable[[Command], str]
"""Does what a command says; returns why not, or nothing."""
_MOST_CONNECTIONS = 32
_SILENT = 10.0
"""Seconds an attached front end may go without a command or a ping."""


class ControlServer:
    """Serves the control socket of one run."""

    def __init__(
        self,
        run_dir: Path,
        people: People,
        acts: Mapping[str, Act] | None = None,
        desks: Desks | None = None,
        *,
        may_resume: MayResume,
    ) -> None:
        """`acts`: what takes the commands of the run's other parts, by their kind; `desks` what is signed.

        `may_resume` is asked before a HALT is ended.
        """
        self._may_resume = may_resume
        self._run_dir = run_dir
        self._desks = desks
        self._people = people
        self._acts = {"answer": self._answer, **(acts or {}), **self._own_acts()}
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
        by, _, source = text.partition("\n")
        self._people.halt(by.strip() or "unknown", _trigger(source.strip()), "")
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
                reply = await self._act(command)
                if command.kind in KINDS:
                    # Signatures take a while to check; a HALT behind one also lies there as a file.
                    reply = await self._decide(command)
                writer.write(encode(reply))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            if attached:
                self._people.detach(attached)
            writer.close()

    async def _decide(self, command: Command) -> Reply:
        if self._desks is None:
            return Reply(command.id, False, "this run takes no approvals")
        problem = await self._desks.take(command)
        return Reply(command.id, not problem, problem)

    async def _act(self, command: Command) -> Reply:
        if command.kind == "halt":
            # First of all, before anything is written: the epoch.
            self._people.halt(command.by, _trigger(command.source), command.reason)
            self._acknowledge()
        if command.kind not in ("hello", "ping"):
            self._people.received(command.id, command.kind, command.by, command.reason, command.source)
        if problem := await self._against_resuming(command):
            return Reply(command.id, False, problem)
        act = self._acts.get(command.kind)
        problem = act(command) if act is not None else "nothing in this run takes that command"
        return Reply(command.id, not problem, problem)

    async def _against_resuming(self, command: Command) -> str:
        """Return what policy has against a command that would end a HALT; nothing for every other."""
        people, before = self._people, self._people.epoch
        if not people.halted or not command.reason.strip():
            return ""  # refused in its own words
        if command.kind != "resume" and not (
            command.kind == "answer" and people.resumes(command.question, command.answer)
        ):
            return ""
        if problem := await self._may_resume(command.by, command.reason):
            return f"{problem}; the HALT holds"
        return "" if people.epoch == before else "another HALT came meanwhile: it holds"

    def _answer(self, command: Command) -> str:
        return self._people.answer(command.question, command.answer, command.by, command.reason)

    def _own_acts(self) -> dict[str, Act]:
        people = self._people

        def told(do: Callable[[Command], None]) -> Act:
            def act(command: Command) -> str:
                do(command)
                return ""

            return act

        def rollback(command: Command) -> str:
            cause = command.reason or "ROLLBACK, the reason follows"
            return people.stop(Stop("manual", f"ROLLBACK by {command.by}: {cause}", command.by))

        return {
            "hello": lambda _: "",
            "ping": lambda _: "",
            "halt": lambda _: "",
            "resume": lambda c: people.resume(c.by, c.reason),
            "rollback": rollback,
            "reason": told(lambda c: people.reason(c.by, c.reason)),
            "note": told(lambda c: people.note(c.by, c.reason)),
            "stay": told(lambda c: people.note(c.by, "stays halted")),
        }


def _trigger(source: str) -> str:
    return "key" if source in ("tui", "follow") else "command"


def _own_user(writer: asyncio.StreamWriter) -> bool:
    """Tell whether the peer is this user (or root): the socket's rights say so, where the system can tell."""
    peer = writer.get_extra_info("socket")
    if not hasattr(socket, "SO_PEERCRED") or peer is None:
        return True  # the file's rights (0600) are what there is
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (os.getuid(), 0)
