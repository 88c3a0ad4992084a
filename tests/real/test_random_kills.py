"""A release on real servers while these are killed and started again, or frozen, at random moments.

As `tests/e2e/test_random_kills.py`, with the same invariants and the same `KILL_SEEDS`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cockpit.rehearsal.real.provided import NEEDED
from tests.e2e.blows import ANY, KEEP, Act, Blow, Kind, Struck, draw, fresh, seeds, undergo
from tests.e2e.processes import alive, children
from tests.e2e.rehearsals import Again, Running
from tests.real.fixtures import need

pytestmark = [pytest.mark.real, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

BASE = {"green": 0, "slo-breach-50": 20}
_BEFORE = frozenset({10, 11, 50})
_PARTS = {
    "prometheus": {*_BEFORE, 20},
    # A release that cannot say that it lives loses its lock.
    "kube-apiserver": {*_BEFORE, 20, 60},
    "etcd": {*_BEFORE, 20, 60},
    "rekor": {*_BEFORE, 20},
    "fulcio": {*_BEFORE, 20},
    # It forgets the policies it was given: then nobody may do anything.
    "opa": {*_BEFORE, 20},
    "docker-registry": {*_BEFORE, 20},
}
"""The real servers that are struck, and what may come of it."""
_OURS = ("kill the conductor", "freeze the conductor", "kill the supervisor")
_GONE_WITHIN = 10.0


@dataclass
class Servers:
    """Starts again what was killed, at the same address; ends it with the test."""

    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kill(self, name: str) -> Act:
        """Return the blow that ends a server and starts it again after a while."""

        def act(struck: Struck, blow: Blow) -> bool:
            pid = self._find(struck, name)
            if pid is None:
                return False
            of = Path(f"/proc/{pid}")
            command = [word for word in (of / "cmdline").read_bytes().decode().split("\0") if word]
            pairs = (of / "environ").read_bytes().decode().split("\0")
            environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            folder, log = os.readlink(of / "cwd"), os.readlink(of / "fd" / "1")
            struck.strike(pid, signal.SIGKILL)
            self._gone(pid)
            time.sleep(blow.seconds)  # how long it is away is what was drawn
            with open(log, "ab") as output:
                self.started.append(
                    subprocess.Popen(
                        ["setpriv", "--pdeathsig", "KILL", "--", *command],
                        cwd=folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
            return True

        return act

    def freeze(self, name: str) -> Act:
        """Return the blow that stops a server for a while."""
        return lambda struck, blow: struck.freeze(self._find(struck, name), blow.seconds)

    def _find(self, struck: Struck, name: str) -> int | None:
        # What was killed once is a child of ours by now.
        for pid in (*children(struck.world()["world"]), *(one.pid for one in self.started)):
            with suppress(OSError):
                if Path(os.readlink(f"/proc/{pid}/exe")).name == name and alive(pid):
                    return pid
        return None

    def _gone(self, pid: int) -> None:
        for one in self.started:
            if one.pid == pid:
                one.wait()
        give_up = time.monotonic() + _GONE_WITHIN
        while alive(pid):
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def end(self) -> None:
        """End what was started here."""
        for one in self.started:
            one.kill()
            one.wait()


@contextmanager
def _servers() -> Iterator[Servers]:
    servers = Servers()
    try:
        yield servers
    finally:
        servers.end()


@pytest.mark.parametrize("given", seeds(3), ids=lambda seed: str(seed) if seed is not None else "drawn")
def test_whatever_happens_to_real_servers_the_invariants_hold(
    tmp_path: Path, given: int | None, capsys: pytest.CaptureFixture[str], again: Again
) -> None:
    need(*NEEDED)
    seed = fresh() if given is None else given

    def attempt(number: int) -> None:
        with _servers() as servers:
            acts = {name: ANY[name] for name in _OURS}
            for name, ends in _PARTS.items():
                acts[f"kill {name}"] = (Kind(frozenset(ends), (0.5, 8)), servers.kill(name))
                acts[f"freeze {name}"] = (Kind(frozenset(ends), (1, 12)), servers.freeze(name))
            ordeal = draw(seed, {name: kind for name, (kind, _) in acts.items()}, list(BASE))
            with capsys.disabled():
                print(f"\nKILL_SEEDS={seed}: {ordeal}", flush=True)
            running = Running(tmp_path / f"run{number}", ordeal.scenario, "--real", "--keep", KEEP)
            try:
                base = BASE[ordeal.scenario]
                struck = undergo(running, ordeal, acts, base, with_world=servers.end)
            finally:
                if running.process.poll() is None:
                    running.stop()
            with capsys.disabled():
                code = (struck.folder / "exit").read_text()
                print(f"  {len(struck.fell)} of {len(ordeal.blows)} blows fell; it ended with {code}")

    again.once(f"seed {seed} on real servers", attempt)
