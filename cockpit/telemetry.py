"""Traces, metrics and logs as one more view of the journal: OpenTelemetry, Prometheus, JSON lines (seed 0).

Nothing on the way of a call or an effect knows of it: it follows the journal as a screen does, so it costs a
call nothing, and when it fails it counts that and the release goes on.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import ChainBroken
from cockpit.base.redact import Redactor
from cockpit.base.tasks import alongside
from cockpit.base.threads import BoundedThreads
from cockpit.journal import events as ev
from cockpit.journal.reader import JOURNAL_NAME, Tail
from cockpit.journal.upcast import decode
from cockpit.loglines import LOGS, JsonLines, PrivateLines, Teller, log_as_json, logged_up_to

if TYPE_CHECKING:  # their libraries are heavy: loaded in a thread, by the conductor only
    from cockpit.meters import Meters, MetricsEndpoint
    from cockpit.otlp import OtlpShipper
    from cockpit.spans import Spans

TRACES = "traces.jsonl"
_CLOSE_WITHIN = 2.0
_POLL = 0.25
_LOADING = 30.0
_log = logging.getLogger("cockpit.release")


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where telemetry goes besides the run folder: an OTLP/HTTP collector; a port on loopback (0: any)."""

    otlp: str = ""
    otlp_token: str = ""
    tls: Tls = USUAL
    metrics_port: int | None = None


class Telemetry:
    """Follows one run's journal from record `since` on; spans go to `traces.jsonl`, log lines to the log.

    `labels` go onto each span and, as they are at the time, each log line; `commit` gives their `sha`. The
    metrics are folded from the whole journal; log lines go on where `logs.jsonl` ended.
    """

    def __init__(
        self,
        run_dir: Path,
        clock: Clock,
        labels: dict[str, str],
        *,
        commit: Callable[[], Awaitable[str]] | None = None,
        since: int = 0,
        outlets: Outlets | None = None,
    ) -> None:
        self._outlets = outlets or Outlets()
        self._run_dir = run_dir
        self._clock = clock
        self._labels = labels
        self._commit = commit
        self._tail: Tail[ev.AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)
        self._next = since
        self._log_next = logged_up_to(run_dir / LOGS, since)
        self._metered = 0
        self._spans: Spans | None = None
        self._shipper: OtlpShipper | None = None
        self._meters: Meters | None = None
        self._endpoint: MetricsEndpoint | None = None
        self._teller = Teller()
        self.failures = 0
        """How often something went wrong here; the release was never told."""

    async def follow(self) -> None:
        """Follow until cancelled."""
        try:
            # In a thread: the SDK takes a while to load, and the loop must take a HALT at any moment.
            await BoundedThreads("telemetry", 1).run(self._prepare, deadline=_LOADING)
        except Exception as error:  # noqa: BLE001 - whatever it is: what follows beside us is the release
            self.failures += 1
            _log.warning("telemetry failed: %s: %s", type(error).__name__, error)
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
        """Take in the rest, end the spans still open, close the files; never raises.

        A collector that does not answer is waited for two seconds at most.
        """
        self.catch_up()
        try:
            if self._spans is not None:
                self._spans.close(iso(self._clock.now()))
            if self._shipper is not None:
                self._shipper.close(_CLOSE_WITHIN)
            self.failures, self._spans, self._shipper = self.lost, None, None
            if self._endpoint is not None:
                self._endpoint.close()
            self._tail.close()
        except Exception as error:  # noqa: BLE001 - telemetry must not hurt a release
            self.failures += 1
            _log.warning("telemetry failed: %s: %s", type(error).__name__, error)

    @property
    def lost(self) -> int:
        """How much telemetry did not reach where it should, by now."""
        written = self._spans.failures if self._spans is not None else 0
        return self.failures + written + (self._shipper.lost if self._shipper is not None else 0)

    @property
    def metrics_address(self) -> str:
        """Where the metrics are served, `127.0.0.1:PORT`; empty when they are not."""
        return self._endpoint.address if self._endpoint is not None else ""

    def _prepare(self) -> None:
        _load(self._outlets)
        self._open_meters()  # a server asks for its host's name, which may take a while

    def _open_meters(self) -> None:
        port = self._outlets.metrics_port
        if port is None or self._meters is not None:
            return
        from cockpit.meters import Meters, MetricsEndpoint

        self._meters = Meters(self._labels, lost=lambda: float(self.lost))
        try:
            self._endpoint = MetricsEndpoint(self._meters.registry, port, self._run_dir)
        except (OSError, OverflowError) as error:
            self.failures += 1
            _log.warning("the metrics cannot be served on port %d: %s", port, error)

    def _take(self, events: Sequence[ev.AnyEvent]) -> None:
        self._open_meters()
        for event in events:
            if self._meters is not None and event.seq >= self._metered:
                self._metered = event.seq + 1
                self._meters.take(event)
                if isinstance(event, ev.RunOpened):
                    self._meters.named(self._labels.get("sha", ""))
            if event.seq >= self._log_next:
                self._log_next = event.seq + 1
                self._teller.tell(event)
            # The run's own attributes are wanted even when they stand before `since`.
            if isinstance(event, ev.RunOpened) and self._spans is None:
                self._spans = self._open_spans(event.run_id)
            if event.seq < self._next:
                continue
            self._next = event.seq + 1
            if self._spans is not None:
                self._spans.take(event)

    def _open_spans(self, run_id: str) -> Spans:
        from cockpit.spans import Spans

        if self._outlets.otlp:
            from cockpit.otlp import OtlpShipper

            self._shipper = OtlpShipper(
                self._outlets.otlp, token=self._outlets.otlp_token, tls=self._outlets.tls
            )
        return Spans(
            self._run_dir / TRACES,
            {"tenant": "*", **self._labels, "run": run_id},
            also=self._shipper,
        )


def _load(outlets: Outlets) -> None:
    importlib.import_module("cockpit.spans")
    if outlets.otlp:
        importlib.import_module("cockpit.otlp")
    if outlets.metrics_port is not None:
        importlib.import_module("cockpit.meters")


@asynccontextmanager
async def observed(
    run_dir: Path,
    clock: Clock,
    redactor: Redactor,
    labels: dict[str, str],
    *,
    commit: Callable[[], Awaitable[str]] | None = None,
    since: int = 0,
    outlets: Outlets | None = None,
) -> AsyncIterator[Telemetry]:
    """Log as JSON and follow the journal beside the body; the end of the body ends both."""
    log_as_json(labels, redactor, clock)
    file = PrivateLines(run_dir / LOGS)
    file.setFormatter(JsonLines(labels, redactor, clock))
    logging.getLogger().addHandler(file)
    telemetry = Telemetry(run_dir, clock, labels, commit=commit, since=since, outlets=outlets)
    try:
        async with alongside(telemetry.follow()):
            yield telemetry
    finally:
        telemetry.close()
        telemetry.failures += file.lost
        logging.getLogger().removeHandler(file)
        file.close()
