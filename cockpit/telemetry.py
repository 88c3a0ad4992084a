"""Traces and logs as one more view of the journal: OpenTelemetry spans and JSON lines (seed, observability).

Nothing on the way of a call or an effect knows of it: it follows the journal as a screen does, so it costs a
call nothing, and when it fails it counts that and the release goes on.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cockpit.base.clock import Clock, iso
from cockpit.base.errors import ChainBroken, CockpitError
from cockpit.base.redact import Redactor
from cockpit.base.tasks import alongside
from cockpit.base.threads import BoundedThreads
from cockpit.journal import events as ev
from cockpit.journal.reader import JOURNAL_NAME, Tail
from cockpit.journal.upcast import decode

if TYPE_CHECKING:
    from cockpit.spans import Spans

TRACES = "traces.jsonl"
_POLL = 0.25
_LOADING = 30.0
_UNKNOWN = {"release": "", "env": "", "tenant": "*", "trace_id": "", "sha": ""}
"""What every log line has; a release is about all tenants."""
_log = logging.getLogger("cockpit.release")


class Telemetry:
    """Follows one run's journal from record `since` on; spans go to `traces.jsonl`, log lines to the log.

    `labels` go onto each span and, as they are at the time, each log line; `commit` gives their `sha`.
    """

    def __init__(
        self,
        run_dir: Path,
        clock: Clock,
        labels: dict[str, str],
        *,
        commit: Callable[[], Awaitable[str]] | None = None,
        since: int = 0,
    ) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._labels = labels
        self._commit = commit
        self._tail: Tail[ev.AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)
        self._next = since
        self._spans: Spans | None = None
        self._calls: dict[str, str] = {}
        self.failures = 0
        """How often something went wrong here; the release was never told."""

    async def follow(self) -> None:
        """Follow until cancelled."""
        try:
            # In a thread: the SDK takes a while to load, and the loop must take a HALT at any moment.
            await BoundedThreads("telemetry", 1).run(_load, deadline=_LOADING)
        except (ImportError, CockpitError):
            self.failures += 1
        if self._commit is not None:
            try:
                self._labels["sha"] = await self._commit()
            except Exception:  # noqa: BLE001 - the release's own checks say what is wrong with the repository
                self.failures += 1
        while True:
            self.catch_up()
            await self._clock.sleep(_POLL)

    def catch_up(self) -> None:
        """Take in what the journal has gained; never raises."""
        try:
            self._take(self._tail.poll())
        except ChainBroken:
            self._tail.reset()  # the writer took back what it could not sync; what was seen is not seen twice
            self.failures += 1
        except Exception as error:  # noqa: BLE001 - telemetry must not hurt a release
            self.failures += 1
            _log.warning("telemetry failed: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """Take in the rest, end the spans still open, close the files; never raises."""
        self.catch_up()
        try:
            if self._spans is not None:
                self._spans.close(iso(self._clock.now()))
                self.failures += self._spans.failures
            self._tail.close()
        except Exception as error:  # noqa: BLE001 - telemetry must not hurt a release
            self.failures += 1
            _log.warning("telemetry failed: %s: %s", type(error).__name__, error)

    def _take(self, events: Sequence[ev.AnyEvent]) -> None:
        for event in events:
            # The run's own attributes are wanted even when they stand before `since`.
            if isinstance(event, ev.RunOpened) and self._spans is None:
                from cockpit.spans import Spans  # the SDK is loaded by the conductor only

                self._spans = Spans(self._run_dir / TRACES, {**self._labels, "run": event.run_id})
            if event.seq < self._next:
                continue
            self._next = event.seq + 1
            self._logged(event)
            if self._spans is not None:
                self._spans.take(event)

    def _logged(self, event: ev.AnyEvent) -> None:
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
                pass


def _load() -> None:
    importlib.import_module("cockpit.spans")


def _say(event: ev.AnyEvent, text: str, level: int = logging.INFO, *, trace_id: str = "") -> None:
    _log.log(level, "%s", text, extra={"trace_id": trace_id, "at": event.at})


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


@asynccontextmanager
async def observed(
    run_dir: Path,
    clock: Clock,
    redactor: Redactor,
    labels: dict[str, str],
    *,
    commit: Callable[[], Awaitable[str]] | None = None,
    since: int = 0,
) -> AsyncIterator[Telemetry]:
    """Log as JSON and follow the journal beside the body; the end of the body ends both."""
    log_as_json(labels, redactor, clock)
    telemetry = Telemetry(run_dir, clock, labels, commit=commit, since=since)
    try:
        async with alongside(telemetry.follow()):
            yield telemetry
    finally:
        telemetry.close()
