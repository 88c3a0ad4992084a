"""Open-loop traffic: several tenants send requests at their own rates, whether or not answers come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from cockpit.rehearsal.app.content import USER_PATHS
from cockpit.rehearsal.app.metrics import BUCKETS

_MAX_UNDER_WAY = 600


class Traffic:
    """Users of the gateway at `url`; each tenant's arrivals are a Poisson process of its rate.

    Latency is measured from the intended start of a request, so a stall of server or sender is seen.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        rates: Mapping[str, float],
        *,
        paused: Callable[[], bool],
        seed: int = 20250923,
    ) -> None:
        self._session = session
        self._url = url
        self._rates = rates
        self._paused = paused
        self._seed = seed
        self._under_way = 0
        self._registry = CollectorRegistry()
        self._sent = Counter(
            "user_requests_total", "Requests users sent.", ("tenant", "outcome"), registry=self._registry
        )
        self._latency = Histogram(
            "user_latency_seconds",
            "Seconds from the intended start of a request to its answer.",
            ("tenant",),
            buckets=BUCKETS,
            registry=self._registry,
        )

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for index, (tenant, rate) in enumerate(self._rates.items()):
                tasks.create_task(self._tenant(tasks, tenant, rate, self._seed + index))

    def exposition(self) -> bytes:
        """Return the users' own metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    async def _tenant(self, tasks: asyncio.TaskGroup, tenant: str, rate: float, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - arrivals, not a secret
        services = tuple(USER_PATHS)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += chance.expovariate(rate)
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -5:
                due = loop.time()  # the machine slept: do not send the night's traffic at once
            path = chance.choice(USER_PATHS[chance.choice(services)])
            if self._paused():
                continue
            if self._under_way >= _MAX_UNDER_WAY:
                self._sent.labels(tenant, "dropped").inc()
                continue
            tasks.create_task(self._request(tenant, path, due))

    async def _request(self, tenant: str, path: str, due: float) -> None:
        self._under_way += 1
        try:
            async with self._session.get(
                self._url + path, headers={"X-Tenant": tenant}, allow_redirects=False
            ) as answer:
                await answer.read()
                outcome = "ok" if answer.status < 500 else "error"
        except (aiohttp.ClientError, TimeoutError):
            outcome = "cut"
        finally:
            self._under_way -= 1
        self._sent.labels(tenant, outcome).inc()
        self._latency.labels(tenant).observe(asyncio.get_running_loop().time() - due)
