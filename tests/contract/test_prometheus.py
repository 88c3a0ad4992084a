"""One suite over the Prometheus stand-in and, where it is installed, the real server.

Both scrape a real exporter on loopback which they find through http_sd.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.errors import BackendRefused
from cockpit.rehearsal.prometheus.server import PrometheusServer

pytestmark = pytest.mark.contract

DEADLINE_S = 40.0
NUMBERS = (
    ("1e-9", "1e-09", "0.000000001"),
    ("1.5e-7", "1.5e-07", "0.00000015"),
    ("1e-5", "0.00001", "0.00001"),
    ("123456.789", "123456.789", "123456.789"),
    ("1e20", "100000000000000000000", "100000000000000000000"),
    ("1.5e21", "1.5e+21", "1500000000000000000000"),
)
"""What is asked for, and how Prometheus shows it in a vector and as a scalar."""
INTERVAL_S = 0.2


class Exporter:
    """A target and its service discovery: `/metrics` serves `page`, `/sd` serves `groups`."""

    def __init__(self) -> None:
        self.page = ""
        self.status = 200
        self.hang = False
        self.sd_status = 200
        self.address = ""
        self.groups: list[dict[str, Any]] = []
        self.scrapes = 0
        self._release = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/sd", self._sd)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        self.groups = [{"targets": [self.address], "labels": {"track": "canary", "__hidden": "x"}}]

    async def stop(self) -> None:
        self._release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        self.scrapes += 1
        if self.hang:
            await self._release.wait()
        return web.Response(text=self.page, status=self.status)

    async def _sd(self, request: web.Request) -> web.Response:
        return web.json_response(self.groups, status=self.sd_status)


@dataclass
class Subject:
    """The server under test, its exporter, and an HTTP session."""

    url: str
    exporter: Exporter
    session: aiohttp.ClientSession

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


async def poll(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def standin(exporter: Exporter, folder: Path) -> AsyncIterator[str]:
    async with PrometheusServer(
        scrape_interval=INTERVAL_S, http_sd_urls=[f"http://{exporter.address}/sd"], sd_interval=0.1, job="app"
    ) as server:
        yield server.url


@asynccontextmanager
async def real(exporter: Exporter, folder: Path) -> AsyncIterator[str]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus on PATH")
    interval = f"{round(INTERVAL_S * 1000)}ms"
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [
            {
                "job_name": "app",
                "http_sd_configs": [{"url": f"http://{exporter.address}/sd", "refresh_interval": "100ms"}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(
    params=[pytest.param(standin, id="stand-in"), pytest.param(real, id="real", marks=pytest.mark.real)]
)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    exporter = Exporter()
    await exporter.start()
    try:
        async with request.param(exporter, tmp_path) as url, aiohttp.ClientSession() as session:
            under_test = Subject(url, exporter, session)

            async def ready() -> bool:
                try:
                    async with session.get(f"{url}/-/ready") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await poll(ready)
            yield under_test
    finally:
        await exporter.stop()


class TestScraping:
    async def test_series_get_the_targets_labels(self, subject: Subject) -> None:
        subject.exporter.page = '# TYPE a gauge\na{x="1"} 2.5\na{x="2",} -1e3\nb 7\n'
        await subject.until("b", bool)
        target = f"instance={subject.exporter.address},job=app,track=canary"
        assert await subject.vector("{job='app',__name__=~'a|b|up'}") == {
            f"__name__=a,{target},x=1": 2.5,
            f"__name__=a,{target},x=2": -1000.0,
            f"__name__=b,{target}": 7.0,
            f"__name__=up,{target}": 1.0,
        }
        assert len(await subject.vector("scrape_duration_seconds > 0")) == 1
        assert await subject.vector("sum(scrape_samples_scraped)") == {"": 3.0}

    async def test_special_values_and_escapes(self, subject: Subject) -> None:
        subject.exporter.page = (
            'a{x="q\\"u\\\\o\\nte}",y="ü"} +Inf\na{x="n"} NaN\na{x="m"} -Inf\na{x="\\q",z="e"} 1\n'
        )
        await subject.until("a", lambda found: len(found) == 4)
        assert await subject.vector("a{x='q\"u\\\\o\\nte}',y='ü'} == Inf") != {}
        assert await subject.vector("sum(a{x='m'})") == {"": -math.inf}
        assert math.isnan((await subject.vector("sum(a{x='n'})"))[""])
        assert len(await subject.vector("a{x='\\\\q',z='e'}")) == 1

    async def test_a_label_of_the_page_does_not_hide_the_targets(self, subject: Subject) -> None:
        subject.exporter.page = 'a{job="mine",track="stable"} 1\n'
        found = await subject.until("a", bool)
        target = f"instance={subject.exporter.address},job=app,track=canary"
        assert list(found) == [f"__name__=a,exported_job=mine,exported_track=stable,{target}"]

    async def test_a_series_that_leaves_the_page_ends_at_once(self, subject: Subject) -> None:
        subject.exporter.page = 'a{x="1"} 1\na{x="2"} 1\n'
        await subject.until("count(a)", lambda found: found == {"": 2.0})
        subject.exporter.page = 'a{x="1"} 1\n'
        await subject.until("count(a)", lambda found: found == {"": 1.0})
        assert list(await subject.vector("count by (x) (a)")) == ["x=1"]
        subject.exporter.page = 'a{x="1"} 1\na{x="2"} 5\n'
        await subject.until("a{x='2'} == 5", bool)

    @pytest.mark.parametrize(
        "broken",
        ["b", "2b 3", "b{x=1} 2", "b 2 3 4", "b two", 'b{x="1" 1', '{x="1"} 1', "b 1_000"],
    )
    async def test_a_broken_page_counts_for_nothing(self, subject: Subject, broken: str) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        subject.exporter.page = f"a 2\n{broken}\n"
        await subject.until("up == 0", bool)
        # Prometheus 2.42 leaves a series standing that came before the fault; its new value must not show.
        assert await subject.vector("a == 2 or b") == {}
        subject.exporter.page = "a 3\n"
        await subject.until("a == 3", bool)
        assert list((await subject.vector("up")).values()) == [1.0]

    async def test_a_last_line_without_its_end_counts(self, subject: Subject) -> None:
        subject.exporter.page = "# comment\n\na 1\nb 2"
        await subject.until("b == 2", bool)
        assert list((await subject.vector("up")).values()) == [1.0]

    async def test_an_error_status_is_down(self, subject: Subject) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        subject.exporter.status = 500
        await subject.until("up == 0", bool)
        await subject.until("absent(a)", bool)

    async def test_a_hanging_target_is_down_and_named(self, subject: Subject) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        subject.exporter.hang = True
        await subject.until("up == 0", bool)
        _, answer = await subject.get("/api/v1/targets")
        (target,) = answer["data"]["activeTargets"]
        assert target["health"] == "down"
        assert target["lastError"]

    async def test_a_target_that_is_taken_away_ends(self, subject: Subject) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        subject.exporter.groups = []
        await subject.until("count(a) or count(up)", lambda found: not found)
        _, answer = await subject.get("/api/v1/targets")
        assert answer["data"]["activeTargets"] == []

    async def test_discovery_that_fails_keeps_the_last_targets(self, subject: Subject) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        subject.exporter.sd_status = 500
        subject.exporter.groups = []
        seen = subject.exporter.scrapes

        async def scraped_on() -> bool:
            return subject.exporter.scrapes > seen + 5

        await poll(scraped_on)
        assert await subject.vector("a")

    async def test_a_page_may_carry_its_own_timestamps(self, subject: Subject) -> None:
        subject.exporter.page = "b 1\n"
        await subject.until("b", bool)
        now = (await subject.vector("max(timestamp(up))"))[""]
        subject.exporter.page = f"a 5 {round(now * 1000)}\n"
        await subject.until("a", bool)
        assert list((await subject.vector("timestamp(a)")).values()) == [pytest.approx(now, abs=0.001)]

    async def test_a_live_counter_has_a_rate(self, subject: Subject) -> None:
        subject.exporter.page = "c_total 0\n"
        await subject.until("c_total", bool)
        subject.exporter.page = "c_total 60\n"
        await subject.until("increase(c_total[1m])", lambda found: any(v >= 60 for v in found.values()))


class TestApi:
    async def test_metadata(self, subject: Subject) -> None:
        subject.exporter.page = 'a{x="2"} 1\na{x="1"} 1\nb 1\n'
        await subject.until("b", bool)
        labels = {"instance": subject.exporter.address, "job": "app", "track": "canary"}
        status, answer = await subject.get("/api/v1/series", match="a")
        assert status == 200
        assert answer == {
            "status": "success",
            "data": [{"__name__": "a", **labels, "x": "1"}, {"__name__": "a", **labels, "x": "2"}],
        }
        _, answer = await subject.get("/api/v1/labels", match="a")
        assert answer["data"] == ["__name__", "instance", "job", "track", "x"]
        _, answer = await subject.get("/api/v1/label/x/values")
        assert answer["data"] == ["1", "2"]
        _, answer = await subject.get("/api/v1/label/x/values", match="b")
        assert answer["data"] == []
        _, answer = await subject.get("/api/v1/series", match="a", end="1000000000")
        assert answer["data"] == []

    async def test_targets(self, subject: Subject) -> None:
        subject.exporter.page = "a 1\n"
        await subject.until("a", bool)
        _, answer = await subject.get("/api/v1/targets")
        (target,) = answer["data"]["activeTargets"]
        assert target["health"] == "up"
        assert target["scrapeUrl"] == f"http://{subject.exporter.address}/metrics"
        assert target["labels"] == {"instance": subject.exporter.address, "job": "app", "track": "canary"}
        assert target["discoveredLabels"]["__hidden"] == "x"
        assert (target["lastError"], target["scrapePool"]) == ("", "app")

    @pytest.mark.parametrize(
        ("path", "parameters", "status", "kind"),
        [
            ("query", {"query": "sum("}, 400, "bad_data"),
            ("query", {"query": ""}, 400, "bad_data"),
            ("query", {}, 400, "bad_data"),
            ("query", {"query": "1", "time": "noon"}, 400, "bad_data"),
            ("query", {"query": "up * on() up or label_replace(up, '-', '', '', '')"}, 422, "execution"),
            ("query_range", {"query": "1", "start": "0", "end": "10"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "0", "end": "10", "step": "0"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "10", "end": "0", "step": "1"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "0", "end": "11001", "step": "1"}, 400, "bad_data"),
            ("query_range", {"query": "up[5m]", "start": "0", "end": "1", "step": "1"}, 400, "bad_data"),
            ("series", {}, 400, "bad_data"),
            ("series", {"match": "{"}, 400, "bad_data"),
            ("labels", {"match": "1"}, 400, "bad_data"),
            ("label/a-b/values", {}, 400, "bad_data"),
        ],
    )
    async def test_errors(
        self, subject: Subject, path: str, parameters: dict[str, str], status: int, kind: str
    ) -> None:
        got, answer = await subject.get(f"/api/v1/{path}", **parameters)
        assert (got, answer["status"], answer["errorType"]) == (status, "error", kind), answer
        assert answer["error"]

    async def test_answers_have_prometheus_shape(self, subject: Subject) -> None:
        at = "1700000000.25"
        for ask in (subject.get, subject.post):
            _, answer = await ask("/api/v1/query", query="vector(0.5)", time=at)
            assert answer == {
                "status": "success",
                "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1700000000.25, "0.5"]}]},
            }
            window = {"start": "2023-11-14T22:13:20Z", "end": "1700000002", "step": "1s"}
            _, answer = await ask("/api/v1/query_range", query="time()", **window)
            values = [[1700000000 + i, str(1700000000 + i)] for i in range(3)]
            assert answer["data"] == {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
        _, answer = await subject.get("/api/v1/query", query="1/0", time=at)
        assert answer["data"] == {"resultType": "scalar", "result": [1700000000.25, "+Inf"]}
        _, answer = await subject.get("/api/v1/query", query="0/0", time=at)
        assert answer["data"]["result"][1] == "NaN"
        _, answer = await subject.get("/api/v1/query", query="'text'", time=at)
        assert answer["data"] == {"resultType": "string", "result": [1700000000.25, "text"]}
        for text, in_vector, as_scalar in NUMBERS:
            _, answer = await subject.get("/api/v1/query", query=f"vector({text})", time=at)
            assert answer["data"]["result"][0]["value"][1] == in_vector
            _, answer = await subject.get("/api/v1/query", query=text, time=at)
            assert answer["data"]["result"][1] == as_scalar

    async def test_the_client_reads_it(self, subject: Subject) -> None:
        subject.exporter.page = 'a{x="1"} 2\n'
        await subject.until("a", bool)
        metrics = PrometheusMetrics(subject.url)
        try:
            answer = await metrics.query("a")
            assert [(s.labels["x"], s.value) for s in answer.samples] == [("1", 2.0)]
            assert answer.clock_offset_s is not None
            assert abs(answer.clock_offset_s) < 5
            with pytest.raises(BackendRefused) as caught:
                await metrics.query("sum(")
            assert caught.value.status == 400
        finally:
            await metrics.close()
