"""`cockpit follow`: watch a run, and steer it with `--control`."""

from __future__ import annotations

import argparse

from cockpit.cli.folders import find_run
from cockpit.cli.launch import need_terminal


def main(arguments: argparse.Namespace) -> int:
    """Open the screen on a run."""
    folder = find_run(arguments.run)
    need_terminal(auto=False)
    from cockpit.screens.entry import run_live

    return run_live(folder, control=arguments.control, mode="follow", ascii=arguments.ascii)
