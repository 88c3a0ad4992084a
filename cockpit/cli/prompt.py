"""`cockpit prompt`: the starter prompt of an agent (seed section 18), and the check of an answer to it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from cockpit.agentkit.prompt import problems_of, prompt_of, request_for
from cockpit.agents.roster import find
from cockpit.base.errors import UsageError
from cockpit.base.ids import new_trace_id
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.plan.load import load_plan

_TRACE = re.compile(r"[0-9a-f]{32}")


def main(arguments: argparse.Namespace) -> int:
    """Print the prompt; with `--response`, say whether an answer would be taken (0) or why not (1)."""
    info = find(arguments.agent)
    phase = arguments.phase or next(one for one in info.phases if one != "canary")
    if phase not in info.phases and not (phase == "P6" and "canary" in info.phases):
        raise UsageError(
            f"{info.id} {info.name} has nothing to do in {phase}", hint=f"one of {', '.join(info.phases)}"
        )
    trace_id = arguments.trace_id or new_trace_id()
    if not _TRACE.fullmatch(trace_id):
        raise UsageError("a trace id is 32 hexadecimal digits in lower case")
    request = request_for(phase, arguments.op, arguments.env, info, trace_id)
    loaded = load_plan(arguments.plan) if arguments.plan is not None else None
    if arguments.response is None:
        print(prompt_of(info, request, loaded), end="")
        return 0
    problems = problems_of(_read(arguments.response), info, request, any_trace=not arguments.trace_id)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"a valid answer of {info.id} {info.name} to {phase} {arguments.op}")
    return 1 if problems else 0


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MESSAGE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
