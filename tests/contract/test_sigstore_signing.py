"""The real signing client against the Sigstore stand-in: signatures, and every way a service can fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
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

pytestmark = pytest.mark.contract
WHO = "https://rehearsal.invalid/conductor"
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "evidence.zip", "digest": {"sha256": "ab" * 32}}],
    "predicateType": "https://release-cockpit.invalid/test/v1",
    "predicate": {"words": "Grüße"},
}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path, server: SigstoreServer) -> str:
    path = tmp_path / "secret"
    path.write_text(server.token_secret + "\n")
    return f"file:{path}"


def given(token: str) -> TokenSource:
    async def source() -> str:
        return token

    return source


def client(server: SigstoreServer, token: TokenSource | None = None) -> SigstoreSigning:
    return SigstoreSigning(
        server.trust_config(), token=token or given(server.token(WHO)), identity=WHO, issuer=server.issuer
    )


async def test_signs_bytes(server: SigstoreServer, secret: str) -> None:
    backend = client(server, HttpToken(server.token_url, secret=secret, subject=WHO))
    before = datetime.now(UTC) - timedelta(seconds=2)
    first = await backend.sign_bytes(b"one", deadline=20)
    second = await backend.sign_bytes(b"two", deadline=20)
    assert [first.log_index, second.log_index] == [0, 1]
    assert (first.identity, first.issuer) == (WHO, server.issuer)
    assert before <= first.integrated_at <= datetime.now(UTC)
    bundle = json.loads(second.bundle_json)
    assert rfc8785.dumps(bundle) == second.bundle_json
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    [entry] = bundle["verificationMaterial"]["tlogEntries"]
    assert leaf_hash(b64decode(entry["canonicalizedBody"])).hex() == second.entry_id
    logged = server.log.entry(1)
    assert logged["canonicalizedBody"] == entry["canonicalizedBody"]


async def test_the_secret_may_come_from_a_callable(server: SigstoreServer) -> None:
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


async def test_signs_statements_with_their_bytes_canonical(server: SigstoreServer) -> None:
    made = await client(server).sign_statement(STATEMENT, deadline=20)
    envelope = json.loads(made.bundle_json)["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert b64decode(envelope["payload"]) == rfc8785.dumps(STATEMENT)


async def test_signs_many_at_once(server: SigstoreServer) -> None:
    backend = client(server)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backend.sign_bytes(b"%d" % i, deadline=30)) for i in range(8)]
    assert sorted(task.result().log_index for task in tasks) == list(range(8))


@pytest.mark.parametrize("statement", [{}, {**STATEMENT, "subject": []}, {**STATEMENT, "x": float("nan")}])
async def test_a_malformed_statement_is_not_signed(server: SigstoreServer, statement: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError):
        await client(server).sign_statement(statement, deadline=20)
    assert len(server.log) == 0


@pytest.mark.parametrize("service", ["oidc", "fulcio", "rekor", "tsa"])
@pytest.mark.parametrize("kind", ["error", "refuse"])
async def test_a_failing_service_is_unreachable(
    server: SigstoreServer, secret: str, service: Service, kind: Fault
) -> None:
    backend = client(server, HttpToken(server.token_url, secret=secret, subject=WHO))
    await server.fault(service, kind)
    with pytest.raises(BackendUnreachable):
        await backend.sign_bytes(b"data", deadline=20)
    assert len(server.log) == 0  # no entry is left behind, whichever service failed
    await server.fault(service, None)
    assert (await backend.sign_bytes(b"data", deadline=20)).log_index == 0


@pytest.mark.parametrize("service", ["oidc", "fulcio", "rekor", "tsa"])
async def test_a_hanging_service_is_left_at_the_deadline(
    server: SigstoreServer, secret: str, service: Service
) -> None:
    backend = client(server, HttpToken(server.token_url, secret=secret, subject=WHO))
    await backend.sign_bytes(b"warm", deadline=20)
    await server.fault(service, "hang")
    with pytest.raises(BackendUnreachable):
        await backend.sign_bytes(b"data", deadline=0.5)


async def test_refusals_are_told_from_outages(server: SigstoreServer, tmp_path: Path) -> None:
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
    assert refused.value.status == 401
    assert "signingCert" in str(refused.value)


async def test_a_certificate_for_someone_else_is_garbage(server: SigstoreServer) -> None:
    token = given(server.token("https://rehearsal.invalid/somebody-else"))
    with pytest.raises(BackendGarbage):
        await client(server, token).sign_bytes(b"data", deadline=20)


@pytest.mark.parametrize("token", ["", "a.b.c", "no token"])
async def test_an_unusable_token_is_garbage(server: SigstoreServer, token: str) -> None:
    with pytest.raises(BackendGarbage):
        await client(server, given(token)).sign_bytes(b"data", deadline=20)


@pytest.mark.parametrize("config", ["", "{}", "[]", '{"mediaType":"x"}'])
async def test_an_unusable_trust_configuration_is_a_usage_error(server: SigstoreServer, config: str) -> None:
    backend = SigstoreSigning(config, token=given(server.token(WHO)), identity=WHO, issuer=server.issuer)
    with pytest.raises(UsageError):
        await backend.sign_bytes(b"data", deadline=20)


async def test_another_servers_root_does_not_accept_the_signature(server: SigstoreServer) -> None:
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


@pytest.mark.parametrize("handler", [_garbage, _empty, _list, _huge])
@pytest.mark.parametrize("part", ["caUrls", "rekorTlogUrls", "tsaUrls", "token"])
async def test_nonsense_is_garbage(server: SigstoreServer, secret: str, part: str, handler: Handler) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
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
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "reference", ["plain", "env:", "env:COCKPIT_TEST_NO_SUCH_VARIABLE", "file:/no/such/file"]
)
async def test_secrets_are_references(server: SigstoreServer, reference: str) -> None:
    with pytest.raises(UsageError):
        await HttpToken(server.token_url, secret=reference, subject=WHO)()
