"""The `cockpit` command: argparse only at start-up; each command's module is loaded when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cockpit.base.errors import CockpitError, PlanError, UsageError

EXIT_USAGE = 64
EXIT_INTERNAL = 70
OPS = ("PLAN", "APPLY", "VERIFY", "ROLLBACK", "EVIDENCE")
PHASES = ("P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8")
SCENARIOS = (
    "green",
    "slo-breach-10",
    "slo-breach-50",
    "unsigned-image",
    "mutable-tag",
    "no-traffic",
    "metrics-outage",
    "low-headroom",
    "policy-deny",
    "signing-outage",
    "slow-canary",
    "stable-sick",
    "approval-rejected",
    "break-glass",
    "critical-breach",
    "window-closes",
    "kpi-regression",
    "operator-lost",
)
ASKING = ("approval-rejected", "break-glass", "operator-lost")
"""The scenarios in which people are asked."""


class _Parser(argparse.ArgumentParser):
    intermixed = False
    """Whether options may stand between the positional arguments."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse; where options may stand between positionals, all options first."""
        if not self.intermixed:
            return super().parse_known_args(args, namespace)
        self.intermixed = False  # what follows calls this twice
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixed = True

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with the documented code."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar. `module` names what runs a command."""
    root = _Parser(
        prog="cockpit",
        description="Takes a release from readiness to general availability and leaves verifiable evidence.",
        epilog="Exit codes with --auto: 0 released, 10 gate failed, 11 inconclusive, 20 rolled back and "
        "verified, 21 rollback not finished, 30 halted, 40 waiting for approval, 50 back end unreachable, "
        "60 lock held or outside the window, 64 bad usage or plan, 70 internal error.",
    )
    root.add_argument("--version", action="store_true", help="print the version and exit")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, module: str, text: str) -> _Parser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(module=module)
        return command

    rehearse = add("rehearse", "rehearse", "rehearse a release in an embedded world on this machine")
    rehearse.add_argument(
        "--scenario", default="green", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}"
    )
    rehearse.add_argument("--pace", default="normal", metavar="PACE", help="fast, normal or slow")
    rehearse.add_argument(
        "--people",
        choices=("act", "none"),
        default="act",
        help=f"none: nobody acts for you, you are the people; in {', '.join(ASKING)} (default: act)",
    )
    rehearse.add_argument(
        "--real",
        action="store_true",
        help="on real servers where there are any (see make backends), in a network namespace of its own",
    )
    rehearse.add_argument(
        "--keep", type=float, default=0.0, metavar="SECONDS", help="keep the world for kpi and rollback after"
    )
    _run_flags(rehearse)

    run = add("run", "run", "run the release a plan describes")
    run.add_argument("plan", type=Path, metavar="PLAN", help="path of a release.yaml")
    run.add_argument(
        "--takeover", default="", metavar="REASON", help="take the lock of a holder that has gone"
    )
    run.add_argument("--resume", action="store_true", help="take up a run whose conductor was lost")
    run.add_argument("--run", type=Path, metavar="DIR", help="the run to resume, or to go on with")
    run.add_argument(
        "--preview", action="store_true", help="only say what the run would do, and what is in the release"
    )
    _run_flags(run)

    doctor = add("doctor", "doctor", "check everything a plan names, changing nothing")
    doctor.add_argument("plan", type=Path, metavar="PLAN", help="path of a release.yaml")
    doctor.add_argument("--json", action="store_true", help="the report as JSON")
    doctor.add_argument(
        "--rbac", action="store_true", help="print the rights a release needs as a Kubernetes manifest"
    )
    doctor.add_argument(
        "--deadline", type=float, default=20.0, metavar="SECONDS", help="for each check (default 20)"
    )

    status = add("status", "status", "say where a run stands")
    _run_option(status)
    status.add_argument("--json", action="store_true", help="the whole state as JSON")
    status.add_argument(
        "--fallback", action="store_true", help="only the commands that abort this run by hand"
    )

    follow = add("follow", "follow", "watch a run; with --control also steer it")
    _run_option(follow)
    follow.add_argument("--control", action="store_true", help="attach with control")
    _screen_flags(follow)

    for name, text in (
        ("halt", "HALT a run: nothing forward goes out any more"),
        ("rollback", "roll a run's canary back"),
    ):
        stop = add(name, "stop", text)
        _run_option(stop)
        stop.add_argument("--reason", default="", help="the reason for access")
        stop.add_argument("--wait", action="store_true", help="wait until its effect is recorded")

    promote = add("promote", "promote", "begin the promotion a run waits for (Promote v2)")
    _run_option(promote)
    promote.add_argument(
        "--file", type=Path, metavar="JSON", help="the Promote v2 to send (default: what the run's plan says)"
    )

    approve = add("approve", "approve", "sign an approval or rejection of what a run asks")
    approve.add_argument("request", nargs="?", default="", metavar="REQUEST", help="default: what waits")
    _run_option(approve)
    approve.add_argument("--list", action="store_true", help="say what was asked and what became of it")
    approve.add_argument("--reject", action="store_true", help="say no; it binds")
    approve.add_argument(
        "--request",
        dest="carried",
        type=Path,
        metavar="FILE",
        help="a request carried from the run's machine",
    )
    approve.add_argument("--out", type=Path, metavar="FILE", help="write the statement instead of sending it")
    approve.add_argument("--bundle", type=Path, metavar="FILE", help="hand in a statement signed elsewhere")
    _signer_flags(approve)

    glass = add("break-glass", "breakglass", "override a failed phase gate, signed and for a while")
    glass.add_argument("gate", metavar="GATE", help="a phase gate the plan lists as overridable")
    _run_option(glass)
    _signer_flags(glass)

    factor = add("step-up", "stepup", "show a second factor to a run, before an approval that needs it")
    factor.add_argument(
        "code", nargs="?", default="", metavar="CODE", help="a one-time password (default: it is asked for)"
    )
    _run_option(factor)
    _signer_flags(factor)

    kpi = add("kpi", "kpi", "compare a release's KPIs with their baseline, a day after it")
    kpi.add_argument("plan", type=Path, metavar="PLAN", help="path of the run's release.yaml")
    _run_option(kpi)
    kpi.add_argument("--format", choices=("text", "jsonl"), default="text")

    replay = add("replay", "replay", "replay a recording in the cockpit's screens")
    replay.add_argument("recording", type=Path, metavar="RECORDING", help="a run folder")
    replay.add_argument("--speed", type=float, default=1.0, metavar="X", help="times real speed (default 1)")
    _screen_flags(replay)

    journal = add("journal", "journal", "verify a recording's chain and heads")
    inner = journal.add_subparsers(dest="action", metavar="verify", required=True, parser_class=_Parser)
    verify = inner.add_parser("verify", help="0 intact, 1 broken or not closed, 64 unreadable")
    verify.add_argument("recording", type=Path, metavar="RUN")
    verify.add_argument("--json", action="store_true")

    evidence = add("evidence", "evidence", "build, verify or show evidence packs")
    inner = evidence.add_subparsers(
        dest="action", metavar="verify|show|build", required=True, parser_class=_Parser
    )
    check = inner.add_parser("verify", help="0 intact, 1 broken, 64 unreadable")
    check.add_argument("pack", type=Path, metavar="PACK")
    check.add_argument("--bundle", type=Path, metavar="FILE", help="default: PACK.sigstore.json")
    check.add_argument("--trust-root", type=Path, metavar="FILE", help="a Sigstore trusted root")
    check.add_argument("--identity", default="", help="who must have signed")
    check.add_argument("--issuer", default="", help="who vouches for the identity")
    check.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=True)
    check.add_argument("--json", action="store_true")
    show = inner.add_parser("show", help="say what is in a pack")
    show.add_argument("pack", type=Path, metavar="PACK")
    build = inner.add_parser("build", help="build the pack of a run again, unsigned, and compare its digest")
    build.add_argument("run", type=Path, metavar="RUN")

    agents = add("agents", "agents", "list the roster")
    agents.add_argument("--json", action="store_true")
    agents.add_argument("--plan", type=Path, metavar="PLAN", help="show also what a plan gives to others")

    prompt = add("prompt", "prompt", "print an agent's starter prompt, or check an answer to it")
    prompt.intermixed = True
    prompt.add_argument("agent", metavar="AGENT", help="e.g. A15")
    prompt.add_argument("plan", nargs="?", type=Path, metavar="PLAN", help="a release.yaml to fill it from")
    prompt.add_argument("--phase", choices=PHASES, help="default: the agent's first phase")
    prompt.add_argument("--op", choices=OPS, default="PLAN", help="default: PLAN")
    prompt.add_argument("--env", choices=("dev", "stage", "prod", "all"), default="prod")
    prompt.add_argument("--trace-id", default="", metavar="HEX", help="default: a new one, or any")
    prompt.add_argument("--response", type=Path, metavar="FILE", help="check this answer: 0 valid, 1 not")

    schema = add("schema", "schema", "print a message's JSON Schema, or write all of them")
    schema.add_argument("name", nargs="?", metavar="NAME")
    schema.add_argument("--write", action="store_true", help="write schemas/ of this checkout")

    conduct = commands.add_parser("conduct")
    conduct.set_defaults(module="conduct")
    conduct.add_argument("plan", type=Path)
    conduct.add_argument("--run", type=Path, required=True)
    conduct.add_argument("--auto", action="store_true")
    conduct.add_argument("--takeover", default="")
    conduct.add_argument("--resume", action="store_true")
    conduct.add_argument("--sitting", choices=("", "run", "rollback", "kpi"), default="")
    conduct.add_argument("--told", default="")
    conduct.add_argument("--closed-at", default="")
    conduct.add_argument("--reason", default="")
    return root


def _run_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--auto", action="store_true", help="headless: no screen, ends with the exit code")
    command.add_argument("--out", type=Path, metavar="DIR", help="the run folder (must not hold a run yet)")
    command.add_argument("--format", choices=("text", "jsonl"), default="text", help="what --auto prints")
    _screen_flags(command)


def _screen_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ascii", action="store_true", help="draw with ASCII only")


def _signer_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reason", default="", metavar="TEXT", help="why; it is part of what is signed")
    command.add_argument("--as", dest="person", default="", metavar="PERSON", help="who of the plan you are")
    command.add_argument("--plan", type=Path, metavar="PLAN", help="the run's plan, where it lies elsewhere")
    command.add_argument("--device", action="store_true", help="log in with a code in any browser")
    command.add_argument(
        "--token-url", default="", metavar="URL", help="where an identity token is asked for"
    )
    command.add_argument(
        "--token-secret", default="", metavar="REF", help="its secret: env:NAME or file:PATH"
    )
    command.add_argument("--trust-config", type=Path, metavar="FILE", help="default: the plan's")
    command.add_argument("--yes", action="store_true", help="do not ask again at a terminal")


def _run_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", type=Path, metavar="DIR", help="the run folder (default: the newest)")


def run(argv: Sequence[str] | None = None) -> int:
    """Parse and run; every error of ours becomes one clear message and its exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else EXIT_USAGE
    if arguments.version:
        from cockpit.cli.version import version

        print(version())
        return 0
    if arguments.command is None:
        parser().print_help(sys.stderr)
        return EXIT_USAGE
    arguments.words = list(sys.argv[1:] if argv is None else argv)
    try:
        code: int = importlib.import_module(f"cockpit.cli.{arguments.module}").main(arguments)
        sys.stdout.flush()
        return code
    except PlanError as error:
        for problem in error.problems or (str(error),):
            print(problem, file=sys.stderr)
        return EXIT_USAGE
    except UsageError as error:
        print(f"cockpit: {error}", file=sys.stderr)
        return EXIT_USAGE
    except CockpitError as error:
        print(f"cockpit: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has gone (`cockpit agents | head`); nothing is wrong with what was said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        print(f"cockpit: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        if os.environ.get("COCKPIT_TRACEBACK"):
            raise
        print("set COCKPIT_TRACEBACK=1 to see where", file=sys.stderr)
        return EXIT_INTERNAL
