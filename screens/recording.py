"""Reading a recording in the background: first its events up to any break, then verifying all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cockpit.base.errors import CockpitError
from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME, Block, read_blocks
from cockpit.journal.upcast import decode
from cockpit.screens.view import Chain


def read_recording(run_dir: Path, take: Callable[[list[AnyEvent]], object]) -> Chain:
    """Hand over the events block by block up to the first unreadable one; then say what verification found.

    Runs in a thread. Raises nothing: whatever is wrong is the verdict.
    """
    # Verifying needs cryptography, which a live screen does without.
    from cockpit.journal.verify import verify_journal

    seq, wrong = 0, ""
    try:
        for block in read_blocks(run_dir / JOURNAL_NAME):
            if not isinstance(block, Block):
                break
            events: list[AnyEvent] = []
            for line in block.lines:
                try:
                    events.append(decode(line))
                except CockpitError as error:
                    wrong = error.what
                    break
            take(events)
            seq += len(events)
            if wrong:
                break
        report = verify_journal(run_dir)
    except CockpitError as error:
        return Chain("broken", seq, wrong or error.what)
    first = min(
        (problem for problem in report.problems if problem.seq >= 0), key=lambda p: p.seq, default=None
    )
    if first is not None and (not wrong or first.seq <= seq):
        return Chain("broken", first.seq, first.what)
    if wrong:
        return Chain("broken", seq, wrong)
    if not report.ok:
        return Chain("broken", -1, "; ".join(problem.what for problem in report.problems[:3]))
    found = f"{report.records} records, {report.heads_checked} signed heads"
    return Chain("verified" if report.closed else "not closed", -1, found)
