"""`cockpit run PLAN`: a release on the targets its plan names."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.base.ids import new_run_id
from cockpit.cli.folders import find_run, new_run
from cockpit.cli.launch import Signals, front_end, need_terminal, start_supervisor


def main(arguments: argparse.Namespace) -> int:
    """Check the plan, start the conductor, show the run."""
    from cockpit.plan.load import load_plan

    loaded = load_plan(arguments.plan)
    os.umask(0o077)
    if arguments.preview:
        from cockpit.cli.preview import show

        return show(loaded, arguments.format)
    need_terminal(arguments.auto)
    sitting = ""
    if arguments.resume:
        folder = find_run(arguments.run or arguments.out).absolute()
        ended = folder / "exit"
        if ended.exists():
            if ended.read_text(encoding="ascii").strip() != "21":
                raise UsageError("that run has ended", where=str(folder), hint="see `cockpit replay`")
            ended.unlink()  # its rollback was not finished: take it up again
    elif arguments.run is not None:
        folder = find_run(arguments.run).absolute()
        sitting = _reopen(folder, loaded.sha256)
    else:
        folder = new_run(arguments.out, loaded.plan.target_version, new_run_id(SystemClock().now()))
    begin = partial(
        start_supervisor,
        arguments.plan.absolute(),
        folder,
        auto=arguments.auto,
        resume=arguments.resume,
        sitting=sitting,
        reason="taken up again" if sitting else "",
        takeover=arguments.takeover,
    )
    supervisor = Signals().start(begin) if arguments.auto else begin()
    return front_end(
        folder, supervisor, auto=arguments.auto, form=arguments.format, ascii_only=arguments.ascii
    )


def _reopen(folder: Path, plan_sha256: str) -> str:
    """Check that a closed run has another sitting; raises UsageError with what to do instead."""
    from cockpit.cli.status import state_of

    state = state_of(folder)
    if state.closed is None:
        raise UsageError(
            "that run has not closed", where=str(folder), hint="`cockpit follow --control`, or --resume"
        )
    after_ga = any(view.phase == "P8" and view.status in ("pending", "fail") for view in state.phases)
    if state.rollback is not None or (state.canary.released and not after_ga):
        raise UsageError(
            f"that run is over: {state.closed.outcome}",
            where=str(folder),
            hint="after a release: `cockpit kpi`, `cockpit rollback`; after a rollback: a new run",
        )
    if state.run is not None and state.run.plan_sha256 != plan_sha256:
        raise UsageError(
            "the plan has changed since that run began: its verdicts are about another plan",
            where=str(folder),
            hint="begin a new run",
        )
    return "run"
