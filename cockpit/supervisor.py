"""The supervisor: keeps a conductor alive, and replaces one that hangs or does not take a HALT.

Standard library only, so that it starts at once and has nothing that could break. It holds a lock for as long
as the release runs; a rehearsal's world ends when the lock is free again.

Usage: python -m cockpit.supervisor RUN_DIR -- CONDUCTOR COMMAND…
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

LOCK = "supervisor.lock"
PID = "supervisor.pid"
HEARTBEAT = "heartbeat"
EXIT = "exit"
HALT_REQUEST = "halt.request"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks for an abort. A conductor starts with them blocked and unblocks them once it can take them."""
_POLL = 0.1
_STARTING = 60.0
"""Seconds a conductor may take until its first heartbeat."""
_SILENT = 15.0
"""Seconds without a heartbeat after which a conductor counts as hanging."""
_UNHEARD_HALT = 2.0
"""Seconds a HALT may go unacknowledged."""
_MOST_RESTARTS = 6
_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
_LOCK_ATTEMPTS = 20
_INTERNAL = 70


class Supervisor:
    """Runs one conductor until the release has ended."""

    def __init__(
        self,
        run_dir: Path,
        command: list[str],
        *,
        starting: float = _STARTING,
        silent: float = _SILENT,
        unheard_halt: float = _UNHEARD_HALT,
        pause: float = _PAUSE,
    ) -> None:
        self._pause = pause
        self._starting = starting
        self._silent = silent
        self._unheard_halt = unheard_halt
        self._halt_since: float | None = None
        self._run_dir = run_dir
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._signals = 0
        self._told = ""
        self._beat = -1
        self._beat_at = 0.0

    def run(self) -> int:
        """Supervise; return the release's exit code (70 when the conductor could not be kept alive)."""
        lock = os.open(self._run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Somebody who looks whether the lock is held has it for an instant: try a little longer.
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt + 1 == _LOCK_ATTEMPTS:
                    print("another supervisor runs this release", file=sys.stderr)
                    return 60
                time.sleep(_POLL)
        try:
            (self._run_dir / PID).write_text(str(os.getpid()), encoding="ascii")
        except OSError as error:
            print(f"the process id is not kept: {error}", file=sys.stderr)
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for attempt in range(_MOST_RESTARTS + 1):
            code = self._one(resume=attempt > 0)
            ended = self._exit_code()
            if ended is not None:
                return ended
            if self._signals > 1:
                print("stopped at once: `cockpit run --resume` aborts what is open", file=sys.stderr)
                return _INTERNAL
            print(f"the conductor ended with {code} before its run was closed", file=sys.stderr, flush=True)
            # What made it end may need a moment to pass, and nobody else will take the run up.
            time.sleep(min(self._pause * 2**attempt, _LONGEST_PAUSE))
        return _INTERNAL

    def _one(self, *, resume: bool) -> int:
        # A HALT that no conductor took is not lost: the next one resumes into an abort. One that lies there
        # before the first is left to it, which holds before it does anything.
        for name in (HEARTBEAT, HALT_REQUEST) if resume else (HEARTBEAT,):
            if name == HALT_REQUEST and (self._run_dir / name).exists():
                self._told = "a HALT was not acknowledged"
            try:
                (self._run_dir / name).unlink(missing_ok=True)
            except OSError:
                pass  # a disk that fails must not end what keeps the conductor alive
        self._halt_since = None
        started = time.monotonic()
        command = [*self._command, "--resume"] if resume else self._command
        if resume and (self._told or self._signals):
            command += ["--told", self._told or "it was told to end"]
        # Born with signals held back: one that comes before it can take them waits, and does not end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._child = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self._signals:
            self._child.send_signal(signal.SIGTERM)  # it came while there was nobody to pass it on to
        while True:
            try:
                return self._child.wait(_POLL)
            except subprocess.TimeoutExpired:
                pass
            if self._hangs(started) or self._unheard(first=not resume):
                print("the conductor does not answer: it is replaced", file=sys.stderr, flush=True)
                self._child.kill()

    def _hangs(self, started: float) -> bool:
        # By our own monotonic clock since the file last changed: wall clocks jump.
        try:
            beat = (self._run_dir / HEARTBEAT).stat().st_mtime_ns
        except OSError:
            return time.monotonic() - started > self._starting
        if beat != self._beat:
            self._beat, self._beat_at = beat, time.monotonic()
        return time.monotonic() - self._beat_at > self._silent

    def _unheard(self, *, first: bool) -> bool:
        """Tell whether a HALT has waited too long for the conductor to take it.

        The first conductor does nothing forward before its first heartbeat, and is given the time until then.
        """
        starting = first and not (self._run_dir / HEARTBEAT).exists()
        if starting or not (self._run_dir / HALT_REQUEST).exists():
            self._halt_since = None
            return False
        if self._halt_since is None:
            self._halt_since = time.monotonic()
        return time.monotonic() - self._halt_since > self._unheard_halt

    def _exit_code(self) -> int | None:
        try:
            return int((self._run_dir / EXIT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run the supervisor from the command line."""
    if len(arguments) < 3 or arguments[1] != "--":
        print(__doc__, file=sys.stderr)
        return 64
    os.umask(0o077)
    return Supervisor(Path(arguments[0]), arguments[2:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
