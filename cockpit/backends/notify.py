"""Messages to webhooks, in the shape each receiver wants, bounded in time and size, safe to send twice.

Each message has a key that is the same at each attempt. It travels as `Idempotency-Key`, as CloudEvents id,
as the labels of an alert or as `dedup_key`, so that a receiver that looks at it takes a message once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cockpit.backends.notices import Message
from cockpit.backends.notify_shapes import Post, posts, signed
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock, SystemClock
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.text import visible

if TYPE_CHECKING:
    import httpx

    from cockpit.plan.model import Webhook as Receiver

_MAX_ANSWER = 64 * 1024
_MAX_KEY = 200
_LATER = (429, 503)
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the receiver answered; status 0: its shape has no use for the message, and nothing was posted."""

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

    async def send(self, receiver: Receiver, message: Message) -> Delivery:
        """Post a message in the receiver's shape; raises as `post` does."""
        ...


class Webhook:
    """The real client; `deadline` seconds bound each message, whatever the receiver does meanwhile.

    `secrets` gives each receiver's secret by its name or its URL; what it is for says `notify_shapes.posts`.
    Redirects are not followed: a message goes to the address in the plan and nowhere else. A receiver that
    asks to come again later (`Retry-After`) is asked once more if that is within the deadline.
    """

    def __init__(
        self,
        secrets: Mapping[str, str] | None = None,
        *,
        deadline: float = 10.0,
        clock: Clock | None = None,
        tls: Tls = USUAL,
    ) -> None:
        self._tls = tls
        self._secrets = dict(secrets or {})
        self._deadline = deadline
        self._clock = clock or SystemClock()

    async def post(self, url: str, kind: str, payload: Mapping[str, Any], *, key: str) -> Delivery:
        """Post a message of the cockpit's own shape; see WebhookSender."""
        secret = self._secrets.get(url, "")
        where = _without_query(url)
        try:
            made = [signed(url, kind, payload, secret)]
        except BackendRefused as error:
            raise BackendRefused(error.what, where=where, status=error.status) from None
        return await self._deliver(made, _key(key), where, secret)

    async def send(self, receiver: Receiver, message: Message) -> Delivery:
        """Post a message in the receiver's shape; see WebhookSender."""
        secret = self._secrets.get(receiver.name) or self._secrets.get(receiver.url, "")
        # Only the host is named: the path of some receivers is their secret.
        where = f"webhook {receiver.name} ({_host(receiver.url)})"
        try:
            made = posts(receiver.kind, receiver.url, secret, message)
        except BackendRefused as error:
            raise BackendRefused(error.what, where=where, status=error.status) from None
        return await self._deliver(made, _key(message.key), where, secret)

    async def _deliver(self, made: list[Post], key: str, where: str, secret: str) -> Delivery:
        import httpx

        delivery = Delivery(0, key)
        seen = _Seen()
        try:
            async with asyncio.timeout(self._deadline):
                for one in made:
                    delivery = Delivery(await self._one(one, key, where, secret, seen), key)
        except TimeoutError:
            if seen.status >= 300:  # the answer was there, and only its text did not end
                raise _error(seen.status, "", where) from None
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=where) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise BackendRefused("not a webhook's address", where=where, status=400) from error
        except (httpx.HTTPError, OSError) as error:
            raise BackendUnreachable(f"{type(error).__name__} while posting", where=where) from error
        return delivery

    async def _one(self, one: Post, key: str, where: str, secret: str, seen: _Seen) -> int:
        import httpx

        headers = {"Content-Type": "application/json", "Idempotency-Key": key, **one.headers}
        local = urlsplit(one.url).hostname in _LOCAL
        # A connection of its own for each message: one that hangs takes nothing else with it.
        async with httpx.AsyncClient(
            timeout=self._deadline,
            trust_env=not local,
            verify=self._tls.context(environment=not local),
            follow_redirects=False,
        ) as client:
            for last in (False, True):
                seen.status = 0
                async with client.stream("POST", one.url, content=one.body, headers=headers) as answer:
                    seen.status = answer.status_code
                    if 200 <= answer.status_code < 300:
                        return answer.status_code
                    wait = _retry_after(answer)
                    text = await _text(answer)
                if last or wait is None or wait >= self._deadline:
                    break
                await self._clock.sleep(wait)
        raise _error(seen.status, text.replace(secret, "…") if secret else text, where)


@dataclass
class _Seen:
    """The status of the last answer, for when its text never ends."""

    status: int = 0


async def _text(answer: httpx.Response) -> str:
    text = bytearray()
    async for chunk in answer.aiter_raw():
        text += chunk
        if len(text) > _MAX_ANSWER:
            break
    return visible(bytes(text[:400]).decode("utf-8", "replace"), limit=200)


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds after which the receiver wants to be asked again; None when it says nothing."""
    given = answer.headers.get("retry-after", "")
    # The form with a date would need the receiver's clock; it counts as nothing said.
    return float(given) if answer.status_code in _LATER and given.isascii() and given.isdigit() else None


def _error(status: int, said: str, where: str) -> BackendError:
    """Return what an answer other than 2xx means."""
    text = f"the webhook answered {status}" + (f": {said}" if said else "")
    if status >= 500 or status == 429:
        return BackendUnreachable(text, where=where)
    if status >= 400:
        hint = "check the webhook's secret" if status in (401, 403) else ""
        return BackendRefused(text, where=where, hint=hint, status=status)
    return BackendGarbage(f"the webhook answered {status}", where=where)


def _key(text: str) -> str:
    if not 0 < len(text) <= _MAX_KEY or not text.isascii() or not text.isprintable():
        raise BackendRefused(f"a message's key is printable ASCII of 1 to {_MAX_KEY} characters", status=400)
    return text


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        return visible(f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname), limit=200)
    except ValueError:
        return "no address"


def _without_query(url: str) -> str:
    """Leave out what often holds a secret: the user and the query."""
    try:
        parts = urlsplit(url)
        return visible(f"{parts.scheme}://{_host(url)}{parts.path}", limit=200)
    except ValueError:
        return "the webhook"
