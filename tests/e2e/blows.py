"""Blows at a release from outside, drawn by a seed: what is struck, when, how long, and what may follow."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME
from tests.e2e.invariants import (
    Held,
    assert_canary_reached_in_time_only,
    assert_ended_as_it_says,
    assert_no_traceback,
    assert_promoted_past_gates,
    assert_record_verifies,
    assert_replays,
    held_by,
)
from tests.e2e.processes import alive, below, commands, folder_of, session, until
from tests.e2e.rehearsals import EndedByLoad, Rehearsed, Running, cockpit, ended_by_load

SEEDS = "KILL_SEEDS"
"""The environment variable that says which seeds to use, separated by spaces: a failure says its own."""
KEEP = "240"
"""Seconds a world lives on when nobody supervises its release: until it is taken up again."""
_OVER_WITHIN = 240.0
_GONE_WITHIN = 20.0

ANCHORS: dict[str, tuple[Callable[[AnyEvent], bool], float]] = {
    "the first agent": (lambda e: isinstance(e, ev.AgentCalled), 35),
    "step 1": (lambda e: isinstance(e, ev.StepStarted) and e.step == 1, 18),
    "step 2": (lambda e: isinstance(e, ev.StepStarted) and e.step == 2, 18),
    "step 3": (lambda e: isinstance(e, ev.StepStarted) and e.step == 3, 18),
    "the last advance": (lambda e: isinstance(e, ev.StepDecided) and e.step == 3, 9),
}
"""After which event a first blow falls, and at most how many seconds after it."""


@dataclass(frozen=True)
class Kind:
    """A kind of blow: what it does may end in `ends` besides the scenario's own end (exit codes)."""

    ends: frozenset[int]
    seconds: tuple[float, float] = (0, 0)
    """At least and at most how long it lasts, where it lasts."""


@dataclass(frozen=True)
class Blow:
    """One blow: so many seconds after its anchor, or after the blow before where it has none."""

    what: str
    after: float
    seconds: float
    anchor: str = ""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.what}{lasting} {self.after:.1f} s after {self.anchor or 'that'}"


@dataclass(frozen=True)
class Ordeal:
    """A scenario, and the blows that fall on it."""

    scenario: str
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        return f"{self.scenario}: " + "; ".join(map(str, self.blows))


def seeds(count: int) -> list[int | None]:
    """Return the seeds asked for by the environment, or `count` times None: draw one."""
    given = os.environ.get(SEEDS, "").replace(",", " ").split()
    return [int(one) for one in given] if given else [None] * count


def fresh() -> int:
    """Return a new seed."""
    return random.SystemRandom().randrange(10**6)


def draw(
    seed: int,
    kinds: Mapping[str, Kind],
    scenarios: Sequence[str],
    anchors: Sequence[str] = tuple(ANCHORS),
    most: int = 3,
) -> Ordeal:
    """Return the ordeal of a seed: always the same."""
    by = Random(seed)
    scenario = by.choice(scenarios)
    blows: list[Blow] = []
    for _ in range(by.randint(1, most)):
        what = by.choice(list(kinds))
        anchor = "" if blows else by.choice(anchors)
        if scenario == "slo-breach-50" and anchor in ("step 3", "the last advance"):
            anchor = "step 2"
        after = by.uniform(0, ANCHORS[anchor][1]) if anchor else by.uniform(0.2, 10)
        blows.append(Blow(what, after, by.uniform(*kinds[what].seconds), anchor))
    return Ordeal(scenario, tuple(blows))


@dataclass
class Struck:
    """A release that is struck: its processes, and which blows it got."""

    running: Running
    fell: list[Blow] = field(default_factory=list)
    sessions: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.running.folder

    def look(self) -> dict[str, int]:
        """Return the run's supervisor and conductor by name, where they live."""
        found: dict[str, int] = {}
        for pid, words in commands():
            if str(self.folder) not in words:
                continue
            self.sessions.add(pid)
            for name, word in (("supervisor", "cockpit.supervisor"), ("conductor", "conduct")):
                if word in words[: 4 if name == "conductor" else 3]:
                    found[name] = pid
        return found

    def strike(self, pid: int | None, number: signal.Signals) -> bool:
        """Send a signal; tell whether there was somebody to take it."""
        self.look()
        try:
            if pid is None:
                return False
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def freeze(self, pid: int | None, seconds: float) -> bool:
        """Stop a process and let it go on after a while, unless it was ended meanwhile."""
        if pid is None or not self.strike(pid, signal.SIGSTOP):
            return False
        self.frozen.add(pid)
        until(lambda: not alive(pid), seconds)
        self.thaw()
        return True

    def thaw(self) -> None:
        """Let go on what was stopped."""
        while self.frozen:
            with suppress(ProcessLookupError):
                os.kill(self.frozen.pop(), signal.SIGCONT)

    def end(self) -> None:
        """End what is left of the run and its world, by process id."""
        self.thaw()
        for pid in self.look().values():
            self.strike(pid, signal.SIGKILL)
        if (self.folder / "world" / "world.json").exists():
            self.running.end_world()

    def over(self) -> bool:
        """Tell whether the run has closed and its last files are written."""
        return (self.folder / "exit").exists() and not self.look()

    def world(self) -> dict[str, Any]:
        """Return what the world says of its processes."""
        about: dict[str, Any] = json.loads((self.folder / "world" / "world.json").read_bytes())["pids"]
        return about

    def left(self, *, world: bool) -> list[str]:
        """Return the processes of the run that live; those of its world only if asked for."""
        theirs = {*self.world().values(), *below(self.world()["world"])}
        folder = str(self.folder)
        found = []
        for pid, words in commands():
            at = folder_of(pid)
            ours = any(folder in word for word in words) or session(pid) in self.sessions
            # A server of the world runs in its folder, whoever has started it.
            of_world = pid in theirs or at.startswith(f"{folder}/world")
            if (ours or of_world or at.startswith(folder)) and (world or not of_world):
                found.append(f"{pid} {' '.join(words)[:150]}")
        return found


Act = Callable[[Struck, Blow], bool]


# -- the blows a release on any servers takes --------------------------------------------------------------


def _kill(name: str) -> Act:
    return lambda struck, _: struck.strike(struck.look().get(name), signal.SIGKILL)


def _freeze(name: str) -> Act:
    return lambda struck, blow: struck.freeze(struck.look().get(name), blow.seconds)


def _front_end(number: signal.Signals) -> Act:
    def act(struck: Struck, _: Blow) -> bool:
        process = struck.running.process
        return process.poll() is None and struck.strike(process.pid, number)

    return act


def _halt(struck: Struck, _: Blow) -> bool:
    return cockpit("halt", "--run", str(struck.folder), "--reason", "a drill").returncode == 0


def _disk(struck: Struck, blow: Blow) -> bool:
    """Let the conductor's journal take nothing more for a while; smaller files can be written still."""
    pid = struck.look().get("conductor")
    if pid is None:
        return False
    size = (struck.folder / JOURNAL_NAME).stat().st_size
    try:
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))
        until(lambda: not alive(pid), blow.seconds)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    except ProcessLookupError:
        pass  # it has ended: the next one may write
    return True


ANY: dict[str, tuple[Kind, Act]] = {
    "kill the conductor": (Kind(frozenset({20, 30})), _kill("conductor")),
    "kill the supervisor": (Kind(frozenset({20, 30})), _kill("supervisor")),
    "kill the front end": (Kind(frozenset()), _front_end(signal.SIGKILL)),
    "SIGTERM to the front end": (Kind(frozenset({20, 30})), _front_end(signal.SIGTERM)),
    "freeze the conductor": (Kind(frozenset({10, 11, 20, 30, 60}), (1, 20)), _freeze("conductor")),
    "freeze the supervisor": (Kind(frozenset(), (1, 10)), _freeze("supervisor")),
    # What of the abort is not in the journal is done again by the next conductor.
    "fill the disk": (Kind(frozenset({20, 30, 70}), (1, 15)), _disk),
    "HALT": (Kind(frozenset({20, 30})), _halt),
}
"""What a release must bear on any servers."""


def undergo(
    running: Running,
    ordeal: Ordeal,
    acts: Mapping[str, tuple[Kind, Act]],
    base: int,
    *,
    with_world: Callable[[], None] = lambda: None,
) -> Struck:
    """Strike a release as drawn, see it to its end, and check what must hold; `base` is the scenario's exit.

    `with_world` ends what belongs to the world and is not its child. Raises EndedByLoad where the release
    came to its end for what this machine measured.
    """
    struck = Struck(running)
    try:
        for blow in ordeal.blows:
            if not _wait_for(struck, blow):
                break
            if acts[blow.what][1](struck, blow):
                struck.fell.append(blow)
        may = frozenset({base}).union(*(acts[blow.what][0].ends for blow in struck.fell))
        run = _see_to_its_end(struck, may)
        held = held_by(struck.folder)
        assert until(lambda: not struck.left(world=False), _GONE_WITHIN), struck.left(world=False)
        struck.running.end_world()
        with_world()
        assert until(lambda: not struck.left(world=True), _GONE_WITHIN), struck.left(world=True)
        assert run.code in may, run.summary["cause"]
        _check(run, held)
    finally:
        struck.end()
        with_world()
    return struck


def _wait_for(struck: Struck, blow: Blow) -> bool:
    """Wait for the moment of a blow; False when the run is over before."""
    if blow.anchor:
        wanted = ANCHORS[blow.anchor][0]
        process = struck.running.process
        reached = until(
            lambda: process.poll() is not None or any(map(wanted, struck.running.events())), _OVER_WITHIN
        )
        assert reached, f"{blow.anchor} was not reached"
        assert (struck.folder / JOURNAL_NAME).exists(), process.communicate()
    return not until(struck.over, blow.after)


def _see_to_its_end(struck: Struck, may: frozenset[int]) -> Rehearsed:
    """Wait for the end; take the run up where nobody is left to, or its rollback was not finished."""
    folder = struck.folder
    assert until(lambda: not struck.look(), _OVER_WITHIN), struck.left(world=False)
    shown = struck.running.end(60)
    ended = folder / "exit"
    events = struck.running.events()
    why = ended_by_load(events)
    closed = events[-1]
    if not struck.fell and isinstance(closed, ev.RunClosed) and closed.exit == 10:
        why = why or closed.cause  # before anything was struck: nothing was wrong with it but the machine
    if why and 10 not in may:
        raise EndedByLoad(why)
    if ended.exists():
        expected = int(ended.read_text())
    else:
        out = any(isinstance(event, ev.Released) for event in events)
        expected = 21 if not out and any(map(_moves_traffic, events)) else 70
    assert shown.code in (expected, -signal.SIGKILL), shown.out[-3000:] + shown.err
    if not ended.exists() or expected == 21:
        again = cockpit(
            *("run", str(folder / "release.yaml"), "--resume", "--auto", "--run", str(folder)),
            timeout=_OVER_WITHIN,
        )
        assert "Traceback" not in again.stdout + again.stderr
        assert ended.exists(), again.stdout[-3000:] + again.stderr
        assert str(again.returncode) == ended.read_text() != "21", again.stdout[-3000:] + again.stderr
    return replace(shown, code=int(ended.read_text()))


def _moves_traffic(event: AnyEvent) -> bool:
    return isinstance(event, ev.EffectIntended) and event.verb == "shift" and event.env == "prod"


def _check(run: Rehearsed, held: Held) -> None:
    assert run.code == run.summary["exit"]
    assert_ended_as_it_says(run, held)
    assert_promoted_past_gates(run.events)
    assert_canary_reached_in_time_only(run)
    assert_replays(run)
    assert_record_verifies(run)
    assert_no_traceback(run)
