"""`cockpit rehearse`: an embedded world, and a release in it."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendUnreachable, UsageError
from cockpit.base.ids import new_run_id
from cockpit.cli.folders import new_run
from cockpit.cli.launch import Signals, front_end, need_terminal, start_supervisor
from cockpit.cli.main import ASKING, SCENARIOS
from cockpit.supervisor import LOCK

_VERSION = "v3.0.0"
_PACES = ("fast", "normal", "slow")
_READY_WITHIN = 120.0
_REAL_READY_WITHIN = 360.0
_ENDS_WITHIN = 30.0


def main(arguments: argparse.Namespace) -> int:
    """Start the world, then the conductor, and show the run."""
    if arguments.scenario not in SCENARIOS:
        raise UsageError(
            f"there is no scenario {arguments.scenario!r}", hint=f"one of {', '.join(SCENARIOS)}"
        )
    if arguments.pace not in _PACES:
        raise UsageError(f"there is no pace {arguments.pace!r}", hint=f"one of {', '.join(_PACES)}")
    if arguments.people == "none" and arguments.scenario not in ASKING:
        raise UsageError(
            f"nobody is asked in {arguments.scenario}: there are no people to do without",
            hint=f"--people none with --scenario {', '.join(ASKING)}",
        )
    os.umask(0o077)
    need_terminal(arguments.auto)
    if arguments.real:
        _enter(arguments.words)
    folder = new_run(arguments.out, _VERSION, new_run_id(SystemClock().now()))
    if not arguments.auto or arguments.format == "text":
        print(f"rehearsal {arguments.scenario} in {folder}", flush=True)
    signals = Signals() if arguments.auto else None
    world = _start_world(folder, arguments)
    try:
        _wait_ready(world, folder, _REAL_READY_WITHIN if arguments.real else _READY_WITHIN)
        begin = partial(start_supervisor, folder / "release.yaml", folder, auto=arguments.auto)
        supervisor = signals.start(begin) if signals is not None else begin()
    except BaseException:
        # Nothing runs in this world yet: it goes with us.
        world.send_signal(signal.SIGTERM)
        try:
            world.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            world.kill()
        raise
    code = front_end(
        folder, supervisor, auto=arguments.auto, form=arguments.format, ascii_only=arguments.ascii
    )
    if supervisor.poll() is not None and not arguments.keep:
        _wait_world(world)
    return code


def _enter(words: list[str]) -> None:
    """See to it that we are where real servers can run: become this command again in there, or stay.

    Raises UsageError, with what is missing, where they cannot run at all.
    """
    asked = subprocess.run(
        [sys.executable, "-m", "cockpit.rehearsal.real"], capture_output=True, text=True, check=False
    )
    try:
        prefix = [str(word) for word in json.loads(asked.stdout)["enter"]]
    except (ValueError, KeyError, TypeError):
        said = asked.stderr.strip().splitlines()
        raise UsageError(said[-1] if said else "real servers cannot run here") from None
    if prefix:
        command = [*prefix, sys.executable, "-m", "cockpit", *words]
        os.execv(command[0], command)  # noqa: S606 - ourselves, no shell


def _start_world(folder: Path, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    with (folder / "world.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-m",
                "cockpit.rehearsal",
                *("--out", str(folder), "--scenario", arguments.scenario, "--pace", arguments.pace),
                *("--people", arguments.people),
                *(["--real"] if arguments.real else []),
                *("--watch-lock", str(folder / LOCK), "--keep", f"{arguments.keep:g}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )


def _wait_ready(world: subprocess.Popen[bytes], folder: Path, within: float) -> None:
    """Wait for the world's line; raises BackendUnreachable with the end of its log when it does not come."""
    assert world.stdout is not None
    give_up = time.monotonic() + within
    line = b""
    fd = world.stdout.fileno()
    while not line.endswith(b"\n"):
        left = give_up - time.monotonic()
        ready, _, _ = select.select([fd], [], [], max(0.0, left))
        chunk = os.read(fd, 65536) if ready else b""
        if not chunk:
            break
        line += chunk
    try:
        if json.loads(line).get("ready") is True:
            return
    except (ValueError, AttributeError):
        pass
    log = (folder / "world.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise BackendUnreachable(
        f"the rehearsal's world did not start: {log[-1] if log else 'no message'}",
        where=str(folder / "world.log"),
    )


def _wait_world(world: subprocess.Popen[bytes]) -> None:
    """Wait until the world has written its records to the end."""
    try:
        world.wait(_ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        world.send_signal(signal.SIGTERM)
