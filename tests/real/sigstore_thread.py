"""The real Sigstore in a thread with a loop of its own: its issuer answers whatever loop a test has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cockpit.rehearsal.real.binaries import SIGSTORE
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.real.sigstore import RealSigstore, sigstore
from cockpit.rehearsal.sigstore import Fault, Service
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, LIFETIME
from tests.real.fixtures import need

_START_SECONDS = 60.0


class ThreadedSigstore:
    """A `cockpit.rehearsal.sigstore.Sigstore` whose servers belong to another thread."""

    def __init__(self, running: RealSigstore, loop: asyncio.AbstractEventLoop) -> None:
        self._running = running
        self._loop = loop

    @property
    def issuer(self) -> str:
        """The issuer's URL."""
        return self._running.issuer

    @property
    def login(self) -> str:
        """Where people log in."""
        return self._running.login

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return self._running.token_url

    @property
    def token_secret(self) -> str:
        """The bearer secret that gets tokens for whomever."""
        return self._running.token_secret

    def url(self, service: Service) -> str:
        """Return a service's base URL."""
        return self._running.url(service)

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token."""
        return self._running.token(sub, audience=audience, lifetime=lifetime)

    def enrol(self, identity: str) -> str:
        """Return a bearer secret for one identity."""
        return self._running.enrol(identity)

    def trusted_root(self) -> str:
        """Return the trusted root, JSON."""
        return self._running.trusted_root()

    def trust_config(self) -> str:
        """Return the client trust configuration, JSON."""
        return self._running.trust_config()

    async def fault(self, service: Service | Literal["ctlog"], kind: Fault | None) -> None:
        """Kill, freeze or restart a server."""
        done = asyncio.run_coroutine_threadsafe(self._running.fault(service, kind), self._loop)
        await asyncio.wrap_future(done)

    def read(self, path: str) -> bytes | None:
        """Return a file of the log, `checkpoint` or one below `tile/`; None when it is not there."""
        try:
            return (self._running.folder / "tiles" / path).read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def threaded_sigstore(folder: Path) -> Iterator[ThreadedSigstore]:
    """Run the real servers until the context ends; skips or fails the test when they are not there."""
    need(*SIGSTORE)
    started = threading.Event()
    running: list[ThreadedSigstore] = []
    ending: list[asyncio.Event] = []
    failed: list[BaseException] = []

    async def main() -> None:
        end = asyncio.Event()
        async with Servers(folder) as servers, sigstore(servers) as found:
            running.append(ThreadedSigstore(found, asyncio.get_running_loop()))
            ending.append(end)
            started.set()
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            failed.append(error)
        finally:
            started.set()

    # Whoever starts a server must live as long as it does: it ends with that thread, not with the process.
    thread = threading.Thread(target=run, name="real-sigstore", daemon=True)
    thread.start()
    try:
        assert started.wait(_START_SECONDS), "the servers did not start"
        if failed:
            raise failed[0]
        yield running[0]
    finally:
        if running:
            running[0]._loop.call_soon_threadsafe(ending[0].set)
        thread.join(_START_SECONDS)
    if failed:
        raise failed[0]
