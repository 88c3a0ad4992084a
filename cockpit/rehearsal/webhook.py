"""A webhook receiver that keeps each POST as a JSON line."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from cockpit.rehearsal.sigstore.faulty import Fault, FaultyService

_MAX_KEYS = 10_000


class WebhookReceiver:
    """Listens on a free loopback port and appends to `record` (e.g. `world/webhooks.jsonl`).

    With `secret`, a message whose `X-Hub-Signature-256` does not match is answered 401 and kept as refused.
    A message whose `Idempotency-Key` was seen before is answered 200 and kept as a duplicate.
    """

    def __init__(self, record: Path, *, secret: str | None = None) -> None:
        self._record = record
        self._secret = secret
        self._keys: set[str] = set()
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
        await self._service.stop()

    async def fault(self, kind: Fault | None) -> None:
        """Answer 500 (`error`), `hang` or `refuse`; `None` mends it."""
        await self._service.fault(kind)

    @property
    def url(self) -> str:
        """Where messages are posted to."""
        return f"{self._service.url}/hooks/release"

    def received(self) -> list[dict[str, Any]]:
        """Return what was kept, in order."""
        if not self._record.exists():
            return []
        return [json.loads(line) for line in self._record.read_text(encoding="utf-8").splitlines()]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        key = request.headers.get("Idempotency-Key", "")
        outcome = self._outcome(request, body, key)
        try:
            message: Any = json.loads(body)
        except (ValueError, RecursionError):
            outcome, message = "malformed", None
        line = {
            "time": datetime.now(UTC).isoformat(),
            "path": request.path,
            "kind": request.headers.get("X-Cockpit-Kind", ""),
            "key": key,
            "outcome": outcome,
            "body": message,
        }
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        if outcome == "taken" and key and len(self._keys) < _MAX_KEYS:
            self._keys.add(key)
        status = {"taken": 202, "duplicate": 200, "refused": 401, "malformed": 400}[outcome]
        return web.json_response({"outcome": outcome}, status=status)

    def _outcome(self, request: web.Request, body: bytes, key: str) -> str:
        if self._secret is not None:
            wanted = f"sha256={hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()}"
            given = request.headers.get("X-Hub-Signature-256", "")
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return "refused"
        return "duplicate" if key in self._keys else "taken"
