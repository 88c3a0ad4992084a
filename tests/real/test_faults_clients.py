"""Every client, every fault a connection can have: an error in time, never a pass, never a hang."""

from __future__ import annotations

import asyncio

import pytest

from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.real.toxiproxy import Toxiproxy
from tests.real.faults_support import (
    BOUND,
    CLIENTS,
    ENDS,
    HANGS,
    PATIENT,
    SLOWS,
    SOON,
    Made,
    World,
    behind,
    ended,
    proxies,
    servers,
    works,
)

__all__ = ["proxies", "servers"]

# One loop for the module: the servers and the proxy are started once.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("fault", HANGS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_call_that_is_kept_waiting_ends_at_its_deadline(
    proxies: Toxiproxy, servers: World, client: str, fault: str
) -> None:
    async with behind(proxies, servers, client, deadline=SOON) as (proxy, made):
        toxic = await HANGS[fault](proxy)
        found = await ended(made.ask)
        assert isinstance(found, BackendUnreachable), repr(found)
        assert toxic is not None
        await toxic.remove()
        await works(made)


@pytest.mark.parametrize("fault", ENDS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_call_whose_connection_ends_has_had_no_answer(
    proxies: Toxiproxy, servers: World, client: str, fault: str
) -> None:
    async with behind(proxies, servers, client, deadline=PATIENT) as (proxy, made):
        toxic = await ENDS[fault](proxy)
        for _ in range(2):  # also over a connection that was made meanwhile
            found = await ended(made.ask)
            assert isinstance(found, BackendUnreachable), repr(found)
        if toxic is None:
            await proxy.mend()
        else:
            await toxic.remove()
        await works(made)


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_answer_that_is_cut_anywhere_is_none(
    proxies: Toxiproxy, servers: World, client: str
) -> None:
    async with behind(proxies, servers, client, deadline=PATIENT) as (proxy, made):
        cuts, passed, size = 0, False, 1
        while not passed:
            toxic = await proxy.limit(size)
            found = await ended(made.ask)
            passed = not isinstance(found, BackendUnreachable)
            assert not isinstance(found, BaseException) or not passed, (size, repr(found))
            cuts += not passed
            size += max(60, size // 3)
            await toxic.remove()
        assert cuts > 2
        await works(made)


@pytest.mark.parametrize("fault", SLOWS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_what_is_merely_slow_is_an_answer(
    proxies: Toxiproxy, servers: World, client: str, fault: str
) -> None:
    async with behind(proxies, servers, client, deadline=PATIENT) as (proxy, made):
        await SLOWS[fault](proxy)
        assert not isinstance(found := await ended(made.ask), BaseException), repr(found)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_call_that_is_cancelled_ends_at_once(proxies: Toxiproxy, servers: World, client: str) -> None:
    """In a connection that is half open; what it was waiting for does not come."""
    async with behind(proxies, servers, client, deadline=600.0) as (proxy, made):
        toxic = await proxy.half_open()
        asked = Asked(made)
        await asked.under_way()
        asked.task.cancel()
        async with asyncio.timeout(BOUND):
            with pytest.raises(asyncio.CancelledError):
                await asked.task
        await toxic.remove()
        await works(made)


class Asked:
    """A call that goes on."""

    def __init__(self, made: Made) -> None:
        self.task = asyncio.ensure_future(made.ask())

    async def under_way(self) -> None:
        """Let the loop turn until the call waits for the network: it has no answer to come."""
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not self.task.done()
