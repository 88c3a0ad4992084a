"""HALT: from the moment a front end sends it to the last request that arrives on the wire.

Three processes, as in a release: this one is the front end; the conductor's core (effects gate, people,
control socket, journal, the real cluster client) records 1,000 events/s and sends forward effects as fast as
they are answered; a server notes when each request arrives, which is what counts: not when a HALT was taken.
"""

from __future__ import annotations

import array
import asyncio
import bisect
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report, parse_arguments, percentile
from cockpit.control.client import ControlClient

HALTS = 110
_FLOW = (0.08, 0.13)
"""Seconds of effects before each HALT, drawn at random so that no phase repeats."""
_QUIET = 0.08
"""Seconds watched after each HALT."""
_READY = 30.0
_PARTS = Path(__file__).with_name("halt_parts.py")


@contextlib.asynccontextmanager
async def part(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one of the other processes; it ends when its input is closed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_PARTS),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Return the next line a process prints."""
    assert process.stdout is not None
    async with asyncio.timeout(_READY):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the benchmark ended early")
    return line.decode().strip()


async def halts(client: ControlClient) -> tuple[list[tuple[int, int]], list[float], list[float]]:
    """Halt and resume; return when each HALT was sent and its watch ended, and how long replies took.

    The last are the replies to pings sent just before: what any command waits for, HALT or not.
    """
    spans: list[tuple[int, int]] = []
    replies: list[float] = []
    pings: list[float] = []
    dice = random.Random(2025)
    for _ in range(HALTS):
        await asyncio.sleep(dice.uniform(*_FLOW))
        asked = time.monotonic_ns()
        await client.send("ping")
        pings.append((time.monotonic_ns() - asked) / 1e6)
        sent = time.monotonic_ns()
        reply = await client.send("halt")
        replies.append((time.monotonic_ns() - sent) / 1e6)
        await asyncio.sleep(_QUIET)
        spans.append((sent, time.monotonic_ns()))
        resumed = await client.send("resume", reason="benchmark")
        if not (reply.ok and resumed.ok):
            raise RuntimeError(f"the conductor refused: {reply.text or resumed.text}")
    return spans, replies, pings


async def measure(report: Report, folder: Path) -> None:
    """Run the processes and report."""
    stamps = folder / "arrivals"
    async with part("server", str(stamps)) as server:
        url = await line_of(server)
        run_dir = folder / "run"
        run_dir.mkdir(mode=0o700)
        async with part("conductor", url, str(run_dir)) as conductor:
            await line_of(conductor)
            client = ControlClient(run_dir, source="tui", by="benchmark")
            await client.connect()
            await asyncio.sleep(0.5)
            spans, replies, pings = await halts(client)
            await client.close()
            assert conductor.stdin is not None
            conductor.stdin.close()
            counts = json.loads(await line_of(conductor))
    arrivals = array.array("q")
    arrivals.frombytes(stamps.read_bytes())
    _report(report, list(arrivals), spans, replies, pings, counts)


def _report(
    report: Report,
    arrivals: list[int],
    spans: list[tuple[int, int]],
    replies: list[float],
    pings: list[float],
    counts: dict[str, float],
) -> None:
    latencies: list[float] = []
    under_fire = 0
    for sent, until in spans:
        last = bisect.bisect_right(arrivals, until) - 1
        latencies.append(max(0, arrivals[last] - sent) / 1e6)
        first = bisect.bisect_left(arrivals, sent - 20_000_000)
        under_fire += first < bisect.bisect_left(arrivals, sent)
    report.add("events recorded beside the effects' own", counts["events"], "records/s", at_least=950)
    report.add("forward effects, halts and quiet included", counts["effects"], "requests/s")
    report.add("HALTs sent", len(spans), "", at_least=100)
    report.add("HALTs with requests in the 20 ms before", under_fire, "", at_least=100)
    report.add("ping → answered, p99", percentile(pings, 99), "ms")
    report.add("HALT sent → acknowledged, p50", percentile(replies, 50), "ms")
    report.add("HALT sent → acknowledged, p99", percentile(replies, 99), "ms")
    report.add("HALT sent → last request arrived, p50", percentile(latencies, 50), "ms")
    report.add("HALT sent → last request arrived, p99", percentile(latencies, 99), "ms", at_most=50)
    report.add("the same : ping's p99", percentile(latencies, 99) / percentile(pings, 99), "times")
    report.add("HALT sent → last request arrived, most", max(latencies), "ms")


def main() -> int:
    """Measure and print."""
    arguments = parse_arguments("Measure HALT (about 25 seconds).")
    report = Report("HALT to nothing new on the wire")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        asyncio.run(measure(report, Path(name)))
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
