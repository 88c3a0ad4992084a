"""Metrics: what a back end of measurements must answer, and Prometheus as one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock, SystemClock, iso
from cockpit.base.errors import (
    BackendError,
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    UsageError,
)
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.verdicts.answers import MetricAnswer, ParsedAnswer, read_answer, read_error

if TYPE_CHECKING:
    from cockpit.backends.prometheus_http import Connection, Exchange


class MetricsBackend(Protocol):
    """A source of measurements; every method raises BackendUnreachable, BackendRefused or BackendGarbage."""

    async def query(
        self, query: str, *, at: datetime | None = None, deadline: float | None = None
    ) -> MetricAnswer:
        """Evaluate `query` now by the back end's clock, or `at` a time; within `deadline` seconds."""
        ...

    async def query_range(
        self, query: str, *, start: datetime, end: datetime, step: float, deadline: float | None = None
    ) -> MetricAnswer:
        """Evaluate `query` every `step` seconds from `start` to `end`, both included."""
        ...

    async def close(self) -> None:
        """Give up what is running and close all connections."""
        ...


class PrometheusMetrics:
    """Prometheus through prometheus-api-client, in bounded threads.

    `url`: base URL, http or https, without credentials. Seconds: `connect_timeout` to connect, `read_timeout`
    between two arrivals of data, `deadline` for a whole query with the wait for a free thread. Nothing is
    retried, no redirect is followed, no proxy is taken from the environment.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        connect_timeout: float = 2.0,
        read_timeout: float = 5.0,
        deadline: float = 10.0,
        concurrency: int = 4,
        headers: Mapping[str, str] | None = None,
        tls: Tls = USUAL,
    ) -> None:
        self._url = _base_url(url)
        self._clock = clock or SystemClock()
        self._timeouts = (connect_timeout, read_timeout)
        self._deadline = deadline
        self._headers = dict(headers or {})
        self._tls = tls
        self._threads = BoundedThreads("metrics", concurrency)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: list[Connection] = []
        self._closed = False

    async def query(
        self, query: str, *, at: datetime | None = None, deadline: float | None = None
    ) -> MetricAnswer:
        """Evaluate `query` now by the back end's clock, or `at` a time (aware)."""
        parameters = {} if at is None else {"time": f"{at.timestamp():.3f}"}
        exchange = await self._fetch(
            lambda library: library.custom_query(query, params=parameters, timeout=self._timeouts), deadline
        )
        return self._answer(query, exchange, asked_for=at)

    async def query_range(
        self, query: str, *, start: datetime, end: datetime, step: float, deadline: float | None = None
    ) -> MetricAnswer:
        """Evaluate `query` every `step` seconds from `start` to `end` (aware), both included."""
        # The library rounds to whole seconds; parameters given by name win over its own.
        exact = {"start": f"{start.timestamp():.3f}", "end": f"{end.timestamp():.3f}"}
        exchange = await self._fetch(
            lambda library: library.custom_query_range(
                query, start, end, f"{step:.3f}", params=exact, timeout=self._timeouts
            ),
            deadline,
        )
        return self._answer(query, exchange, asked_for=end)

    async def status(
        self, what: Literal["buildinfo", "runtimeinfo"], *, deadline: float | None = None
    ) -> Mapping[str, str]:
        """Return what the server says of its build or of how it runs, as texts; raises BackendError.

        What only speaks Prometheus' query API refuses with status 404.
        """
        url = f"{self._url}/api/v1/status/{what}"
        exchange = await self._fetch(
            lambda library: library._session.get(url, headers=self._headers, timeout=self._timeouts), deadline
        )
        if exchange.status != 200:
            _judged(exchange)  # raises
        try:
            data = json.loads(exchange.body)["data"]
            return {str(name): visible(str(value), limit=200) for name, value in data.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BackendGarbage(f"the answer is no {what}", where=self._url) from None

    async def close(self) -> None:
        """Give up what is running and close all connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.abort()
        for connection in idle:
            connection.close()

    async def _fetch(self, ask: Callable[[Any], object], deadline: float | None) -> Exchange:
        within = self._deadline if deadline is None else deadline
        call = _Call()
        try:
            return await self._threads.run(lambda: self._exchange(call, ask, within), deadline=within)
        except BackendError as error:
            error.where = error.where or self._url
            raise
        finally:
            # After a deadline or a cancellation the thread must not go on reading.
            with self._lock:
                call.abandoned = True
                if call.connection is not None:
                    call.connection.abort()

    def _exchange(self, call: _Call, ask: Callable[[Any], object], within: float) -> Exchange:
        """Borrow a connection for one call of the library; runs in a thread."""
        connection = self._borrow(call)
        healthy = False
        try:
            exchange = connection.fetch(ask, within=within)
            healthy = True
            return exchange
        finally:
            with self._lock:
                self._busy.remove(connection)
                call.connection = None  # from here on it may be another call's
                keep = healthy and not self._closed and not connection.aborted
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _borrow(self, call: _Call) -> Connection:
        from cockpit.backends.prometheus_http import Connection  # loads requests: slow, so only here

        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = Connection(
                self._url,
                headers=self._headers,
                tls=self._tls,
                now=self._clock.now,
                monotonic=self._clock.monotonic,
            )
        with self._lock:
            self._busy.append(connection)
            call.connection = connection
            if call.abandoned or self._closed:
                connection.abort()
        return connection

    def _answer(self, query: str, exchange: Exchange, *, asked_for: datetime | None) -> MetricAnswer:
        try:
            parsed = _judged(exchange)
        except BackendError as error:
            error.where = self._url
            raise
        middle = (exchange.sent_at.timestamp() + exchange.answered_at.timestamp()) / 2
        date = _date(exchange.headers)
        evaluated_at = _evaluated_at(parsed)
        if evaluated_at is not None and asked_for is None:
            offset: float | None = evaluated_at - middle
        else:
            # The Date header has whole seconds, cut off: half a second is the best guess of the rest.
            offset = None if date is None else date + 0.5 - middle
        if evaluated_at is None:
            evaluated_at = middle + (offset or 0.0) if asked_for is None else asked_for.timestamp()
        return MetricAnswer(
            query=query,
            evaluated_at=evaluated_at,
            asked_at=iso(exchange.sent_at),
            clock_offset_s=offset,
            raw=exchange.body,
            result_type=parsed.result_type,
            samples=parsed.samples,
            warnings=parsed.warnings,
        )


class _Call:
    """What a waiting task and its thread know of each other."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.abandoned = False


def _judged(exchange: Exchange) -> ParsedAnswer:
    """Read an answer by its HTTP status; raises BackendError."""
    status = exchange.status
    if status == 200:
        return read_answer(exchange.body)
    said = read_error(exchange.body)
    text = f": {said[0]}: {said[1]}" if said is not None else ""
    if 400 <= status < 500 and status != 429:
        raise BackendRefused(f"the query was refused with HTTP {status}{text}", status=status)
    if status >= 500 or status == 429:
        raise BackendUnreachable(f"the back end is not able to answer: HTTP {status}{text}")
    if 300 <= status < 400:
        target = visible(exchange.headers.get("Location", "nowhere"), limit=200)
        raise BackendGarbage(
            f"the answer is a redirect to {target}; redirects are not followed", hint="name the final URL"
        )
    raise BackendGarbage(f"the answer has HTTP status {status}, not 200")


def _evaluated_at(parsed: ParsedAnswer) -> float | None:
    """Return when the back end evaluated, from the samples; a matrix tells when it was measured instead."""
    if parsed.result_type == "matrix" or not parsed.samples:
        return None
    times = {sample.timestamp for sample in parsed.samples}
    if len(times) > 1:
        raise BackendGarbage("the samples of one evaluation carry different times")
    return times.pop()


def _date(headers: Mapping[str, str]) -> float | None:
    """Return the Date header as Unix seconds, None when there is none or it is no date."""
    text = next((value for name, value in headers.items() if name.lower() == "date"), "")
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        raise UsageError("the metrics URL cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known:
        raise UsageError("the metrics URL is not an http or https URL with a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "the metrics URL holds credentials, a query or a fragment", hint="pass credentials as a header"
        )
    return url.rstrip("/")
