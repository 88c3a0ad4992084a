"""The figures of a release that is out: KPIs beside their baseline, and the error budget (`cockpit kpi`)."""

from __future__ import annotations

from pathlib import Path

from cockpit.base.files import write_private
from cockpit.conductor.calls import ARTIFACTS
from cockpit.conductor.phases import Failure, Phases

MEASURING = ("A43", "A54")
"""The agents of P8 that measure; the others of that phase act when the release goes out."""

REPORT = "+24h.json"


async def measure_kpis(phases: Phases, run_dir: Path, version: str) -> list[Failure]:
    """Have P8's measuring agents do all their operations; return what failed, regressions included.

    To be called within a sitting, when `verdicts.kpi_times` says the figures are due: before, the agents
    answer `blocked`. The report is then in the run folder as `kpi/<version>/+24h.json` (seed section 2).
    """
    agents = [info for info in phases.agents("P8") if info.id in MEASURING]
    if not agents:
        return [Failure("gate", f"the plan lists none of {', '.join(MEASURING)}: nothing was measured")]
    failures = await phases.side_by_side("P8", agents)
    report = run_dir / ARTIFACTS / "kpi" / REPORT
    if report.is_file():
        write_private(run_dir / "kpi" / version / REPORT, report.read_bytes())
    return failures
