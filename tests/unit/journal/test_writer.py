"""The writer: order, group commit, back-pressure, lock, continuing after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cockpit.base.clock import SystemClock, VirtualClock
from cockpit.base.errors import ChainBroken, JournalError, LockHeld
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.base.redact import Redactor
from cockpit.journal.chain import MerkleTree, leaf_hash, seq_of
from cockpit.journal.reader import decode_events, read_lines
from cockpit.journal.verify import verify_journal
from cockpit.journal.writer import JournalWriter
from tests.unit.journal.support import Closed, Disk, Noted, decode, make_lines


def open_writer(
    folder: Path,
    disk: Disk | None = None,
    *,
    reserve: int = 1 << 20,
    max_batch_bytes: int = 1 << 20,
    max_queue_bytes: int = 1 << 20,
) -> JournalWriter:
    return JournalWriter.open(
        folder,
        clock=SystemClock(),
        io=disk,
        reserve=reserve,
        max_batch_bytes=max_batch_bytes,
        max_queue_bytes=max_queue_bytes,
    )


def lines_of(folder: Path) -> list[bytes]:
    return list(read_lines(folder / "journal.jsonl"))


async def test_receipts_say_where_a_record_is(tmp_path: Path) -> None:
    async with open_writer(tmp_path) as writer:
        assert (writer.last_seq, writer.last_hash) == (-1, "0" * 64)
        receipts = [await writer.append(Noted(n=n)) for n in range(3)]
        assert writer.last_seq == 2
        assert writer.last_hash == receipts[-1].leaf_hash
    lines = lines_of(tmp_path)
    assert [r.seq for r in receipts] == [0, 1, 2]
    assert [r.leaf_hash for r in receipts] == [leaf_hash(line).hex() for line in lines]
    assert [r.line_bytes for r in receipts] == [len(line) for line in lines]
    assert {r.stored for r in receipts} == {"journal"}
    assert [json.loads(line)["n"] for line in lines[1:]] == [1, 2]


async def test_concurrent_appends_keep_the_order_of_the_calls(tmp_path: Path) -> None:
    async with open_writer(tmp_path, max_batch_bytes=700) as writer:

        async def one(n: int) -> None:
            await writer.append(Noted(n=n))

        async with asyncio.TaskGroup() as group:
            for n in range(1, 300):
                group.create_task(one(n))
        await writer.append(Closed())
        root, last_seq = writer.root(), writer.last_seq
    lines = lines_of(tmp_path)
    assert [e.n for e in decode_events(lines, decode) if isinstance(e, Noted)] == list(range(1, 300))
    assert last_seq == 299
    assert root == MerkleTree(map(leaf_hash, lines)).root()
    report = verify_journal(tmp_path)
    assert (report.records, report.root) == (300, root.hex())


async def test_what_queues_up_behind_a_sync_is_committed_together(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk) as writer:
        before = disk.syncs
        disk.gate.clear()
        futures = [writer.post(Noted(n=n)) for n in range(200)]
        disk.gate.set()
        receipts = await asyncio.gather(*futures)
        assert [r.seq for r in receipts] == list(range(200))
        assert 1 <= disk.syncs - before <= 3


async def test_a_full_queue_refuses_posts_and_makes_appends_wait(tmp_path: Path) -> None:
    disk = Disk()
    async with open_writer(tmp_path, disk, max_queue_bytes=1000, max_batch_bytes=300) as writer:
        disk.gate.clear()
        posted = 0
        with pytest.raises(JournalError, match="queue is full"):
            while True:
                writer.post(Noted(n=posted, text="y" * 50))
                posted += 1
        assert posted < 20
        waiting = [asyncio.ensure_future(writer.append(Noted(n=posted + n))) for n in range(30)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        with pytest.raises(JournalError, match="queue is full"):
            writer.post(Noted(n=-1))  # else it would overtake those who wait
        disk.gate.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(r, asyncio.CancelledError) for r in done) == 1
    found = [e.n for e in decode_events(lines_of(tmp_path), decode) if isinstance(e, Noted)]
    assert found == [n for n in range(posted + 30) if n != posted + 3]


async def test_time_never_goes_back_when_the_clock_does(tmp_path: Path) -> None:
    class Jumping(VirtualClock):
        def __init__(self) -> None:
            super().__init__()
            self.moments = [10, 20, 5, 21]

        def now(self) -> datetime:
            return datetime(2025, 1, 1, 0, 0, self.moments.pop(0), tzinfo=UTC)

    async with JournalWriter.open(tmp_path, clock=Jumping()) as writer:
        for _ in range(4):
            await writer.append(Noted())
    seconds = [e.at[17:19] for e in decode_events(lines_of(tmp_path), decode)]
    assert seconds == ["10", "20", "20", "21"]
    assert not verify_journal(tmp_path).problems


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    previous = os.umask(0)
    try:
        async with open_writer(run) as writer:
            await writer.append(Noted())
            names = {p.name for p in run.iterdir()}
            assert names == {"journal.jsonl", "journal.reserve"}
            assert {stat.S_IMODE(p.stat().st_mode) for p in run.iterdir()} == {0o600}
            assert stat.S_IMODE(run.stat().st_mode) == 0o700
            assert (run / "journal.reserve").stat().st_blocks * 512 >= 1 << 20
    finally:
        os.umask(previous)
    assert [p.name for p in run.iterdir()] == ["journal.jsonl"]


async def test_a_record_too_long_for_a_line_is_refused(tmp_path: Path) -> None:
    async with open_writer(tmp_path) as writer:
        with pytest.raises(JournalError, match="too long"):
            await writer.append(Noted(text="z" * MAX_LINE_BYTES))
        await writer.append(Noted(text="z" * (MAX_LINE_BYTES - 300)))
    assert len(lines_of(tmp_path)) == 1


async def test_an_event_read_from_a_journal_gets_a_new_place(tmp_path: Path) -> None:
    async with open_writer(tmp_path) as writer:
        await writer.append(Noted(n=1, seq=77, at="1999-01-01T00:00:00.000000Z"))
    (line,) = lines_of(tmp_path)
    assert line.count(b'"seq":') == line.count(b'"at":') == 1
    assert seq_of(line) == 0


async def test_text_passes_the_redactor(tmp_path: Path) -> None:
    redactor = Redactor(('hunter2"quoted',))
    async with JournalWriter.open(tmp_path, clock=SystemClock(), redactor=redactor) as writer:
        await writer.append(Noted(text='the word is hunter2"quoted, token=abcdefgh'))
        await writer.append(Noted(text="nothing here"))
    first, second = (e for e in decode_events(lines_of(tmp_path), decode) if isinstance(e, Noted))
    assert first.text == "the word is [redacted], token=[redacted]"
    assert second.text == "nothing here"


async def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    async with open_writer(tmp_path) as writer:
        with pytest.raises(LockHeld):
            open_writer(tmp_path)
        await writer.append(Noted())
        code = (
            "import sys; from pathlib import Path; from cockpit.base.clock import SystemClock\n"
            "from cockpit.base.errors import LockHeld; from cockpit.journal.writer import JournalWriter\n"
            "try: JournalWriter.open(Path(sys.argv[1]), clock=SystemClock())\n"
            "except LockHeld: print('held')"
        )
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(other.communicate(), 30)
        assert output == b"held\n"
    async with open_writer(tmp_path) as writer:
        assert (await writer.append(Noted())).seq == 1


async def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    futures = [writer.post(Noted(n=n)) for n in range(100)]
    writer.close()
    assert len(lines_of(tmp_path)) == 100
    assert len(await asyncio.gather(*futures)) == 100
    with pytest.raises(JournalError, match="closed"):
        writer.post(Noted())
    with pytest.raises(JournalError, match="closed"):
        await writer.append(Noted())


async def test_appends_without_room_fail_on_closing(tmp_path: Path) -> None:
    disk = Disk()
    writer = open_writer(tmp_path, disk, max_queue_bytes=200)
    disk.gate.clear()
    first = writer.post(Noted(text="a" * 150))
    late = asyncio.ensure_future(writer.append(Noted(text="b" * 150)))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(writer.aclose())
    await asyncio.sleep(0)
    disk.gate.set()
    await closing
    assert (await first).seq == 0
    with pytest.raises(JournalError, match="before there was room"):
        await late


async def test_a_torn_last_line_is_set_aside_wherever_it_was_cut(tmp_path: Path) -> None:
    lines = make_lines(3)
    whole = b"\n".join(lines) + b"\n"
    start = len(lines[0]) + len(lines[1]) + 2
    for cut in range(start + 1, len(whole)):
        run = tmp_path / str(cut)
        run.mkdir()
        (run / "journal.jsonl").write_bytes(whole[:cut])
        assert not verify_journal(run).ok
        async with open_writer(run, reserve=0) as writer:
            (gap,) = writer.take_gaps()
            assert writer.take_gaps() == ()
            assert (gap.kind, gap.file, gap.size) == ("torn", "journal.torn-1", cut - start)
            assert (run / gap.file).read_bytes() == whole[start:cut]
            assert (await writer.append(Noted())).seq == 2
            root = writer.root()
        report = verify_journal(run)
        assert (report.ok, report.records, report.root) == (True, 3, root.hex())
    async with open_writer(run, reserve=0) as writer:
        assert writer.take_gaps() == ()


async def test_each_torn_line_gets_a_file_of_its_own(tmp_path: Path) -> None:
    for number in (1, 2):
        with (tmp_path / "journal.jsonl").open("ab") as file:
            file.write(b'{"prev":"torn')
        async with open_writer(tmp_path) as writer:
            assert writer.take_gaps()[0].file == f"journal.torn-{number}"


@pytest.mark.parametrize("spoil", ["flip", "drop", "swap", "garbage", "json", "long"])
async def test_anything_else_broken_is_refused_and_left_alone(tmp_path: Path, spoil: str) -> None:
    lines = make_lines(6)
    if spoil == "flip":
        lines[2] = lines[2].replace(b'"n":2', b'"n":3')
    elif spoil == "drop":
        del lines[2]
    elif spoil == "swap":
        lines[2], lines[3] = lines[3], lines[2]
    elif spoil == "garbage":
        lines.append(b"garbage")
    elif spoil == "json":
        lines[-1] = lines[-1][:-1]
    else:
        lines.append(b"x" * (3 << 20))
    data = b"\n".join(lines) + b"\n"
    (tmp_path / "journal.jsonl").write_bytes(data)
    with pytest.raises(ChainBroken):
        open_writer(tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == data
    with pytest.raises(ChainBroken):  # and the lock was given up
        open_writer(tmp_path)


async def test_a_journal_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="run folder"):
        open_writer(tmp_path / "file")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="cannot be opened"):
        open_writer(tmp_path)
