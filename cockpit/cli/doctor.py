"""`cockpit doctor PLAN`: a table of what was checked, what was found, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from typing import TYPE_CHECKING

import msgspec

from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.plan.load import load_plan

if TYPE_CHECKING:
    from cockpit.doctor.checks import Check, Report

_NARROW, _WIDE = 60, 120
_WORDS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "not checked": "not checked"}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "not checked": "dim"}
_LONGEST_DEADLINE = 600.0


def main(arguments: argparse.Namespace) -> int:
    """Print the report, or the manifest of rights; return 0, or 10 or 50 as docs/architecture.md has it."""
    if not 0 < arguments.deadline <= _LONGEST_DEADLINE:
        raise UsageError(f"--deadline is more than 0 and at most {_LONGEST_DEADLINE:g} seconds")
    if arguments.rbac and arguments.json:
        raise UsageError("--rbac prints a manifest in YAML: leave --json out")
    loaded = load_plan(arguments.plan)
    if arguments.rbac:
        from cockpit.backends.rights import manifest

        print(manifest(loaded.plan), end="")
        return 0
    from cockpit.doctor.examination import examine_plan

    report = asyncio.run(
        examine_plan(loaded, SystemClock(), name=str(arguments.plan), deadline=arguments.deadline)
    )
    if arguments.json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(report)
    return report.exit


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = max(_NARROW, min(shutil.get_terminal_size((80, 24)).columns, _WIDE))
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(width=10, overflow="fold")
    table.add_column(width=21, overflow="fold")
    table.add_column(width=5)
    table.add_column(ratio=1, overflow="fold")
    part = ""
    for check in report.checks:
        found = Text(_found(check))
        if check.todo:
            found.append(f"\n→ {check.todo}")
        table.add_row(
            Text(check.part if check.part != part else ""),
            Text(check.check.removeprefix("targets.")),
            Text("–" if check.status == "not checked" else _WORDS[check.status], _COLOURS[check.status]),
            found,
        )
        part = check.part
    console.print(table)
    counts = ", ".join(f"{number} {status}" for status, number in report.counts.items() if number)
    console.print(Text(f"\n{report.version}: {counts}. {_ending(report)}"))


def _found(check: Check) -> str:
    return f"not checked: {check.found}" if check.status == "not checked" else check.found


def _ending(report: Report) -> str:
    if report.exit == 0:
        return "No check failed."
    away = list(dict.fromkeys(check.part for check in report.checks if check.unreachable))
    return f"Unreachable: {', '.join(away)}." if away else "A release would fail."
