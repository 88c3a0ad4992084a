"""The cockpit's own client of the cluster against an API server that fails: what each answer is for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cockpit.backends.cluster import CONFIGMAP, KubernetesCluster, Object
from cockpit.base.errors import BackendError, BackendRefused, BackendUnreachable, Conflict
from cockpit.conductor.effects import EffectsGate
from cockpit.journal.events import EffectDone, EffectFailed, EffectUnknown
from cockpit.rehearsal.kube import KubeServer, matching
from tests.conductor.support import events, gate_of, recording
from tests.contract.kube_fixtures import KubeCluster, config_map, kube_seam, kube_server, until

__all__ = ["kube_seam", "kube_server"]
pytestmark = pytest.mark.contract
NAME = "settings"
Act = Callable[[KubernetesCluster, Object], Awaitable[object]]

ACTS: dict[str, tuple[str, Act]] = {
    "patch": (
        "patch",
        lambda client, found: client.patch(
            CONFIGMAP, NAME, {"data": {"a": "2"}}, resource_version=found["metadata"]["resourceVersion"]
        ),
    ),
    "replace": (
        "update",
        lambda client, found: client.replace(CONFIGMAP, NAME, {**found, "data": {"a": "2"}}),
    ),
    "create": ("create", lambda client, _: client.create(CONFIGMAP, config_map("another"))),
    "delete": ("delete", lambda client, found: client.delete(CONFIGMAP, NAME, uid=found["metadata"]["uid"])),
}


@pytest_asyncio.fixture
async def client(seam: KubeCluster) -> AsyncIterator[KubernetesCluster]:
    made = KubernetesCluster(seam.url, seam.admin, seam.namespace, deadline=20.0)
    await made.connect()
    await made.create(CONFIGMAP, config_map(NAME, a="1"))
    yield made
    await made.close()


async def seen(client: KubernetesCluster) -> dict[str, dict[str, str]]:
    """Return what the world holds."""
    found = await client.list(CONFIGMAP)
    return {one["metadata"]["name"]: one.get("data") or {} for one in found if "root" not in str(one)}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, BackendRefused),
        (403, BackendRefused),
        (409, Conflict),
        (429, BackendUnreachable),
        (500, BackendUnreachable),
        (503, BackendUnreachable),
        (504, BackendUnreachable),
    ],
)
@pytest.mark.parametrize("act", ACTS)
async def test_a_refusal_is_told_from_an_outage(
    client: KubernetesCluster, server: KubeServer, status: int, error: type[BackendError], act: str
) -> None:
    verb, change = ACTS[act]
    read = await client.get(CONFIGMAP, NAME)
    before = await seen(client)
    # Come back in an hour: nobody waits here for that, whoever asked says what is to be done.
    fault = server.faults.fail(matching(verb, "configmaps"), status, retry_after=3600, times=None)
    with pytest.raises(error) as raised:
        await change(client, read)
    assert type(raised.value) is error and "planned by the rehearsal" in str(raised.value)
    assert fault.seen == 1, "asked once: what comes after is for whoever asked"
    server.faults.clear()
    assert await seen(client) == before
    await change(client, read)
    assert await seen(client) != before


@pytest.mark.parametrize("status", [429, 500, 503, None])
async def test_what_may_have_happened_is_unknown_and_done_once(
    client: KubernetesCluster, server: KubeServer, tmp_path: Path, status: int | None
) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder)
        for number, (verb, change) in enumerate(ACTS.values()):
            read = await client.get(CONFIGMAP, NAME)
            target = matching(verb, "configmaps")
            fault = (
                server.faults.cut(target, after=True, times=None)
                if status is None
                else server.faults.fail(target, status, after=True, times=None)
            )
            with pytest.raises(BackendUnreachable):
                await sent(gate, change, client, read)
            assert fault.seen == 1, f"{verb} was sent twice"
            server.faults.clear()
            assert len(await events(recorder, EffectUnknown)) == number + 1
        # The world says what became of each: all of it was done.
        assert await seen(client) == {"another": {}}
        assert await events(recorder, EffectFailed) == [] and await events(recorder, EffectDone) == []


async def sent(gate: EffectsGate, change: Act, client: KubernetesCluster, read: Object) -> object:
    return await gate.forward("stamp", "test", lambda: change(client, read), env="stage", by="A1")


@pytest.mark.parametrize("status", [409, 401, 403])
async def test_what_was_refused_is_failed(
    client: KubernetesCluster, server: KubeServer, tmp_path: Path, status: int
) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder)
        read = await client.get(CONFIGMAP, NAME)
        for number, (verb, change) in enumerate(ACTS.values()):
            server.faults.fail(matching(verb, "configmaps"), status)
            with pytest.raises((BackendRefused, Conflict)):
                await sent(gate, change, client, read)
            failed = await events(recorder, EffectFailed)
            assert len(failed) == number + 1 and failed[-1].sent
        assert await events(recorder, EffectUnknown) == []


async def test_a_read_is_asked_again_when_a_kept_connection_was_cut(
    client: KubernetesCluster, server: KubeServer
) -> None:
    fault = server.faults.cut(matching("get", "configmaps"))
    assert (await client.get(CONFIGMAP, NAME))["data"] == {"a": "1"}
    assert fault.seen == 1


async def test_a_token_that_has_expired_is_refused_and_a_new_one_is_not(
    seam: KubeCluster, server: KubeServer, client: KubernetesCluster
) -> None:
    server.faults.fail(matching(), 401, times=None)
    for call in (client.get(CONFIGMAP, NAME), client.list(CONFIGMAP)):
        with pytest.raises(BackendRefused, match="token") as refused:
            await call
        assert refused.value.status == 401
    server.faults.clear()
    await client.connect()
    assert (await client.get(CONFIGMAP, NAME))["data"] == {"a": "1"}


async def test_a_token_nobody_knows_is_refused(seam: KubeCluster) -> None:
    stranger = KubernetesCluster(seam.url, "expired", seam.namespace, deadline=20.0)
    try:
        with pytest.raises(BackendRefused, match="token") as refused:
            await stranger.connect()
        assert refused.value.status == 401
    finally:
        await stranger.close()


# -- certificates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "until_", "trusted", "name"),
    [
        (-10, -1, True, "127.0.0.1"),
        (1, 10, True, "127.0.0.1"),
        (-1, 10, False, "127.0.0.1"),
        (-1, 10, True, "127.0.0.2"),
    ],
    ids=["expired", "not yet", "another CA", "another name"],
)
async def test_a_certificate_that_does_not_hold_is_no_connection(
    seam: KubeCluster, tmp_path: Path, since: int, until_: int, trusted: bool, name: str
) -> None:
    served, other = Certificate(since, until_, name), Certificate(-1, 10, name)
    ca = tmp_path / "ca.pem"
    ca.write_bytes((served if trusted else other).pem)
    async with terminating_tls(seam.url, served, tmp_path) as (url, passed):
        client = KubernetesCluster(url, seam.admin, seam.namespace, ca_file=str(ca), deadline=20.0)
        try:
            with pytest.raises(BackendUnreachable, match="certificate"):
                await client.connect()
        finally:
            await client.close()
        assert passed == [], "nothing was sent, the token least of all"


async def test_a_certificate_that_holds_is_a_connection(seam: KubeCluster, tmp_path: Path) -> None:
    served = Certificate(-1, 10, "127.0.0.1")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(served.pem)
    async with terminating_tls(seam.url, served, tmp_path) as (url, passed):
        client = KubernetesCluster(url, seam.admin, seam.namespace, ca_file=str(ca), deadline=20.0)
        await client.connect()
        await client.list(CONFIGMAP)
        await client.close()
        assert passed


class Certificate:
    """A certificate that signs itself, good from `since` to `until` days from now."""

    def __init__(self, since: int, until: int, address: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
        now = dt.datetime.now(dt.UTC)
        public = self._key.public_key()
        self._made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=since))
            .not_valid_after(now + dt.timedelta(days=until))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self._made.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its key."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@asynccontextmanager
async def terminating_tls(
    url: str, certificate: Certificate, folder: Path
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve a plain HTTP server behind TLS; yields the URL and what came through."""
    (folder / "served.pem").write_bytes(certificate.pem + certificate.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "served.pem")
    host, _, port = url.partition("://")[2].partition(":")
    passed: list[bytes] = []
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        there = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pump(reader, there[1], passed))
                tasks.create_task(pump(there[0], writer, []))
        finally:
            there[1].close()
            writer.close()
            handlers.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", passed
    finally:
        server.close()
        for one in tuple(handlers):
            one.cancel()
        await until(lambda: none_left(handlers))


async def none_left(handlers: set[asyncio.Task[None]]) -> bool:
    return not handlers


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[bytes]) -> None:
    try:
        while data := await reader.read(65536):
            kept.append(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
