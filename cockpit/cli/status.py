"""`cockpit status`: where a run stands, from its journal."""

from __future__ import annotations

import argparse
from pathlib import Path

from cockpit.cli.folders import JOURNAL, find_run
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.reader import verified_events
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
    """Print the state as text or JSON."""
    folder = find_run(arguments.run)
    state = state_of(folder)
    if arguments.json:
        print(encode(state).decode())
        return 0
    print("\n".join(_lines(state, folder)))
    return 0


def _lines(state: ReleaseState, folder: Path) -> list[str]:
    run, canary = state.run, state.canary
    if run is None:
        return [f"{folder}: nothing is recorded yet"]
    badges = [name for name, on in (("REHEARSAL", run.rehearsal), ("REDUCED", bool(run.reduced))) if on]
    lines = [
        f"{run.version} to {run.environment}: {state.mode.replace('_', ' ')} {' '.join(badges)}".rstrip(),
        f"run       {run.run_id} in {folder}",
        f"as of     {state.at}, record {state.seq}",
        "phases    " + " ".join(f"{phase.phase}:{phase.status}" for phase in state.phases),
        "gates     " + " ".join(f"{gate}:{result}" for gate, result in state.required_gates.items()),
        f"canary    step {canary.step}/{len(run.steps)} {canary.stage}, desired {canary.desired} %, observed "
        + ("not measured" if canary.observed is None else f"{canary.observed:g} %"),
    ]
    if canary.last is not None:
        lines.append(
            f"last look {canary.last.outcome} ({canary.passes}/{canary.required}) {canary.last.reason}"
        )
    if state.halt is not None and state.halt.active:
        lines.append(f"HALT      by {state.halt.by}: {state.halt.reason or 'no reason given yet'}")
    if state.rollback is not None:
        lines.append(f"rollback  {state.rollback.status} ({state.rollback.reason}): {state.rollback.cause}")
        lines += [f"          {command}" for command in state.rollback.fallback]
    lines += [f"question  {q.text} [{', '.join(q.options)}]" for q in state.questions if not q.answer]
    lines += [f"pending   {item}" for item in state.pending]
    if state.closed is not None:
        lines.append(f"closed    exit {state.closed.exit}, {state.closed.outcome}: {state.closed.cause}")
    return lines
