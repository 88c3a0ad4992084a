"""The live feed over a real file: growth, lines taken back, a broken link, a journal that cannot be read."""

from __future__ import annotations

from pathlib import Path

from cockpit.base.clock import VirtualClock
from cockpit.journal.fold import Fold
from cockpit.journal.state import encode
from cockpit.screens.feed import JournalSource, LiveFeed, stored_line
from tests.ui import sample

EVENTS = sample.green()
LINES = [line + b"\n" for line in sample.lines(EVENTS)]


def drain(feed: LiveFeed) -> None:
    """Advance until nothing is new."""
    while feed.advance():
        pass


def test_it_follows_a_growing_journal(tmp_path: Path) -> None:
    feed = LiveFeed(JournalSource(tmp_path), VirtualClock(), run_dir=tmp_path)
    drain(feed)
    with (tmp_path / "journal.jsonl").open("ab", buffering=0) as journal:
        for start in range(0, len(LINES), 17):
            journal.write(b"".join(LINES[start : start + 17])[:-5])
            drain(feed)
            journal.write(b"".join(LINES[start : start + 17])[-5:])
            drain(feed)
            seen = EVENTS[: start + 17]
            assert encode(feed.fold.snapshot()) == encode(Fold().apply_all(seen).snapshot())
    assert feed.chain.checked == "as read"
    assert stored_line(tmp_path, 3) == LINES[3][:-1]
    assert stored_line(tmp_path, 10**6) is None


def test_lines_that_were_taken_back_are_forgotten_without_alarm(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"".join(LINES[:40]))
    feed = LiveFeed(JournalSource(tmp_path), VirtualClock())
    drain(feed)
    journal.write_bytes(b"".join(LINES[:30]))
    drain(feed)
    assert feed.chain.checked == "as read"
    assert encode(feed.fold.snapshot()) == encode(Fold().apply_all(EVENTS[:30]).snapshot())


def test_a_broken_link_is_told_and_stays_told(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"".join(LINES[:40]))
    clock = VirtualClock()
    feed = LiveFeed(JournalSource(tmp_path), clock)
    drain(feed)
    with journal.open("ab") as file:
        file.write(b"".join(LINES[41:44]))
    for _ in range(3):
        drain(feed)
        assert (feed.chain.checked, feed.chain.seq) == ("broken", 40)
        clock.advance(2.0)


def test_a_journal_that_cannot_be_read_is_told_until_it_can(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.mkdir()
    (journal / "x").touch()
    clock = VirtualClock()
    feed = LiveFeed(JournalSource(tmp_path), clock)
    drain(feed)
    assert "cannot be read" in feed.trouble
    (journal / "x").unlink()
    journal.rmdir()
    journal.write_bytes(b"".join(LINES[:3]))
    clock.advance(2.0)
    drain(feed)
    assert feed.trouble == ""
    assert feed.fold.snapshot().seq == 2


def test_a_journal_that_does_not_begin_is_told(tmp_path: Path) -> None:
    clock = VirtualClock()
    feed = LiveFeed(JournalSource(tmp_path), clock)
    drain(feed)
    assert feed.trouble == ""
    clock.advance(20.0)
    drain(feed)
    assert "no record has come" in feed.trouble
