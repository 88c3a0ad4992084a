"""A world of stand-ins: every server within the world's own process."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.rehearsal.opa import OpaServer
from cockpit.rehearsal.pace import Pace
from cockpit.rehearsal.parts import Cluster, ImageStore, Metrics, Policy
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.registry import RegistryServer
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.sigstore.interface import Sigstore
from cockpit.rehearsal.topology import PROD, STAGE, STAGES

_READY_SECONDS = 90.0
_SIGNERS = 2


class Embedded:
    """The stand-ins; see `parts.Parts`."""

    @property
    def profile(self) -> Literal["embedded", "private"]:
        """A CA, log and time-stamp authority of the world's own."""
        return "embedded"

    @property
    def ready_within(self) -> float:
        """A minute and a half."""
        return _READY_SECONDS

    @property
    def signers(self) -> int:
        """Signing takes two milliseconds here."""
        return _SIGNERS

    def real(self) -> Mapping[str, str]:
        """Nothing is."""
        return {}

    def pace(self, pace: Pace) -> Pace:
        """The paces are made for them."""
        return pace

    @asynccontextmanager
    async def cluster(self, place: Path) -> AsyncIterator[Cluster]:
        """Run the stand-in for the Kubernetes API."""
        world, releaser = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        kube = KubeServer({world: admin(), releaser: conductor((PROD, *STAGES), drills=(STAGE,))})
        await kube.start()
        try:
            yield Cluster(kube, world, releaser)
        finally:
            await kube.stop()

    @asynccontextmanager
    async def metrics(self, place: Path, *, discovery: str, scrape: float) -> AsyncIterator[Metrics]:
        """Run the stand-in for Prometheus."""
        async with PrometheusServer(
            scrape_interval=scrape, http_sd_urls=[discovery], sd_interval=0.25
        ) as server:
            yield _Metrics(server)

    def signing(self, place: Path) -> AbstractAsyncContextManager[Sigstore]:
        """Run the stand-in for Sigstore."""
        return SigstoreServer()

    @asynccontextmanager
    async def registry(self, place: Path) -> AsyncIterator[ImageStore]:
        """Run the stand-in for a registry; what is put into it is there at once."""
        async with RegistryServer() as server:
            yield ImageStore(server.url, server.repository, _nothing)

    @asynccontextmanager
    async def policy(self, place: Path, *, token: str) -> AsyncIterator[Policy]:
        """Run the stand-in for OPA."""
        async with OpaServer(token=token) as server:
            yield Policy(server.url, token)


class _Metrics:
    """The stand-in for Prometheus, with its way to fail."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    async def outage(self) -> None:
        """Answer 503 from now on."""
        self._server.faults.set("unavailable")


async def _nothing() -> None:
    pass
