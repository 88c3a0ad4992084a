"""Log lines: a JSON object a line with `release, env, tenant, trace_id, sha`, told from the journal (seed 0).

They go to standard error (the conductor's log) and to `logs.jsonl` of the run folder.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cockpit.base.clock import Clock, iso
from cockpit.base.redact import Redactor
from cockpit.journal import events as ev
from cockpit.journal.events_people import ApprovalRequested, ApprovalSettled

LOGS = "logs.jsonl"
_TAIL_OF_LOGS = 256 * 1024
_UNKNOWN = {"release": "", "env": "", "tenant": "*", "trace_id": "", "sha": ""}
"""What every log line has; a release is about all tenants."""
_log = logging.getLogger("cockpit.release")


class Teller:
    """Tells journal events as log lines; an answer of an agent has the trace id of its call."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}

    def tell(self, event: ev.AnyEvent) -> None:
        """Say what an event of interest says; the others say nothing."""
        match event:
            case ev.AgentCalled():
                self._calls[event.call] = event.trace_id
            case ev.AgentAnswered():
                _say(
                    event,
                    f"{event.agent} {event.op}: {event.result}",
                    trace_id=self._calls.pop(event.call, ""),
                )
            case ev.AgentFailed():
                text = f"{event.agent} {event.op}: {event.kind}: {event.reason}"
                _say(event, text, logging.WARNING, trace_id=self._calls.pop(event.call, ""))
            case ev.PhaseStarted():
                _say(event, f"{event.phase} began")
            case ev.PhaseEnded():
                _say(event, f"{event.phase}: {event.result} {event.reason}".strip())
            case ev.HaltBegan():
                _say(event, f"HALT by {event.by}", logging.WARNING)
            case ev.RollbackStarted():
                _say(event, f"rollback: {event.cause}", logging.WARNING)
            case ev.Noted():
                _say(
                    event,
                    event.text,
                    {"info": logging.INFO, "warning": logging.WARNING}.get(event.level, logging.ERROR),
                )
            case ev.RunClosed():
                _say(event, f"closed: {event.outcome} (exit {event.exit}) {event.cause}".strip())
            case _:
                found = said(event)
                if found is not None:
                    _say(event, *found)


def said(event: ev.AnyEvent) -> tuple[str, int] | None:
    """Return what an event of interest says, and how loud; None for those the journal alone keeps."""
    match event:
        case ev.RunOpened():
            return f"run {event.run_id} of {event.version} to {event.environment} opened", logging.INFO
        case ev.GateJudged():
            passed = event.verdict == "pass"
            text = f"{event.agent} {event.phase_gate}: {event.verdict} ({event.outcome}) {event.reason}"
            return text, logging.INFO if passed else logging.WARNING
        case ev.GoNoGoComputed():
            return (
                ("go", logging.INFO) if event.go else (f"no-go: {'; '.join(event.reasons)}", logging.WARNING)
            )
        case ev.StepStarted():
            return f"step {event.step}: {event.weight} %", logging.INFO
        case ev.StepStage():
            return f"step {event.step}: {event.stage} {event.detail}".rstrip(), logging.INFO
        case ev.LookTaken():
            level = logging.WARNING if event.outcome == "fail" else logging.INFO
            return f"look {event.look}: {event.outcome} {event.passes}/{event.required} {event.reason}", level
        case ev.StepDecided():
            level = logging.INFO if event.decision == "advance" else logging.WARNING
            return f"step {event.step}: {event.decision}: {event.reason}", level
        case ev.Released():
            return f"{event.version} released", logging.INFO
        case ev.EffectFailed() | ev.EffectUnknown():
            return f"effect {event.effect}: {event.reason}", logging.WARNING
        case ev.HaltEnded():
            return f"HALT ended by {event.by}: {event.choice}: {event.reason}", logging.INFO
        case ev.RollbackVerified():
            return "rollback verified", logging.INFO
        case ev.RollbackUnfinished():
            return f"rollback not finished: {event.reason}", logging.ERROR
        case ev.Question():
            return f"asked: {event.text}", logging.INFO
        case ev.QuestionAnswered():
            return f"answered by {event.by}: {event.answer}", logging.INFO
        case ApprovalRequested():
            return f"approval asked for {event.asked} of {event.subject}", logging.INFO
        case ApprovalSettled():
            level = logging.INFO if event.result == "granted" else logging.WARNING
            return f"approval {event.request}: {event.result} {event.reason}".rstrip(), level
        case ev.LeaseChanged():
            return f"release lock {event.state} by {event.holder}, fence {event.fence}", logging.INFO
        case ev.JournalGap():
            return f"journal gap: {event.reason}", logging.ERROR
        case ev.EvidenceSealed():
            return f"{event.kind} pack sealed: sha256:{event.sha256}", logging.INFO
        case ev.EvidencePending():
            return f"evidence pending: {event.what}: {event.reason}", logging.WARNING
        case _:
            return None


def logged_up_to(path: Path, since: int) -> int:
    """Return the first record `path` does not tell of yet; `since` when it tells of none.

    What was recorded between the last look and a crash is so told by the next sitting, once.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_OF_LOGS))
            lines = file.read(_TAIL_OF_LOGS).splitlines()
    except OSError:
        return since
    for line in reversed(lines):
        try:
            seq = json.loads(line).get("seq", -1)
        except (ValueError, AttributeError, RecursionError):
            continue  # half a line, cut by the crash
        if isinstance(seq, int) and seq >= 0:
            return seq + 1
    return since


def _say(event: ev.AnyEvent, text: str, level: int = logging.INFO, *, trace_id: str = "") -> None:
    _log.log(level, "%s", text, extra={"trace_id": trace_id, "at": event.at, "seq": event.seq})


class JsonLines(logging.Formatter):
    """One JSON object a line, with `release`, `env`, `tenant`, `trace_id`, `sha` (empty if unknown)."""

    def __init__(self, common: Mapping[str, str], redactor: Redactor, clock: Clock) -> None:
        super().__init__()
        self._common = common
        self._redactor = redactor
        self._clock = clock

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline and without secrets."""
        line: dict[str, Any] = {
            "at": getattr(record, "at", "") or iso(self._clock.now()),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.text(record.getMessage()),
            **_UNKNOWN,
            **self._common,
            "trace_id": getattr(record, "trace_id", ""),
        }
        if (seq := getattr(record, "seq", None)) is not None:
            line["seq"] = seq
        if record.exc_info:
            line["error"] = self._redactor.text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True)


def log_as_json(common: Mapping[str, str], redactor: Redactor, clock: Clock) -> logging.Handler:
    """Make standard error carry JSON lines from now on, also of libraries; return the handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(common, redactor, clock))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cockpit").setLevel(logging.INFO)
    logging.captureWarnings(True)
    return handler


class PrivateLines(logging.Handler):
    """Appends log lines to a file only its owner may read; what cannot be written is counted and lost."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._fd = -1
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; never raises."""
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            os.write(self._fd, self.format(record).encode() + b"\n")
        except Exception:  # noqa: BLE001 - a log must not hurt what it tells of
            self.lost += 1

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()
