"""A conductor whose journal cannot be written any more: it does not end as if its record were closed."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cockpit.base.clock import SystemClock
from cockpit.journal import events as ev
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode
from tests.cli.test_commands import ROOT, cockpit, write_plan
from tests.unit.plan.test_refuse import data


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _until(check: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    clock = SystemClock()
    give_up = clock.monotonic() + 60
    while not check():
        assert clock.monotonic() < give_up and process.poll() is None
        time.sleep(0.005)


def _waivers(journal: Path) -> bool:
    return journal.exists() and journal.read_bytes().count(b'"waiver.recorded.v1"') == 3  # all of the plan's


def test_a_run_whose_end_could_not_be_recorded_is_taken_up_and_closed(silent: str, tmp_path: Path) -> None:
    targets = data()["targets"]
    targets["kubernetes"]["url"] = silent
    plan, run = write_plan(tmp_path / "plan", targets=targets, on_crash="continue"), tmp_path / "run"
    run.mkdir(mode=0o700)
    command = [sys.executable, "-m", "cockpit", "conduct", str(plan), "--run", str(run), "--auto"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            _until(lambda: _waivers(run / JOURNAL_NAME), process)
            # As a disk whose journal takes nothing more: what is smaller than it can still be written.
            size = (run / JOURNAL_NAME).stat().st_size
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 70, said
    assert b"Traceback" not in said
    assert not (run / "exit").exists()
    again = cockpit("run", plan, "--resume", "--auto", "--run", run)
    assert again.returncode == 30, again.stdout + again.stderr
    events = [event for block in verified_events(run / JOURNAL_NAME, decode) for event in block]
    [resumed] = [event for event in events if isinstance(event, ev.RunResumed)]
    assert resumed.into == "abort"
    assert any(isinstance(event, ev.JournalGap) and event.where == "aborts.jsonl" for event in events)
    assert cockpit("journal", "verify", run).returncode == 0
