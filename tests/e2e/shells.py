"""What a person does to a running rehearsal from another shell, and what must come of it."""

from __future__ import annotations

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from tests.e2e.rehearsals import Rehearsed, Running, cockpit


def baking(event: AnyEvent) -> bool:
    """Tell whether the canary has been looked at."""
    return isinstance(event, ev.LookTaken)


def released(event: AnyEvent) -> bool:
    """Tell whether the release is out."""
    return isinstance(event, ev.Released)


def halt_and_roll_back(running: Running) -> Rehearsed:
    """HALT and roll back a canary by two commands; nothing forward may follow the first."""
    halted = cockpit("halt", "--run", str(running.folder), "--reason", "a drill")
    assert halted.returncode == 0, halted.stdout + halted.stderr
    at = running.wait_for(lambda event: isinstance(event, ev.HaltBegan)).seq
    rolled = cockpit("rollback", "--run", str(running.folder), "--reason", "a drill", "--wait")
    assert rolled.returncode == 0, rolled.stdout + rolled.stderr
    run = running.end()
    assert run.code == 20
    forward = [e for e in run.of(ev.EffectIntended) if e.lane == "forward" and e.seq > at]
    assert forward == []
    return run


def take_back(running: Running) -> Rehearsed:
    """Roll back a release that is out, in a sitting of its own; the world must have been kept."""
    running.wait_for(lambda event: isinstance(event, ev.RunClosed))
    without = cockpit("rollback", "--run", str(running.folder))
    assert without.returncode == 64 and "reason" in without.stderr
    undone = cockpit(
        "rollback", "--run", str(running.folder), "--reason", "kpi_regression: a drill", timeout=200
    )
    run = running.end()
    assert undone.returncode == 20, undone.stdout + undone.stderr
    stable = run.of(ev.StableRecorded)[0]
    redeployed = {e.target for e in run.of(ev.EffectIntended) if e.verb == "redeploy"}
    assert redeployed == {f"{name} {image}" for name, image in {**stable.images, **stable.canary}.items()}
    assert run.of(ev.RollbackVerified)
    assert run.of(ev.RollbackStarted)[0].reason == "kpi_regression"
    return run
