"""What the Prometheus suites run against: the stand-in, or the real server, each once a session.

Both hold the same past (`promql_cases`) and scrape the same exporter, which they find over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.rehearsal.prometheus.rules import Rule
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.prometheus.store import Store
from cockpit.rehearsal.real.prometheus import RealPrometheus, backfill, prometheus
from cockpit.rehearsal.real.servers import Servers, free_ports
from tests.contract import promql_cases as cases
from tests.real.fixtures import need

DEADLINE_S = 40.0
INTERVAL_S = 0.2
SD_INTERVAL_S = 0.1
AGES_S = 1e10
"""A retention that keeps the past, however old it is."""


async def poll(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fails after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Exporter:
    """A target and its service discovery: `/metrics` serves `page`, `/sd` serves `groups`."""

    def __init__(self) -> None:
        self.address = ""
        self.scrapes = 0
        self.reads = 0
        self._release = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.reset()

    def reset(self) -> None:
        """Be as at the beginning: one target that works and exposes nothing."""
        self.page = ""
        self.status = 200
        self.sd_status = 200
        self.thaw()
        self.groups: list[dict[str, Any]] = [
            {"targets": [self.address], "labels": {"track": "canary", "__hidden": "x"}}
        ]

    def freeze(self) -> None:
        """Answer no scrape from now on."""
        self.frozen = True

    def thaw(self) -> None:
        """Answer again, those too who wait."""
        self.frozen = False
        self._release.set()
        self._release = asyncio.Event()

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/sd", self._sd)
        app.router.add_post("/read", self._read)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        self.reset()

    async def stop(self) -> None:
        """Close the port."""
        self.thaw()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        self.scrapes += 1
        if self.frozen:
            await self._release.wait()
        return web.Response(text=self.page, status=self.status)

    async def _sd(self, request: web.Request) -> web.Response:
        return web.json_response(self.groups, status=self.sd_status)

    async def _read(self, request: web.Request) -> web.Response:
        """A store of older samples that never works."""
        self.reads += 1
        return web.Response(status=500, text="the disk is gone")


class Server(Protocol):
    """What a test can do to a server under test."""

    @property
    def url(self) -> str:
        """Where it listens, the same after a restart."""
        ...

    async def freeze(self) -> None:
        """Take connections and answer none of them."""
        ...

    async def thaw(self) -> None:
        """Answer again."""
        ...

    async def die(self) -> None:
        """Be gone at once."""
        ...

    async def live(self) -> None:
        """Be back at the same port, with the same samples."""
        ...

    async def lose_a_part(self) -> None:
        """Answer with what there is, and a warning that something is missing."""
        ...

    async def find_it(self) -> None:
        """Answer in full again."""
        ...

    async def rules(self, rules: list[Rule]) -> None:
        """Evaluate these rules from now on, none when there are none."""
        ...


@dataclass
class StandIn:
    """The stand-in as a server under test."""

    exporter: Exporter
    port: int = field(default_factory=lambda: free_ports(1)[0])
    server: PrometheusServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = self._made(Store(AGES_S), [])
        for labels, points in (*cases.series(), *cases.platform()):
            for t, value in points:
                self.server.store.append(labels, round(t * 1000), value)

    def _made(self, store: Store, rules: list[Rule]) -> PrometheusServer:
        return PrometheusServer(
            scrape_interval=INTERVAL_S,
            http_sd_urls=[f"http://{self.exporter.address}/sd"],
            sd_interval=SD_INTERVAL_S,
            job="app",
            rules=rules,
            store=store,
            port=self.port,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def freeze(self) -> None:
        self.server.faults.set("hang")

    async def thaw(self) -> None:
        self.server.faults.clear()

    async def die(self) -> None:
        await self.server.stop()

    async def live(self) -> None:
        await self.server.stop()
        await self.server.start()

    async def lose_a_part(self) -> None:
        self.server.faults.set("partial")

    async def find_it(self) -> None:
        self.server.faults.clear()

    async def rules(self, rules: list[Rule]) -> None:
        await self.server.stop()
        self.server = self._made(self.server.store, rules)
        await self.server.start()


@dataclass
class Real:
    """A real Prometheus as a server under test."""

    server: RealPrometheus
    exporter: Exporter

    @property
    def url(self) -> str:
        return self.server.url

    async def freeze(self) -> None:
        self.server.suspend()
        stat = Path(f"/proc/{self.server.running.pid}/stat")
        # A signal is not there at once: what still runs would still answer.
        await poll(lambda: _stopped(stat))

    async def thaw(self) -> None:
        self.server.resume()

    async def die(self) -> None:
        os.kill(self.server.running.pid, signal.SIGCONT)
        await self.server.kill()

    async def live(self) -> None:
        await self.server.restart()

    async def lose_a_part(self) -> None:
        await self.server.reload(remote_reads=[f"http://{self.exporter.address}/read"])

    async def find_it(self) -> None:
        await self.server.reload(remote_reads=[])

    async def rules(self, rules: list[Rule]) -> None:
        await self.server.reload(rules=rules)


async def _stopped(stat: Path) -> bool:
    return (await asyncio.to_thread(stat.read_text)).rsplit(")", 1)[1].split()[0] == "T"


@dataclass
class Subject:
    """The server under test, its exporter, and an HTTP session."""

    server: Server
    exporter: Exporter
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self.server.url

    async def post(self, path: str, **parameters: str) -> tuple[int, dict[str, Any]]:
        """Ask the API with a form."""
        async with self.session.post(f"{self.url}{path}", data=parameters) as response:
            return response.status, await response.json()

    async def get(self, path: str, **parameters: str) -> tuple[int, dict[str, Any]]:
        """Ask the API; `match` stands for `match[]`."""
        named = {("match[]" if k == "match" else k): v for k, v in parameters.items()}
        async with self.session.get(f"{self.url}{path}", params=named) as response:
            return response.status, await response.json()

    async def vector(self, query: str) -> dict[str, float]:
        """Return label text → value; fails when the query has no answer."""
        status, answer = await self.get("/api/v1/query", query=query)
        assert status == 200, answer
        return {
            ",".join(f"{k}={v}" for k, v in sorted(one["metric"].items())): float(one["value"][1])
            for one in answer["data"]["result"]
        }

    async def until(self, query: str, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Poll `query` until its answer satisfies `holds`; return it."""
        found: dict[str, float] = {}

        async def satisfied() -> bool:
            nonlocal found
            found = await self.vector(query)
            return holds(found)

        try:
            await poll(satisfied)
        except TimeoutError:
            raise AssertionError(f"{query} stayed {found}") from None
        return found

    async def reset(self) -> None:
        """Wait until the exporter of the beginning is scraped and nothing of earlier tests is left."""
        self.exporter.reset()
        await self.until("up", lambda found: list(found.values()) == [1.0])
        await self.until("{job='app',__name__!~'up|scrape_.*|own_time|kept_.*'}", lambda found: not found)


@asynccontextmanager
async def _standin(exporter: Exporter, folder: Path) -> AsyncIterator[Server]:
    made = StandIn(exporter)
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


@asynccontextmanager
async def _real(exporter: Exporter, folder: Path) -> AsyncIterator[Server]:
    storage = folder / "samples"
    await backfill(storage, (*cases.series(), *cases.platform()))
    async with (
        Servers(folder) as servers,
        prometheus(
            servers,
            scrape_interval=INTERVAL_S,
            http_sd_urls=[f"http://{exporter.address}/sd"],
            sd_interval=SD_INTERVAL_S,
            storage=storage,
        ) as server,
    ):
        yield Real(server, exporter)


@asynccontextmanager
async def _subject(kind: str, folder: Path) -> AsyncIterator[Subject]:
    exporter = Exporter()
    await exporter.start()
    try:
        started = _standin if kind == "standin" else _real
        async with started(exporter, folder) as server, aiohttp.ClientSession() as session:
            yield Subject(server, exporter, session)
    finally:
        await exporter.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prometheus_standin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    """The stand-in, for the whole session."""
    async with _subject("standin", tmp_path_factory.mktemp("prometheus-standin")) as subject:
        yield subject


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prometheus_real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    """The real server, for the whole session."""
    need("prometheus", "promtool")
    async with _subject("real", tmp_path_factory.mktemp("prometheus-real")) as subject:
        yield subject


@pytest.fixture(params=["standin", pytest.param("real", marks=pytest.mark.real)])
def any_prometheus(request: pytest.FixtureRequest) -> Subject:
    """The server a test of the contract is about."""
    found: Subject = request.getfixturevalue(f"prometheus_{request.param}")
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def prom(any_prometheus: Subject) -> Subject:
    """The same, as at the beginning."""
    await any_prometheus.reset()
    return any_prometheus
