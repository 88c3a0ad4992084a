"""An HTTP status in place of an answer, at the clients that sign, decide and read images: refused or away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from cockpit.backends.policy_opa import OpaEngine, OpaHttp, OpaPolicyStore
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.errors import BackendError, BackendRefused, BackendUnreachable
from cockpit.rehearsal.sigstore import SigstoreServer

pytestmark = pytest.mark.contract

WHO = "https://rehearsal.invalid/conductor"
DEADLINE = 20.0
REFUSED, AWAY = (400, 401, 403, 422), (429, 500, 502, 503, 504)
Ask = Callable[[str], Awaitable[object]]
"""The base URL of a server → a call that asks it."""


async def decision(base: str) -> object:
    return await OpaEngine(OpaHttp(base, deadline=DEADLINE), package="p").decide({"a": 1})


async def policy(base: str) -> None:
    await OpaPolicyStore(OpaHttp(base, deadline=DEADLINE)).put("p", "package p\n")


async def image(base: str) -> object:
    client = OciRegistry(base, deadline=DEADLINE)
    try:
        return await client.resolve("intelgraph/web", "v3.0.0")
    finally:
        await client.close()


async def token(base: str) -> object:
    return await HttpToken(base, secret=lambda: "s3cret", subject=WHO, timeout=DEADLINE)()


def signature(part: str) -> Ask:
    """Sign with one of the services at the URL."""

    async def ask(base: str) -> object:
        async with SigstoreServer() as server:
            config = json.loads(server.trust_config())
            config["signingConfig"][part][0]["url"] = base
            backend = SigstoreSigning(
                json.dumps(config),
                token=HttpToken(server.token_url, secret=lambda: server.token_secret, subject=WHO),
                identity=WHO,
                issuer=server.issuer,
            )
            return await backend.sign_bytes(b"data", deadline=DEADLINE)

    return ask


CALLS: dict[str, Ask] = {
    "decision": decision,
    "policy": policy,
    "image": image,
    "token": token,
    "certificate": signature("caUrls"),
    "log": signature("rekorTlogUrls"),
    "time-stamp": signature("tsaUrls"),
}


@asynccontextmanager
async def answering(status: int, retry_after: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Answer everything with a status; give the base URL and what was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        headers = {"Retry-After": retry_after} if retry_after else {}
        return web.json_response({"message": "not \x1b[2Jnow"}, status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [*REFUSED, *AWAY])
@pytest.mark.parametrize("call", CALLS)
async def test_a_status_is_an_error_of_its_kind(call: str, status: int) -> None:
    async with answering(status, "1" if status in (429, 503) else "") as (base, asked):
        with pytest.raises(BackendError) as found:
            await CALLS[call](base)
    assert type(found.value) is (BackendUnreachable if status in AWAY else BackendRefused)
    if isinstance(found.value, BackendRefused):
        assert found.value.status == status
    assert "\x1b" not in str(found.value)
    assert len(asked) == 1
