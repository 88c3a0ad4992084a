"""A bake whose Prometheus goes away in the middle: it holds, tries again, and goes on or asks.

The looks are the conductor's own, the Prometheus is a real one that scrapes a service of this test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import SystemClock
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.bake import Bake, Breach, Inconclusive
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import LookTaken
from cockpit.rehearsal.real.prometheus import RealPrometheus, prometheus
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.real.toxiproxy import Proxy, toxiproxy
from tests.conductor.support import events, plan_of, recording
from tests.real.fixtures import need

# One loop for the module: the server is started once.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
SCRAPE = 0.5
PER_SECOND = 200.0
_DEADLINE = 90.0


class Service:
    """What is scraped: a canary and a stable that answer alike, by the clock."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.broken = False
        self.gone = False
        """The canary is not shown any more; stable is."""

    def page(self) -> str:
        """Return the exposition."""
        total = 1000 + PER_SECOND * (time.monotonic() - self._since)
        lines = []
        for track in ("canary", "stable"):
            if track == "canary" and self.gone:
                continue
            labels = f'namespace="intelgraph",track="{track}"'
            errors = total / 2 if self.broken and track == "canary" else 0.0
            for code, count in (("200", total - errors), ("500", errors)):
                lines.append(f'http_requests_total{{{labels},code="{code}"}} {count}')
            lines.append(f"gateway_requests_total{{{labels}}} {total * (1 if track == 'canary' else 9)}")
            for bound in ("0.05", "0.1", "0.25", "+Inf"):
                lines.append(f'http_request_duration_seconds_bucket{{{labels},le="{bound}"}} {total}')
            lines += [
                f"ingest_lag_seconds{{{labels}}} 1",
                f"tenant_isolation_violations_total{{{labels}}} 0",
            ]
        return "\n".join(lines) + "\n"


@dataclass
class Bench:
    """A service, its Prometheus, and what a bake needs."""

    service: Service
    prometheus: RealPrometheus

    @asynccontextmanager
    async def baking(
        self, folder: Path, *, url: str = "", steps: int = 1, **canary: Any
    ) -> AsyncIterator[Baking]:
        """Bake every step but the last, and have that one under way."""
        clock = SystemClock()
        times = {"bake": "2s", "interval": "0.5s", "query_deadline": "1s", "provider_grace": "30s"}
        section = plan_of(clock, canary={**times, **canary}).canary
        metrics = PrometheusMetrics(
            url or self.prometheus.url, deadline=1.0, connect_timeout=1.0, read_timeout=1.0
        )
        try:
            async with recording(folder) as recorder:
                analyst = PrometheusAnalyst(metrics, section, recorder, clock)
                for step in range(1, steps):
                    await Bake(analyst, section, clock, recorder, step).until_passed()
                last = Bake(analyst, section, clock, recorder, steps)
                async with asyncio.timeout(_DEADLINE):
                    going = asyncio.ensure_future(last.until_passed())
                    try:
                        yield Baking(going, recorder, steps, last)
                    finally:
                        going.cancel()
                        await asyncio.wait([going])
        finally:
            await metrics.close()


@dataclass
class Baking:
    """A bake that goes on."""

    going: asyncio.Future[None]
    recorder: Recorder
    step: int
    bake: Bake

    async def looks(self) -> list[LookTaken]:
        """Return the looks of this step."""
        return [one for one in await events(self.recorder, LookTaken) if one.step == self.step]

    async def until_looked(self, outcome: str, *, times: int = 1) -> None:
        """Wait for so many looks of an outcome, while the bake goes on."""
        while sum(one.outcome == outcome for one in await self.looks()) < times:
            if self.going.done():
                self.going.result()
                raise AssertionError(f"it ended before a look was {outcome}")
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    need("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    service = Service()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=service.page())

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with (
            Servers(folder) as servers,
            prometheus(servers, scrape_interval=SCRAPE, targets=[target]) as running,
        ):
            yield Bench(service, running)
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(started: Bench) -> AsyncIterator[Bench]:
    """Give the bench as it was at first: the Prometheus runs, and its windows are full."""
    yield started
    started.service.broken = started.service.gone = False
    started.prometheus.resume()
    if started.prometheus.running.ended:
        await started.prometheus.start()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def full(bench: Bench) -> None:
    """Wait until nothing of another test is left in a window."""
    await scraped(bench.prometheus.url)


async def scraped(url: str) -> None:
    """Wait until the windows of a bake are full."""
    metrics = PrometheusMetrics(url, deadline=5.0)
    try:
        async with asyncio.timeout(_DEADLINE):
            while True:
                answer = await metrics.query("min(count_over_time(gateway_requests_total[2s]))")
                if answer.samples and answer.samples[0].value >= 0.75 * 2 / SCRAPE:
                    return
                await asyncio.sleep(0.1)
    finally:
        await metrics.close()


def outcomes(looks: list[LookTaken]) -> set[str]:
    return {one.outcome for one in looks}


async def killed(bench: Bench, baking: Baking) -> Callable[[], Awaitable[None]]:
    await bench.prometheus.kill()
    return bench.prometheus.start


async def frozen(bench: Bench, baking: Baking) -> Callable[[], Awaitable[None]]:
    bench.prometheus.suspend()

    async def mend() -> None:
        bench.prometheus.resume()

    return mend


@pytest.mark.parametrize("outage", [killed, frozen])
async def test_a_prometheus_that_comes_back_within_its_grace_lets_the_step_go_on(
    bench: Bench, tmp_path: Path, outage: Callable[..., Awaitable[Callable[[], Awaitable[None]]]]
) -> None:
    async with bench.baking(tmp_path, steps=2) as baking:
        await baking.until_looked("pass")
        before = len(await baking.looks())
        mend = await outage(bench, baking)
        await baking.until_looked("provider_error", times=3)
        held = await baking.looks()
        assert not baking.going.done()
        await mend()
        await baking.going
        looks = await baking.looks()
        # A busy machine may have missed a scrape before.
        assert "fail" not in outcomes(looks[before:]), [one.reason for one in looks[before:]]
        # What was counted before the outage is not lost, and what was not answered was not counted.
        assert looks[-1].outcome == "pass" and looks[-1].passes == sum(o.outcome == "pass" for o in looks)
        assert baking.bake.summary and len(looks) > len(held)


async def test_a_prometheus_that_has_seen_nothing_for_a_whole_window_is_no_canary_that_vanished(
    bench: Bench, tmp_path: Path
) -> None:
    async with bench.baking(tmp_path, steps=2) as baking:
        await baking.until_looked("pass")
        baking.going.cancel()
        await bench.prometheus.kill()
        async with asyncio.timeout(_DEADLINE):
            while sum(one.outcome == "provider_error" for one in await baking.looks()) < 8:
                await baking.bake.look_for_breach()
                await asyncio.sleep(0.5)
            await bench.prometheus.start()
            # As soon as it answers: nothing of any series is in the window yet.
            for _ in range(20):
                await baking.bake.look_for_breach()
                await asyncio.sleep(0.1)
        looks = await baking.looks()
        assert "fail" not in outcomes(looks), [one.reason for one in looks if one.outcome == "fail"]


async def test_a_prometheus_that_stays_away_is_a_doubt_and_neither_a_pass_nor_a_breach(
    bench: Bench, tmp_path: Path
) -> None:
    async with bench.baking(tmp_path, provider_grace="4s", bake="8s") as baking:
        await baking.until_looked("pass")
        mend = await killed(bench, baking)
        with pytest.raises(Inconclusive, match="metrics not to be had for 4 s"):
            await baking.going
        looks = await baking.looks()
        assert "fail" not in outcomes(looks)
        assert looks[-1].outcome == "provider_error"
        await mend()


async def test_a_connection_that_is_cut_in_mid_step_is_held_and_gone_on_from(
    bench: Bench, tmp_path: Path
) -> None:
    need("toxiproxy-server")
    async with toxiproxy(tmp_path / "toxiproxy") as proxies:
        proxy = await proxies.proxy(bench.prometheus.url)
        for fault in (cut, half_open):
            url = proxy.url_of(bench.prometheus.url)
            async with bench.baking(tmp_path / fault.__name__, url=url) as baking:
                await baking.until_looked("pass")
                mend = await fault(proxy)
                await baking.until_looked("provider_error", times=2)
                await mend()
                await baking.going
                found = await baking.looks()
                assert "fail" not in outcomes(found) and found[-1].outcome == "pass"


async def cut(proxy: Proxy) -> Callable[[], Awaitable[None]]:
    await proxy.cut()
    return proxy.mend


async def half_open(proxy: Proxy) -> Callable[[], Awaitable[None]]:
    return (await proxy.half_open()).remove


async def test_what_breaks_during_the_outage_is_seen_when_it_is_over(bench: Bench, tmp_path: Path) -> None:
    async with bench.baking(tmp_path, bake="8s") as baking:
        await baking.until_looked("pass")
        await bench.prometheus.kill()
        await baking.until_looked("provider_error")
        bench.service.broken = True
        await bench.prometheus.start()
        with pytest.raises(Breach):
            await baking.going


async def test_a_canary_that_vanishes_while_the_others_are_seen_is_a_breach(
    bench: Bench, tmp_path: Path
) -> None:
    async with bench.baking(tmp_path, steps=2, bake="8s") as baking:
        await baking.until_looked("pass")
        bench.service.gone = True
        with pytest.raises(Breach):
            await baking.going
        [*_, last] = await baking.looks()
        assert last.outcome == "fail" and "vanished" in last.reason
