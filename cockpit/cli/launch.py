"""Starting a run: the supervisor in a session of its own, and a front end on it."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cockpit.base.errors import UsageError
from cockpit.base.files import write_private
from cockpit.supervisor import EXIT, LOCK

LOG = "conductor.log"
_OVER_WITHIN, _OVER_POLL = 30.0, 0.1
"""Seconds a sitting that has closed may take to write its last and end, and between looks."""

PLAN_PATH = "plan.path"
"""Where the plan lay: a later sitting finds what it refers to (secrets, trust) beside it."""


class Signals:
    """Signals to a headless front end, kept from its first moment and passed on to the conductor."""

    def __init__(self) -> None:
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._supervisor is None:
            raise KeyboardInterrupt  # nothing has begun: end as a command does
        if self._supervisor.poll() is None:
            self._supervisor.send_signal(signal.SIGTERM)

    def start(self, begin: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Start the supervisor with signals held back, so that none falls between it and us.

        It inherits that, and takes signals once it can pass them on.
        """
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            self._supervisor = begin()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        return self._supervisor


def start_supervisor(
    plan: Path,
    run_dir: Path,
    *,
    auto: bool,
    resume: bool = False,
    sitting: str = "",
    reason: str = "",
    takeover: str = "",
) -> subprocess.Popen[bytes]:
    """Start supervisor and conductor, away from this terminal: what ends us does not end them.

    `sitting`: what a run that has closed is opened again for: run, rollback or kpi.
    """
    command = [sys.executable, "-m", "cockpit", "conduct", str(plan), "--run", str(run_dir)]
    if auto:
        command.append("--auto")
    if resume:
        command.append("--resume")
    for flag, value in (("--sitting", sitting), ("--reason", reason), ("--takeover", takeover)):
        if value:
            command += [flag, value]
    if sitting:
        _sitting_over(run_dir)
    write_private(run_dir / PLAN_PATH, str(plan).encode())
    if sitting:
        from cockpit.cli.status import state_of

        closed = state_of(run_dir).closed
        command += ["--closed-at", closed.at if closed is not None else ""]
        (run_dir / EXIT).unlink(missing_ok=True)  # that of the sitting before
    with (run_dir / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "cockpit.supervisor", str(run_dir), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _sitting_over(run_dir: Path) -> None:
    """Wait for the supervisor of the sitting before, which ends a little after the journal says so.

    Raises UsageError when it does not: another sitting beside it would take its exit code for one's own.
    """
    give_up = time.monotonic() + _OVER_WITHIN
    with (run_dir / LOCK).open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return  # closing it gives it back
            except OSError:
                if time.monotonic() > give_up:
                    raise UsageError(
                        "the run's last sitting has not ended yet", where=str(run_dir), hint="cockpit status"
                    ) from None
                time.sleep(_OVER_POLL)


def front_end(
    run_dir: Path, supervisor: subprocess.Popen[bytes], *, auto: bool, form: str, ascii_only: bool
) -> int:
    """Show the run until it ends; return its exit code (0 when the screen was left before)."""
    if auto:
        from cockpit.cli.auto import watch

        return watch(run_dir, supervisor, form)
    from cockpit.screens.entry import run_live

    return run_live(run_dir, control=True, ascii=ascii_only)


def plan_of(run_dir: Path) -> Path:
    """Return where a run's plan lies; raises UsageError when that is not known or it has gone."""
    try:
        path = Path((run_dir / PLAN_PATH).read_text(encoding="utf-8"))
    except OSError:
        path = run_dir / "release.yaml"
    if not path.is_file():
        raise UsageError("the run's plan is not there any more", where=str(path), hint="put it back")
    return path


def need_terminal(auto: bool) -> None:
    """Refuse a screen where there is no terminal."""
    if not auto and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the cockpit needs a terminal", hint="use --auto to run without one")
