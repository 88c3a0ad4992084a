"""An OPA server: the data and policy APIs of its REST API v1, decided by regopy, and faults.

It stands for a server whose capabilities leave `opa.runtime` out, so a policy cannot read our environment.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal

from aiohttp import web

from cockpit.rehearsal.sigstore.faulty import FAULTS, FaultyService

OpaFault = Literal["error", "hang", "refuse", "undefined", "garbage", "huge", "redirect"]
STAND_IN_VERSION = "1.22.0-rehearsal-standin"
_HUGE_BYTES = 32 << 20
_MAX_BODY = 8 << 20
_KEPT = 200
_NO_INPUT = {"code": "api_usage_warning", "message": "'input' key missing from the request"}
_SEGMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNAVAILABLE = re.compile(r"\bopa\s*\.\s*runtime\b")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OpaServer:
    """OPA on a free loopback port; with `token`, only bearers of it may ask or change anything.

    `policies` holds the modules by id; `asked` the bodies and headers of the last requests for decisions.
    """

    def __init__(self, policies: Mapping[str, str] | None = None, *, token: str = "") -> None:
        self.policies: dict[str, str] = dict(policies or {})
        self.asked: deque[tuple[dict[str, str], bytes]] = deque(maxlen=_KEPT)
        self._token = token
        self._odd: OpaFault | None = None
        # Built once for a set of modules: a decision then takes about a millisecond.
        self._engine: Any = None
        self._built: dict[str, Any] = {}
        self._built_of: dict[str, str] | None = None
        routes = [
            web.get("/health", self._guarded(self._health, free=True)),
            web.post("/v1/data/{path:.+}", self._guarded(self._decide)),
            web.get("/v1/policies", self._guarded(self._list)),
            web.get("/v1/policies/{id:.+}", self._guarded(self._get)),
            web.put("/v1/policies/{id:.+}", self._guarded(self._put)),
            web.delete("/v1/policies/{id:.+}", self._guarded(self._delete)),
        ]
        self._service = FaultyService(routes, max_body=_MAX_BODY)

    async def __aenter__(self) -> OpaServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        await self._service.start()

    async def stop(self) -> None:
        """Close the port."""
        await self._service.stop()

    async def fault(self, kind: OpaFault | None) -> None:
        """Fail in the way named: the decisions of `undefined`, `garbage` and `huge`; `None` mends it."""
        self._odd = None if kind in FAULTS else kind
        await self._service.fault(kind if kind in FAULTS else None)

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return self._service.url

    @property
    def requests(self) -> int:
        """How many requests came."""
        return self._service.requests

    def _guarded(self, handler: Handler, *, free: bool = False) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode()
            if self._token and not free and not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return _error(401, "unauthorized", "request rejected by administrative policy")
            return await handler(request)

        return answer

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({})

    # -- data -------------------------------------------------------------------------------------------

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((dict(request.headers), body))
        if self._odd is not None:
            return await self._odd_answer(request)
        try:
            document = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            return _error(400, "invalid_parameter", "body contains malformed input document")
        given = isinstance(document, dict) and "input" in document
        warning = {} if given else {"warning": _NO_INPUT}
        segments = request.match_info["path"].strip("/").split("/")
        if not all(_SEGMENT.fullmatch(one) for one in segments):
            return _answer(warning)
        rule = "data." + ".".join(segments)
        try:
            found = self._evaluate(rule, document["input"]) if given else _without_input(self.policies, rule)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is an internal error of OPA
            return _error(500, "internal_error", f"error(s) occurred while evaluating query: {error}"[:2000])
        told = request.query.get("provenance") == "true"
        provenance = {"provenance": {"version": STAND_IN_VERSION}} if told else {}
        return _answer({**provenance, **found, **warning})

    def _evaluate(self, rule: str, asked: Any) -> dict[str, Any]:
        if self._built_of != self.policies:
            self._engine, self._built = _compile(self.policies), {}
            self._built_of = dict(self.policies)
        if rule not in self._built:
            self._built[rule] = self._engine.build(f"x := {rule}", [])
        self._engine.set_input_term(json.dumps(asked, ensure_ascii=False))
        return _found(self._engine.query_bundle(self._built[rule]))

    async def _odd_answer(self, request: web.Request) -> web.StreamResponse:
        if self._odd == "garbage":
            return web.Response(body=b'{"result": {"allow": true\xff', content_type="application/json")
        if self._odd == "redirect":
            return web.Response(status=307, headers={"Location": f"{self.url}/health"})
        if self._odd == "huge":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"result": {"allow": true, "reasons": ["')
            try:
                for _ in range(_HUGE_BYTES >> 16):
                    await response.write(b"x" * (1 << 16))
            except ConnectionError:
                pass  # whoever asked has had enough
            return response
        return web.json_response({})

    # -- policies ---------------------------------------------------------------------------------------

    async def _list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"result": [_policy(*one) for one in sorted(self.policies.items())]})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        if name not in self.policies:
            return _error(404, "resource_not_found", f'storage_not_found_error: policy id "{name}"')
        return web.json_response({"result": _policy(name, self.policies[name])})

    async def _put(self, request: web.Request) -> web.StreamResponse:
        name, body = request.match_info["id"], await request.read()
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return _error(400, "invalid_parameter", "rego_parse_error: illegal utf-8 character")
        if _UNAVAILABLE.search(text):
            return _error(400, "invalid_parameter", "rego_type_error: undefined function opa.runtime")
        try:
            _compile({**self.policies, name: text})
        except Exception as error:  # noqa: BLE001 - whatever the engine raises: it is no policy
            return _error(400, "invalid_parameter", f"error(s) occurred while compiling module(s): {error}")
        self.policies[name] = text
        return web.json_response({})

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        if self.policies.pop(name, None) is None:
            return _error(404, "resource_not_found", f'storage_not_found_error: policy id "{name}"')
        return web.json_response({})


def _compile(policies: Mapping[str, str]) -> Any:
    from regopy import Interpreter

    engine = Interpreter()
    engine.strict_built_in_errors = True
    for name, text in sorted(policies.items()):
        engine.add_module(name, text)
    # Modules are only compiled when something is asked.
    engine.set_input_term("null")
    output = engine.query("x := 1")
    if not output.ok():
        raise ValueError(str(output))
    return engine


def _without_input(policies: Mapping[str, str], rule: str) -> dict[str, Any]:
    """Evaluate where there is no input at all, which is not `null`; an engine keeps the one it once had."""
    from regopy import Interpreter

    engine = Interpreter()
    engine.strict_built_in_errors = True
    for name, text in sorted(policies.items()):
        engine.add_module(name, text)
    return _found(engine.query(f"x := {rule}"))


def _found(output: Any) -> dict[str, Any]:
    if not output.ok():
        raise ValueError(str(output))
    results = output.results
    if len(results) == 1 and "x" in results[0].bindings:
        return {"result": results[0].bindings["x"]}
    return {}


def _answer(document: Mapping[str, Any]) -> web.Response:
    # OPA names no character set: JSON has but one.
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return web.Response(body=body + b"\n", content_type="application/json")


def _policy(name: str, text: str) -> dict[str, Any]:
    return {"id": name, "raw": text, "ast": {}}


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message[:2000]}, status=status)
