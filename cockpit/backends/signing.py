"""Keyless signing with Sigstore: bytes and in-toto statements, under a deadline of our own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, EvidenceError, UsageError
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.base.threads import BoundedThreads

if TYPE_CHECKING:
    from cockpit.backends.sigstore_client import Made

TokenSource = Callable[[], Awaitable[str]]
"""Gives an OpenID Connect identity token, or raises a BackendError."""

_MAX_TOKEN = 64 * 1024
_ATTEMPTS = 3
# Rekor looks at its checkpoint each second, and only then forgets that it gave requests up.
_LOG_RECOVERS = 1.1


class LogInterrupted(BackendUnreachable):
    """The log gave up a request that nobody cut: when one client goes away it does so to all that wait."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A Sigstore bundle and where it is logged.

    `bundle_json` is canonical JSON (RFC 8785) in normal form. `entry_id` is the log entry's RFC 6962 leaf
    hash, 64 hexadecimal digits. `integrated_at` is the time-stamp authority's time, UTC.
    """

    bundle_json: bytes
    log_index: int
    entry_id: str
    identity: str
    issuer: str
    integrated_at: datetime


class SigningBackend(Protocol):
    """Signs as one identity and leaves a transparency log entry for each signature."""

    @property
    def identity(self) -> str:
        """Whom the certificates name."""
        ...

    @property
    def issuer(self) -> str:
        """Who vouches for that identity."""
        ...

    async def sign_bytes(self, data: bytes, *, deadline: float) -> Signature:
        """Sign `data` (its SHA-256) within `deadline` seconds.

        Raises BackendUnreachable, BackendRefused or BackendGarbage.
        """
        ...

    async def sign_statement(self, statement: Mapping[str, Any], *, deadline: float) -> Signature:
        """Sign an in-toto v1 statement as a DSSE envelope; raises as `sign_bytes`, and EvidenceError."""
        ...


class HttpToken:
    """Asks an ambient-credential end point, as CI systems have one, for an identity token.

    `secret` is a reference (`env:NAME` or `file:PATH`) to the bearer secret, or a callable that reads it (and
    raises LookupError when it is not there); it is read at each use and never kept.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | Callable[[], str],
        subject: str,
        audience: str = "sigstore",
        timeout: float = 10.0,
        tls: Tls = USUAL,
    ) -> None:
        self._url = url
        self._secret = secret
        self._body = {"sub": subject, "audience": audience}
        self._timeout = timeout
        self._tls = tls

    async def __call__(self) -> str:
        """Return a new token."""
        import httpx

        outside = not _on_loopback(self._url)
        try:
            headers = {"Authorization": f"Bearer {self._bearer()}"}
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(
                    timeout=self._timeout, trust_env=outside, verify=self._tls.context(environment=outside)
                ) as client,
                client.stream("POST", self._url, json=self._body, headers=headers) as answer,
            ):
                return self._token(answer.status_code, await _bounded(answer))
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._timeout:g} s", where=self._url) from None
        except (httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise UsageError(f"the token cannot be asked for: {error}", where=self._url) from error
        except httpx.HTTPError as error:
            raise BackendUnreachable(f"{type(error).__name__}: {error}", where=self._url) from error

    def _bearer(self) -> str:
        if isinstance(self._secret, str):
            return read_secret(self._secret)
        try:
            return self._secret()
        except LookupError as error:
            raise UsageError(
                f"the secret of the token issuer is not there: {error}", where=self._url
            ) from None

    def _token(self, status: int, body: bytes) -> str:
        import json

        if status >= 500 or status == 429:
            raise BackendUnreachable(f"the token issuer answered {status}", where=self._url)
        if status >= 300:
            raise BackendRefused(
                f"the token issuer answered {status}",
                where=self._url,
                hint=f"it does not vouch for {self._body['sub']} by the secret that was given",
                status=status,
            )
        try:
            value = json.loads(body)["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            value = None
        if not isinstance(value, str) or value.count(".") != 2:
            raise BackendGarbage("the token issuer's answer holds no token", where=self._url)
        return value


class SigstoreSigning:
    """The real client, over sigstore-python.

    `trust_config` is the JSON of a Sigstore client trust configuration. A signature whose certificate names
    another identity or issuer than expected, or that does not verify, is refused as garbage.
    """

    def __init__(
        self,
        trust_config: str,
        *,
        token: TokenSource,
        identity: str,
        issuer: str,
        threads: BoundedThreads | None = None,
        tls: Tls = USUAL,
    ) -> None:
        self._trust_config = trust_config
        self._tls = tls
        self._token = token
        self._identity = identity
        self._issuer = issuer
        self._threads = threads or BoundedThreads("signing", 8)

    @property
    def identity(self) -> str:
        """Whom the certificates name."""
        return self._identity

    @property
    def issuer(self) -> str:
        """Who vouches for that identity."""
        return self._issuer

    async def sign_bytes(self, data: bytes, *, deadline: float) -> Signature:
        """Sign `data`; see SigningBackend."""
        return await self._sign(data, statement=False, deadline=deadline)

    async def sign_statement(self, statement: Mapping[str, Any], *, deadline: float) -> Signature:
        """Sign an in-toto v1 statement; see SigningBackend."""
        import rfc8785

        try:
            payload = rfc8785.dumps(dict(statement))
        except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
            raise EvidenceError(f"the statement has no canonical JSON: {error}") from error
        if len(payload) > MAX_MESSAGE_BYTES:
            raise EvidenceError(f"the statement has {len(payload)} bytes, more than {MAX_MESSAGE_BYTES}")
        return await self._sign(payload, statement=True, deadline=deadline)

    async def _sign(self, data: bytes, *, statement: bool, deadline: float) -> Signature:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        try:
            async with asyncio.timeout_at(end):
                token = await self._token()
        except TimeoutError:
            raise BackendUnreachable(f"no identity token within {deadline:g} s") from None

        def call() -> Made:
            from cockpit.backends import sigstore_client

            return sigstore_client.sign(
                self._trust_config,
                token,
                data,
                statement=statement,
                identity=self._identity,
                issuer=self._issuer,
                timeout=deadline,
                tls=self._tls,
            )

        made = await self._signed(call, end)
        return Signature(
            bundle_json=made.bundle_json,
            log_index=made.log_index,
            entry_id=made.entry_id,
            identity=self._identity,
            issuer=self._issuer,
            integrated_at=made.stamped_at,
        )

    async def _signed(self, call: Callable[[], Made], end: float) -> Made:
        loop = asyncio.get_running_loop()
        for again in reversed(range(_ATTEMPTS)):
            try:
                return await self._threads.run(call, deadline=max(0.0, end - loop.time()))
            except LogInterrupted:
                if not again or loop.time() + _LOG_RECOVERS >= end:
                    raise
            await asyncio.sleep(_LOG_RECOVERS)
        raise AssertionError("the last attempt returns or raises")


def read_secret(reference: str) -> str:
    """Return the secret `env:NAME` or `file:PATH` refers to; raise UsageError, never naming the secret."""
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        value = os.environ.get(name, "")
    elif kind == "file" and name:
        try:
            value = Path(name).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise UsageError("the secret's file cannot be read", where=reference) from error
    else:
        raise UsageError("a secret is referred to as env:NAME or file:PATH")
    if not value:
        raise UsageError("the secret is empty", where=reference)
    return value


def _on_loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    except ValueError:
        return False


async def _bounded(answer: Any) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > _MAX_TOKEN:
            raise BackendGarbage(f"the token issuer's answer is longer than {_MAX_TOKEN} bytes")
    return bytes(body)
