"""`cockpit journal verify`: chain, heads and end of a recording, headless."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from cockpit.base.errors import JournalError, UsageError
from cockpit.cli.folders import JOURNAL
from cockpit.journal.verify import verify_journal


def main(arguments: argparse.Namespace) -> int:
    """Return 0 intact, 1 broken or not closed, 64 unreadable."""
    folder = arguments.recording.parent if arguments.recording.name == JOURNAL else arguments.recording
    try:
        report = verify_journal(folder)
    except JournalError as error:
        raise UsageError(error.what, where=error.where or str(folder), hint=error.hint) from None
    intact = report.ok and report.closed
    if arguments.json:
        print(json.dumps({**asdict(report), "intact": intact}, default=str, sort_keys=True))
        return 0 if intact else 1
    print(f"{report.records} records, {report.heads_checked} heads, root {report.root}")
    for problem in report.problems:
        print(f"record {problem.seq} (byte {problem.offset}): {problem.what}")
    if not report.closed:
        print(f"not closed: the last record is {report.last_type or 'none'}")
    print("intact" if intact else "BROKEN" if not report.ok else "intact so far, NOT CLOSED")
    return 0 if intact else 1
