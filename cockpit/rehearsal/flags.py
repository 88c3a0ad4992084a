"""A flag service: OFREP over the flagd definitions in a ConfigMap of the world's Kubernetes API.

It knows the part of flagd's targeting that names tenants and shares of them: `if`, `in`, `==`, `var`, `cat`
and `fractional`, the last one bucketed as flagd does. Anything else in a rule is an error, never a guess.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from cockpit.rehearsal.app.api import api_session
from cockpit.rehearsal.app.mirror import Mirror
from cockpit.rehearsal.sigstore.faulty import Fault, FaultyService

_DEPTH = 16
_READY_SECONDS = 30.0
_MASK = 0xFFFFFFFF
_MAX_WEIGHT = 2**31 - 1


class NotUnderstood(Exception):
    """A definition that cannot be evaluated; `code` is the OFREP error."""

    def __init__(self, details: str, code: str = "PARSE_ERROR") -> None:
        super().__init__(details)
        self.code = code


class FlagsServer:
    """Serves OFREP on a free loopback port; follows one ConfigMap by list and watch.

    `key` is the member of the ConfigMap's data that holds the definitions.
    """

    def __init__(
        self,
        kube_url: str,
        token: str,
        *,
        namespace: str,
        configmap: str,
        key: str = "flags.json",
        ca_file: Path | None = None,
    ) -> None:
        self._kube, self._token, self._ca_file = kube_url, token, ca_file
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._configmap, self._key = configmap, key
        self._flags: dict[str, Any] = {}
        self._broken = "there are no definitions yet"
        self._service = FaultyService([web.post("/ofrep/v1/evaluate/flags/{key}", self._evaluate)])
        self._session: aiohttp.ClientSession | None = None
        self._mirror: Mirror | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Base URL of the service."""
        return self._service.url

    async def start(self) -> str:
        """Read the definitions, begin to follow and to serve; return the base URL."""
        session = api_session(self._token, self._ca_file)
        self._session = session
        self._mirror = Mirror(session, self._kube, self._path, self._take)
        self._following = asyncio.create_task(self._mirror.run(), name="flag definitions")
        async with asyncio.timeout(_READY_SECONDS):
            await self._mirror.synced.wait()
        await self._service.start()
        return self.url

    async def stop(self) -> None:
        """Close the port and stop following."""
        await self._service.stop()
        if self._following is not None:
            self._following.cancel()
            try:
                await self._following
            except asyncio.CancelledError:
                pass
            self._following = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fault(self, kind: Fault | None) -> None:
        """Answer 500 (`error`), `hang` or `refuse`; `None` mends it."""
        await self._service.fault(kind)

    def _take(self) -> None:
        found = self._mirror.objects.get(self._configmap) if self._mirror is not None else None
        text = (found.get("data") or {}).get(self._key) if found is not None else None
        try:
            flags = json.loads(text)["flags"] if isinstance(text, str) else None
        except (ValueError, KeyError, TypeError, RecursionError):
            flags = None
        if isinstance(flags, dict):
            self._flags, self._broken = flags, ""
        else:
            # As flagd: what was understood before stays in force.
            self._broken = self._broken and "the definitions cannot be read"

    async def _evaluate(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        try:
            body = await request.json()
            context = body.get("context", {}) if isinstance(body, dict) else None
        except (ValueError, RecursionError):
            context = None
        if not isinstance(context, dict):
            return _failure(key, 400, "INVALID_CONTEXT", "the context is no object")
        if self._broken:
            return _failure(key, 400, "PARSE_ERROR", self._broken)
        definition = self._flags.get(key)
        if not isinstance(definition, dict) or definition.get("state") == "DISABLED":
            return _failure(key, 404, "FLAG_NOT_FOUND", "there is no such flag, or it is disabled")
        try:
            variant, reason = evaluate(key, definition, context)
            value = definition["variants"][variant]
        except NotUnderstood as error:
            return _failure(key, 400, error.code, str(error))
        except (KeyError, TypeError):
            return _failure(key, 400, "PARSE_ERROR", "the definition is no flag")
        metadata = definition.get("metadata")
        answer = {"key": key, "value": value, "variant": variant, "reason": reason}
        return web.json_response({**answer, "metadata": metadata} if isinstance(metadata, dict) else answer)


def _failure(key: str, status: int, code: str, details: str) -> web.Response:
    return web.json_response({"key": key, "errorCode": code, "errorDetails": details}, status=status)


def evaluate(key: str, definition: dict[str, Any], context: dict[str, Any]) -> tuple[str, str]:
    """Return (variant, reason) of a flag in a context; raises NotUnderstood."""
    targeting, default = definition.get("targeting"), definition.get("defaultVariant")
    if not isinstance(default, str):
        raise NotUnderstood("the flag has no defaultVariant")
    if not targeting:
        return default, "STATIC"
    data = {**context, "$flagd": {"flagKey": key}}
    found = _apply(targeting, data, 0)
    if found is None:
        return default, "DEFAULT"
    if isinstance(found, bool):
        found = str(found).lower()
    if not isinstance(found, str) or found not in definition.get("variants", {}):
        raise NotUnderstood("the targeting gives no variant of the flag")
    return found, "TARGETING_MATCH"


def _apply(rule: Any, data: dict[str, Any], depth: int) -> Any:
    """Evaluate a JSONLogic rule of the operations this service knows."""
    if depth > _DEPTH:
        raise NotUnderstood("the targeting is nested too deeply")
    if isinstance(rule, list):
        return [_apply(one, data, depth + 1) for one in rule]
    if not isinstance(rule, dict):
        return rule
    if len(rule) != 1:
        raise NotUnderstood("a rule has exactly one operation")
    [(operation, given)] = rule.items()
    if operation == "if":
        return _if(given, data, depth)
    arguments = [_apply(one, data, depth + 1) for one in (given if isinstance(given, list) else [given])]
    if operation == "var" and arguments and isinstance(arguments[0], str):
        return _var(arguments[0], data)
    if operation == "in" and len(arguments) == 2 and isinstance(arguments[1], (list, str)):
        return arguments[0] in arguments[1] if arguments[0] is not None else False
    if operation == "==" and len(arguments) == 2:
        return arguments[0] == arguments[1]
    if operation == "cat":
        return "".join(str(one) for one in arguments)
    if operation == "fractional":
        return _fractional(arguments, data)
    raise NotUnderstood(f"the operation {operation!r} is not known here")


def _if(given: Any, data: dict[str, Any], depth: int) -> Any:
    if not isinstance(given, list) or not given:
        raise NotUnderstood("`if` takes a list")
    for index in range(0, len(given) - 1, 2):
        if _apply(given[index], data, depth + 1):
            return _apply(given[index + 1], data, depth + 1)
    return _apply(given[-1], data, depth + 1) if len(given) % 2 else None


def _var(path: str, data: dict[str, Any]) -> Any:
    found: Any = data
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _fractional(arguments: list[Any], data: dict[str, Any]) -> Any:
    """Distribute by the 32-bit MurmurHash3 of the bucketing value, as flagd does."""
    if arguments and isinstance(arguments[0], str):
        bucket_by, sides = arguments[0], arguments[1:]
    else:
        sides = arguments[1:] if arguments and arguments[0] is None else arguments
        target = data.get("targetingKey")
        if not isinstance(target, str):
            raise NotUnderstood("a share needs a targetingKey", "TARGETING_KEY_MISSING")
        bucket_by = f"{data['$flagd']['flagKey']}{target}"
    weights: list[int] = []
    for side in sides:
        weight = side[1] if isinstance(side, list) and len(side) == 2 else None
        if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
            raise NotUnderstood("a share is a variant and a whole weight")
        weights.append(weight)
    total = sum(weights)
    if not 0 < total <= _MAX_WEIGHT:
        raise NotUnderstood("the weights of the shares are out of range")
    bucket = murmur3(bucket_by.encode()) * total >> 32
    for side, weight in zip(sides, weights, strict=True):
        bucket -= weight
        if bucket < 0:
            return side[0]
    raise AssertionError("a bucket is below the sum of the weights")


def murmur3(data: bytes, seed: int = 0) -> int:
    """Return the 32-bit MurmurHash3 (x86) of `data`."""

    def mixed(block: int) -> int:
        block = block * 0xCC9E2D51 & _MASK
        block = (block << 15 | block >> 17) & _MASK
        return block * 0x1B873593 & _MASK

    hashed = seed
    whole = len(data) // 4 * 4
    for index in range(0, whole, 4):
        hashed ^= mixed(int.from_bytes(data[index : index + 4], "little"))
        hashed = (hashed << 13 | hashed >> 19) & _MASK
        hashed = hashed * 5 + 0xE6546B64 & _MASK
    if whole < len(data):
        hashed ^= mixed(int.from_bytes(data[whole:], "little"))
    hashed ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashed = (hashed ^ hashed >> shift) * factor & _MASK
    return hashed ^ hashed >> 16


@asynccontextmanager
async def serving_flags(
    kube_url: str,
    token: str,
    *,
    namespace: str,
    configmap: str,
    key: str = "flags.json",
    ca_file: Path | None = None,
) -> AsyncIterator[FlagsServer]:
    """Run a flag service; it ends with the context."""
    server = FlagsServer(kube_url, token, namespace=namespace, configmap=configmap, key=key, ca_file=ca_file)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
