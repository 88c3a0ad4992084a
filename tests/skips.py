"""At the end of a run: what was skipped, counted by reason, so that nobody has to count lines."""

from __future__ import annotations

from collections import Counter

from pytest import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Write how many tests were skipped for each reason, the most frequent first."""
    why: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        told = getattr(report, "longrepr", None)
        reason = told[2] if isinstance(told, tuple) else str(told)
        why[str(reason).removeprefix("Skipped: ")] += 1
    if why:
        terminalreporter.section("skipped, and why")
        for reason, count in why.most_common():
            terminalreporter.write_line(f"{count:5} {reason}")
