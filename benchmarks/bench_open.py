"""Opening a recording of a busy release: read, verified, decoded, folded, with the event types of a real one.

Where `bench_journal` repeats four types, this repeats all that a green rehearsal is made of, in its order.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path

import msgspec
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_journal import best
from benchmarks.report import Report, parse_arguments
from cockpit.base.clock import iso, parse_iso
from cockpit.journal import events as ev
from cockpit.journal.chain import GENESIS, leaf_hash, splice
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.links import Links
from cockpit.journal.reader import Block, read_blocks, verified_blocks, verified_events
from cockpit.journal.upcast import decode
from tests.ui.sample import green

RECORDS = 60_000


def busy_release() -> Iterator[AnyEvent]:
    """Yield one release: opened and closed once, everything between again and again."""
    events = green()
    first, *middle, last = events
    assert isinstance(first, ev.RunOpened) and isinstance(last, ev.RunClosed)
    yield first
    yield from islice(cycle(middle), RECORDS - 2)
    yield last


def write(path: Path) -> Counter[str]:
    """Write the recording without syncing; return how often each type is in it."""
    kinds: Counter[str] = Counter()
    prev, start = GENESIS, parse_iso(green()[0].at)
    with path.open("wb") as file:
        for seq, event in enumerate(busy_release()):
            at = iso(start + timedelta(milliseconds=seq)).encode()
            line = splice(prev, seq, at, msgspec.json.encode(replace(event, seq=-1, at="")))
            prev = leaf_hash(line).hex().encode()
            file.write(line + b"\n")
            kinds[type(event).__name__] += 1
    return kinds


def measure(report: Report, folder: Path) -> None:
    """Measure each part of opening alone, and all of it together."""
    path = folder / "recording.jsonl"
    kinds = write(path)
    blocks = [block.lines for block in read_blocks(path) if isinstance(block, Block)]
    decoded = [[decode(line) for line in lines] for lines in blocks]

    def reading() -> None:
        for _ in read_blocks(path):
            pass

    def verifying() -> None:
        links = Links()
        for lines in blocks:
            links.check(lines)

    def decoding() -> None:
        for lines in blocks:
            list(map(decode, lines))

    def folding() -> None:
        fold = Fold()
        for events in decoded:
            fold.apply_all(events)
        fold.snapshot()

    def intact() -> None:
        for _ in verified_blocks(path):
            pass

    def opening() -> None:
        fold = Fold()
        for events in verified_events(path, decode):
            fold.apply_all(events)
        if fold.snapshot().closed is None:
            raise AssertionError("the recording ends with its terminal record")

    names = ("read", "verified", "decoded", "folded", "read and verified", "opened: all of it")
    took = best(reading, verifying, decoding, folding, intact, opening)
    report.add("bytes of a record", path.stat().st_size / RECORDS, "")
    report.add("types of events", len(kinds), "")
    for name, seconds in zip(names, took, strict=True):
        goal = 200_000 if name.startswith("opened") else None
        report.add(name, RECORDS / seconds, "events/s", at_least=goal)
    report.add("opened : the sum of its parts", took[-1] / sum(took[:4]), "times")


def main() -> int:
    """Measure and print."""
    arguments = parse_arguments("Measure opening a recording (about 10 seconds).")
    report = Report("opening a recording")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        measure(report, Path(name))
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
