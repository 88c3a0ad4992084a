"""The real k6 sends what it says, tells what the server saw, is judged as the built-in one; long tier."""

from __future__ import annotations

import asyncio
import json
import math
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cockpit.backends.k6 import K6Generator, version_of
from cockpit.backends.load import LoadGenerator, LoadProfile, OpenLoopGenerator
from cockpit.backends.tls import read_authorities
from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.real.binaries import binary
from cockpit.verdicts.rules.load_result import LoadResult, read_result
from cockpit.verdicts.rules.perf import MAX_LATE_MS, load_latency
from tests.agents.support import DEADLINE, World, recomputed
from tests.agents.support import world as running
from tests.agents.test_gates import PERF, measured
from tests.cli.test_doctor_back_ends import certificate
from tests.real.fixtures import need

pytestmark = [pytest.mark.real, pytest.mark.long]
SLOW_S = 0.4


@pytest.fixture(autouse=True)
def _there() -> None:
    need("k6")


@dataclass
class Server:
    """Answers by path, and keeps its own record: what was asked for, and how long each answer took here."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    agents: set[str] = field(default_factory=set)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        path, began = request.path_qs, loop.time()
        self.asked[path] += 1
        self.agents.add(request.headers.get("User-Agent", ""))
        number = self.asked[path]
        status = 200
        if request.path == "/mixed":  # 1 in 10 is slow, another 1 in 10 fails
            await asyncio.sleep(SLOW_S if number % 10 == 5 else 0.02)
            status = 503 if number % 10 == 0 else 200
        elif request.path == "/moved":
            raise web.HTTPFound("/elsewhere")
        elif request.path == "/cut":
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b"not all")
            assert request.transport is not None
            request.transport.abort()
            return answer
        elif request.path == "/held":
            await self.held.wait()
        self.took_ms.setdefault(path, []).append((loop.time() - began) * 1000)
        return web.Response(status=status, text="x" * 500)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.held.set()
        await runner.cleanup()


def profile(rps: float, seconds: float, **services: str) -> LoadProfile:
    return LoadProfile(
        "baseline", rps, seconds, {name: tuple(text.split()) for name, text in services.items()}
    )


async def on_schedule(generator: LoadGenerator, sent: LoadProfile) -> LoadResult:
    """Run a profile until the machine let the generator keep its schedule."""
    for _ in range(6):
        result = await generator.run(sent)
        if all(one.late_ms <= MAX_LATE_MS for one in result.services):
            return result
    pytest.fail("the machine is too busy to measure anything")


def k6(server: Server, **more: float) -> K6Generator:
    return K6Generator(server.url, "stage", binary("k6"), **more)  # type: ignore[arg-type]


async def test_its_version_is_recorded() -> None:
    assert await version_of(binary("k6")) == "1.8.1"


async def test_counts_and_latencies_are_those_of_the_server() -> None:
    async with serving() as server:
        generator = k6(server)
        for _ in range(6):
            server.asked.clear()
            server.took_ms.clear()
            result = await generator.run(profile(50, 4, mixed="/mixed", plain="/a?b=%C3%A9&c=1 /d"))
            if all(one.late_ms <= MAX_LATE_MS for one in result.services):
                break
        mixed, plain = result.services
        assert result.by == "k6 1.8.1" and read_result(result.raw) == result
        assert json.loads(result.raw)["dropped_iterations"] == 0
        assert (mixed.intended, mixed.dropped, mixed.cut) == (200, 0, 0)
        assert server.asked == {"/mixed": 200, "/a?b=%C3%A9&c=1": 100, "/d": 100}
        assert (mixed.good, mixed.errors, plain.good, plain.errors) == (180, 20, 200, 0)
        assert len(server.agents) == 1 and "k6/1.8.1" in server.agents.pop()
        # The server knows how long each answer took it: the same share took at least as long on the way.
        own = sorted(server.took_ms["/mixed"])
        for share in (0.5, 0.85, 0.92, 0.95, 1.0):
            assert mixed.percentile_ms(share) >= own[math.ceil(share * len(own)) - 1]
        # From above: a tenth is slow, and no hurried request is taken for one of them.
        assert mixed.percentile_ms(0.5) < SLOW_S * 1000 <= mixed.percentile_ms(0.95)
        assert mixed.percentile_ms(0.95) < 2 * SLOW_S * 1000 + own[-1] - own[len(own) // 2]


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with serving() as server:
        [one] = (await k6(server).run(profile(10, 1, web="/moved"))).services
        assert one.good == 10 and server.asked == {"/moved": 10}


async def test_what_is_cut_or_too_late_is_no_answer() -> None:
    async with serving() as server:
        [held, whole] = (
            await k6(server, timeout=1.0).run(profile(20, 1, held="/held /ok", whole="/cut /ok"))
        ).services
        for one in (held, whole):
            assert (one.intended, one.good, one.cut, one.dropped) == (20, 10, 10, 0)
            assert one.percentile_ms(0.95) == math.inf and one.error_rate == 0.5


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(BackendUnreachable):
        await K6Generator("http://127.0.0.1:9", "stage", binary("k6")).run(profile(10, 1, web="/"))


async def test_what_found_no_user_is_counted_as_not_answered() -> None:
    async with serving() as server:
        loop = asyncio.get_running_loop()
        loop.call_later(1.5, server.held.set)
        [one] = (result := await k6(server, under_way=3).run(profile(40, 2, web="/held"))).services
        assert one.intended == 80 and one.good + one.dropped == 80
        assert one.dropped > 20  # three were under way for more than a second, the others found nobody
        assert one.dropped <= json.loads(result.raw)["dropped_iterations"] + 80 - server.asked["/held"]
        assert one.good <= server.asked["/held"] <= 80
        assert one.error_rate == pytest.approx(one.dropped / 80) and one.percentile_ms(0.95) == math.inf


async def test_short_and_uneven_loads_send_what_they_intend() -> None:
    async with serving() as server:
        for rps, seconds, count in ((20.0, 0.5, 10), (12.5, 1.3, 16), (0.5, 1.0, 1), (300.0, 1.0, 300)):
            server.asked.clear()
            [one] = (await k6(server).run(profile(rps, seconds, web="/a"))).services
            assert (one.intended, one.good, one.dropped) == (count, count, 0)
            assert server.asked["/a"] == count


async def test_authorities_of_the_plan_are_trusted_and_no_others(tmp_path: Path) -> None:
    context, authority = certificate(tmp_path, 30)
    async with serving(context) as server:
        trusting = K6Generator(server.url, "stage", binary("k6"), tls=read_authorities(authority))
        [one] = (await trusting.run(profile(10, 1, web="/a"))).services
        assert one.good == 10
        with pytest.raises(BackendUnreachable):
            await k6(server).run(profile(10, 1, web="/b"))
        assert server.asked == {"/a": 10}


def processes(program: Path) -> list[int]:
    """Return the processes of a program in our own network namespace."""
    found = []
    for one in Path("/proc").iterdir():
        try:
            same = os.readlink(one / "ns/net") == os.readlink("/proc/self/ns/net")
            if one.name.isdigit() and same and Path(os.readlink(one / "exe")) == program.resolve():
                found.append(int(one.name))
        except OSError:
            continue
    return found


def listening(pid: int) -> set[str]:
    """Return the local addresses something listens at, in the network namespace of a process."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]
    ]
    return {row[1] for row in rows if row[3] == "0A"}


async def until(count: int) -> list[int]:
    async with asyncio.timeout(30):
        while len(found := processes(binary("k6"))) != count:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.02)
    return found


async def test_a_cancelled_load_ends_k6_at_once_and_it_listened_nowhere() -> None:
    async with serving() as server:
        before = listening(os.getpid())
        sending = asyncio.create_task(k6(server).run(profile(20, 60, web="/a")))
        async with asyncio.timeout(30):
            while server.asked["/a"] < 3:  # noqa: ASYNC110 - k6 is another process
                await asyncio.sleep(0.02)
        [pid] = await until(1)
        assert listening(pid) == before
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(0)
        # It has ended, so nothing more can come: the next load's counts are its own.
        server.asked.clear()
        [one] = (await k6(server).run(profile(10, 1, web="/b"))).services
        assert one.good == 10 and server.asked == {"/b": 10}


@pytest.mark.parametrize(
    ("path", "verdict"),
    [("/plain", "pass"), ("/mixed", "fail"), ("/cut /plain", "fail")],
    ids=["healthy", "slow and failing", "cut"],
)
async def test_both_generators_are_judged_alike(path: str, verdict: str) -> None:
    params: dict[str, Any] = {
        "threshold": "p95_ms<=250",
        "errors": "error_rate<0.01",
        "min_requests": 50,
        "profiles": ["baseline"],
        "services": ["web"],
    }
    async with serving() as server:
        for generator in (OpenLoopGenerator(server.url, "stage"), k6(server)):
            result = await on_schedule(generator, profile(60, 2, web=path))
            judged = load_latency({"baseline": result.raw}, params)
            assert judged.outcome == verdict, (result.by, judged)


@pytest.mark.parametrize("change", [None, "slow", "failing"])
async def test_the_perf_engineer_measures_with_k6_and_it_can_be_judged_again(
    tmp_path: Path, change: str | None
) -> None:
    async with running(tmp_path) as world:
        _with_k6(world)
        if change is not None:
            PERF[change](world)
        verdict = await measured(world, "A26")
        expected = "pass" if change is None else "fail"
        assert (verdict.verdict, verdict.details.outcome) == (expected, expected), verdict.details.reason
        assert all("by k6 1.8.1" in one.text for one in verdict.details.queries)
        assert {world.read(f"perf/{one}.json")["generator"] for one in ("baseline", "spike")} == {"k6 1.8.1"}
        recomputed(world)


async def test_headroom_is_measured_with_k6(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        _with_k6(world)
        verdict = await measured(world, "A27")
        assert verdict.verdict == "pass", verdict.details.reason
        assert world.read("perf/headroom.json")["generator"] == "k6 1.8.1"
        recomputed(world)


def _with_k6(world: World) -> None:
    world.data["agent_deadline"] = "60s"  # k6 takes a second or more to begin
    generator = K6Generator(world.stage.url, "stage", binary("k6"), timeout=DEADLINE)
    world.handles = replace(world.handles, load=generator)
