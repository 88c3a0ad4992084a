"""The cockpit's clients of real servers, the API server by TLS, behind a toxiproxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from cockpit.rehearsal.real.control_plane import ControlPlane
from cockpit.rehearsal.real.toxiproxy import Toxiproxy
from tests.real.faults_named import ends_or_is_slow, hangs
from tests.real.faults_servers import Behind, RealWorld, real_world
from tests.real.faults_support import (
    SOON,
    BehindMaker,
    cluster_read,
    cluster_write,
    metrics,
    policy_decision,
    proxies,
    registry,
)

__all__ = ["proxies"]
# One loop for the module: the servers and the proxy are started once.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

CLIENTS: dict[str, tuple[Callable[[Behind], str], BehindMaker]] = {
    "cluster, read": (lambda w: w.kube.url, cluster_read),
    "cluster, write": (lambda w: w.kube.url, cluster_write),
    "metrics": (lambda w: w.prometheus.url, metrics),
    "policy, decision": (lambda w: w.opa.url, policy_decision),
    "registry": (lambda w: w.registry.url, registry),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="real")
async def servers_of_module(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealWorld]:
    """Run the real servers for the module's tests, in its loop."""
    async with real_world(plane, tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_hangs_ends_at_the_deadline(proxies: Toxiproxy, real: RealWorld, client: str) -> None:
    await hangs(proxies, real, CLIENTS[client], soon=2 * SOON)


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_ends_has_had_no_answer(proxies: Toxiproxy, real: RealWorld, client: str) -> None:
    await ends_or_is_slow(proxies, real, CLIENTS[client])
