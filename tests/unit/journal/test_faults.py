"""Full disks, failed syncs, hung disks: nothing acknowledged is lost, and aborts always find a place."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path

import pytest

from cockpit.base.clock import SystemClock
from cockpit.base.errors import JournalError, LockHeld
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.journal.chain import seq_of
from cockpit.journal.reader import decode_events, read_lines
from cockpit.journal.verify import verify_journal
from cockpit.journal.writer import JournalWriter
from tests.unit.journal.support import Disk, Noted, decode

JOURNAL = "journal.jsonl"


def open_writer(folder: Path, disk: Disk, *, reserve: int = 4096) -> JournalWriter:
    return JournalWriter.open(folder, clock=SystemClock(), io=disk, reserve=reserve)


def numbers(folder: Path) -> list[int]:
    return [e.n for e in decode_events(read_lines(folder / JOURNAL), decode) if isinstance(e, Noted)]


async def fill(writer: JournalWriter) -> int:
    """Append until the disk is full; return how many records were acknowledged."""
    for count in range(1, 10_000):
        try:
            await writer.append(Noted(n=count))
        except JournalError as error:
            assert "no space" in error.what
            return count - 1
    raise AssertionError("the disk never filled")


async def test_a_full_disk_fails_forward_records_and_keeps_the_acknowledged(tmp_path: Path) -> None:
    disk = Disk(4096 + 2000)
    async with open_writer(tmp_path, disk) as writer:
        count = await fill(writer)
        assert count > 5
        assert not writer.failed
        assert verify_journal(tmp_path).ok  # the half of a line that fitted was taken back
        with pytest.raises(JournalError, match="no space"):
            await writer.append(Noted(n=-1))
        disk.capacity += 2000
        assert (await writer.append(Noted(n=count + 1))).seq == count
    assert numbers(tmp_path) == list(range(1, count + 2))
    assert verify_journal(tmp_path).ok


async def test_an_abort_uses_the_reserve_and_forward_records_do_not(tmp_path: Path) -> None:
    disk = Disk(4096 + 2000)
    async with open_writer(tmp_path, disk) as writer:
        count = await fill(writer)
        receipt = await writer.append_abort(Noted(n=900))
        assert (receipt.seq, receipt.stored) == (count, "journal")
        # There is room now, given back for aborts: forward records must not eat it.
        assert disk.free > 3000
        with pytest.raises(JournalError, match="reserved for aborts"):
            await writer.append(Noted(n=-1))
        assert (await writer.append_abort(Noted(n=901))).stored == "journal"
        assert writer.take_gaps() == ()
        disk.capacity += 5000
        await writer.append(Noted(n=902))
        assert disk.used["journal.reserve"] == 4096
    assert numbers(tmp_path) == [*range(1, count + 1), 900, 901, 902]
    assert verify_journal(tmp_path).ok


async def test_a_batch_of_both_kinds_keeps_the_aborts_in_order(tmp_path: Path) -> None:
    disk = Disk(4096 + 2000)
    async with open_writer(tmp_path, disk) as writer:
        count = await fill(writer)
        futures = [
            (writer.post_abort if n % 2 else writer.post)(Noted(n=900 + n, text="x" * 100)) for n in range(6)
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(r, JournalError) for r in results] == [True, False] * 3
    assert numbers(tmp_path) == [*range(1, count + 1), 901, 903, 905]


async def test_without_a_reserve_only_aborts_are_recorded(tmp_path: Path) -> None:
    disk = Disk(1000)
    async with open_writer(tmp_path, disk, reserve=4096) as writer:
        with pytest.raises(JournalError, match="reserved for aborts"):
            await writer.append(Noted())
        assert (await writer.append_abort(Noted())).stored == "journal"


async def test_aborts_go_to_memory_when_no_byte_is_left(tmp_path: Path) -> None:
    disk = Disk(4096 + 2000)
    async with open_writer(tmp_path, disk) as writer:
        count = await fill(writer)
        disk.eaten = 10_000  # someone else takes the reserve too
        receipt = await writer.append_abort(Noted(n=900))
        assert (receipt.seq, receipt.stored) == (-1, "memory")
        (gap,) = writer.take_gaps()
        assert (gap.kind, gap.records) == ("memory", 1)
        kept = json.loads(gap.lines[0])
        assert (kept["n"], kept["after"], kept["type"]) == (900, count - 1, "test.noted.v1")
        assert writer.take_gaps() == ()
        disk.eaten = 0
        disk.capacity += 1000
        assert (await writer.append(Noted(n=901))).seq == count
    assert verify_journal(tmp_path).ok


async def test_a_sync_that_fails_once_is_made_good_through_a_new_descriptor(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        await writer.append(Noted(n=1))
        disk.fail_syncs(JOURNAL, errno.EIO, times=1)
        assert (await writer.append(Noted(n=2))).seq == 1
        assert not writer.failed
        assert (await writer.append(Noted(n=3))).seq == 2
        with pytest.raises(LockHeld):  # the lock outlived the descriptor
            open_writer(tmp_path, disk)
    assert disk.used_after_failure == []
    assert numbers(tmp_path) == [1, 2, 3]
    assert verify_journal(tmp_path).ok


async def test_a_sync_that_runs_out_of_space_takes_the_batch_back(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        await writer.append(Noted(n=1))
        disk.fail_syncs(JOURNAL, errno.ENOSPC, times=1)
        with pytest.raises(JournalError, match="no space"):
            await writer.append(Noted(n=2))
        assert (await writer.append(Noted(n=3))).seq == 1
    assert disk.used_after_failure == []
    assert numbers(tmp_path) == [1, 3]


@pytest.mark.parametrize("call", ["sync", "write"])
async def test_a_disk_that_keeps_failing_ends_forward_records_not_aborts(tmp_path: Path, call: str) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        first = await writer.append(Noted(n=1))
        if call == "sync":
            disk.fail_syncs(JOURNAL, errno.EIO)
        else:
            disk.write_errors[JOURNAL] = [errno.EIO, -1]
        forward, abort = writer.post(Noted(n=2)), writer.post_abort(Noted(n=3))
        with pytest.raises(JournalError, match="journal failed"):
            await forward
        assert (await abort).stored == "side"
        assert writer.failed
        with pytest.raises(JournalError, match="journal failed"):
            await writer.append(Noted(n=4))
        with pytest.raises(JournalError, match="journal failed"):
            writer.post(Noted(n=4))
        assert (await writer.append_abort(Noted(n=5))).stored == "side"
        assert writer.last_hash == first.leaf_hash
        (gap,) = writer.take_gaps()
        assert (gap.kind, gap.records, gap.file) == ("side", 2, "aborts.jsonl")
    assert disk.used_after_failure == []
    side = [json.loads(line) for line in read_lines(tmp_path / "aborts.jsonl")]
    assert [(r["n"], r["after"]) for r in side] == [(3, 0), (5, 0)]
    # The next sitting is told of them, and goes on after what was acknowledged or, unacknowledged, is whole.
    async with open_writer(tmp_path, Disk()) as writer:
        (told,) = (g for g in writer.take_gaps() if g.kind == "side")
        assert (told.records, told.sha256) == (2, gap.sha256)
        await writer.append(Noted(n=6))
    assert verify_journal(tmp_path).ok


async def test_a_side_file_that_fails_too_leaves_memory(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        disk.fail_syncs(JOURNAL, errno.EIO)
        disk.fail_syncs("aborts.jsonl", errno.EIO, times=1)
        assert (await writer.append_abort(Noted(n=1))).stored == "memory"
        assert (await writer.append_abort(Noted(n=2))).stored == "side"
        assert [g.kind for g in writer.take_gaps()] == ["side", "memory"]
    assert disk.used_after_failure == []
    assert [json.loads(line)["n"] for line in read_lines(tmp_path / "aborts.jsonl")] == [2]


async def test_an_acknowledged_end_that_reads_back_differently_fails_the_journal(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        await writer.append(Noted(n=1))
        disk.read_back = b"something else"
        disk.fail_syncs(JOURNAL, errno.EIO, times=1)
        with pytest.raises(JournalError, match="reads back differently"):
            await writer.append(Noted(n=2))
        assert writer.failed


async def test_a_file_replaced_behind_the_writer_fails_the_journal(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        await writer.append(Noted(n=1))
        path = tmp_path / JOURNAL
        copy = path.read_bytes()
        path.unlink()
        path.write_bytes(copy)
        disk.fail_syncs(JOURNAL, errno.EIO, times=1)
        with pytest.raises(JournalError, match="replaced"):
            await writer.append(Noted(n=2))
    assert path.read_bytes() == copy


async def test_a_hung_disk_does_not_hold_an_abort(tmp_path: Path) -> None:
    disk = Disk()
    writer = open_writer(tmp_path, disk)
    disk.gate.clear()
    receipt = await writer.append_abort(Noted(n=1), within=0.05)
    assert (receipt.seq, receipt.stored) == (-1, "pending")
    await writer.aclose(within=0.05)  # nor the way out
    assert (await writer.append_abort(Noted(n=2))).stored == "memory"
    disk.gate.set()
    writer.close()
    assert numbers(tmp_path) == [1]


async def test_an_abort_is_never_refused(tmp_path: Path) -> None:
    disk = Disk()
    writer = JournalWriter.open(tmp_path, clock=SystemClock(), io=disk, max_queue_bytes=100)
    disk.gate.clear()
    futures = [writer.post_abort(Noted(n=n)) for n in range(50)]  # the queue's bound is not for aborts
    disk.gate.set()
    assert [r.seq for r in await asyncio.gather(*futures)] == list(range(50))
    assert (await writer.append_abort(Noted(text="z" * MAX_LINE_BYTES))).stored == "memory"
    await writer.aclose()
    assert (await writer.append_abort(Noted())).stored == "memory"
    (gap,) = writer.take_gaps()
    assert gap.records == 2
    assert b"too long" in gap.lines[0]


async def test_memory_for_aborts_is_bounded(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        disk.fail_syncs(JOURNAL, errno.EIO)
        disk.write_errors["aborts.jsonl"] = [errno.EIO, -1]
        for n in range(30):
            assert (await writer.append_abort(Noted(n=n, text="z" * 200_000))).stored == "memory"
        (gap,) = writer.take_gaps()
        assert gap.records == 30
        assert sum(map(len, gap.lines)) <= 4 << 20
        assert len(gap.lines) < 30


async def test_a_torn_line_on_a_full_disk_is_set_aside_in_the_reserve_of_the_crashed_sitting(
    tmp_path: Path,
) -> None:
    (tmp_path / JOURNAL).write_bytes(b'{"prev":"00')
    (tmp_path / "journal.reserve").write_bytes(b"\0" * 4096)
    async with open_writer(tmp_path, Disk()) as writer:
        assert [g.kind for g in writer.take_gaps()] == ["torn"]
        await writer.append(Noted())
    assert [seq_of(line) for line in read_lines(tmp_path / JOURNAL)] == [0]
