"""A receiver of messages in every shape the cockpit posts; keeps each POST as a JSON line."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from aiohttp import web

from cockpit.rehearsal import webhook_shapes as shapes
from cockpit.rehearsal.sigstore.faulty import FAULTS, Fault, FaultyService

Kind = Literal["generic", "slack", "alertmanager", "cdevents", "pager"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WebhookFault = Fault | Literal["drip", "later"]

_MAX_IDENTITIES = 10_000
_DRIP = 0.02
_PATHS: dict[Kind, str] = {
    "generic": "/hooks/release",
    "slack": "/slack/services",
    "alertmanager": "/alertmanager",
    "cdevents": "/cdevents",
    "pager": "/pager/v2/enqueue",
}


class WebhookReceiver:
    """Listens on a free loopback port and appends to `record` (e.g. `world/webhooks.jsonl`).

    Each shape has its path (`url_of`). With `secret`, a message that does not show that it knows it is
    answered 401 and kept as refused: by `X-Hub-Signature-256` (generic), the end of the address (slack), a
    bearer token (alertmanager, cdevents) or the routing key (pager). One whose shape is wrong is answered 400
    and kept as malformed; one seen before, by what its shape knows a message by, is kept as a duplicate.
    """

    def __init__(self, record: Path, *, secret: str | None = None) -> None:
        self._record = record
        self._secret = secret
        self.retry_after = 1
        """Seconds `later` names."""
        self._identities: set[str] = set()
        self._mood: WebhookFault | None = None
        self._times = 0
        self._over = asyncio.Event()
        self._service = FaultyService([web.post("/{path:.*}", self._take)])

    async def __aenter__(self) -> WebhookReceiver:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        await self._service.start()

    async def stop(self) -> None:
        """Close the port."""
        self._over.set()
        await self._service.stop()

    async def fault(self, kind: WebhookFault | None, *, times: int = 0) -> None:
        """Fail from now on: 500 (`error`), `hang`, `refuse`, answer byte by byte (`drip`), or 429 (`later`).

        `later` names `retry_after` and ends by itself after `times` answers; `None` mends all.
        """
        self._over.set()
        self._over = asyncio.Event()
        self._mood, self._times = (None, 0) if kind in (None, *FAULTS) else (kind, times)
        await self._service.fault(kind if kind in FAULTS else None)

    @property
    def url(self) -> str:
        """Where messages of the cockpit's own shape are posted to."""
        return self.url_of("generic")

    def url_of(self, kind: Kind) -> str:
        """Return the address to put into a plan for a receiver of this kind."""
        return f"{self._service.url}{_PATHS[kind]}"

    @property
    def requests(self) -> int:
        """How many requests came, whatever became of them."""
        return self._service.requests

    def received(self) -> list[dict[str, Any]]:
        """Return what was kept, in order."""
        if not self._record.exists():
            return []
        return [json.loads(line) for line in self._record.read_text(encoding="utf-8").splitlines()]

    def count(self, outcome: str) -> int:
        """Return how many messages were taken, duplicate, refused or malformed."""
        return sum(line["outcome"] == outcome for line in self.received())

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self._mood == "drip":
            return await self._drip(request)
        if self._mood == "later":
            self._times -= 1
            if self._times == 0:
                self._mood = None
            return web.json_response(
                {"status": "throttled"}, status=429, headers={"Retry-After": str(self.retry_after)}
            )
        shape: Kind = next((one for one in KINDS if request.path.startswith(_PATHS[one])), "generic")
        key = request.headers.get("Idempotency-Key", "")
        kind, problem, message = request.headers.get("X-Cockpit-Kind", ""), "", None
        try:
            message = json.loads(body)
            taken = self._checked(shape, request, body, message, key)
            kind = taken.kind
            outcome = self._known(shape, taken)
        except _Refused:
            outcome = "refused"
        except (shapes.ShapeWrong, ValueError, RecursionError, AttributeError, TypeError) as error:
            outcome, problem = "malformed", str(error)[:300]
        line = {
            "time": datetime.now(UTC).isoformat(),
            "path": request.path,
            "shape": shape,
            "kind": kind,
            "key": key,
            "outcome": outcome,
            "body": message,
        }
        if shape in ("pager", "slack"):  # their secret is in the message or its address
            line["path"] = _PATHS[shape]
            if isinstance(message, dict) and "routing_key" in message:
                line["body"] = {**message, "routing_key": "…"}
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        status = {"taken": 202, "duplicate": 200, "refused": 401, "malformed": 400}[outcome]
        return web.json_response({"outcome": outcome, "errors": [problem] if problem else []}, status=status)

    def _checked(
        self, shape: Kind, request: web.Request, body: bytes, message: Any, key: str
    ) -> shapes.Taken:
        if shape == "slack":
            self._same(request.path.removeprefix(_PATHS["slack"]).strip("/"))
            return shapes.slack(message, key)
        if shape in ("alertmanager", "cdevents"):
            self._same(request.headers.get("Authorization", "").removeprefix("Bearer "))
            if shape == "cdevents":
                return shapes.cdevents(message, request.headers.get("Content-Type", ""))
            if not request.path.endswith("/api/v2/alerts"):
                raise shapes.ShapeWrong("no such path")
            return shapes.alertmanager(message)
        if shape == "pager":
            taken = shapes.pager(message)
            self._same(taken.secret)
            return taken
        if self._secret is not None:
            digest = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            self._same(request.headers.get("X-Hub-Signature-256", ""), f"sha256={digest}")
        kind = request.headers.get("X-Cockpit-Kind", "")
        return shapes.Taken(kind, (key,) if key else ())

    def _same(self, given: str, wanted: str | None = None) -> None:
        wanted = self._secret if wanted is None else wanted
        if wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode()):
            raise _Refused

    def _known(self, shape: Kind, taken: shapes.Taken) -> str:
        identities = {f"{shape} {one}" for one in taken.identities}
        if identities and identities <= self._identities:
            return "duplicate"
        if len(self._identities) < _MAX_IDENTITIES:
            self._identities |= identities
        return "taken"

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """Send the head of an answer byte by byte, which no time-out of a single read ever notices."""
        over, transport = self._over, request.transport
        while not over.is_set() and transport is not None and not transport.is_closing():
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Drip: drop\r\n" * 50:
                if over.is_set() or transport.is_closing():
                    break
                transport.write(bytes((byte,)))
                await asyncio.sleep(_DRIP)
        if transport is not None:
            transport.abort()
        return web.Response(status=503)


class _Refused(Exception):
    """A message that does not know the secret."""
