"""Latency, cut, half-open, slow close and reset before a real server: an error in time, or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.real.toxiproxy import Toxiproxy
from tests.real.faults_support import ENDS, HANGS, PATIENT, SLOWS, Made, ended, put_before, works

W = TypeVar("W")
Client: TypeAlias = tuple[Callable[[W], str], Callable[[W, Callable[[str], str], float], Awaitable[Made]]]
"""The server that is behind the proxy, and what makes the client."""


async def hangs(proxies: Toxiproxy, w: W, client: Client[W], *, soon: float) -> None:
    """Expect that what hangs ends at the deadline, and that what is mended works."""
    async with put_before(proxies, w, *client, deadline=soon) as (proxy, made):
        for fault in ("latency beyond the deadline", "half-open, no answer"):
            toxic = await HANGS[fault](proxy)
            found = await ended(made.ask)
            assert isinstance(found, BackendUnreachable), (fault, found)
            assert toxic is not None
            await toxic.remove()
            await works(made)


async def ends_or_is_slow(proxies: Toxiproxy, w: W, client: Client[W]) -> None:
    """Expect that what ends has had no answer, and what is merely slow has."""
    async with put_before(proxies, w, *client, deadline=PATIENT) as (proxy, made):
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
