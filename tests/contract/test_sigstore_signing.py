"""The real signing client, over stand-in and real servers: signatures, and every way a service can fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import rfc8785
from aiohttp import web

from cockpit.backends.signing import HttpToken, SigstoreSigning, TokenSource
from cockpit.base.errors import (
    BackendError,
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    EvidenceError,
    UsageError,
)
from cockpit.rehearsal.sigstore import Fault, Service, SigstoreServer
from cockpit.rehearsal.sigstore.merkle import leaf_hash
from tests.contract.sigstore_fixtures import WHO, Tested, one_real_sigstore, read, size, tested_sigstore
from tests.real.sigstore_thread import ThreadedSigstore

__all__ = ["one_real_sigstore", "tested_sigstore"]
pytestmark = pytest.mark.contract
PATIENCE = 30.0
"""Seconds after which a call that has a deadline of its own is taken to hang."""
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "evidence.zip", "digest": {"sha256": "ab" * 32}}],
    "predicateType": "https://release-cockpit.invalid/test/v1",
    "predicate": {"words": "Grüße"},
}


@pytest.fixture
def secret(tmp_path: Path, server: Tested) -> str:
    path = tmp_path / "secret"
    path.write_text(server.token_secret + "\n")
    return f"file:{path}"


def given(token: str) -> TokenSource:
    async def source() -> str:
        return token

    return source


def client(server: Tested, token: TokenSource | None = None) -> SigstoreSigning:
    return SigstoreSigning(
        server.trust_config(), token=token or given(server.token(WHO)), identity=WHO, issuer=server.issuer
    )


async def test_signs_bytes(server: Tested, secret: str) -> None:
    backend = client(server, HttpToken(server.token_url, secret=secret, subject=WHO))
    before, logged = datetime.now(UTC) - timedelta(seconds=2), await size(server)
    first = await backend.sign_bytes(b"one", deadline=20)
    second = await backend.sign_bytes(b"two", deadline=20)
    assert [first.log_index, second.log_index] == [logged, logged + 1]
    assert (first.identity, first.issuer) == (WHO, server.issuer)
    assert before <= first.integrated_at <= datetime.now(UTC)
    bundle = json.loads(second.bundle_json)
    assert rfc8785.dumps(bundle) == second.bundle_json
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    [entry] = bundle["verificationMaterial"]["tlogEntries"]
    assert leaf_hash(b64decode(entry["canonicalizedBody"])).hex() == second.entry_id
    assert (await read(server, f"tile/0/000.p/{logged + 2}") or b"")[-32:].hex() == second.entry_id


async def test_the_secret_may_come_from_a_callable(server: Tested) -> None:
    def missing() -> str:
        raise LookupError("not set")

    assert await HttpToken(server.token_url, secret=lambda: server.token_secret, subject=WHO)()
    with pytest.raises(UsageError):
        await HttpToken(server.token_url, secret=missing, subject=WHO)()


def test_importing_the_clients_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "import cockpit.backends.signing, cockpit.backends.registry, cockpit.backends.notify\n"
        "import cockpit.backends.forge, cockpit.evidence.signatures\n"
        "print(*{'sigstore', 'cryptography', 'httpx', 'requests', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


async def test_signs_statements_with_their_bytes_canonical(server: Tested) -> None:
    made = await client(server).sign_statement(STATEMENT, deadline=20)
    envelope = json.loads(made.bundle_json)["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert b64decode(envelope["payload"]) == rfc8785.dumps(STATEMENT)


@pytest.mark.parametrize(
    "who", ["ann@rehearsal.invalid", "https://forge.invalid/platform/.ci/release@refs/heads/main"]
)
async def test_people_and_jobs_sign_alike(server: Tested, who: str) -> None:
    """Their certificates name one issuer, whatever way their tokens came."""
    secret = server.enrol(who)
    token = HttpToken(server.token_url, secret=lambda: secret, subject=who)
    backend = SigstoreSigning(server.trust_config(), token=token, identity=who, issuer=server.issuer)
    assert (await backend.sign_bytes(b"data", deadline=20)).identity == who


async def test_signs_many_at_once(server: Tested) -> None:
    backend = client(server)
    before = await size(server)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backend.sign_bytes(b"%d" % i, deadline=30)) for i in range(8)]
    assert sorted(task.result().log_index for task in tasks) == list(range(before, before + 8))


@pytest.mark.parametrize("statement", [{}, {**STATEMENT, "subject": []}, {**STATEMENT, "x": float("nan")}])
async def test_a_malformed_statement_is_not_signed(server: Tested, statement: dict[str, Any]) -> None:
    before = await size(server)
    with pytest.raises(EvidenceError):
        await client(server).sign_statement(statement, deadline=20)
    assert await size(server) == before


async def outage(
    server: Tested, token: TokenSource, service: Service, kind: Fault, *, deadline: float
) -> None:
    """Sign while a service fails: it ends as our error in our time, leaves no entry, and works again."""
    backend = client(server, token)
    await backend.sign_bytes(b"warm", deadline=20)
    before = await size(server)
    await server.fault(service, kind)
    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(BackendUnreachable):
                await backend.sign_bytes(b"data", deadline=deadline)
    finally:
        await server.fault(service, None)
    # What hung may still do what it was asked, once it goes on.
    assert kind == "hang" or await size(server) == before
    again = await backend.sign_bytes(b"data", deadline=20)
    assert kind == "hang" or again.log_index == before


SERVICES = ("oidc", "fulcio", "rekor", "tsa")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_gone_is_unreachable(server: Tested, secret: str, service: Service) -> None:
    token = HttpToken(server.token_url, secret=secret, subject=WHO)
    await outage(server, token, service, "refuse", deadline=20)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_hanging_service_is_left_at_the_deadline(
    server: Tested, secret: str, service: Service
) -> None:
    token = HttpToken(server.token_url, secret=secret, subject=WHO)
    await outage(server, token, service, "hang", deadline=0.5)


@pytest.mark.parametrize("service", SERVICES)
async def test_an_erring_service_is_unreachable(service: Service) -> None:
    async with SigstoreServer() as server:
        token = HttpToken(server.token_url, secret=lambda: server.token_secret, subject=WHO)
        await outage(server, token, service, "error", deadline=20)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["refuse", "hang"])
async def test_without_its_log_the_ca_certifies_nothing(real_sigstore: ThreadedSigstore, kind: Fault) -> None:
    backend = client(real_sigstore)
    await backend.sign_bytes(b"warm", deadline=20)
    await real_sigstore.fault("ctlog", kind)
    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(BackendUnreachable):
                await backend.sign_bytes(b"data", deadline=2)
    finally:
        await real_sigstore.fault("ctlog", None)
    assert (await backend.sign_bytes(b"data", deadline=20)).log_index > 0


@pytest.mark.real
async def test_another_client_that_goes_away_does_not_cost_the_signature(
    real_sigstore: ThreadedSigstore,
) -> None:
    """Rekor then gives up all it is asked, for up to a second."""
    backend = client(real_sigstore)
    rude = client(real_sigstore)
    await backend.sign_bytes(b"warm", deadline=20)
    for number in range(2):
        async with asyncio.TaskGroup() as group:
            made = group.create_task(backend.sign_bytes(b"made %d" % number, deadline=30))
            for _ in range(3):
                with pytest.raises(BackendUnreachable):
                    await rude.sign_bytes(b"left", deadline=0.3)
        assert made.result().log_index > 0


async def test_a_log_that_gives_up_is_asked_again() -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if len(asked) < wanted:
            return web.json_response({"code": 1, "message": "add entry: await: context canceled"}, status=499)
        async with httpx.AsyncClient(trust_env=False) as http:
            passed = await http.post(server.url("rekor") + request.path, content=await request.read())
        return web.Response(body=passed.content, status=passed.status_code)

    async with SigstoreServer() as server, serving(answer) as base:
        config = json.loads(server.trust_config())
        config["signingConfig"]["rekorTlogUrls"][0]["url"] = base
        backend = SigstoreSigning(
            json.dumps(config), token=given(server.token(WHO)), identity=WHO, issuer=server.issuer
        )
        wanted = 2
        assert (await backend.sign_bytes(b"data", deadline=20)).log_index == 0
        assert len(asked) == 2
        wanted = 1000
        with pytest.raises(BackendUnreachable):
            await backend.sign_bytes(b"data", deadline=2.5)
        assert len(asked) in (3, 4, 5)


async def test_refusals_are_told_from_outages(server: Tested, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong secret")
    with pytest.raises(BackendRefused) as refused:
        await client(server, HttpToken(server.token_url, secret=f"file:{wrong}", subject=WHO)).sign_bytes(
            b"data", deadline=20
        )
    assert refused.value.status == 401
    async with SigstoreServer() as other:
        stranger = other.token(WHO)
    with pytest.raises(BackendRefused) as refused:
        await client(server, given(stranger)).sign_bytes(b"data", deadline=20)
    assert refused.value.status == 400
    assert "signingCert" in str(refused.value)


async def test_a_certificate_for_someone_else_is_garbage(server: Tested) -> None:
    token = given(server.token("https://rehearsal.invalid/somebody-else"))
    with pytest.raises(BackendGarbage):
        await client(server, token).sign_bytes(b"data", deadline=20)


@pytest.mark.parametrize("token", ["", "a.b.c", "no token"])
async def test_an_unusable_token_is_garbage(server: Tested, token: str) -> None:
    with pytest.raises(BackendGarbage):
        await client(server, given(token)).sign_bytes(b"data", deadline=20)


@pytest.mark.parametrize("config", ["", "{}", "[]", '{"mediaType":"x"}'])
async def test_an_unusable_trust_configuration_is_a_usage_error(server: Tested, config: str) -> None:
    backend = SigstoreSigning(config, token=given(server.token(WHO)), identity=WHO, issuer=server.issuer)
    with pytest.raises(UsageError):
        await backend.sign_bytes(b"data", deadline=20)


async def test_another_servers_root_does_not_accept_the_signature(server: Tested) -> None:
    async with SigstoreServer() as other:
        config = json.loads(server.trust_config())
        config["trustedRoot"] = json.loads(other.trusted_root())
        backend = SigstoreSigning(
            json.dumps(config), token=given(server.token(WHO)), identity=WHO, issuer=server.issuer
        )
        with pytest.raises(BackendGarbage):
            await backend.sign_bytes(b"data", deadline=20)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _garbage(_: web.Request) -> web.StreamResponse:
    return web.Response(text="\x1b[2J<not json>")


async def _empty(_: web.Request) -> web.StreamResponse:
    return web.json_response({})


async def _list(_: web.Request) -> web.StreamResponse:
    return web.json_response([[[]]])


async def _huge(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * 200_000)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("handler", [_garbage, _empty, _list, _huge])
@pytest.mark.parametrize("part", ["caUrls", "rekorTlogUrls", "tsaUrls", "token"])
async def test_nonsense_is_garbage(server: Tested, secret: str, part: str, handler: Handler) -> None:
    async with serving(handler) as base:
        config = json.loads(server.trust_config())
        token: TokenSource = HttpToken(server.token_url, secret=secret, subject=WHO)
        if part == "token":
            token = HttpToken(base, secret=secret, subject=WHO)
        else:
            config["signingConfig"][part][0]["url"] = base
        backend = SigstoreSigning(json.dumps(config), token=token, identity=WHO, issuer=server.issuer)
        with pytest.raises(BackendError) as caught:
            await backend.sign_bytes(b"data", deadline=20)
        assert isinstance(caught.value, BackendGarbage), repr(caught.value)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["plain", "env:", "env:COCKPIT_TEST_NO_SUCH_VARIABLE", "file:/no/such/file"]
)
async def test_secrets_are_references(server: Tested, reference: str) -> None:
    with pytest.raises(UsageError):
        await HttpToken(server.token_url, secret=reference, subject=WHO)()
