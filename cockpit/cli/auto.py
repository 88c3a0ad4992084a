"""`--auto`: follows the journal, prints text or JSON lines, and ends with the release's exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from cockpit.base.errors import JournalError
from cockpit.cli.launch import LOG
from cockpit.cli.status import state_of
from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.projection import kind_of
from cockpit.journal.reader import JOURNAL_NAME, Tail
from cockpit.journal.upcast import decode
from cockpit.supervisor import EXIT, HEARTBEAT

_POLL = 0.1
_INTERNAL = 70
_SILENT = 15.0
_KNOWN = frozenset({0, 10, 11, 20, 21, 30, 40, 50, 60, 64, 70})


def watch(run_dir: Path, supervisor: subprocess.Popen[bytes], form: str) -> int:
    """Print what happens until the conductor has ended."""

    tail: Tail[AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)
    while True:
        code = _ended(run_dir, supervisor)
        try:
            events = tail.poll()
        except JournalError as error:
            print(f"cockpit: the journal cannot be followed: {error}", file=sys.stderr)
            supervisor.wait()
            break
        for event in events:
            _print(event, form)
        if code is not None and not events:
            break
        if not events:
            time.sleep(_POLL)
    code = _code(run_dir, supervisor)
    if form == "text":
        print(f"exit {code}; recording and evidence in {run_dir}", flush=True)
    return code


def _ended(run_dir: Path, supervisor: subprocess.Popen[bytes]) -> int | None:
    """Return the supervisor's code once the release has ended: that one was killed is not the end."""
    code = supervisor.poll()
    if code is not None and code < 0 and not (run_dir / EXIT).exists() and _alive(run_dir):
        return None
    return code


def _alive(run_dir: Path) -> bool:
    try:
        return time.time() - (run_dir / HEARTBEAT).stat().st_mtime < _SILENT
    except OSError:
        return False


def _code(run_dir: Path, supervisor: subprocess.Popen[bytes]) -> int:
    """Return the release's exit code; when its conductor is lost in mid-canary, say so and what to do."""
    try:
        code = int((run_dir / EXIT).read_text(encoding="ascii"))
    except (OSError, ValueError):
        code = None
    if supervisor.returncode == 60 and code != 60:  # what lies there is another's, not this sitting's
        print("cockpit: another supervisor runs this release", file=sys.stderr)
        return 60
    if code is not None:
        return code
    print(f"cockpit: the conductor left no exit code; see {run_dir / LOG}", file=sys.stderr)
    try:
        state = state_of(run_dir)
    except JournalError as error:
        print(f"cockpit: the journal cannot be read: {error}", file=sys.stderr)
        return _INTERNAL
    if state.closed is not None:
        return state.closed.exit
    if not state.canary.moved or (state.canary.released and state.rollback is None):
        return supervisor.returncode if supervisor.returncode in _KNOWN else _INTERNAL
    print(
        "cockpit: PRODUCTION MAY BE IN MID-CANARY. Take the run up again, which aborts it:\n"
        f"  cockpit run --resume --auto --run {run_dir} PLAN\n"
        "or set the canary's weight to 0 by hand (runbooks/cockpit-is-the-problem.md)",
        file=sys.stderr,
    )
    return 21


def _print(event: AnyEvent, form: str) -> None:
    try:
        if form == "jsonl":
            print(msgspec.json.encode(event).decode(), flush=True)
            return
        line = _line(event)
        if line:
            print(f"{event.at[11:19]}  {line}", flush=True)
    except BrokenPipeError:
        # Whoever read us has gone; the release goes on, and its exit code still counts.
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _line(event: AnyEvent) -> str:
    """Return one line for the events a person reads a log for; others give nothing."""
    match event:
        case ev.RunOpened():
            reduced = f" REDUCED ({'; '.join(event.reduced)})" if event.reduced else ""
            kind = " REHEARSAL" if event.rehearsal else ""
            if event.real:
                kind += f" on real {', '.join(event.real)}"
            return f"run {event.run_id} of {event.version} to {event.environment}{kind}{reduced}"
        case ev.WaiverRecorded():
            return f"waived: {event.what}: {event.reason} ({event.owner})"
        case ev.PhaseStarted():
            return f"{event.phase} started"
        case ev.PhaseEnded():
            return f"{event.phase} {event.result}{': ' + event.reason if event.reason else ''}"
        case ev.GateJudged():
            numbers = json.dumps(event.metrics, sort_keys=True)
            return (
                f"{event.agent} {event.phase_gate} {event.verdict} ({event.outcome}) {event.reason} {numbers}"
            )
        case ev.AgentFailed():
            return f"{event.agent} {event.op} {event.kind}: {event.reason}"
        case ev.AgentAnswered() if event.result != "ok":
            return f"{event.agent} {event.op} {event.result}: {event.notes}"
        case ev.GoNoGoComputed():
            return "GO" if event.go else f"NO-GO: {'; '.join(event.reasons)}"
        case ev.StepStarted():
            return f"step {event.step}: {event.weight} %"
        case ev.StepStage():
            return f"step {event.step}: {event.stage} {event.detail}".rstrip()
        case ev.LookTaken():
            numbers = json.dumps(event.metrics, sort_keys=True)
            return (
                f"look {event.look}: {event.outcome} {event.passes}/{event.required} {event.reason} {numbers}"
            )
        case ev.StepDecided():
            return f"step {event.step} ({event.weight} %): {event.decision}: {event.reason}"
        case ev.HaltBegan():
            return f"HALT by {event.by} ({event.trigger}): {event.reason}"
        case ev.RollbackStarted():
            return f"ROLLBACK ({event.reason}): {event.cause}"
        case ev.RollbackStage():
            return f"rollback: {event.stage}"
        case ev.RollbackVerified():
            return "rollback verified: " + "; ".join(event.proof.values())
        case ev.RollbackUnfinished():
            return "ROLLBACK NOT FINISHED: " + event.reason + "\n  " + "\n  ".join(event.fallback)
        case ev.EvidenceSealed():
            return (
                f"{event.kind} pack sealed: {event.path} sha256:{event.sha256} (log index {event.log_index})"
            )
        case ev.EvidencePending():
            return f"evidence pending: {event.what}: {event.reason}"
        case ev.Released():
            return f"{event.version} released"
        case ev.Noted():
            return f"{event.level}: {event.text}"
        case ev.JournalGap() | ev.LeaseChanged() | ev.EffectUnknown() | ev.Question() | ev.MessagePosted():
            return f"{kind_of(event)}: {msgspec.json.encode(event).decode()}"
        case ev.RunClosed():
            return f"closed: {event.outcome}: {event.cause}"
        case _:
            return ""
