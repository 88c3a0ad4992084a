"""`cockpit status`: where a run stands, from its journal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.cli.folders import JOURNAL, find_run
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.reader import verified_events
from cockpit.journal.standing import CanaryStanding, Standing, Wait, WindowStanding, standing
from cockpit.journal.state import ReleaseState, encode
from cockpit.journal.upcast import decode


def state_of(run_dir: Path) -> ReleaseState:
    """Return the state a run's journal folds to; raises JournalError when a link is broken."""
    fold = Fold()
    events: list[AnyEvent]
    for events in verified_events(run_dir / JOURNAL, decode):
        fold.apply_all(events)
    return fold.snapshot()


def main(arguments: argparse.Namespace) -> int:
    """Print the state as text or JSON; with `--fallback`, how to do its abort by hand."""
    folder = find_run(arguments.run)
    state = state_of(folder)
    if arguments.fallback:
        print("\n".join(visible(line) for line in fallback_of(state, folder)))
        return 0
    stands = standing(state, SystemClock().now())
    if arguments.json:
        whole = json.loads(encode(state))
        print(json.dumps({**whole, "standing": msgspec.to_builtins(stands)}, ensure_ascii=False))
        return 0
    print("\n".join(visible(line) for line in _lines(state, stands, folder)))
    return 0


def fallback_of(state: ReleaseState, folder: Path) -> list[str]:
    """Return the exact commands that abort this run by hand; raises UsageError before it has begun."""
    from cockpit.conductor.abort import Stable, fallback
    from cockpit.journal.blobs import BlobStore
    from cockpit.plan.load import parse_plan

    if state.run is None:
        raise UsageError("that run has not begun yet", where=str(folder))
    if state.rollback is not None and state.rollback.fallback:
        return list(state.rollback.fallback)
    plan = parse_plan(
        BlobStore(folder / "blobs").get(state.run.plan_blob), "the run's plan", base=folder
    ).plan
    return fallback(plan, Stable.recorded(state.canary))


def _lines(state: ReleaseState, stands: Standing, folder: Path) -> list[str]:
    if state.run is None:
        return [f"{folder}: nothing is recorded yet"]
    badges = [name for name, on in (("REHEARSAL", stands.rehearsal), ("REDUCED", stands.reduced)) if on]
    lines = [
        f"{stands.version} to {stands.environment}: {stands.mode.replace('_', ' ')} "
        f"{' '.join(badges)}".rstrip(),
        f"run       {stands.run_id} in {folder}",
        f"as of     {stands.as_of}, record {stands.record}",
        f"operator  {stands.operator}{_sitting(stands)}, {_watching(stands)}",
        "phases    " + " ".join(f"{phase}:{status}" for phase, status in stands.phases.items()),
        "gates     " + " ".join(f"{gate}:{result}" for gate, result in stands.gates.items()),
        *_canary(stands.canary, paused=stands.paused),
    ]
    if stands.go is False:
        lines.append(f"no-go     {'; '.join(stands.no_go)}")
    if stands.window is not None and stands.exit is None:
        lines.append(f"window    {_window(stands.window)}")
    if stands.next_due is not None:
        lines.append(f"next due  {stands.next_due.until}: {stands.next_due.text}")
    lines += [_wait(wait) for wait in stands.waits]
    if stands.breach:
        lines.append(f"breach    {stands.breach}")
    if stands.rollback is not None:
        back = stands.rollback
        stage = f" at {back.stage}" if back.status == "running" and back.stage else ""
        lines.append(f"rollback  {back.status}{stage} ({back.reason}) by {back.by}: {back.cause}")
        lines += [f"          {command}" for command in back.fallback]
    lines += [f"pending   {item}" for item in stands.pending]
    if stands.exit is not None:
        lines.append(f"closed    exit {stands.exit}, {stands.outcome}: {stands.cause}")
    return lines


def _sitting(stands: Standing) -> str:
    return f", sitting {stands.sitting}" if stands.sitting > 1 else ""


def _watching(stands: Standing) -> str:
    return f"watched by {', '.join(stands.front_ends)}" if stands.front_ends else "no front end with control"


def _canary(canary: CanaryStanding, *, paused: bool) -> list[str]:
    observed = "not measured" if canary.observed is None else f"{canary.observed:g} %"
    stage = f" {canary.stage}" if canary.stage else ""
    lines = [
        f"canary    step {canary.step}/{canary.of}{stage}, desired {canary.desired} %, observed {observed}"
        + (", the bake is paused" if paused else "")
    ]
    if canary.looks:
        lines.append(
            f"looks     {canary.looks} taken, {canary.passes} of {canary.required} passes, "
            f"{canary.failures} failures in a row"
        )
    if canary.last is not None:
        lines.append(f"last look {canary.last.outcome} at {canary.last.at}: {canary.last.reason}")
    if canary.decision:
        lines.append(f"decision  {canary.decision}")
    return lines


def _window(window: WindowStanding) -> str:
    if window.open:
        return f"open, {_span(window.left_s)} left (until {window.end})"
    if window.opens_s > 0:
        return f"opens in {_span(window.opens_s)}, at {window.start}"
    return f"over since {window.end}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s"


def _wait(wait: Wait) -> str:
    word = {"halt": "HALT", "question": "question", "approval": "approval", "handover": "handover"}.get(
        wait.kind, "waits for"
    )
    options = f" [{', '.join(wait.options)}]" if wait.options else ""
    until = f" until {wait.until}" if wait.until else ""
    return f"{word:9} {wait.text}{options}{until}"
