"""Signing with the real Sigstore, each of its services in turn behind a toxiproxy."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cockpit.rehearsal.real.toxiproxy import Toxiproxy
from cockpit.rehearsal.sigstore import SERVICES, Service
from tests.real.faults_named import Client, ends_or_is_slow, hangs
from tests.real.faults_servers import RealSigning, real_signing
from tests.real.faults_support import proxies, signing

__all__ = ["proxies"]
# One loop for the module: the servers and the proxy are started once.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
SOON = 3.0
"""A deadline that is to run out: when all is well a signature takes a second."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="real")
async def servers_of_module(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealSigning]:
    """Run a Sigstore for the module's tests, in its loop."""
    async with real_signing(tmp_path_factory.mktemp("sigstore")) as running:
        yield running


def client(service: Service) -> Client[RealSigning]:
    """Return who signs with one service behind the proxy."""
    return (lambda w: w.sigstore.url(service)), signing(service)


@pytest.mark.parametrize("service", SERVICES)
async def test_what_hangs_ends_at_the_deadline(
    proxies: Toxiproxy, real: RealSigning, service: Service
) -> None:
    await hangs(proxies, real, client(service), soon=SOON)


@pytest.mark.parametrize("service", SERVICES)
async def test_what_ends_has_had_no_answer(proxies: Toxiproxy, real: RealSigning, service: Service) -> None:
    await ends_or_is_slow(proxies, real, client(service))
