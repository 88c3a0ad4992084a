"""Real servers as child processes: started, waited for, stopped, and gone when their parent is gone."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType

import aiohttp

from cockpit.base.errors import BackendError, UsageError
from cockpit.rehearsal.real.namespace import inside

Probe = Callable[[], Awaitable[bool]]

_POLL = 0.05
_STOP_SECONDS = 10.0
_TAIL = 2000
_FIRST_PORT, _PORTS, _APART = 10_000, 22_000, 131
_taken = itertools.count()


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that are free now and likely stay so until a server has them.

    They lie below those the kernel gives to connections, and processes beside one another look for theirs
    in different places; in a namespace of our own there is nobody else. Raises OSError when there are none.
    """
    with ExitStack() as stack:
        held: list[int] = []
        for _ in range(_PORTS):
            port = _FIRST_PORT + (os.getpid() * _APART + next(_taken)) % _PORTS
            one = stack.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody has it
            held.append(port)
            if len(held) == count:
                return held
    raise OSError(errno.EADDRINUSE, f"no {count} free TCP ports from {_FIRST_PORT} to {_FIRST_PORT + _PORTS}")


class Running:
    """A server that runs; its output is in `log`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Tell whether it has ended."""
        return self._process.returncode is not None

    def suspend(self) -> None:
        """Freeze it: connections are taken by the kernel, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Ask it to end and wait; one that does not is killed."""
        if self.ended:
            return
        self.resume()
        self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        if not self.ended:
            self._process.kill()
            await self._process.wait()

    def said(self) -> str:
        """Return the last lines of its output."""
        try:
            return self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        except OSError:
            return ""


class Servers:
    """Starts servers whose files and logs are in `folder`; all of them stop with the context, last first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Servers:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: str | Probe,
        ca: Path | None = None,
        env: Mapping[str, str] | None = None,
        within: float = 30.0,
    ) -> Running:
        """Start a server and wait until it is ready.

        `ready` is a URL that answers 200 then, its certificate signed by `ca`, or a probe. `env` is the
        whole environment besides HOME and PATH. Raises BackendError, with the last lines of its output, when
        it ends or is not ready `within` seconds, and UsageError outside a network namespace.
        """
        if not inside():
            raise UsageError(
                "real servers start only in a network namespace of their own",
                hint="python -m cockpit.rehearsal.real.namespace COMMAND",
            )
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise UsageError("real servers need `setpriv` (util-linux), and it is not installed")
        log = self.folder / f"{name}.log"
        surroundings = {"HOME": str(self.folder), "PATH": os.environ.get("PATH", os.defpath), **(env or {})}
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                setpriv,
                "--pdeathsig",
                "KILL",  # whatever happens to us, nothing of ours stays behind
                "--",
                *map(str, command),
                cwd=self.folder,
                env=surroundings,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for whoever started us
            )
        running = Running(name, process, log)
        self._stack.push_async_callback(running.stop)
        probe = ready if callable(ready) else _answers(ready, ca)
        try:
            async with asyncio.timeout(within):
                while not await probe():
                    if running.ended:
                        raise BackendError(f"{name} ended at once: {running.said()}", where=str(log))
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise BackendError(
                f"{name} was not ready within {within:g} s: {running.said()}", where=str(log)
            ) from None
        return running


class Restartable:
    """A server that can be ended and started again at the same address; its kind says how it starts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """Return the process; raises UsageError before the start."""
        if self._running is None:
            raise UsageError(f"{self._name} has not been started")
        return self._running

    async def start(self) -> None:
        """Start the process and wait until it is ready; raises BackendError."""
        raise NotImplementedError

    async def restart(self) -> None:
        """End it, if it still runs, and start it again at the same address."""
        await self.running.stop()
        await self.start()

    def suspend(self) -> None:
        """Freeze it: connections are taken, and nobody answers."""
        self.running.suspend()

    def resume(self) -> None:
        """Let it go on."""
        self.running.resume()

    async def stop(self) -> None:
        """End it in good order."""
        await self.running.stop()

    async def kill(self) -> None:
        """End it at once."""
        await self.running.kill()


def _answers(url: str, ca: Path | None) -> Probe:
    async def probe() -> bool:
        try:
            context = ssl.create_default_context(cafile=str(ca)) if ca is not None else True
            timeout = aiohttp.ClientTimeout(total=2)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=context) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    return probe
