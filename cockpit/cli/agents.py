"""`cockpit agents`: the roster."""

from __future__ import annotations

import argparse
import json

from cockpit.agents.roster import ROSTER


def main(arguments: argparse.Namespace) -> int:
    """List every agent, built or not."""
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
            }
            for info in ROSTER
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    domain = ""
    for info in ROSTER:
        if info.domain != domain:
            domain = info.domain
            print(f"\n{domain}")
        state = "built" if info.built else "blocked: not built in this version"
        gates = ", ".join(info.gates) or "–"
        print(
            f"  {info.id:4} {info.name:28} {info.raci:4} {','.join(info.phases):24.24} {gates:26.26} {state}"
        )
    print(f"\n{sum(info.built for info in ROSTER)} of {len(ROSTER)} agents are built")
    return 0
