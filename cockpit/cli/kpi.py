"""`cockpit kpi PLAN`: the figures of a release a day after it, in another sitting of its run."""

from __future__ import annotations

import argparse

from cockpit.base.errors import UsageError
from cockpit.cli.auto import watch
from cockpit.cli.folders import find_run
from cockpit.cli.launch import Signals, start_supervisor
from cockpit.cli.status import state_of


def main(arguments: argparse.Namespace) -> int:
    """Measure; return 0 when nothing regressed, 1 when something did or could not be told."""
    from cockpit.plan.load import load_plan

    loaded = load_plan(arguments.plan)
    folder = find_run(arguments.run).absolute()
    state = state_of(folder)
    if loaded.plan.kpis is None:
        raise UsageError("the plan names no KPI", where=str(arguments.plan), hint="give it `kpis`")
    if state.run is None or state.run.plan_sha256 != loaded.sha256:
        raise UsageError(
            "that run is of another plan", where=str(folder), hint="name the run of this plan with --run"
        )
    if state.closed is None:
        raise UsageError("that run has not closed yet", where=str(folder))
    if not state.canary.released or state.rollback is not None:
        raise UsageError(
            f"nothing was released there: {state.closed.outcome}", where=str(folder), hint="see --run"
        )
    plan = arguments.plan.absolute()
    code = watch(
        folder,
        Signals().start(lambda: start_supervisor(plan, folder, auto=True, sitting="kpi")),
        arguments.format,
    )
    after = state_of(folder).work.kpis
    if arguments.format == "text":
        for one in after:
            said = "REGRESSED" if one.regressed else one.outcome
            change = "" if one.change is None else f" ({100 * one.change:+.1f} %)"
            print(f"{one.name}: {one.value} {one.unit} against {one.baseline}{change}: {said}")
        if any(one.regressed for one in after):
            print(f'roll back with: cockpit rollback --run {folder} --reason "kpi_regression: …"')
    if code:
        return code
    return 0 if after and all(one.outcome == "pass" and not one.regressed for one in after) else 1
