"""The load generator and the HTTP reader: bounded, honest about latency, and never led elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.load import LoadProfile, OpenLoopGenerator
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from tests.agents.support import Service


class Place:
    """A server whose answers a test chooses."""

    def __init__(self) -> None:
        self.service = Service(self._answer)
        self.paths: list[str] = []
        self.other = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path_qs)
        name = request.path.strip("/")
        if name == "away":
            return web.Response(status=302, headers={"Location": f"{self.other}/there"})
        if name == "near":
            return web.Response(status=302, headers={"Location": "/here"})
        if name == "circle":
            return web.Response(status=302, headers={"Location": "/circle"})
        if name == "large":
            return web.Response(body=b"x" * 5000)
        if name == "packed":
            answer = web.Response(text="x" * 5000)
            answer.enable_compression(web.ContentCoding.gzip)
            return answer
        if name == "held":
            await self.gate.wait()
        if name == "busy":
            return web.Response(status=503, text="later")
        return web.Response(text="hello")


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    async with made.service.running():
        yield made
        made.gate.set()


async def test_a_status_is_an_answer(place: Place) -> None:
    reader = BoundedHttpReader(deadline=5)
    answer = await reader.get(f"{place.service.url}/busy")
    assert (answer.status, answer.body) == (503, b"later")
    near = await reader.get(f"{place.service.url}/near")
    assert near.body == b"hello" and near.url.endswith("/here")


async def test_another_host_is_not_followed(place: Place) -> None:
    other = Place()
    async with other.service.running():
        place.other = other.service.url
        with pytest.raises(BackendRefused, match="another host"):
            await BoundedHttpReader(deadline=5).get(f"{place.service.url}/away")
        assert other.paths == []


async def test_answers_are_bounded(place: Place) -> None:
    reader = BoundedHttpReader(deadline=5, max_bytes=1000)
    with pytest.raises(BackendGarbage, match="more than 1000 bytes"):
        await reader.get(f"{place.service.url}/large")
    with pytest.raises(BackendGarbage, match="redirects"):
        await reader.get(f"{place.service.url}/circle")
    place.gate.clear()
    with pytest.raises(BackendUnreachable, match=r"within 0\.1 s"):
        await BoundedHttpReader(deadline=0.1).get(f"{place.service.url}/held")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/", "http://", "nowhere", "http://[::1", ""])
async def test_only_http(url: str) -> None:
    with pytest.raises(UsageError):
        await BoundedHttpReader().get(url)


async def test_nobody_there() -> None:
    with pytest.raises(BackendUnreachable):
        await BoundedHttpReader(deadline=2).get("http://127.0.0.1:9/")


def profile(seconds: float = 0.5, rps: float = 40, *paths: str) -> LoadProfile:
    return LoadProfile("baseline", rps, seconds, {"web": paths or ("/",)})


async def test_load_counts_what_it_sent(place: Place) -> None:
    result = await OpenLoopGenerator(place.service.url, "stage").run(profile(0.5, 40, "/a?b=1", "/c"))
    [one] = result.services
    assert (one.intended, one.good, one.errors, one.dropped, one.cut) == (20, 20, 0, 0, 0)
    assert set(place.paths) == {"/a?b=1", "/c"} and len(place.paths) == 20
    assert one.error_rate == 0 and math.isfinite(one.percentile_ms(0.95)) and math.isfinite(one.late_ms)


async def test_load_does_not_wait_for_answers(place: Place) -> None:
    place.gate.clear()
    running = asyncio.create_task(
        OpenLoopGenerator(place.service.url, "stage").run(profile(0.5, 40, "/held"))
    )
    async with asyncio.timeout(20):
        while len(place.paths) < 20:  # noqa: ASYNC110 - the sender is another process
            await asyncio.sleep(0.02)
    place.gate.set()
    [one] = (await running).services
    # All left on time although none came back: the first waited at least as long as all the sending took.
    assert one.intended == one.good == 20 and one.percentile_ms(1.0) >= 400


async def test_cut_requests_are_infinitely_late(place: Place) -> None:
    place.gate.clear()
    generator = OpenLoopGenerator(place.service.url, "stage", timeout=0.2)
    [one] = (await generator.run(profile(0.5, 20, "/held", "/"))).services
    assert one.cut == 5 and one.good == 5 and one.percentile_ms(0.95) == math.inf


async def test_errors_are_counted(place: Place) -> None:
    [one] = (await OpenLoopGenerator(place.service.url, "dev").run(profile(0.5, 20, "/busy"))).services
    assert one.error_rate == 1 and one.errors == 10


async def test_load_that_nobody_answers_is_no_result() -> None:
    with pytest.raises(BackendUnreachable):
        await OpenLoopGenerator("http://127.0.0.1:9", "stage").run(profile())


@pytest.mark.parametrize("environment", ["prod", "", "production", "PROD"])
def test_load_goes_to_dev_and_stage_only(environment: str) -> None:
    with pytest.raises(BackendRefused):
        OpenLoopGenerator("http://127.0.0.1:9", environment)


@pytest.mark.parametrize(
    "wrong",
    [
        LoadProfile("x", 0, 1, {"a": ("/",)}),
        LoadProfile("x", 10_000, 1, {"a": ("/",)}),
        LoadProfile("x", 3000, 1, {"a": ("/",), "b": ("/",)}),
        LoadProfile("x", 1, 10_000, {"a": ("/",)}),
        LoadProfile("x", 1, 1, {}),
        LoadProfile("x", 1, 1, {"a": ()}),
        LoadProfile("x", 1, 1, {"a": ("@else.invalid/",)}),
        LoadProfile("x", 1, 1, {"a": (".else.invalid/",)}),
    ],
)
async def test_load_out_of_bounds_is_refused(wrong: LoadProfile) -> None:
    with pytest.raises(UsageError):
        await OpenLoopGenerator("http://127.0.0.1:9", "stage").run(wrong)
