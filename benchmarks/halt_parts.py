"""The two other processes of `bench_halt`: a server that notes when requests arrive, and a conductor's core.

Usage: python halt_parts.py server FILE | python halt_parts.py conductor URL RUN_DIR
Each prints a line when it is ready and ends when its standard input does. Times are of the machine's one
monotonic clock, in nanoseconds.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scene import plan, recorder
from cockpit.backends.cluster import HTTPROUTE, KubernetesCluster
from cockpit.base.clock import SystemClock
from cockpit.base.errors import CockpitError, EffectRefused
from cockpit.base.tasks import alongside
from cockpit.conductor.control import ControlServer
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import EffectDone

EVENTS = 1000
"""Events recorded a second, beside the effects' own."""
STREAMS = 8
_SERVICE = 0.005
"""Seconds the server takes to answer, about what a real API server does."""
_ROUTE = json.dumps(
    {"kind": "HTTPRoute", "metadata": {"name": "intelgraph", "resourceVersion": "1"}}
).encode()


class _Stamper(asyncio.Protocol):
    """HTTP/1.1, as much as is needed: the moment a request's first byte arrives is what counts."""

    def __init__(self, arrivals: array.array[int]) -> None:
        self._arrivals = arrivals
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._data:
            self._now = time.monotonic_ns()
            if data.startswith(b"PATCH "):
                self._arrivals.append(self._now)
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
        if len(body) >= int(fields.get(b"content-length", b"0")):
            self._data = b""
            asyncio.get_running_loop().call_later(_SERVICE, self._answer)

    def _answer(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % len(_ROUTE) + _ROUTE)


class _Held:
    held = True
    fenced_out = False


async def _input_ends() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    await reader.read()


async def serve(path: Path) -> None:
    """Serve until the input ends; then write the arrivals, eight bytes each."""
    arrivals: array.array[int] = array.array("q")
    server = await asyncio.get_running_loop().create_server(lambda: _Stamper(arrivals), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await _input_ends()
    server.close()
    await asyncio.to_thread(path.write_bytes, arrivals.tobytes())


async def conduct(url: str, run_dir: Path) -> None:
    """Send forward effects and record events until the input ends; then print how many."""
    clock = SystemClock()
    window = plan(run_dir).plan.window_utc
    async with recorder(run_dir) as recording:
        effects = EffectsGate(recording, _Held(), clock, window, frozenset({"prod"}))
        people = People(
            effects=effects, recorder=recording, clock=clock, on_halt="ask", bound=3600, unattended=False
        )
        cluster = KubernetesCluster(url, "token", "prod", deadline=5)
        await cluster.connect()
        control = ControlServer(run_dir, people, may_resume=_nothing_against)
        await control.start()
        started, counts = time.perf_counter(), [0, 0]
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(alongside(_events(recording, counts)))
                for _ in range(STREAMS):
                    await stack.enter_async_context(alongside(_effects(effects, people, cluster, counts)))
                print("ready", flush=True)
                await _input_ends()
        finally:
            await control.stop()
            await cluster.close()
        took = time.perf_counter() - started
        print(json.dumps({"events": counts[0] / took, "effects": counts[1] / took}), flush=True)


async def _nothing_against(_by: str, _reason: str) -> str:
    return ""


async def _events(recording: Recorder, counts: list[int]) -> None:
    """Record `EVENTS` a second, and look at the state ten times a second as a conductor does."""
    start = time.perf_counter()
    looked = 0.0
    while True:
        now = time.perf_counter() - start
        while counts[0] < now * EVENTS:
            recording.note(EffectDone(effect="e0", took_ms=1.5, detail="an event of about this length " * 8))
            counts[0] += 1
        if now - looked >= 0.1:
            recording.state()
            looked = now
        await asyncio.sleep(0.001)


async def _effects(
    effects: EffectsGate, people: People, cluster: KubernetesCluster, counts: list[int]
) -> None:
    """Patch as fast as answers come, as long as no HALT is in force."""
    while True:
        await people.resumed()
        try:
            await effects.forward(
                "shift",
                "httproute/intelgraph",
                lambda: cluster.patch(HTTPROUTE, "intelgraph", {"spec": {}}, resource_version="1"),
                env="prod",
                by="benchmark",
            )
            counts[1] += 1
        except EffectRefused:
            await asyncio.sleep(0)
        except CockpitError:
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        asyncio.run(conduct(sys.argv[2], Path(sys.argv[3])))
