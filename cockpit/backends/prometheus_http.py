"""The HTTP under the Prometheus client: bytes captured and bounded, no retry, no redirect, abortable.

Imports requests; load it in a worker thread only (it costs a quarter of a second).
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cockpit.backends.tls import Tls
from cockpit.backends.tls_requests import TrustingAdapter
from cockpit.base.errors import BackendError, BackendGarbage, BackendUnreachable
from cockpit.base.limits import MAX_ANSWER_BYTES

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP answer as received; `sent_at` and `answered_at` by our clock, around the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at: datetime
    answered_at: datetime


class _Wire:
    """The connection in use, so that another thread can cut it."""

    def __init__(self) -> None:
        self.aborted = threading.Event()
        self._connection: HTTPConnection | None = None

    def opening(self, connection: HTTPConnection) -> None:
        self._connection = connection
        if self.aborted.is_set():
            raise ConnectionAbortedError("given up before it was opened")

    def abort(self) -> None:
        self.aborted.set()
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            try:
                # Past ssl's own shutdown, which would pull the TLS state from under the reading thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # already gone


class _Adapter(TrustingAdapter):
    """A transport without retries whose connections report to a `_Wire`."""

    def __init__(self, wire: _Wire, tls: Tls) -> None:
        class Plain(HTTPConnection):
            def connect(self) -> None:
                wire.opening(self)
                super().connect()

        class Encrypted(HTTPSConnection):
            def connect(self) -> None:
                wire.opening(self)
                super().connect()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(HTTPSConnectionPool):
            ConnectionCls = Encrypted

        super().__init__(tls, pool_connections=1, pool_maxsize=1, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}


class _Session(requests.Session):
    """A session that reads each body itself: to a limit of bytes, to a deadline, and keeps it as received."""

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        super().__init__()
        self.trust_env = False  # no proxy, netrc or CA bundle that nobody named
        self.headers["Accept-Encoding"] = "identity"  # a small body that unpacks to a large one
        self.deadline = 0.0
        self.exchange: Exchange | None = None
        self._now = now
        self._monotonic = monotonic

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.exchange = None
        kwargs.update(stream=True, allow_redirects=False)
        sent_at = self._now()
        response = super().request(*args, **kwargs)
        answered_at = self._now()
        try:
            body = self._read(response)
        except BaseException:
            response.close()
            raise
        self.exchange = Exchange(response.status_code, dict(response.headers), body, sent_at, answered_at)
        response.raw = io.BytesIO(body)  # what the library will read
        return response

    def _read(self, response: requests.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BackendGarbage("the answer is compressed, which was not asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > MAX_ANSWER_BYTES:
            raise BackendGarbage(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        body = bytearray()
        # read1 returns after each arrival, so that a dripping server meets the deadline.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise BackendGarbage(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            if self._monotonic() > self.deadline:
                raise BackendUnreachable("the answer did not end in time")
        # Headers that were cut look like an answer without a body: this library takes their end for the end.
        framed = length.isdecimal() or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if (length.isdecimal() and len(body) != int(length)) or not (framed or body):
            raise BackendUnreachable("the answer was cut")
        return bytes(body)


class Connection:
    """One PrometheusConnect and its one connection; used by one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        tls: Tls,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._wire = _Wire()
        self._monotonic = monotonic
        self._session = _Session(now, monotonic)
        # The library mounts a transport of its own at its URL; the longer prefix is the one that is used.
        self._session.mount(f"{url}/api", _Adapter(self._wire, tls))
        self._library = PrometheusConnect(
            url, headers=dict(headers), session=self._session, retry=urllib3.Retry(0, redirect=False)
        )

    def fetch(
        self, ask: Callable[[PrometheusConnect], object], *, within: float
    ) -> Exchange:  # the library's own reading of the answer is not used: it drops warnings and the envelope
        """Run one call of the library and return the answer's bytes; raises BackendError.

        Any HTTP status returns; no answer, a cut one or one that is too large raises.
        """
        self._session.deadline = self._monotonic() + within
        try:
            ask(self._library)
        except BackendError:
            raise
        except (
            PrometheusApiClientException,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            # The library did not like the answer; whoever reads the bytes will say why.
            if self._session.exchange is None:
                raise BackendGarbage(f"the request could not be made: {type(error).__name__}") from None
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as error:
            raise _mapped(error) from None
        exchange = self._session.exchange
        if exchange is None:
            raise BackendGarbage("the library made no request")
        return exchange

    @property
    def aborted(self) -> bool:
        """Whether it has been given up."""
        return self._wire.aborted.is_set()

    def abort(self) -> None:
        """Cut the connection from another thread; the call in progress ends with an error."""
        self._wire.abort()

    def close(self) -> None:
        """Close the connection."""
        self._library.close()


def _mapped(error: BaseException) -> BackendError:
    causes = _causes(error)
    for cause in causes:
        # A line that has not ended is of an answer that was cut.
        if isinstance(cause, http.client.BadStatusLine) and not str(cause.args[0]).endswith("\n"):
            return BackendUnreachable("the answer was cut")
        # A peer that hangs up is a disconnect; one that sends something else than HTTP is garbage.
        if isinstance(cause, http.client.HTTPException) and not isinstance(
            cause, (http.client.RemoteDisconnected, http.client.IncompleteRead)
        ):
            return BackendGarbage(f"the answer is not HTTP: {type(cause).__name__}")
    if isinstance(error, (requests.exceptions.InvalidHeader, urllib3.exceptions.InvalidHeader)):
        return BackendGarbage("the answer's headers contradict themselves")
    # First: urllib3 makes a refused connection a kind of time-out.
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return BackendUnreachable("nothing listens there")
    if any(
        isinstance(cause, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError))
        for cause in causes
    ):
        return BackendUnreachable("no answer in time")
    if any(
        isinstance(cause, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)) for cause in causes
    ):
        return BackendUnreachable("no trusted TLS connection")
    return BackendUnreachable(f"the connection failed: {type(error).__name__}")


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and all it was made from: causes, contexts, `reason` attributes and arguments."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 50:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found
