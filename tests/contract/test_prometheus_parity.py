"""The stand-in's PromQL against a real Prometheus over the same samples; skipped where there is none."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from cockpit.rehearsal.prometheus.server import PrometheusServer
from tests.contract import promql_cases as cases

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus over backfilled samples; yields its URL."""
    server, tool = shutil.which("prometheus"), shutil.which("promtool")
    if server is None or tool is None:
        pytest.skip("no prometheus and promtool on PATH")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples.om").write_text(cases.openmetrics())
    subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", "samples.om", "data"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "empty.yml").write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            server,
            f"--config.file={folder}/empty.yml",
            f"--storage.tsdb.path={folder}/data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
async def standin() -> AsyncIterator[str]:
    """The stand-in with the same samples; yields its URL."""
    async with PrometheusServer() as server:
        for labels, points in cases.series():
            for t, value in points:
                server.store.append(labels, t * 1000, value)
        yield server.url


async def ask(session: aiohttp.ClientSession, url: str, **parameters: str) -> tuple[int, dict[str, Any]]:
    path = "query_range" if "step" in parameters else "query"
    async with session.post(f"{url}/api/v1/{path}", data=parameters) as response:
        return response.status, await response.json()


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(f"{url}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def same(a: Any, b: Any) -> bool:
    """Compare results: numbers in texts to 1e-9, everything else exactly."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, str) and isinstance(b, str) and a != b:
        try:
            return math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-12)
        except ValueError:
            return False
    return bool(a == b)


def comparable(query: str, answer: dict[str, Any]) -> Any:
    if answer["status"] == "error":
        return answer["errorType"]
    data = answer["data"]
    if data["resultType"] in ("vector", "matrix") and not query.startswith("sort"):
        data["result"].sort(key=lambda one: sorted(one["metric"].items()))
    if query.startswith("sort"):
        # The places of equal values are not laid down.
        return [one["value"][1] for one in data["result"]]
    return data


async def test_instant_queries_agree(prometheus: str, standin: str) -> None:
    differences = []
    async with aiohttp.ClientSession() as session:
        await ready(session, prometheus)
        for moment in cases.MOMENTS:
            for query in cases.EXPRESSIONS:
                real = await ask(session, prometheus, query=query, time=str(moment))
                ours = await ask(session, standin, query=query, time=str(moment))
                if real[0] != ours[0] or not same(comparable(query, real[1]), comparable(query, ours[1])):
                    differences.append((query, moment - cases.END_S, real, ours))
    assert not differences, f"{len(differences)}: {differences[:5]}"


async def test_range_queries_agree(prometheus: str, standin: str) -> None:
    differences = []
    async with aiohttp.ClientSession() as session:
        await ready(session, prometheus)
        for query in cases.EXPRESSIONS:
            window = {"start": str(cases.START_S - 20), "end": str(cases.END_S + 400), "step": "37s"}
            real = await ask(session, prometheus, query=query, **window)
            ours = await ask(session, standin, query=query, **window)
            if query.startswith("sort"):
                query = f"({query})"
            if real[0] != ours[0] or not same(comparable(query, real[1]), comparable(query, ours[1])):
                differences.append((query, real, ours))
    assert not differences, f"{len(differences)}: {differences[:5]}"


async def test_refusals_agree(prometheus: str, standin: str) -> None:
    async with aiohttp.ClientSession() as session:
        await ready(session, prometheus)
        for query in cases.REFUSED:
            for url in (prometheus, standin):
                status, answer = await ask(session, url, query=query)
                assert (status, answer["status"], answer["errorType"]) == (400, "error", "bad_data"), query
