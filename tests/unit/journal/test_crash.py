"""A writer killed in the middle of its work: what it acknowledged is there, and the chain goes on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.journal.verify import verify_journal
from cockpit.journal.writer import JournalWriter
from tests.unit.journal.support import Noted

BUSY_WRITER = """
import asyncio, sys
from pathlib import Path
from cockpit.base.clock import SystemClock
from cockpit.journal.writer import JournalWriter
from tests.unit.journal.support import Noted

async def main():
    writer = JournalWriter.open(Path(sys.argv[1]), clock=SystemClock())
    async def worker(n):
        while True:
            receipt = await writer.append(Noted(n=n, text="x" * 300))
            print(receipt.seq, receipt.leaf_hash, flush=True)
    await asyncio.gather(*map(worker, range(20)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged: dict[int, str] = {}
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BUSY_WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(150):
            number, digest = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().split()
            acknowledged[int(number)] = digest
        process.kill()
        await process.wait()
    async with JournalWriter.open(tmp_path, clock=SystemClock()) as writer:
        receipt = await writer.append(Noted())
    report = verify_journal(tmp_path)
    assert report.ok
    assert report.records == receipt.seq + 1 > max(acknowledged)
    lines = (tmp_path / "journal.jsonl").read_bytes().split(b"\n")
    for seq, leaf in acknowledged.items():
        assert lines[seq + 1].startswith(b'{"prev":"%b"' % leaf.encode())
    assert len(acknowledged) == 450
