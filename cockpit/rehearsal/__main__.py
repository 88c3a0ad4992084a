"""`python -m cockpit.rehearsal`: runs a rehearsal world beside a release and ends with it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cockpit.base.errors import BackendError, CockpitError, UsageError
from cockpit.rehearsal.pace import PACES, pace
from cockpit.rehearsal.scenarios import SCENARIOS, scenario

if TYPE_CHECKING:
    from cockpit.rehearsal.parts import Parts

EXIT_OK = 0
EXIT_USAGE = 64
EXIT_BACKEND = 50
EXIT_INTERNAL = 70
_BOUND = 7200.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cockpit.rehearsal",
        description="Run the embedded world of a rehearsal: stand-ins, a demo application and its users.",
        epilog="Scenarios: " + ", ".join(SCENARIOS) + ".",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--scenario", default="green", metavar="NAME", help="what is wrong with the world")
    parser.add_argument("--pace", default="fast", metavar="NAME", help="one of " + ", ".join(PACES))
    parser.add_argument(
        "--people",
        choices=("act", "none"),
        default="act",
        help="whether those who are asked act by themselves",
    )
    parser.add_argument(
        "--real", action="store_true", help="real servers instead of the stand-ins for them (make backends)"
    )
    parser.add_argument(
        "--watch-lock", type=Path, metavar="FILE", help="end when the lock on FILE was held and is free again"
    )
    parser.add_argument(
        "--keep", type=float, default=0.0, metavar="SECONDS", help="live on for later sittings of the run"
    )
    parser.add_argument(
        "--bound", type=float, default=_BOUND, metavar="SECONDS", help="end after this long whatever happens"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a world until its release is over; return the exit code (0, 50, 64 or 70)."""
    parser = _parser()
    try:
        options = parser.parse_args(argv)
    except SystemExit as leave:
        return EXIT_USAGE if leave.code else EXIT_OK
    try:
        if not 0 <= options.keep <= 7 * 86400:
            raise UsageError("--keep is a number of seconds up to a week")
        if not 0 < options.bound <= 7 * 86400:
            raise UsageError("--bound is a number of seconds up to a week")
        chosen, speed = scenario(options.scenario), pace(options.pace)
        if options.people == "none":
            if chosen.people is None:
                raise UsageError(f"nobody is asked in {chosen.name}: there are no people to do without")
            chosen = replace(chosen, people="absent")
        folder = _folder(options.out)
        # Only now, so that bad usage is answered without loading servers.
        from cockpit.rehearsal.world import run_world

        reason = asyncio.run(
            run_world(
                *(folder, chosen, speed, options.watch_lock, options.bound, options.keep),
                _parts(real=options.real),
            )
        )
        print(f"the world ends: {reason}", file=sys.stderr)
        return EXIT_OK
    except KeyboardInterrupt:  # before anything was started
        print("the world ends: told by SIGINT", file=sys.stderr)
        return EXIT_OK
    except (CockpitError, OSError, ExceptionGroup) as error:
        return _say(error)


def _parts(*, real: bool) -> Parts:
    if real:
        from cockpit.rehearsal.real.provided import Real

        return Real()
    from cockpit.rehearsal.embedded import Embedded

    return Embedded()


def _folder(path: Path) -> Path:
    """Make the run's folder and its `world` folder; raises UsageError where that cannot be."""
    folder = path.resolve()
    try:
        (folder / "world" / "secrets").mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / "world" / ".write"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write there: {error.strerror}", where=str(path), hint="give a folder of your own"
        ) from None
    if (folder / "world" / "world.json").exists():
        raise UsageError("a world has run here already", where=str(path), hint="give a new folder")
    return folder


def _say(error: Exception) -> int:
    """Print one line for people, and return the exit code that goes with it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    print(f"error: {error}", file=sys.stderr)
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_BACKEND if isinstance(error, BackendError) else EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
