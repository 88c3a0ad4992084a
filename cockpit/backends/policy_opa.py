"""Decisions of the release policy by OPA over HTTP, and the policies it holds (REST API v1).

https://www.openpolicyagent.org/docs/rest-api: `POST /v1/data/<path>` with `{"input": …}` answers
`{"result": …}`, without `result` where undefined; `/v1/policies/<id>` gets, puts and deletes a module.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from cockpit.backends.http import hung_up
from cockpit.backends.policy_engine import (
    MAX_QUESTIONS,
    RULE,
    DecisionEngine,
    EmbeddedEngine,
    builtin_policy,
    refusal,
    unfit,
)
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.text import visible
from cockpit.plan.operations import PolicyEngine
from cockpit.verdicts.policy_decision import Decision, read_decision, stored

if TYPE_CHECKING:
    import httpx

MAX_DECISION_BYTES = 256 * 1024
MAX_POLICY_BYTES = 8 << 20  # a policy comes with its syntax tree, many times its text
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class PolicyReader(Protocol):
    """Reads the policies an engine holds."""

    async def get(self, policy: str) -> str | None:
        """Return the text of a policy, None when there is none; raises BackendError."""
        ...


class PolicyStore(PolicyReader, Protocol):
    """Changes the policies an engine holds."""

    async def put(self, policy: str, text: str) -> None:
        """Put a policy in the place of what was there; raises BackendRefused for one that is wrong."""
        ...

    async def delete(self, policy: str) -> None:
        """Take a policy away; one that is not there is no error."""
        ...


class OpaHttp:
    """Requests to OPA: bearer token, no redirect, no compression, bounded in bytes and by a deadline."""

    def __init__(self, url: str, *, token: str = "", deadline: float, tls: Tls = USUAL) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._deadline = deadline
        self._local = urlsplit(url).hostname in _LOOPBACK
        self._tls = tls

    @property
    def deadline(self) -> float:
        """Seconds a request may take."""
        return self._deadline

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client whose connections end with the block."""
        import httpx

        headers = {"Accept-Encoding": "identity", "User-Agent": "release-cockpit"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        async with httpx.AsyncClient(
            timeout=self._deadline,
            trust_env=not self._local,
            headers=headers,
            verify=self._tls.context(environment=not self._local),
        ) as client:
            yield client

    async def ask(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        kind: str = "application/json",
        most: int = MAX_DECISION_BYTES,
        none: tuple[int, ...] = (),
    ) -> bytes | None:
        """Return the body of a 200; None for a status in `none`; any other raises BackendError."""
        import httpx

        where = visible(f"{self._url}{path}", limit=200)
        try:
            async with (
                asyncio.timeout(self._deadline),
                client.stream(
                    method, f"{self._url}{path}", content=body, headers={"Content-Type": kind}
                ) as answer,
            ):
                found = await _read(answer, most, where)
                status = answer.status_code
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=where) from None
        except (httpx.DecodingError, httpx.RemoteProtocolError, httpx.LocalProtocolError) as error:
            if hung_up(error):
                raise BackendUnreachable(f"cut off: {visible(str(error), limit=200)}", where=where) from None
            raise BackendGarbage(f"not HTTP: {visible(str(error), limit=200)}", where=where) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            text = visible(f"{type(error).__name__}: {error}", limit=200)
            raise BackendUnreachable(text, where=where) from None
        if status in none:
            return None
        if status == 200:
            return found
        raise _refused(status, found, where)


class OpaEngine:
    """The release policy as an OPA server holds it; its text is not known here, so no digest names it."""

    def __init__(self, http: OpaHttp, *, package: str = "cockpit/release") -> None:
        self._http = http
        self._package = package

    @property
    def name(self) -> str:
        """`opa`."""
        return "opa"

    @property
    def path(self) -> str:
        """The data path asked."""
        return f"{self._package}/{RULE}"

    async def version(self) -> str:
        """Return the server's version, empty when it does not say; raises BackendError.

        It is in the provenance of any answer, so a path is asked that no policy defines.
        """
        async with self._http.client() as client:
            path = f"/v1/data/{self._package}/version_of_this_server?provenance=true"
            answer = await self._http.ask(client, "POST", path, body=b'{"input": null}')
        try:
            return visible(str(json.loads(answer or b"")["provenance"]["version"]), limit=80)
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""

    async def decide(self, input: Mapping[str, Any]) -> Decision:
        """Decide; see DecisionEngine."""
        async with self._http.client() as client:
            return await self._decide(client, input)

    async def decide_all(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[Decision, ...]:
        """Decide on several inputs, one after the other over one connection; see DecisionEngine."""
        if len(inputs) > MAX_QUESTIONS:
            raise BackendRefused(f"{len(inputs)} questions at once; at most {MAX_QUESTIONS}")
        async with self._http.client() as client:
            return tuple([await self._decide(client, one) for one in inputs])

    async def _decide(self, client: httpx.AsyncClient, input: Mapping[str, Any]) -> Decision:
        reason = unfit(input)
        if reason:
            return refusal(self.name, self.path, "", reason)
        body = json.dumps({"input": input}, ensure_ascii=False).encode()
        # Without it an error inside a built-in is merely undefined, and an undefined denial denies nothing.
        path = f"/v1/data/{self.path}?strict-builtin-errors=true"
        answer = await self._http.ask(client, "POST", path, body=body)
        try:
            text = (answer or b"").decode()
        except UnicodeDecodeError:
            raise BackendGarbage("the policy engine's answer is not UTF-8") from None
        return read_decision(stored(engine=self.name, path=self.path, policy="", input=input, answer=text))


class OpaPolicies:
    """The policies of an OPA server; see PolicyReader."""

    def __init__(self, http: OpaHttp) -> None:
        self._http = http

    async def get(self, policy: str) -> str | None:
        """Return the text of a policy; see PolicyReader."""
        answer = await self._call("GET", policy, none=(404,), most=MAX_POLICY_BYTES)
        if answer is None:
            return None
        try:
            text = json.loads(answer)["result"]["raw"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BackendGarbage("the policy engine's answer holds no policy") from None
        if not isinstance(text, str):
            raise BackendGarbage("the policy engine's answer holds no policy")
        return text

    async def _call(self, method: str, policy: str, **more: Any) -> bytes | None:
        async with self._http.client() as client:
            return await self._http.ask(client, method, f"/v1/policies/{quote(policy, safe='')}", **more)


class OpaPolicyStore(OpaPolicies):
    """The policies of an OPA server, to be changed; see PolicyStore."""

    async def put(self, policy: str, text: str) -> None:
        """Put a policy; see PolicyStore."""
        await self._call("PUT", policy, body=text.encode(), kind="text/plain")

    async def delete(self, policy: str) -> None:
        """Take a policy away; see PolicyStore."""
        await self._call("DELETE", policy, none=(404,))


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """Who decides on a release, and where the policy lies; `store` is None with the embedded engine."""

    engine: DecisionEngine
    store: OpaPolicyStore | None
    reader: OpaPolicies | None


def release_policy(target: PolicyEngine, base: Path, token: str = "", *, tls: Tls = USUAL) -> ReleasePolicy:
    """Return the engine of a plan's `targets.policy`; `base` is the folder of the plan."""
    if target.url is None:
        folder = base / target.bundle if target.bundle else builtin_policy()
        engine = EmbeddedEngine(folder, package=target.package, deadline=target.deadline)
        return ReleasePolicy(engine, None, None)
    http = OpaHttp(target.url, token=token, deadline=target.deadline, tls=tls)
    return ReleasePolicy(OpaEngine(http, package=target.package), OpaPolicyStore(http), OpaPolicies(http))


async def _read(answer: httpx.Response, most: int, where: str) -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise BackendGarbage("the answer is compressed, which was not asked for", where=where)
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > most:
            raise BackendGarbage(f"an answer of more than {most} bytes", where=where)
    return bytes(body)


def _refused(status: int, body: bytes, where: str) -> BackendGarbage | BackendRefused | BackendUnreachable:
    said = _said(body)
    if status >= 500 or status == 429:
        return BackendUnreachable(f"the policy engine answered {status}: {said}", where=where)
    if status >= 400:
        hint = "check `targets.policy.token`" if status in (401, 403) else ""
        return BackendRefused(
            f"the policy engine answered {status}: {said}", where=where, hint=hint, status=status
        )
    return BackendGarbage(f"the policy engine answered {status}", where=where)


def _said(body: bytes) -> str:
    """Return what an error answer says: its message and that of its first error, where it has them."""
    try:
        document = json.loads(body)
        texts = [document["message"], *(one["message"] for one in document.get("errors", [])[:1])]
        return visible("; ".join(map(str, texts)), limit=300)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return visible(body[:400].decode("utf-8", "replace"), limit=200)
