"""Whatever is done to a closed run's journal or heads is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import JournalError
from cockpit.journal.blobs import BlobStore
from cockpit.journal.heads import RunKey, write_public_key
from cockpit.journal.verify import JournalReport, verify_journal
from tests.unit.journal.support import KEY, ORIGIN, heads_of, make_lines, write_run

fixed = settings(derandomize=True, deadline=None, max_examples=250)
LINES = make_lines(12, closed=True)
WHOLE = b"".join(line + b"\n" for line in LINES)
HEADS = heads_of(LINES, 1, 5, 12)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def verified(folder: Path, data: bytes, heads: dict[str, bytes] = HEADS) -> JournalReport:
    if heads is HEADS and (folder / "heads").exists():
        (folder / "journal.jsonl").write_bytes(data)
    else:
        write_run(folder, data, heads)
    return verify_journal(folder, public_key=KEY.public_bytes, origin=ORIGIN)


def intact(report: JournalReport) -> bool:
    return report.ok and report.closed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_an_untouched_run_is_intact(tmp_path: Path) -> None:
    report = verified(tmp_path, WHOLE)
    assert intact(report)
    assert (report.records, report.heads_checked, report.last_type) == (12, 3, "run.closed.v1")
    assert verify_journal(tmp_path) == report  # with the key found beside the heads


@fixed
@given(at=st.integers(0, len(WHOLE) - 1), change=st.integers(1, 255))
def test_any_changed_byte_is_found(place: Path, at: int, change: int) -> None:
    data = bytearray(WHOLE)
    data[at] ^= change
    assert not intact(verified(place, bytes(data)))


def test_a_changed_byte_is_found_at_every_place(place: Path) -> None:
    for at in range(len(WHOLE)):
        data = bytearray(WHOLE)
        data[at] ^= 1
        assert not intact(verified(place, bytes(data))), at


@fixed
@given(data=st.data())
def test_any_lines_dropped_swapped_or_doubled_are_found(place: Path, data: st.DataObject) -> None:
    order = data.draw(st.lists(st.integers(0, 11), max_size=16).filter(lambda o: o != list(range(12))))
    assert not intact(verified(place, joined([LINES[i] for i in order])))


@pytest.mark.parametrize("at", range(12))
def test_one_line_dropped_doubled_or_swapped_is_found(tmp_path: Path, at: int) -> None:
    dropped = [*LINES[:at], *LINES[at + 1 :]]
    doubled = [*LINES[: at + 1], *LINES[at:]]
    swapped = list(LINES)
    swapped[at], swapped[at - 1] = swapped[at - 1], swapped[at]
    for lines in (dropped, doubled, swapped):
        assert not intact(verified(tmp_path, joined(lines)))


def test_any_truncation_is_found_and_said(place: Path) -> None:
    for size in range(len(WHOLE)):
        report = verified(place, WHOLE[:size])
        assert not report.ok
        assert not report.closed
        assert any("tail was cut" in p.what for p in report.problems)
        torn = size > 0 and WHOLE[size - 1 : size] != b"\n"
        assert any("torn" in p.what for p in report.problems) == torn


@fixed
@given(extra=st.binary(min_size=1, max_size=40))
def test_anything_added_is_found(place: Path, extra: bytes) -> None:
    assert not intact(verified(place, WHOLE + extra))
    assert not intact(verified(place, extra + WHOLE))


def test_a_problem_says_where(tmp_path: Path) -> None:
    lines = list(LINES)
    lines[3] = lines[3].replace(b'"n":3', b'"n":4')
    lines[7] = lines[7].replace(b'"n":7', b'"n":8')
    report = verified(tmp_path, joined(lines))
    links = [p for p in report.problems if p.seq >= 0]
    assert [(p.seq, p.offset) for p in links] == [(n, len(joined(lines[:n]))) for n in (4, 8)]
    assert report.records == 12


def test_a_chain_rewritten_to_fit_is_found_by_the_heads(tmp_path: Path) -> None:
    forged = make_lines(12)  # whole in itself, but its last record is another
    report = verified(tmp_path, joined(forged))
    assert [p.what for p in report.problems] == [
        "heads/00000012-test.checkpoint: the first 12 records are not those it was signed over"
    ]


def test_problems_are_bounded(tmp_path: Path) -> None:
    report = verified(tmp_path, b"{}\n" * 5000)
    assert len(report.problems) == 100
    assert report.records == 5000


def test_an_open_journal_is_whole_and_not_closed(tmp_path: Path) -> None:
    report = verified(tmp_path, joined(LINES[:8]), heads_of(LINES, 5))
    assert (report.ok, report.closed, report.heads_checked) == (True, False, 1)
    report = verify_journal(tmp_path, terminal=frozenset({"test.noted.v1"}))
    assert report.closed
    assert "no head covers its last 3 records" in report.problems[0].what


def test_an_empty_journal_is_not_closed(tmp_path: Path) -> None:
    report = verified(tmp_path, b"", {})
    assert (report.records, report.ok, report.closed) == (0, True, False)


def test_a_closed_journal_needs_a_head_over_all_of_it(tmp_path: Path) -> None:
    assert not verified(tmp_path, WHOLE, {}).ok


@pytest.mark.parametrize("name", sorted(HEADS))
def test_any_changed_byte_of_a_head_is_found(tmp_path: Path, name: str) -> None:
    assert intact(verified(tmp_path, WHOLE))
    for at in range(len(HEADS[name])):
        for change in (1, 32, 128):
            head = bytearray(HEADS[name])
            head[at] ^= change
            (tmp_path / "heads" / name).write_bytes(head)
            assert not verified(tmp_path, WHOLE).ok, (at, change)


def test_heads_of_another_key_run_or_name_are_found(tmp_path: Path) -> None:
    write_run(tmp_path, WHOLE, HEADS)
    other = RunKey.generate().public_bytes
    assert not verify_journal(tmp_path, public_key=other).ok
    assert not verify_journal(tmp_path, origin="cockpit/another").ok
    write_public_key(tmp_path / "heads", RunKey.generate())
    assert not verify_journal(tmp_path).ok
    (tmp_path / "heads" / "run-key.pub").unlink()
    assert not verify_journal(tmp_path).ok
    renamed = {name.replace("00000005", "00000006"): text for name, text in HEADS.items()}
    assert not verified(tmp_path / "second", WHOLE, renamed).ok


def test_blobs_referred_to_must_be_there(tmp_path: Path) -> None:
    write_run(tmp_path, WHOLE, HEADS)
    store = BlobStore(tmp_path / "blobs")
    kept, gone, bad = (store.put(b"data %d" % n) for n in range(3))
    digests = {0: kept.digest, 1: gone.digest, 2: bad.digest, 3: "sha256:" + "0" * 64, 4: "../etc"}

    def referenced(line: bytes) -> list[str]:
        return [d for n, d in digests.items() if b'"n":%d' % n in line or n == 0]

    store.redact(gone.digest)
    (tmp_path / "blobs" / f"{bad.digest[7:]}.salted").write_bytes(b"x" * 22)
    report = verify_journal(tmp_path, referenced=referenced)
    assert report.redacted == 1
    assert len(report.problems) == 3
    assert all(kept.digest not in p.what and gone.digest not in p.what for p in report.problems)


def test_a_folder_without_a_journal_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        verify_journal(tmp_path)
