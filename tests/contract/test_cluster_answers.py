"""What the cockpit's client of the cluster makes of an API server's status, and of its certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from cockpit.backends.cluster import CONFIGMAP, KubernetesCluster
from cockpit.base.errors import BackendError, BackendRefused, BackendUnreachable, Conflict
from cockpit.rehearsal.kube import KubeServer, matching
from cockpit.rehearsal.real import pki
from tests.contract.kube_fixtures import CONFIG_MAPS, DEADLINE, KubeCluster, config_map
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract

Call = Callable[[KubernetesCluster, str], Awaitable[object]]
STATUSES: dict[int, type[BackendError]] = {
    400: BackendRefused,
    401: BackendRefused,
    403: BackendRefused,
    404: BackendRefused,
    409: Conflict,
    410: BackendRefused,
    422: BackendRefused,
    429: BackendUnreachable,
    500: BackendUnreachable,
    502: BackendUnreachable,
    503: BackendUnreachable,
    504: BackendUnreachable,
}
CALLS: dict[str, tuple[str, Call]] = {
    "read": ("get", lambda kube, _: kube.get(CONFIGMAP, "settings")),
    "write": (
        "patch",
        lambda kube, at: kube.patch(CONFIGMAP, "settings", {"data": {"a": "2"}}, resource_version=at),
    ),
}


def client(url: str, token: str, namespace: str, ca: Path | str = "") -> KubernetesCluster:
    return KubernetesCluster(url, token, namespace, ca_file=str(ca), deadline=DEADLINE)


@pytest.mark.parametrize("after", [False, True], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_is_an_error_of_its_kind_and_is_asked_once(
    seam: KubeCluster, server: KubeServer, status: int, call: str, after: bool
) -> None:
    made = (await seam.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    verb, ask = CALLS[call]
    kube = client(seam.url, seam.conductor, seam.namespace)
    try:
        await kube.connect()
        fault = server.faults.fail(matching(verb, "configmaps"), status, times=None, after=after)
        with pytest.raises(BackendError) as found:
            await ask(kube, made["metadata"]["resourceVersion"])
        # Not asked again: without a Retry-After nobody says that it was not done.
        assert (type(found.value), fault.seen) == (STATUSES[status], 1)
        assert isinstance(found.value, Conflict) or str(status) in found.value.what
        if isinstance(found.value, BackendRefused):
            assert found.value.status == status
        server.faults.clear()
        stored = await kube.get(CONFIGMAP, "settings")
        assert stored["data"]["a"] == ("2" if call == "write" and after else "1")
    finally:
        await kube.close()


class Listener:
    """A server behind TLS that answers nothing and counts what it hears."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(1 << 16):
                self.heard += data
                if b"\r\n\r\n" in self.heard:
                    said = b'{"gitVersion":"v1"}'
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\nContent-Type: application/json"
                    writer.write(head.encode() + b"\r\n\r\n" + said)
                    await writer.drain()
        except OSError:
            pass  # the client went away in the handshake
        finally:
            writer.close()


@asynccontextmanager
async def listening(served: pki.Served) -> AsyncIterator[tuple[str, Listener]]:
    """Serve with a certificate; give the URL and who listens."""
    context, listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), Listener()
    context.load_cert_chain(served.certificate, served.key)
    async with await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", listener


YEAR, HOUR = timedelta(days=365), timedelta(hours=1)
WRONG: dict[str, tuple[pki.Validity, bool, bool, str]] = {
    "expired": (pki.Validity(-YEAR, -HOUR), True, True, "expired"),
    "not yet valid": (pki.Validity(HOUR, YEAR), True, True, "not yet valid"),
    "of another CA": (pki.Validity(-HOUR, YEAR), True, False, "certificate verify failed"),
    "of another name": (pki.Validity(-HOUR, YEAR), False, True, "IP address mismatch"),
}
"""Validity, whether it is this host's, whether the CA is the one that is trusted, and what must be said."""


@pytest.mark.parametrize("name", WRONG)
async def test_a_certificate_that_does_not_hold_gets_to_hear_nothing(tmp_path: Path, name: str) -> None:
    validity, here, trusted, said = WRONG[name]
    served = pki.serving(tmp_path / "pki", "apiserver", "other.invalid", validity=validity, loopback=here)
    ca = served.ca if trusted else pki.serving(tmp_path / "other", "other").ca
    async with listening(served) as (url, listener):
        kube = client(url, "t0ken-nobody-may-hear", "shop", ca)
        try:
            with pytest.raises(BackendUnreachable, match="TLS") as found:
                await kube.connect()
        finally:
            await kube.close()
    assert said in found.value.what and "ca_file" in found.value.hint
    assert listener.heard == b""


async def test_a_certificate_that_holds_is_spoken_to(tmp_path: Path) -> None:
    """What the one above would look like if it could not fail."""
    served = pki.serving(tmp_path / "pki", "apiserver", validity=pki.Validity(-HOUR, YEAR))
    async with listening(served) as (url, listener):
        kube = client(url, "t0ken", "shop", served.ca)
        await kube.connect()
        await kube.close()
    assert b"Bearer t0ken" in listener.heard and listener.connections == 1
