"""Feature flags: flagd definitions in a ConfigMap, and what users see of them through OFREP.

Written under the fence, like every object of a release; read back through the service that evaluates them
(OpenFeature Remote Evaluation Protocol, `POST /ofrep/v1/evaluate/flags/{key}`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from cockpit.backends.cluster import CONFIGMAP, Cluster, Object
from cockpit.backends.http import origin
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import (
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    Conflict,
    EffectRefused,
)
from cockpit.base.text import visible
from cockpit.verdicts.flag_definitions import TENANT

if TYPE_CHECKING:
    import httpx

FENCE = "release-cockpit.dev/fence"
_ATTEMPTS = 12
_MAX_ANSWER = 64 * 1024
_AT_ONCE = 8
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class FlagFile:
    """The definitions as stored: their text, the version it was read at, and the fence they carry."""

    text: str
    version: str
    fence: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the service said to one tenant: 200, or 400 and 404 with an OFREP error; `body` as received."""

    tenant: str
    status: int
    body: bytes


class _HungUp(BackendUnreachable):
    """The connection ended without an answer, or with something else than HTTP."""


class FlagsReader(Protocol):
    """The flags of an environment; every method raises BackendError."""

    async def read(self) -> FlagFile:
        """Return the definitions."""
        ...

    async def evaluate(self, flag: str, tenants: Sequence[str]) -> list[Evaluated]:
        """Ask the service what each tenant sees of a flag."""
        ...


class FlagsWriter(FlagsReader, Protocol):
    """Reads and changes flags."""

    async def change(self, edit: Callable[[str], str], *, fence: int) -> FlagFile:
        """Read, edit, and write on the version read, under `fence`; again when somebody wrote in between.

        An edit that changes nothing writes nothing. Raises EffectRefused for a newer holder's fence.
        """
        ...

    async def stamp(self, *, fence: int) -> None:
        """Put the fence on the definitions, so that a late write of an older holder gets 409."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class LateCluster(Cluster, Protocol):
    """A cluster that is connected when it is first needed."""

    async def connect(self) -> None:
        """Open a connection and prove it; raises BackendError."""
        ...


class ConfigMapFlags:
    """The real one. `cluster` must look at the ConfigMap's namespace; `deadline` seconds bound a request."""

    def __init__(
        self,
        cluster: LateCluster,
        *,
        configmap: str,
        key: str,
        evaluate_url: str,
        deadline: float = 5.0,
        tls: Tls = USUAL,
    ) -> None:
        self._cluster = cluster
        self._configmap = configmap
        self._key = key
        self._url = evaluate_url.rstrip("/")
        self._deadline = deadline
        self._tls = tls
        self._connected = False
        self._connecting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self) -> FlagFile:
        """Return the definitions."""
        return self._file(await self._object())

    async def change(self, edit: Callable[[str], str], *, fence: int) -> FlagFile:
        """Write an edit of the definitions; see FlagsWriter."""
        return await self._write(edit, fence, always=False)

    async def stamp(self, *, fence: int) -> None:
        """Put the fence on the definitions."""
        await self._write(lambda text: text, fence, always=True)

    async def evaluate(self, flag: str, tenants: Sequence[str]) -> list[Evaluated]:
        """Ask the service what each tenant sees of a flag."""
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._tolerant(flag, tenant)) for tenant in tenants]
        answers: list[Evaluated] = []
        for task in asked:
            answer = task.result()
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        await self._cluster.close()
        self._connected = False

    # -- the ConfigMap --------------------------------------------------------------------------------

    async def _object(self) -> Object:
        async with self._connecting:
            if not self._connected:
                await self._cluster.connect()
                self._connected = True
        return await self._cluster.get(CONFIGMAP, self._configmap)

    def _file(self, found: Object) -> FlagFile:
        data = found.get("data")
        text = data.get(self._key) if isinstance(data, dict) else None
        where = f"configmaps/{self._configmap}"
        if not isinstance(text, str):
            raise BackendGarbage(f"it has no {self._key}", where=where)
        version = str(found["metadata"].get("resourceVersion", ""))
        if not version:
            raise BackendGarbage("it has no resourceVersion", where=where)
        annotations = found["metadata"].get("annotations") or {}
        fence = str(annotations.get(FENCE, "0")) if isinstance(annotations, dict) else "0"
        if not fence.isascii() or not fence.isdigit() or len(fence) > 18:
            raise BackendGarbage("its fence annotation is no number", where=where)
        return FlagFile(text, version, int(fence))

    async def _write(self, edit: Callable[[str], str], fence: int, *, always: bool) -> FlagFile:
        for attempt in range(_ATTEMPTS):
            current = self._file(await self._object())
            if current.fence > fence:
                raise EffectRefused(
                    f"configmaps/{self._configmap} carries a newer holder's fence",
                    reason="fence",
                    hint="another conductor has taken the release over",
                )
            text = edit(current.text)
            if text == current.text and not always:
                return current
            body: Object = {"metadata": {"annotations": {FENCE: str(fence)}}}
            if text != current.text:
                body["data"] = {self._key: text}
            try:
                written = await self._cluster.patch(
                    CONFIGMAP, self._configmap, body, resource_version=current.version
                )
            except Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
                continue
            return self._file(written)
        raise AssertionError("the last attempt returns or raises")

    # -- the service ----------------------------------------------------------------------------------

    async def _tolerant(self, flag: str, tenant: str) -> Evaluated | Exception:
        # One that fails must not cancel the others into a group of errors.
        try:
            async with self._slots:
                try:
                    return await self._ask(flag, tenant)
                except _HungUp:
                    return await self._ask(flag, tenant)  # a kept connection had been closed at the other end
        except (BackendUnreachable, BackendRefused, BackendGarbage) as error:
            return error

    async def _ask(self, flag: str, tenant: str) -> Evaluated:
        import httpx

        if self._client is None:
            local = origin(self._url)[1] in _LOOPBACK
            self._client = httpx.AsyncClient(
                timeout=self._deadline,
                trust_env=not local,
                verify=self._tls.context(environment=not local),
            )
        url = f"{self._url}/ofrep/v1/evaluate/flags/{quote(flag, safe='')}"
        context = {"targetingKey": tenant, TENANT: tenant}
        where = visible(url, limit=200)
        try:
            async with (
                asyncio.timeout(self._deadline),
                self._client.stream(
                    "POST", url, json={"context": context}, headers={"Accept-Encoding": "identity"}
                ) as answer,
            ):
                body = await _bounded(answer, where)
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=where) from None
        except httpx.RemoteProtocolError as error:
            raise _HungUp(f"no HTTP answer: {visible(str(error), limit=200)}", where=where) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            text = visible(f"{type(error).__name__}: {error}", limit=200)
            raise BackendUnreachable(text, where=where) from None
        status = answer.status_code
        # What the protocol gives to a flag that cannot be evaluated is an answer about that flag.
        if status in (200, 400, 404):
            return Evaluated(tenant, status, body)
        said = f"the flag service answered {status}"
        if status == 429 or status >= 500:
            raise BackendUnreachable(said, where=where)
        if status >= 400:
            raise BackendRefused(said, where=where, status=status)
        raise BackendGarbage(said, where=where)


async def _bounded(answer: httpx.Response, where: str) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise BackendGarbage(f"an answer of more than {_MAX_ANSWER} bytes", where=where)
    return bytes(body)
