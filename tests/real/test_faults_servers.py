"""The real servers behind a toxiproxy, the API server by TLS: a fault is an error in time, or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.real.control_plane import ControlPlane
from cockpit.rehearsal.real.toxiproxy import Toxiproxy
from tests.real.faults_servers import Behind, RealWorld, real_world
from tests.real.faults_support import (
    ENDS,
    HANGS,
    PATIENT,
    SLOWS,
    SOON,
    BehindMaker,
    cluster_read,
    cluster_write,
    ended,
    metrics,
    policy_decision,
    proxies,
    put_before,
    registry,
    signing,
    works,
)

__all__ = ["proxies"]
# One loop for the module: the servers and the proxy are started once.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
_SIGNED_SOON = 3.0
"""As `SOON`, where it takes a second when all is well."""

CLIENTS: dict[str, tuple[Callable[[Behind], str], BehindMaker]] = {
    "cluster, read": (lambda w: w.kube.url, cluster_read),
    "cluster, write": (lambda w: w.kube.url, cluster_write),
    "metrics": (lambda w: w.prometheus.url, metrics),
    "signing, token": (lambda w: w.sigstore.url("oidc"), signing("oidc")),
    "signing, certificate": (lambda w: w.sigstore.url("fulcio"), signing("fulcio")),
    "signing, log": (lambda w: w.sigstore.url("rekor"), signing("rekor")),
    "signing, time-stamp": (lambda w: w.sigstore.url("tsa"), signing("tsa")),
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
async def test_what_hangs_ends_at_the_deadline_and_what_is_mended_works(
    proxies: Toxiproxy, real: RealWorld, client: str
) -> None:
    soon = _SIGNED_SOON if client.startswith("signing") else 2 * SOON
    async with put_before(proxies, real, *CLIENTS[client], deadline=soon) as (proxy, made):
        for fault in ("latency beyond the deadline", "half-open, no answer"):
            toxic = await HANGS[fault](proxy)
            found = await ended(made.ask)
            assert isinstance(found, BackendUnreachable), (fault, found)
            assert toxic is not None
            await toxic.remove()
            await works(made)


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_ends_has_had_no_answer_and_what_is_slow_has(
    proxies: Toxiproxy, real: RealWorld, client: str
) -> None:
    async with put_before(proxies, real, *CLIENTS[client], deadline=PATIENT) as (proxy, made):
        for fault in ("cut", "reset"):
            toxic = await ENDS[fault](proxy)
            for _ in range(2):  # also over a connection that was made meanwhile
                found = await ended(made.ask)
                assert isinstance(found, BackendUnreachable), (fault, found)
            if toxic is None:
                await proxy.mend()
            else:
                await toxic.remove()
            await works(made)
        for fault in ("slow close", "latency"):
            toxic = await SLOWS[fault](proxy)
            assert not isinstance(found := await ended(made.ask), BaseException), (fault, found)
            assert toxic is not None
            await toxic.remove()
