"""Logging in by the device flow (RFC 8628) against the stand-in issuer, and what a login proves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import jwt
import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.device_flow import DeviceFlow, IdTokenChecker, Prompt
from cockpit.backends.signing import SigstoreSigning
from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.sigstore.device import DeviceGrants
from cockpit.rehearsal.sigstore.oidc import BROKER
from cockpit.rehearsal.sigstore.tokens import TokenService
from tests.conductor.support import FastClock

pytestmark = pytest.mark.contract
WHO = "ann@example.org"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer(device=DeviceGrants(interval=0.05, lifetime=30.0)) as running:
        yield running


async def decide(server: SigstoreServer, prompt: Prompt, sub: str = WHO, *, allow: bool = True) -> int:
    """Do what a person does in the browser."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{server.url('oidc')}/device",
            json={"user_code": prompt.code, "sub": sub, "allow": allow},
            headers={"Authorization": f"Bearer {server.token_secret}"},
        )
    return answer.status_code


async def login(
    server: SigstoreServer, sub: str = WHO, *, allow: bool = True, after: int = 0, deadline: float = 20.0
) -> str:
    shown: asyncio.Queue[Prompt] = asyncio.Queue()
    flow = DeviceFlow(server.issuer, clock=SystemClock())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(flow.token(shown.put_nowait, deadline=deadline))
        prompt = await shown.get()
        asked = server.requests("oidc")
        while server.requests("oidc") < asked + after:  # noqa: ASYNC110 - it polls on its own
            await asyncio.sleep(0.01)
        assert await decide(server, prompt, sub, allow=allow) == 200
    return waiting.result()


async def test_a_login_gives_a_token_to_sign_with(server: SigstoreServer) -> None:
    token = await login(server, after=2)
    assert jwt.decode(token, options={"verify_signature": False})["email"] == WHO

    async def given() -> str:
        return token

    signing = SigstoreSigning(server.trust_config(), token=given, identity=WHO, issuer=server.issuer)
    assert (await signing.sign_bytes(b"data", deadline=20)).identity == WHO


async def test_what_the_person_is_shown(server: SigstoreServer) -> None:
    shown: list[Prompt] = []
    with pytest.raises(BackendRefused, match="nobody logged in"):
        await DeviceFlow(server.issuer, clock=SystemClock()).token(shown.append, deadline=0.2)
    (prompt,) = shown
    assert prompt.address.startswith(server.url("oidc"))
    assert prompt.code in prompt.address
    assert prompt.seconds == 0.2
    assert await decide(server, Prompt("", "XXXX-XXXX", 1)) == 404


async def test_a_denied_login_is_refused(server: SigstoreServer) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await login(server, allow=False)
    assert caught.group_contains(BackendRefused, match="access_denied")


async def test_an_expired_code_is_refused() -> None:
    async with SigstoreServer(device=DeviceGrants(interval=0.02, lifetime=0.3)) as server:
        with pytest.raises(BackendRefused, match="expired_token"):
            await asyncio.wait_for(
                DeviceFlow(server.issuer, clock=_Patient()).token(lambda _: None, deadline=60), 20
            )


class _Patient(SystemClock):
    """A clock that waits as told and says that hardly any time has passed."""

    def monotonic(self) -> float:
        return super().monotonic() / 1000


async def test_a_terminal_that_asks_too_often_slows_down() -> None:
    async with (
        SigstoreServer(device=DeviceGrants(interval=30.0, lifetime=60.0)) as server,
        httpx.AsyncClient(trust_env=False, base_url=server.url("oidc")) as client,
    ):
        begun = (await client.post("/device_authorization", data={"client_id": "sigstore"})).json()
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "device_code": begun["device_code"],
            "client_id": "sigstore",
        }
        assert (await client.post("/token", data=form)).json()["error"] == "slow_down"
        other = await client.post("/token", data={**form, "client_id": "another"})
        assert other.json()["error"] == "invalid_grant"
        wrong = await client.post("/token", data={**form, "grant_type": "password"})
        assert wrong.json()["error"] == "unsupported_grant_type"
        assert (await client.post("/device_authorization", data={})).status_code == 401
        forbidden = await client.post("/device", json={"user_code": begun["user_code"], "allow": True})
        assert forbidden.status_code == 401


async def _issuer(routes: dict[str, object]) -> tuple[web.AppRunner, str]:
    app = web.Application()
    runner = web.AppRunner(app)
    polls = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal polls
        found = routes[request.path]
        if isinstance(found, list):
            polls += 1
            found = found[min(polls, len(found)) - 1]
        if isinstance(found, int):
            return web.Response(status=found)
        status = 400 if isinstance(found, dict) and "error" in found else 200
        return web.Response(
            text=found if isinstance(found, str) else json.dumps(found),
            status=status,
            content_type="application/json",
        )

    app.router.add_route("*", "/{path:.*}", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    routes["/.well-known/openid-configuration"] = {
        "issuer": base,
        "device_authorization_endpoint": f"{base}/begin",
        "token_endpoint": f"{base}/token",
        "jwks_uri": f"{base}/keys",
    }
    return runner, base


BEGUN = {
    "device_code": "d",
    "user_code": "u",
    "verification_uri": "https://issuer.example/device",
    "interval": 1,
    "expires_in": 600,
}


async def test_pending_slow_and_silent_issuers_are_waited_for() -> None:
    tokens = [{"error": "authorization_pending"}, {"error": "slow_down"}, 503, {"id_token": "a.b.c"}]
    runner, base = await _issuer({"/begin": BEGUN, "/token": tokens})
    slept: list[float] = []

    class Counting(FastClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await super().sleep(0)

    try:
        flow = DeviceFlow(base, clock=Counting())
        assert await flow.token(lambda _: None, deadline=500) == "a.b.c"
        assert slept == [1.0, 1.0, 6.0, 12.0]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "routes",
    [
        {"/begin": "<html>"},
        {"/begin": "[]"},
        {"/begin": {}},
        {"/begin": {**BEGUN, "interval": -1}},
        {"/begin": {**BEGUN, "expires_in": True}},
        {"/begin": {**BEGUN, "verification_uri": "javascript:alert(1)"}},
        {"/begin": "x" * 300_000},
        {"/begin": {**BEGUN, "interval": 0.01}, "/token": {}},
        {"/begin": {**BEGUN, "interval": 0.01}, "/token": {"id_token": "x"}},
    ],
)
async def test_nonsense_is_garbage(routes: dict[str, object]) -> None:
    runner, base = await _issuer(dict(routes))
    try:
        with pytest.raises(BackendGarbage):
            await DeviceFlow(base, clock=SystemClock()).token(lambda _: None, deadline=20)
    finally:
        await runner.cleanup()


async def test_an_issuer_that_is_gone_is_unreachable(server: SigstoreServer) -> None:
    await server.fault("oidc", "refuse")
    with pytest.raises(BackendUnreachable):
        await DeviceFlow(server.issuer, clock=SystemClock()).token(lambda _: None, deadline=5)
    await server.fault("oidc", "hang")
    with pytest.raises(BackendUnreachable):
        await DeviceFlow(server.issuer, clock=SystemClock(), timeout=0.3).token(lambda _: None, deadline=5)


@pytest.mark.parametrize("issuer", ["http://issuer.example", "ftp://issuer.example", "issuer", "https://"])
async def test_an_issuer_is_asked_over_https_only(issuer: str) -> None:
    with pytest.raises(UsageError):
        await DeviceFlow(issuer, clock=SystemClock()).token(lambda _: None, deadline=5)


# -- what a login proves ------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[TokenService]:
    """An issuer with a broker for people before it: what Fulcio needs, without Fulcio."""
    service = TokenService(device=DeviceGrants(interval=0.05), brokered=True)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def test_a_login_at_a_broker_holds_for_whom_it_stands_before(broker: TokenService) -> None:
    issuer, login = broker.issuer.url, broker.issuer.url + BROKER
    token = broker.token(WHO)
    assert jwt.decode(token, options={"verify_signature": False})["iss"] == login

    async def check(one: str, issuer: str, identity: str = WHO, at: str = login) -> str:
        return await IdTokenChecker(clock=SystemClock()).check(one, issuer, identity, broker=at)

    assert await check(token, issuer) == ""
    assert await check(token, login) == ""  # certificates may name the broker itself
    assert "does not hold" in await check(token, issuer, at="")
    assert "was not at https://other.example" in await check(token, "https://other.example")
    assert "somebody else" in await check(token, issuer, "bob@example.org")
    # Where people are let in by another issuer of theirs, its own tokens go on counting.
    direct = broker.token("a job")
    assert await check(direct, issuer, "a job") == ""
    async with SigstoreServer() as forger:
        assert await check(forger.token(WHO), issuer)


async def test_a_broker_knows_people_by_their_address_alone(broker: TokenService) -> None:
    key = broker.issuer.key
    now = int(time.time())
    claims = {
        "iss": broker.issuer.url + BROKER, "aud": "sigstore", "iat": now, "exp": now + 60,
        "federated_claims": {"connector_id": broker.issuer.url},
    }  # fmt: skip

    async def check(**more: object) -> str:
        token = jwt.encode({**claims, **more}, key, "ES256", headers={"kid": "rehearsal-1"})
        checker = IdTokenChecker(clock=SystemClock())
        return await checker.check(token, broker.issuer.url, WHO, broker=broker.issuer.url + BROKER)

    assert await check(sub="x", email=WHO, email_verified=True) == ""
    assert "somebody else" in await check(sub=WHO)
    assert "somebody else" in await check(sub=WHO, email=WHO, email_verified=False)
    verified = {"sub": "x", "email": WHO, "email_verified": True}
    odd: object
    for odd in ({}, [], "x", {"connector_id": [broker.issuer.url]}):
        assert "was not at" in await check(**verified, federated_claims=odd)


async def test_a_fresh_login_holds_once(server: SigstoreServer) -> None:
    checker = IdTokenChecker(clock=SystemClock())
    token = await login(server)
    assert await checker.check(token, server.issuer, WHO) == ""
    assert "used before" in await checker.check(token, server.issuer, WHO)


async def test_what_is_no_fresh_login_of_this_person(server: SigstoreServer) -> None:
    checker = IdTokenChecker(clock=SystemClock())
    assert "somebody else" in await checker.check(server.token("bob@example.org"), server.issuer, WHO)
    old = server.token(WHO, lifetime=timedelta(seconds=-120))
    assert "does not hold" in await checker.check(old, server.issuer, WHO)
    other = server.token(WHO, audience="another")
    assert "does not hold" in await checker.check(other, server.issuer, WHO)
    for nonsense in ("", "a.b.c", "x" * 1000, jwt.encode({"sub": WHO}, "k" * 32)):
        assert await checker.check(nonsense, server.issuer, WHO)
    async with SigstoreServer() as forger:
        forged = forger.token(WHO)
    assert "does not hold" in await checker.check(forged, server.issuer, WHO)
    stale = IdTokenChecker(clock=FastClock(), max_age=-1)
    assert "s old" in await stale.check(server.token(WHO), server.issuer, WHO)
    await server.fault("oidc", "error")
    with pytest.raises(BackendError):
        await checker.check(server.token(WHO), server.issuer, WHO)
