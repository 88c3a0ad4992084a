"""Reading in blocks, verified, decoded, and following a journal as it grows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.clock import SystemClock
from cockpit.base.errors import ChainBroken, JournalError
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.journal.links import Links
from cockpit.journal.reader import (
    Block,
    Tail,
    Torn,
    decode_events,
    read_blocks,
    read_lines,
    verified_blocks,
    verified_events,
)
from cockpit.journal.writer import JournalWriter
from tests.unit.journal.support import Noted, decode, make_lines

fixed = settings(derandomize=True, deadline=None, max_examples=60)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_lines_read_back_across_chunks(tmp_path: Path) -> None:
    lines = [bytes([65 + n % 26]) * (n * 97 % 5000) for n in range(1000)]
    path = tmp_path / "f"
    path.write_bytes(joined(lines) + b"torn")
    assert list(read_lines(path)) == lines
    blocks = list(read_blocks(path))
    assert len(blocks) > 3
    offset = 0
    for block in blocks[:-1]:
        assert isinstance(block, Block)
        assert block.offset == offset
        offset += len(joined(block.lines))
    assert blocks[-1] == Torn(offset, b"torn")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (MAX_LINE_BYTES + 1) + b"\n")
    with pytest.raises(ChainBroken, match="longer than"):
        list(read_lines(path))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of zeros
    with pytest.raises(ChainBroken, match="longer than"):
        list(read_lines(path))


def test_a_missing_journal_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be read"):
        list(read_lines(tmp_path / "none"))


def test_verified_events_stop_at_the_first_broken_link(tmp_path: Path) -> None:
    lines = make_lines(3000)
    path = tmp_path / "f"
    path.write_bytes(joined(lines))
    events = [e for block in verified_events(path, decode) for e in block]
    assert [e.seq for e in events] == list(range(3000))
    lines[2500] = lines[2500].replace(b'"n":2500', b'"n":2501')
    path.write_bytes(joined(lines))
    with pytest.raises(ChainBroken) as caught:
        list(verified_blocks(path))
    assert caught.value.seq == 2501


def test_what_cannot_be_decoded_is_an_error_of_ours() -> None:
    with pytest.raises(JournalError, match="decoded"):
        list(decode_events([b'{"type":"other.v1"}'], decode))


@pytest.mark.parametrize("first", [0, 7, 95, 999, 9_998, 10**15 - 2])
def test_links_hold_over_changes_of_width(first: int) -> None:
    lines = make_lines(20, first=first)
    links = Links(seq=first)
    assert len(links.check(lines)) == 20
    assert links.seq == first + 20
    for place in range(20):
        bad = [*lines[:place], lines[place].replace(b'"seq":%d,' % (first + place), b'"seq":%d,' % first)]
        if place:
            with pytest.raises(ChainBroken):
                Links(seq=first).check(bad)


def test_links_stay_as_they_were_after_a_broken_block() -> None:
    lines = make_lines(10)
    links = Links()
    links.check(lines[:4])
    with pytest.raises(ChainBroken):
        links.check([lines[4], lines[6]])
    links.check(lines[4:])
    assert links.seq == 10


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"2025-09-23T08:00:00.000003Z", b"2025-09-23T07:00:00.000003Z"),
        (b"2025-09-23T08:00:00.003000Z", b"2025-09-23 08:00:00.003000Z"),
        (b'"seq":3', b'"seq":03'),
        (b'{"prev":"', b'{"Prev":"'),
        (b'"type":', b'"tYpe":'),
    ],
)
def test_the_last_line_must_begin_as_a_record_too(old: bytes, new: bytes) -> None:
    lines = make_lines(4)
    changed = lines[3].replace(old, new) if old in lines[3] else lines[3].replace(b"T08:", b"T07:")
    assert changed != lines[3]
    with pytest.raises(ChainBroken):
        Links().check([*lines[:3], changed])


@fixed
@given(data=st.data())
def test_a_tail_sees_what_a_reader_sees_however_the_bytes_arrive(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("tail") / "journal.jsonl"
    lines = make_lines(12)
    whole = joined(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    tail = Tail(path, decode)
    assert tail.poll() == []
    seen: list[int] = []
    for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        with path.open("ab") as file:
            file.write(whole[low:high])
        seen += [e.seq for e in tail.poll()]
        assert len(seen) == whole[:high].count(b"\n")
        assert tail.poll() == []
    assert seen == list(range(12))
    tail.close()


def test_a_tail_takes_a_long_journal_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(joined(make_lines(5000)))
    tail = Tail(path, decode)
    pieces = []
    while events := tail.poll(limit=1):
        pieces.append(len(events))
    assert sum(pieces) == 5000
    assert len(pieces) > 1
    tail.close()


async def test_a_tail_follows_a_writer(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "journal.jsonl", decode)
    async with JournalWriter.open(tmp_path, clock=SystemClock()) as writer:
        seen: list[int] = []
        for n in range(50):
            await writer.append(Noted(n=n))
            seen += [e.n for e in tail.poll() if isinstance(e, Noted)]
    assert seen == list(range(50))
    assert tail.seq == 50
    tail.close()


def test_a_line_taken_back_and_another_written_is_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = make_lines(2)
    path.write_bytes(first + b"\n" + second[:-20])
    tail = Tail(path, decode)
    assert [e.seq for e in tail.poll()] == [0]
    other = second.replace(b'"n":1', b'"n":5')
    path.write_bytes(first + b"\n" + other + b"\n")
    assert [e.n for e in tail.poll() if isinstance(e, Noted)] == [5]
    tail.close()


@pytest.mark.parametrize("how", ["shorter", "removed", "replaced", "rewritten"])
def test_a_tail_notices_a_journal_that_is_not_the_same(tmp_path: Path, how: str) -> None:
    path = tmp_path / "journal.jsonl"
    lines = make_lines(6)
    path.write_bytes(joined(lines[:4]))
    tail = Tail(path, decode)
    assert len(tail.poll()) == 4
    if how == "shorter":
        path.write_bytes(joined(lines[:3]))
    elif how == "removed":
        path.unlink()
    elif how == "replaced":
        (tmp_path / "new").write_bytes(joined(lines))
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(joined(make_lines(4)[:3]) + joined(make_lines(3, first=3)))
    with pytest.raises(ChainBroken):
        tail.poll()
    path.write_bytes(joined(lines))
    tail.reset()
    assert len(tail.poll()) == 6
    tail.close()
