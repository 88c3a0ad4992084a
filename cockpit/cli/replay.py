"""`cockpit replay`: a recording in the cockpit's screens."""

from __future__ import annotations

import argparse


def main(arguments: argparse.Namespace) -> int:
    """Open the screen on a recording."""
    from cockpit.screens.entry import run_replay

    return run_replay(arguments.recording, arguments.speed, ascii=arguments.ascii)
