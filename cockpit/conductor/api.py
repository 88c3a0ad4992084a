"""Promote and Rollback v2 over HTTP (seed section 7), on a socket in the run folder, for its owner alone.

`POST /v2/promote`, `POST /v2/rollback`, `GET /v2/status`. Answers are JSON with the request's trace id: 200
taken, 400 not a message or not about this run, 409 not now, 412 about another plan (`If-Match`: the plan's
SHA-256), 413 too large. Every request but those for the status is in the journal, with why it was refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cockpit.base.clock import Clock
from cockpit.base.errors import MessageInvalid, UsageError
from cockpit.base.text import visible
from cockpit.conductor.people import People, Stop, WireReason
from cockpit.conductor.promotion_requests import PromotionRequests
from cockpit.conductor.recorder import Recorder
from cockpit.control.client import API_SOCKET, socket_address
from cockpit.journal.events import Noted
from cockpit.journal.standing import standing
from cockpit.rpc.messages import Promote, Rollback
from cockpit.rpc.validate import check

if TYPE_CHECKING:  # loaded when the socket is made: nothing else of the conductor needs a web server
    from aiohttp import web

MAX_BODY = 64 * 1024
_MOST_CONNECTIONS = 32
_BODY_WITHIN = 10.0
_TRACE = re.compile(r"[0-9a-f]{32}")
_OURS: dict[str, str] = {
    "halt": "say `cockpit halt`",
    "inconclusive": "the analysis alone says so",
    "crash": "the supervisor alone says so",
    "signal": "a signal alone says so",
}
"""Reasons of Rollback v2 that are the conductor's own: nobody can claim them over the API."""
Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class ApiServer:
    """Serves the API of one run."""

    def __init__(
        self,
        run_dir: Path,
        people: People,
        promotions: PromotionRequests,
        recorder: Recorder,
        clock: Clock,
        *,
        version: str,
        plan_sha256: str,
    ) -> None:
        self._run_dir = run_dir
        self._people = people
        self._promotions = promotions
        self._recorder = recorder
        self._clock = clock
        self._version = version
        self._plan_sha256 = plan_sha256
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises UsageError when the socket cannot be made."""
        from aiohttp import web

        application = web.Application(client_max_size=MAX_BODY, middlewares=[_guard(self._connections)])
        application.router.add_post("/v2/promote", self._promote)
        application.router.add_post("/v2/rollback", self._rollback)
        application.router.add_get("/v2/status", self._status)
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=1.0, keepalive_timeout=5.0
        )
        await runner.setup()
        try:
            listening = _listen(self._run_dir)
        except OSError as error:
            await runner.cleanup()
            raise UsageError(
                f"the API's socket cannot be made: {error.strerror or error}",
                where=str(self._run_dir / API_SOCKET),
                hint="choose a shorter --out folder on a local file system",
            ) from None
        await web.SockSite(runner, listening).start()
        self._runner = runner

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
        (self._run_dir / API_SOCKET).unlink(missing_ok=True)

    def _connections(self) -> int:
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    async def _status(self, request: web.Request) -> web.StreamResponse:
        state = self._recorder.state()
        document = msgspec.to_builtins(standing(state, self._clock.now()))
        document["promotion_waits"] = self._promotions.waiting
        return _answer(200, document)

    async def _promote(self, request: web.Request) -> web.StreamResponse:
        by, body = _peer(request), await _body(request)
        self._received("promote", by, _trace_of(body))
        try:
            message = check(Promote, body)
        except MessageInvalid as error:
            return self._refused("Promote", by, 400, [str(error)], _trace_of(body))
        if problem := self._other_plan(request):
            return self._refused("Promote", by, 412, [problem], message.trace_id)
        if problems := self._promotions.problems(message):
            return self._refused("Promote", by, 400, problems, message.trace_id)
        if problem := self._promotions.take(by):
            return self._refused("Promote", by, 409, [problem], message.trace_id)
        return self._taken(message.trace_id)

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        by, body = _peer(request), await _body(request)
        try:
            message = check(Rollback, body)
        except MessageInvalid as error:
            self._received("rollback", by, _trace_of(body))
            return self._refused("Rollback", by, 400, [str(error)], _trace_of(body))
        problem = self._other_plan(request)
        if problem or message.version != self._version or message.reason in _OURS:
            self._received("rollback", by, message.trace_id)
            if problem:
                return self._refused("Rollback", by, 412, [problem], message.trace_id)
            problems = []
            if message.version != self._version:
                problems.append(
                    f"version: this run releases {self._version}, not {visible(message.version, limit=80)}"
                )
            if message.reason in _OURS:
                problems.append(f"reason: {message.reason} is not for the API: {_OURS[message.reason]}")
            return self._refused("Rollback", by, 400, problems, message.trace_id)
        # An abort acts first; what is written of it comes after.
        reason: WireReason = message.reason
        problem = self._people.stop(Stop(reason, f"Rollback v2 by {by}: {reason}", by))
        self._received("rollback", by, message.trace_id, reason)
        if problem:
            return self._refused("Rollback", by, 409, [problem], message.trace_id)
        return self._taken(message.trace_id)

    def _other_plan(self, request: web.Request) -> str:
        wanted = request.headers.get("If-Match", "*").strip().strip('"').removeprefix("sha256:")
        if wanted in ("*", self._plan_sha256):
            return ""
        return f"this run's plan has the SHA-256 {self._plan_sha256}"

    def _received(self, kind: str, by: str, trace_id: str, reason: str = "") -> None:
        self._people.received(trace_id or "no trace id", kind, by, reason, "api")

    def _refused(
        self, kind: str, by: str, status: int, reasons: list[str], trace_id: str
    ) -> web.StreamResponse:
        text = f"{kind} v2 by {by} was not taken: {'; '.join(reasons)}"
        self._recorder.note(Noted(level="warning", text=visible(text)))
        return _answer(
            status,
            {
                "accepted": False,
                "reasons": [visible(reason, limit=1000) for reason in reasons],
                "version": self._version,
                "trace_id": trace_id,
            },
        )

    def _taken(self, trace_id: str) -> web.StreamResponse:
        return _answer(200, {"accepted": True, "reasons": [], "version": self._version, "trace_id": trace_id})


def _listen(run_dir: Path) -> socket.socket:
    (run_dir / API_SOCKET).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(run_dir, API_SOCKET) as address:
            before = os.umask(0o177)
            try:
                made.bind(address)
            finally:
                os.umask(before)
        made.setblocking(False)
        return made
    except OSError:
        made.close()
        raise


def _guard(connections: Callable[[], int]) -> Any:
    """Refuse strangers and too many connections; no error of ours shows more than its status."""
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _uid(request) not in (os.getuid(), 0):
            return _close(_answer(403, {"accepted": False, "reasons": ["this run is another user's"]}))
        if connections() > _MOST_CONNECTIONS:
            return _close(_answer(503, {"accepted": False, "reasons": ["too many connections"]}))
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _close(_answer(error.status, {"accepted": False, "reasons": [error.reason]}))
        except TimeoutError:
            return _close(_answer(408, {"accepted": False, "reasons": ["the request did not come whole"]}))

    return guard


async def _body(request: web.Request) -> bytes:
    async with asyncio.timeout(_BODY_WITHIN):
        return await request.read()


def _uid(request: web.Request) -> int:
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        return -1
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()  # the socket's rights (0600) are what there is
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _peer(request: web.Request) -> str:
    uid = _uid(request)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def _trace_of(body: bytes) -> str:
    """Return the trace id of a body that may be anything, to be said back; empty when it has none."""
    try:
        document = json.loads(body)
        found = document.get("trace_id", "") if isinstance(document, dict) else ""
    except (ValueError, RecursionError):
        return ""
    return found if isinstance(found, str) and _TRACE.fullmatch(found) else ""


def _answer(status: int, document: dict[str, Any]) -> web.Response:
    from aiohttp import web

    text = json.dumps(document, ensure_ascii=False, sort_keys=True) + "\n"
    return web.Response(status=status, text=text, content_type="application/json")


def _close(answer: web.Response) -> web.Response:
    answer.force_close()
    return answer
