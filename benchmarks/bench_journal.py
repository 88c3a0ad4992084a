"""The journal: appending against the bare disk, verifying against bare SHA-256, opening a recording."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report, parse_arguments, percentile
from cockpit.base.clock import SystemClock
from cockpit.journal import events as ev
from cockpit.journal.chain import GENESIS, MerkleTree, leaf_hash, splice
from cockpit.journal.fold import Fold
from cockpit.journal.links import Links
from cockpit.journal.reader import Block, read_blocks, verified_events
from cockpit.journal.storage import SystemIo
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter

RECORDS = 100_000
REPEATS = 9
NOTE = "The canary serves its share; error ratio and latency lie inside the thresholds of this step. " * 2


def some_event(n: int) -> ev.AnyEvent:
    """Return one of the events a busy run is made of; a line of them is about 400 bytes long."""
    call = f"c{n:08d}"
    match n % 4:
        case 0:
            return ev.AgentAnswered(
                call=call,
                agent="error-budget-analyst",
                phase="P6",
                op="VERIFY",
                result="pass",
                notes=NOTE[: 120 + n % 60],
                next="advance",
                took_ms=n % 900 + 0.5,
                response="sha256:" + "ab" * 32,
            )
        case 1:
            return ev.EffectIntended(
                effect=call,
                lane="forward",
                verb="patch",
                target="httproute/checkout",
                env="prod",
                by="traffic-shifter",
                detail=NOTE[: 110 + n % 60],
            )
        case 2:
            return ev.EffectDone(effect=f"c{n - 1:08d}", took_ms=n % 40 + 0.25, detail=NOTE[:160])
        case _:
            return ev.LookTaken(
                step=n // 4 % 5,
                look=n // 20,
                outcome="pass",
                critical=False,
                reason="",
                requests=float(n),
                metrics={"error_ratio": 0.0012, "p99_ms": 181.5, "saturation": 0.41},
                burn={"5m": 0.3, "1h": 0.21},
                passes=n % 3,
                required=3,
                failures=0,
                answers="sha256:" + "cd" * 32,
            )


@dataclass
class CountingIo(SystemIo):
    """The system's calls, noting the sizes of the batches."""

    batches: list[int] = field(default_factory=list)

    def write(self, fd: int, data: memoryview) -> int:
        """Write and note how much."""
        written = super().write(fd, data)
        self.batches.append(written)
        return written


async def append_burst(folder: Path, count: int, window: int = 1000) -> tuple[float, list[int]]:
    """Append `count` events with `window` of them in flight; return seconds and the sizes of the batches."""
    io = CountingIo()
    pending = iter([some_event(n) for n in range(count)])

    async def worker() -> None:
        for event in pending:
            await writer.append(event)

    async with JournalWriter.open(folder, clock=SystemClock(), io=io) as writer:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(window):
                group.create_task(worker())
        return time.perf_counter() - start, io.batches


def raw_burst(folder: Path, batches: list[int]) -> float:
    """Write and sync as many bytes in batches of the same sizes, in one thread; return seconds."""
    data = memoryview(os.urandom(max(batches)))
    fd = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        start = time.perf_counter()
        for size in batches:
            os.write(fd, data[:size])
            os.fdatasync(fd)
        return time.perf_counter() - start
    finally:
        os.close(fd)


async def offered(folder: Path, rate: int, seconds: float) -> tuple[list[float], float]:
    """Offer `rate` events a second, whatever the journal does; return latencies and the rate acknowledged.

    A latency runs from the moment the event was due, so that a stalled loop is not left out.
    """
    count = int(rate * seconds)
    batch = [some_event(n) for n in range(count)]
    latencies: list[float] = []

    async def one(event: ev.AnyEvent, due: float) -> None:
        await writer.append(event)
        latencies.append(time.perf_counter() - due)

    async with JournalWriter.open(folder, clock=SystemClock()) as writer:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            sent = 0
            while sent < count:
                now = time.perf_counter() - start
                while sent < count and sent / rate <= now:
                    group.create_task(one(batch[sent], start + sent / rate))
                    sent += 1
                await asyncio.sleep(0.001)
        took = time.perf_counter() - start
    return latencies, count / took


def measure_appending(report: Report, folder: Path) -> None:
    """Append in bursts, then at offered rates."""
    ratios: list[float] = []
    rates: list[float] = []
    for turn in range(3):
        took, batches = asyncio.run(append_burst(folder / f"burst{turn}", 20_000))
        raw = raw_burst(folder, batches)
        ratios.append(raw / took)
        rates.append(20_000 / took)
    report.add("append, 1,000 in flight", statistics.median(rates), "records/s")
    each = raw_burst(folder, [436] * 300) / 300
    report.add("bare write and fdatasync of each record", 1 / each, "records/s")
    report.add("append : bare sync of each record", statistics.median(rates) * each, "times its speed")
    report.add("append : bare sync of the same batches", statistics.median(ratios), "of its speed")

    latencies, _ = asyncio.run(offered(folder / "steady", 1_000, 4.0))
    report.add("acknowledged at 1,000/s offered, p50", percentile(latencies, 50) * 1000, "ms")
    report.add("acknowledged at 1,000/s offered, p99", percentile(latencies, 99) * 1000, "ms", at_most=20)

    held = 0.0
    for rate in (5_000, 10_000, 20_000, 25_000, 30_000, 40_000):
        latencies, reached = asyncio.run(offered(folder / f"rate{rate}", rate, 1.0))
        # Held: what was offered was acknowledged as fast as it came, no queue was building up.
        if reached < 0.95 * rate or percentile(latencies, 99) > 0.25:
            break
        held = rate
        p99 = percentile(latencies, 99)
        report.add(f"acknowledged at {rate:,}/s offered, p99", p99 * 1000, "ms")
    report.add("highest rate held", held, "records/s", at_least=20_000)


def write_recording(path: Path, count: int) -> None:
    """Write a journal of `count` chained records without syncing."""
    prev = GENESIS
    with path.open("wb") as file:
        for seq in range(count):
            hour, minute, second = seq // 360_000, seq // 6000 % 60, seq // 100 % 60
            at = b"2025-09-23T%02d:%02d:%02d.%06dZ" % (hour, minute, second, seq % 100)
            line = splice(prev, seq, at, msgspec.json.encode(some_event(seq)))
            prev = leaf_hash(line).hex().encode()
            file.write(line + b"\n")


def best(*calls: Callable[[], object]) -> list[float]:
    """Return each call's least CPU seconds of some runs: what else the machine does only ever adds.

    The calls take turns, so that all of them meet the machine's quiet and busy moments, and CPU seconds leave
    out those in which another process had the core. None of the calls waits for anything.
    """
    quickest = [float("inf")] * len(calls)
    for _ in range(REPEATS):
        for place, call in enumerate(calls):
            start = time.thread_time()
            call()
            quickest[place] = min(quickest[place], time.thread_time() - start)
    return quickest


def measure_reading(report: Report, folder: Path) -> None:
    """Verify and open a recording."""
    path = folder / "recording.jsonl"
    write_recording(path, RECORDS)
    report.add("bytes of a record", path.stat().st_size / RECORDS, "")
    blocks = [block.lines for block in read_blocks(path) if isinstance(block, Block)]

    def bare() -> None:
        sha256 = hashlib.sha256
        for lines in blocks:
            for line in lines:
                sha256(line).digest()

    def verify() -> None:
        links = Links()
        for lines in blocks:
            links.check(lines)

    links = Links()
    leaves = [links.check(lines) for lines in blocks]

    def merkle() -> None:
        tree = MerkleTree()
        for some in leaves:
            tree.extend(some)
        tree.root()

    def opened() -> None:
        for _ in verified_events(path, decode):
            pass

    def folded() -> None:
        fold = Fold()
        for events in verified_events(path, decode):
            fold.apply_all(events)
        fold.snapshot()

    raw, checked, rooted, read, whole = best(bare, verify, merkle, opened, folded)
    report.add("bare SHA-256 of the lines", RECORDS / raw, "records/s")
    report.add("verified links", RECORDS / checked, "records/s")
    report.add("verified links : bare SHA-256", raw / checked, "of its speed", at_least=0.6)
    report.add("the same with the Merkle root", raw / (checked + rooted), "of its speed")
    report.add("read, verified, decoded", RECORDS / read, "records/s")
    report.add("read, verified, decoded, folded", RECORDS / whole, "records/s", at_least=200_000)


def main() -> int:
    """Measure and print."""
    arguments = parse_arguments("Measure the journal (about 20 seconds).")
    report = Report("journal")
    # On the disk of the working tree: a temporary folder may be memory, where a sync costs nothing.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        measure_appending(report, Path(name))
        measure_reading(report, Path(name))
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
