"""Spans to a collector over OTLP/HTTP, from a thread of its own: a release never waits for telemetry.

What the bounded queue or the collector does not take is counted and lost; `traces.jsonl` of the run folder
has the spans in any case.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from cockpit.backends.tls import USUAL, Tls
from cockpit.backends.tls_requests import TrustingAdapter

TRACES_PATH = "/v1/traces"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_QUEUED = 2048
_BATCH = 256
_REQUEST_WITHIN = 5.0


class OtlpShipper(SpanExporter):
    """Hands spans to a thread that posts them to `base`/v1/traces; never blocks and never raises.

    `token` goes into the header `Authorization: Bearer …`. `lost` counts spans that were dropped.
    """

    def __init__(
        self, base: str, *, token: str = "", most_queued: int = _MOST_QUEUED, tls: Tls = USUAL
    ) -> None:
        session = requests.Session()
        session.trust_env = urlsplit(base).hostname not in _LOOPBACK
        session.mount("https://", TrustingAdapter(tls))
        session.max_redirects = 0  # the token is for this address alone
        self._session = session
        self._exporter = OTLPSpanExporter(
            endpoint=base.rstrip("/") + TRACES_PATH,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_REQUEST_WITHIN,
            session=session,
        )
        self._queue: queue.Queue[ReadableSpan | None] = queue.Queue(most_queued)
        self._offered = 0
        self._dropped = 0
        self._failed = 0
        self.sent = 0
        self._closing = False
        self._closed = False
        self._thread = threading.Thread(target=self._ship, name="cockpit-otlp", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many spans did not reach the collector; once closed, all it did not say yes to."""
        return self._offered - self.sent if self._closed else self._dropped + self._failed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Queue spans; what the queue cannot take is dropped and counted."""
        result = SpanExportResult.SUCCESS
        self._offered += len(spans)
        for span in spans:
            try:
                self._queue.put_nowait(span)
            except queue.Full:
                self._dropped += 1
                result = SpanExportResult.FAILURE
        return result

    def close(self, within: float) -> None:
        """Post what is queued, for at most `within` seconds; what is left then counts as lost."""
        self._closing = True
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass  # the thread looks at `_closing` after each batch as well
        self._thread.join(within)
        if self._thread.is_alive():
            # A retry that waits ends here; a request under way is left to its time-out, in its daemon thread.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._closed = True

    def shutdown(self) -> None:
        """Nothing: `close` says for how long it may take."""

    def _ship(self) -> None:
        while True:
            batch, over = self._take()
            if batch:
                try:
                    taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
                except Exception:  # noqa: BLE001 - whatever a collector makes of it, the thread goes on
                    taken = False
                if taken:
                    self.sent += len(batch)
                else:
                    self._failed += len(batch)
            if over or (self._closing and self._queue.empty()):
                self._session.close()
                return

    def _take(self) -> tuple[list[ReadableSpan], bool]:
        """Return what is queued, having waited for the first; and whether that is all there will be."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < _BATCH:
            try:
                span = self._queue.get_nowait()
            except queue.Empty:
                break
            if span is None:
                return batch, True
            batch.append(span)
        return batch, False
