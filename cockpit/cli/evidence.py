"""`cockpit evidence`: verify a pack as a stranger would, show it, build it again."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from cockpit.base.errors import UsageError


def main(arguments: argparse.Namespace) -> int:
    """Run one of verify, show, build."""
    return {"verify": _verify, "show": _show, "build": _build}[arguments.action](arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from cockpit.evidence.verify import verify_pack

    report = verify_pack(
        arguments.pack,
        bundle=arguments.bundle,
        trust_root=arguments.trust_root,
        identity=arguments.identity,
        issuer=arguments.issuer,
        recompute=arguments.recompute,
    )
    if arguments.json:
        print(
            json.dumps(
                {
                    "ok": report.ok,
                    "anchored": report.anchored,
                    "note": report.note,
                    "checks": [asdict(check) for check in report.checks],
                },
                sort_keys=True,
            )
        )
        return report.exit_code
    for check in report.checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:24} {check.detail}".rstrip())
    if report.note:
        print(report.note)
    if report.unreadable:
        print("cockpit: the pack cannot be read", file=sys.stderr)
        return report.exit_code
    anchored = "" if report.anchored else ", UNANCHORED"
    print(f"intact{anchored}" if report.ok else "BROKEN")
    return report.exit_code


def _show(arguments: argparse.Namespace) -> int:
    from cockpit.evidence.show import show

    print(show(arguments.pack))
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from cockpit.evidence.rebuild import rebuild

    if not (arguments.run / "evidence.zip").is_file():
        raise UsageError("that run has no evidence.zip to compare with", where=str(arguments.run))
    same, text = rebuild(arguments.run)
    print(text)
    return 0 if same else 1
