"""The index: right about every record, extended as the journal grows, never believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import ChainBroken, JournalError
from cockpit.journal.index import JournalIndex
from tests.unit.journal.support import make_lines

fixed = settings(derandomize=True, deadline=None, max_examples=80)
LINES = make_lines(100)


def write(path: Path, lines: list[bytes], torn: bytes = b"") -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn)


@pytest.mark.parametrize("every", [1, 7, 100, 1000])
def test_every_record_is_found(tmp_path: Path, every: int) -> None:
    journal = tmp_path / "journal.jsonl"
    write(journal, LINES, b"torn")
    for rebuilt in (True, False):
        index = JournalIndex.open(journal, every=every)
        assert (index.records, index.rebuilt) == (100, rebuilt)
        for seq in range(100):
            base, offset = index.offset_of(seq)
            assert base == seq - seq % every
            assert journal.read_bytes()[offset:].startswith(LINES[base])
            assert list(index.lines_from(seq)) == LINES[seq:]
    for seq in (-1, 100):
        with pytest.raises(JournalError):
            index.offset_of(seq)


def test_it_grows_with_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    write(journal, [])
    assert JournalIndex.open(journal, every=8).records == 0
    for count in (1, 7, 8, 9, 16, 55, 100):
        write(journal, LINES[:count])
        index = JournalIndex.open(journal, every=8)
        assert (index.records, index.rebuilt) == (count, False)
        assert list(index.lines_from(count - 1)) == LINES[count - 1 : count]


@fixed
@given(data=st.data())
def test_a_spoiled_index_misleads_nobody(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    journal = tmp_path_factory.mktemp("index") / "journal.jsonl"
    write(journal, LINES)
    JournalIndex.open(journal, every=10)
    sidecar = journal.with_name("journal.idx")
    spoiled = bytearray(sidecar.read_bytes())
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    sidecar.write_bytes(spoiled)
    index = JournalIndex.open(journal, every=10)
    assert index.records == 100
    seq = data.draw(st.integers(0, 99))
    assert list(index.lines_from(seq)) == LINES[seq:]


def test_the_index_of_another_journal_is_not_used(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    write(journal, LINES)
    JournalIndex.open(journal, every=10)
    other = make_lines(100, prev=b"1" * 64)
    write(journal, other)
    index = JournalIndex.open(journal, every=10)
    assert index.rebuilt
    assert list(index.lines_from(95)) == other[95:]
    write(journal, other[:50])
    assert JournalIndex.open(journal, every=10).records == 50


def test_a_journal_with_a_gap_has_no_index(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    write(journal, [*LINES[:5], *LINES[6:]])
    with pytest.raises(ChainBroken):
        JournalIndex.open(journal)


def test_a_journal_changed_under_its_index_is_noticed(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    write(journal, LINES)
    index = JournalIndex.open(journal, every=10)
    write(journal, [b"x" * 7, *LINES])
    with pytest.raises(ChainBroken):
        list(index.lines_from(50))
