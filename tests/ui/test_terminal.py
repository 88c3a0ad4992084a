"""The entry functions in a real terminal: tmux, 80 by 24, ended by `q` and by signals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cockpit.base.errors import UsageError
from cockpit.journal import events as ev
from cockpit.screens.entry import run_live, run_replay
from tests.ui import people, sample

ROOT = Path(__file__).parents[2]


class Terminal:
    """A tmux server of its own with one shell."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"cockpit-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        env = {**os.environ, "TERM": "xterm-256color", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "t", "sh", env=env)

    def tmux(self, *args: str, env: dict[str, str] | None = None) -> str:
        """Run a tmux command."""
        command = ["tmux", "-u", "-L", self._socket, "-f", "/dev/null", *args]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=20).stdout

    def keys(self, *keys: str) -> None:
        """Type keys."""
        self.tmux("send-keys", "-t", "t", *keys)

    def screen(self) -> str:
        """Return what the terminal shows."""
        return self.tmux("capture-pane", "-p", "-t", "t")

    def run(self, code: str) -> None:
        """Start a Python program that writes its process id and prints what it returned."""
        program = self._folder / "program.py"
        lines = (
            "import os, pathlib",
            f"pathlib.Path({str(self._folder / 'pid')!r}).write_text(str(os.getpid()))",
            "from pathlib import Path",
            "from cockpit.screens.entry import run_live, run_replay",
            f"print('RETURNED', {code})",
        )
        program.write_text("\n".join(lines))
        # In a script: what is typed shows on the screen too, and wraps as the paths' lengths will have it.
        script = self._folder / "go"
        script.write_text(
            f"{sys.executable} {program}\nstty -a | grep -o -- '[-]*echo ' | head -1\necho END\n"
        )
        self.keys(f"cd {self._folder}", "Enter", "clear", "Enter", ". ./go", "Enter")

    @property
    def pid(self) -> int:
        """The program's process id."""
        return int((self._folder / "pid").read_text())

    def end(self) -> None:
        """End the server and what runs in it."""
        self.tmux("kill-server")


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never came about: {what}"
        time.sleep(0.05)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Give a terminal; skipped where there is no tmux."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    one = Terminal(tmp_path)
    try:
        yield one
    finally:
        one.end()


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.tmux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_sane_and_says_how_to_come_back(
    tmp_path: Path, terminal: Terminal, number: signal.Signals
) -> None:
    run = sample.write_journal(tmp_path / "run", sample.halfway())
    terminal.run(f"run_live(Path({str(run)!r}), True)")
    until(lambda: "H HALT" in terminal.screen() and "Canary" in terminal.screen(), "the cockpit")
    os.kill(terminal.pid, number)
    until(lambda: "END" in terminal.screen().splitlines(), "the shell again")
    screen = terminal.screen()
    assert "RETURNED 0" in screen
    assert "cockpit follow --control --run" in screen.replace("\n", "")
    assert "H HALT" not in screen
    assert "Traceback" not in screen
    assert "echo" in [line.strip() for line in screen.splitlines()]
    terminal.keys("echo al''ive", "Enter")
    until(lambda: "alive" in terminal.screen().splitlines(), "the shell answering")


@pytest.mark.tmux
def test_a_closed_terminal_ends_the_screen(tmp_path: Path, terminal: Terminal) -> None:
    run = sample.write_journal(tmp_path / "run", sample.halfway())
    terminal.run(f"run_live(Path({str(run)!r}), False)")
    until(lambda: "READ-ONLY" in terminal.screen(), "the cockpit")
    pid = terminal.pid
    terminal.end()
    until(lambda: _gone(pid), "the process gone")


@pytest.mark.tmux
def test_a_closed_run_stays_until_q_and_its_exit_code_is_returned(tmp_path: Path, terminal: Terminal) -> None:
    run = sample.write_journal(tmp_path / "run", sample.rolled_back())
    terminal.run(f"run_live(Path({str(run)!r}), False)")
    until(lambda: "ROLLED BACK · exit 20" in terminal.screen(), "the outcome")
    terminal.keys("q")
    until(lambda: "RETURNED 20" in terminal.screen(), "the exit code")


@pytest.mark.tmux
def test_a_recording_plays_in_a_terminal(tmp_path: Path, terminal: Terminal) -> None:
    run = sample.write_journal(tmp_path / "run", sample.halfway())
    terminal.run(f"run_replay(Path({str(run)!r}), 64.0)")
    until(
        lambda: "at end" in terminal.screen() and "step 2/3" in terminal.screen(), "the end of the recording"
    )
    until(lambda: "INTACT, NOT CLOSED" in terminal.screen(), "the verdict")
    terminal.keys("q")
    until(lambda: "RETURNED 0" in terminal.screen(), "the exit code")


@pytest.mark.tmux
def test_a_terminal_that_does_not_read_cannot_keep_the_screen_alive(tmp_path: Path) -> None:
    run = sample.write_journal(tmp_path / "run", sample.halfway())
    start = "from pathlib import Path; from cockpit.screens.entry import run_live"
    code = f"{start}; run_live(Path({str(run)!r}), False)"
    master, slave = pty.openpty()
    _resize(slave, 80, 24)
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
    )
    try:
        seen = b""
        while b"READ-ONLY" not in seen:
            seen += os.read(master, 65536)
        # From here on nobody reads: whole repaints fill the terminal's buffer, then the screen's queue.
        for step in range(60):
            _resize(slave, 80 + step % 2 * 20, 24 + step % 2 * 10)
            os.kill(process.pid, signal.SIGWINCH)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def _resize(descriptor: int, width: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


@pytest.mark.ui
def test_what_cannot_be_shown_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a recording"):
        run_replay(tmp_path, 1.0)
    run = sample.write_journal(tmp_path, sample.green())
    with pytest.raises(UsageError, match="no such speed: 3"):
        run_replay(run, 3.0)
    with pytest.raises(UsageError, match="needs a terminal"):
        run_replay(run / "journal.jsonl", 1.0)
    with pytest.raises(UsageError, match="needs a terminal"):
        run_live(run, True)


@pytest.mark.tmux
def test_the_terminal_bell_rings_for_what_waits(tmp_path: Path) -> None:
    waiting = people.then(sample.halfway(), ev.Question(question="q1", text="Go on?", options=["yes", "no"]))
    heard = {}
    for name, events, sign in (("calm", sample.halfway(), b"Canary"), ("waits", waiting, b"\x07")):
        run = sample.write_journal(tmp_path / name, events)
        start = "from pathlib import Path; from cockpit.screens.entry import run_live"
        code = f"{start}; run_live(Path({str(run)!r}), False)"
        master, slave = pty.openpty()
        _resize(slave, 80, 24)
        env = {**os.environ, "TERM": "xterm-256color"}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        seen = b""
        try:
            while sign not in _bare(seen):
                seen += os.read(master, 65536)
            process.send_signal(signal.SIGTERM)
            while True:
                try:
                    data = os.read(master, 65536)
                except OSError:
                    break
                if not data:
                    break
                seen += data
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            process.wait()
            os.close(master)
        heard[name] = _bare(seen).count(b"\x07")
    assert heard == {"calm": 0, "waits": 1}


def _bare(output: bytes) -> bytes:
    """Return a terminal's output without the sequences that end in a bell of their own, as titles do."""
    return re.sub(rb"\x1b\][^\x07\x1b]*(\x07|\x1b\\)", b"", output)
