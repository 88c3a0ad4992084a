"""Starting: `cockpit --help` beside a Python that does nothing, and what each front end has to load.

CPU seconds of the child process (user and system), the best of several runs: what else the machine does only
ever adds to them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report, parse_arguments

RUNS = 15
SLOW_RUNS = 4
HEAVY = ("aiohttp", "asyncssh", "httpx", "kubernetes", "matplotlib", "opentelemetry", "sigstore", "textual")
FRONT_ENDS = {
    "--auto": "cockpit.cli.auto",
    "the screens": "cockpit.screens.entry",
    "the conductor": "cockpit.process",
}


def cpu(command: list[str]) -> float:
    """Run a command without output; return its CPU seconds, its children's included."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def best(*commands: list[str], runs: int) -> list[float]:
    """Return each command's least CPU seconds; the commands take turns."""
    least = [float("inf")] * len(commands)
    for _ in range(runs):
        for place, command in enumerate(commands):
            least[place] = min(least[place], cpu(command))
    return least


def loaded_by_help() -> list[str]:
    """Return which of the heavy libraries `cockpit --help` has loaded when it ends; it should be none."""
    code = (
        "import sys; from cockpit.cli import main; sys.argv = ['cockpit', '--help']; main();"
        f"sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
    )
    return done.stderr.decode().split()


def measure(report: Report) -> None:
    """Measure and report."""
    script = Path(sys.executable).with_name("cockpit")
    bare, argparse, shown = best(
        [sys.executable, "-c", "pass"],
        [sys.executable, "-c", "import argparse"],
        [str(script), "--help"],
        runs=RUNS,
    )
    report.add("python -c pass", bare * 1000, "ms CPU")
    report.add("python -c 'import argparse'", argparse * 1000, "ms CPU")
    report.add("cockpit --help", shown * 1000, "ms CPU")
    report.add("cockpit --help : bare Python", shown / bare, "times", at_most=4)
    report.add("heavy libraries loaded by --help", len(loaded_by_help()), "", at_most=0)
    imports = best(
        *([sys.executable, "-c", f"import {module}"] for module in FRONT_ENDS.values()), runs=SLOW_RUNS
    )
    for name, took in zip(FRONT_ENDS, imports, strict=True):
        report.add(f"loading {name}", took * 1000, "ms CPU")
        report.add(f"loading {name} : bare Python", took / bare, "times")


def main() -> int:
    """Measure and print."""
    arguments = parse_arguments("Measure start-up (about 15 seconds).")
    report = Report("start-up")
    measure(report)
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
