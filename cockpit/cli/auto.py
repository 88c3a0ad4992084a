"""`--auto`: follows the journal, prints text or JSON lines, and ends with the release's exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import msgspec

from cockpit.base.errors import JournalError
from cockpit.cli.launch import LOG
from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.projection import kind_of
from cockpit.journal.reader import JOURNAL_NAME, Tail
from cockpit.journal.upcast import decode

_POLL = 0.1
_INTERNAL = 70


def watch(run_dir: Path, supervisor: subprocess.Popen[bytes], form: str) -> int:
    """Print what happens until the conductor has ended; signals are passed on to it."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    tail: Tail[AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)
    while True:
        code = supervisor.poll()
        try:
            events = tail.poll()
        except JournalError as error:
            print(f"cockpit: the journal cannot be followed: {error}", file=sys.stderr)
            code = supervisor.wait()
            events = []
        for event in events:
            _print(event, form)
        if code is not None and not events:
            break
        if not events:
            time.sleep(_POLL)
    if code < 0 or code == _INTERNAL:
        print(f"cockpit: the conductor failed; see {run_dir / LOG}", file=sys.stderr)
        return _INTERNAL
    if form == "text":
        print(f"exit {code}; recording and evidence in {run_dir}", flush=True)
    return code


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
