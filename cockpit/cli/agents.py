"""`cockpit agents`: the roster."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from urllib.parse import urlsplit

from cockpit.agentkit.external import roster_with
from cockpit.agents.roster import ROSTER
from cockpit.base.text import visible


def main(arguments: argparse.Namespace) -> int:
    """List every agent, built or not; with a plan, those it gives to somebody else as such."""
    external = _external(arguments.plan) if arguments.plan is not None else {}
    roster = roster_with(ROSTER, external)
    if arguments.json:
        rows = [
            {
                "id": info.id,
                "name": info.name,
                "raci": info.raci,
                "domain": info.domain,
                "phases": list(info.phases),
                "capabilities": list(info.capabilities),
                "gates": list(info.gates),
                "mutates": info.mutates,
                "built": info.built,
                **({"external": external[info.id]} if info.id in external else {}),
            }
            for info in roster
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    domain = ""
    for info in roster:
        if info.domain != domain:
            domain = info.domain
            print(f"\n{domain}")
        state = "built" if info.built else "blocked: not built in this version"
        if info.id in external:
            state = f"external: {external[info.id]}"
        gates = ", ".join(info.gates) or "–"
        print(
            f"  {info.id:4} {info.name:28} {info.raci:4} {','.join(info.phases):24.24} {gates:26.26} {state}"
        )
    others = f", {len(external)} of them by somebody else" if external else ""
    print(f"\n{sum(info.built for info in roster)} of {len(roster)} agents are built{others}")
    return 0


def _external(plan: Path) -> dict[str, str]:
    """Return what a plan gives to others: agent id → `command NAME` or `url ORIGIN`."""
    from cockpit.plan.load import load_plan

    found = {}
    for agent, external in load_plan(plan).plan.external.items():
        if external.url is not None:
            parts = urlsplit(external.url)
            found[agent] = visible(f"url {parts.scheme}://{parts.hostname or ''}", limit=120)
        else:
            found[agent] = visible(f"command {external.command[0]}", limit=120)
    return found
