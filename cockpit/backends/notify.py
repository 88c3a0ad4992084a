"""Messages to webhooks: JSON, signed with a shared secret, safe to send twice."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.base.text import visible

if TYPE_CHECKING:
    import httpx

_MAX_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the receiver answered."""

    status: int
    key: str


class WebhookSender(Protocol):
    """Posts messages."""

    async def post(self, url: str, kind: str, payload: Mapping[str, Any], *, key: str) -> Delivery:
        """Post `payload` as JSON; `key` is the same for each attempt at the same message.

        Raises BackendUnreachable (outage, time-out, 5xx, 429: worth another attempt with the same key),
        BackendRefused (other 4xx) or BackendGarbage (any other answer).
        """
        ...


class Webhook:
    """The real client; `deadline` seconds bound each post.

    `secrets` gives the shared secret by URL. The body is signed as `X-Hub-Signature-256: sha256=<HMAC>`; the
    key travels as `Idempotency-Key`, the kind as `X-Cockpit-Kind`. Redirects are not followed.
    """

    def __init__(self, secrets: Mapping[str, str] | None = None, *, deadline: float = 10.0) -> None:
        self._secrets = dict(secrets or {})
        self._deadline = deadline

    async def post(self, url: str, kind: str, payload: Mapping[str, Any], *, key: str) -> Delivery:
        """Post a message; see WebhookSender."""
        import httpx

        body = _body(payload, url)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": _header(key, "key"),
            "X-Cockpit-Kind": _header(kind, "kind"),
        }
        if secret := self._secrets.get(url):
            digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Hub-Signature-256"] = f"sha256={digest}"
        where = _without_query(url)
        try:
            local = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
            async with (
                asyncio.timeout(self._deadline),
                httpx.AsyncClient(timeout=self._deadline, trust_env=not local) as client,
                client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                return Delivery(await _judge(answer, where), key)
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=where) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise BackendRefused("not a webhook's address", where=where, status=400) from error
        except httpx.HTTPError as error:
            raise BackendUnreachable(f"{type(error).__name__} while posting", where=where) from error


async def _judge(answer: httpx.Response, where: str) -> int:
    status = answer.status_code
    if 200 <= status < 300:
        return status
    text = bytearray()
    async for chunk in answer.aiter_raw():
        text += chunk
        if len(text) > _MAX_ANSWER:
            break
    said = visible(bytes(text[:400]).decode("utf-8", "replace"), limit=200)
    if status >= 500 or status == 429:
        raise BackendUnreachable(f"the webhook answered {status}: {said}", where=where)
    if status >= 400:
        hint = "check the webhook's secret" if status in (401, 403) else ""
        raise BackendRefused(f"the webhook answered {status}: {said}", where=where, hint=hint, status=status)
    raise BackendGarbage(f"the webhook answered {status}", where=where)


def _body(payload: Mapping[str, Any], url: str) -> bytes:
    try:
        body = json.dumps(dict(payload), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BackendRefused(
            f"the message cannot be written as JSON: {error}", where=_without_query(url), status=400
        ) from error
    if len(body) > MAX_MESSAGE_BYTES:
        raise BackendRefused(
            f"a message of {len(body)} bytes, more than {MAX_MESSAGE_BYTES}",
            where=_without_query(url),
            status=413,
        )
    return body


def _header(text: str, what: str) -> str:
    if not 0 < len(text) <= 200 or not text.isascii() or not text.isprintable():
        raise BackendRefused(f"a message's {what} is printable ASCII of 1 to 200 characters", status=400)
    return text


def _without_query(url: str) -> str:
    """Leave out what often holds a secret: the user and the query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return visible(f"{parts.scheme}://{parts.hostname}{port}{parts.path}", limit=200)
    except ValueError:
        return "the webhook"
