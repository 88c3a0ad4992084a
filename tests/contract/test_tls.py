"""A certificate authority of one's own: every client of a plan trusts it, and none more than it must."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from cockpit.agentkit.external_transport import ask_url
from cockpit.backends import sigstore_probe
from cockpit.backends.device_flow import DeviceFlow, claims_of
from cockpit.backends.flags import ConfigMapFlags
from cockpit.backends.load import LoadProfile
from cockpit.backends.reach import reach
from cockpit.backends.tls import Tls, read_authorities
from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendError, BackendUnreachable, CockpitError, UsageError
from cockpit.base.redact import Redactor
from cockpit.connecting import Backends, backends_of, tls_of
from cockpit.otlp import OtlpShipper
from cockpit.plan.load import LoadedPlan, parse_plan
from cockpit.rehearsal.real.pki import Served, Validity, serving
from cockpit.rehearsal.release_plan import Data, dump
from cockpit.rehearsal.sigstore import SERVICES, SigstoreServer
from tests.contract.world_support import plan_data

pytestmark = pytest.mark.contract
WHO = "https://release.invalid/conductor"


@dataclass
class Host:
    """A server over TLS that speaks no protocol of ours: it counts who got through to it."""

    url: str
    seen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Around:
    """What a client is tried with."""

    loaded: LoadedPlan
    backends: Backends
    url: str
    trust_config: str

    @property
    def tls(self) -> Tls:
        return tls_of(self.loaded.plan, self.loaded.base)


Try = Callable[[Around], Awaitable[object]]


async def _flags(around: Around) -> object:
    flags = around.backends.handles.flags
    assert isinstance(flags, ConfigMapFlags)
    [found] = await flags.evaluate("a.flag", ["tenant"])
    return found.status


async def _read(around: Around) -> object:
    http = around.backends.handles.http
    assert http is not None
    return await http.get(around.url)


async def _decide(around: Around) -> object:
    decisions = around.backends.handles.decisions
    assert decisions is not None
    return await decisions.decide({})


async def _post(around: Around) -> object:
    webhooks = around.backends.handles.webhooks
    assert webhooks is not None
    return await webhooks.post(f"{around.url}/hook", "kind", {}, key="k")


async def _issues(around: Around) -> object:
    issues = around.backends.handles.issues
    assert issues is not None
    return await issues.get(1)


async def _load(around: Around) -> object:
    load = around.backends.handles.load
    assert load is not None
    return await load.run(LoadProfile("p", 10.0, 0.5, {"web": ("/",)}))


async def _stamp(around: Around) -> object:
    def stamp() -> object:
        return sigstore_probe.stamped(around.trust_config, 20.0, around.tls)

    return await asyncio.to_thread(stamp)


async def _log_in(around: Around) -> object:
    return await DeviceFlow(around.url, clock=SystemClock(), tls=around.tls).token(
        lambda _: None, deadline=20
    )


async def _claims(around: Around) -> object:
    return await claims_of("a.b.c", around.url, client_id="sigstore", timeout=20, tls=around.tls)


async def _external(around: Around) -> object:
    return await ask_url(around.url, b"{}", token="", trace_id="0" * 32, deadline=20, tls=around.tls)


async def _trace(around: Around) -> object:
    def ship() -> int:
        shipper = OtlpShipper(around.url, tls=around.tls)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(shipper))
        provider.get_tracer("t").start_span("s").end()
        shipper.close(20)
        return shipper.lost

    if await asyncio.to_thread(ship):
        raise BackendUnreachable("lost")
    return None


CLIENTS: dict[str, Try] = {
    "prometheus": lambda a: a.backends.metrics.query("1"),
    "kubernetes": lambda a: a.backends.cluster.connect(),
    "registry": lambda a: a.backends.registry.ping(),
    "policy": _decide,
    "signing": lambda a: a.backends.signing.sign_bytes(b"data", deadline=20),
    "time-stamps": _stamp,
    "flags": _flags,
    "issues": _issues,
    "webhooks": _post,
    "entry": _read,
    "load": _load,
    "login": _log_in,
    "keys": _claims,
    "external agent": _external,
    "traces": _trace,
}
PATHS = {
    "signing": "/token /api/v2/signingCert",
    "time-stamps": "/api/v1/timestamp",
    "flags": "/ofrep/v1/evaluate/flags/a.flag",
    "traces": "/v1/traces",
    "prometheus": "/api/v1/query",
}
"""What was asked for, where that shows which services were reached."""


class _Answers(BaseHTTPRequestHandler):
    """`POST /token` gives a token, `/v1/traces` takes everything, and nothing else is known."""

    protocol_version = "HTTP/1.1"
    seen: list[str]
    token: str

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.seen.append(self.path.partition("?")[0])
        body = json.dumps({"value": self.token}).encode()
        self.send_response(200 if self.seen[-1] in ("/token", "/v1/traces") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    """A thread for each connection, whose handshake it makes; one that fails ends it without a word."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Be quiet: whoever does not trust us hangs up."""


@contextmanager
def host(served: Served, token: str) -> Iterator[Host]:
    """Serve TLS with a certificate."""
    seen: list[str] = []
    server = _Server(("127.0.0.1", 0), type("Answers", (_Answers,), {"seen": seen, "token": token}))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(served.certificate, served.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Host(f"https://127.0.0.1:{server.server_address[1]}", seen)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Signed:
    """A trust configuration, the addresses in it, and a token."""

    trust_config: str
    addresses: tuple[str, ...]
    token: str


@pytest.fixture(scope="module")
def signed() -> Signed:
    """Of a Sigstore that is gone again."""

    async def made() -> Signed:
        async with SigstoreServer() as server:
            return Signed(
                server.trust_config(), tuple(server.url(name) for name in SERVICES), server.token(WHO)
            )

    return asyncio.run(made())


def around(folder: Path, at: Host, signed: Signed, ca_file: str, cluster_ca: str = "") -> Around:
    """Return the clients of a plan all of whose targets are one server, wired as a release's are."""
    data = plan_data()
    text = dump(data).replace("http://127.0.0.1:9", at.url)
    for name in ("kubernetes", "token", "webhook", "issues"):
        (folder / "world" / "secrets").mkdir(parents=True, exist_ok=True)
        (folder / "world" / "secrets" / name).write_text("secret")
    trust = signed.trust_config
    for address in signed.addresses:
        trust = trust.replace(address, at.url)
    (folder / "world" / "trust_config.json").write_text(trust)
    loaded = parse_plan(changed(text, at, ca_file, cluster_ca).encode(), "plan", base=folder)
    backends = backends_of(loaded, SystemClock(), Redactor(), aborting=False)
    return Around(loaded, backends, at.url, trust)


def changed(text: str, at: Host, ca_file: str, cluster_ca: str) -> str:
    from ruamel.yaml import YAML

    data: Data = YAML(typ="safe").load(text)
    targets = data["targets"]
    targets["policy"] = {"engine": "opa", "url": at.url, "deadline": "20s"}
    if cluster_ca:
        targets["kubernetes"]["ca_file"] = cluster_ca
    if ca_file:
        targets["ca_file"] = ca_file
    return dump(data)


async def outcomes(made: Around, at: Host) -> dict[str, str]:
    """Try each client; return which were let in (`in`) and why the others were not."""
    found: dict[str, str] = {}
    for name, client in CLIENTS.items():
        before = len(at.seen)
        try:
            await client(made)
            found[name] = "in"
        except BackendUnreachable as error:
            found[name] = f"out: {error}"
        except CockpitError:
            found[name] = "in"  # and did not like what it found
        asked = at.seen[before:]
        if found[name] == "in" and (not asked or not set(PATHS.get(name, "").split()) <= set(asked)):
            found[name] = f"in, and asked for {asked}"
    await made.backends.close()
    return found


async def test_a_plans_own_authority_is_trusted_by_every_client(tmp_path: Path, signed: Signed) -> None:
    served = serving(tmp_path, "own")
    with host(served, signed.token) as at:
        made = around(tmp_path, at, signed, served.ca.name)
        assert await outcomes(made, at) == dict.fromkeys(CLIENTS, "in")
        assert (await reach(at.url, deadline=20, tls=made.tls)).tls


@pytest.mark.parametrize("trust", ["nobody", "another", "expired"])
async def test_nobody_else_is_trusted_and_nothing_is_sent(tmp_path: Path, signed: Signed, trust: str) -> None:
    gone = Validity(timedelta(days=-2), timedelta(days=-1))
    served = serving(tmp_path, "own", validity=gone if trust == "expired" else Validity())
    other = serving(tmp_path, "other")
    ca_file = {"nobody": "", "another": other.ca.name, "expired": served.ca.name}[trust]
    with host(served, signed.token) as at:
        made = around(tmp_path, at, signed, ca_file)
        found = await outcomes(made, at)
        assert [name for name, how in found.items() if not how.startswith("out: ")] == []
        with pytest.raises(BackendUnreachable):
            await reach(at.url, deadline=20, tls=made.tls)
        assert at.seen == []


async def test_an_authority_of_the_cluster_is_the_only_one_of_the_cluster(
    tmp_path: Path, signed: Signed
) -> None:
    served, other = serving(tmp_path, "own"), serving(tmp_path, "other")
    with host(served, signed.token) as at:
        for everybodys, clusters, through in (
            (served.ca.name, other.ca.name, False),
            (other.ca.name, served.ca.name, True),
        ):
            made = around(tmp_path, at, signed, everybodys, cluster_ca=clusters)
            with pytest.raises(BackendError) as caught:
                await made.backends.cluster.connect()
            await made.backends.close()
            assert isinstance(caught.value, BackendUnreachable) is not through


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "no certificate of an authority"),
        (b"garbage", "cannot be used"),
        (b"\xff" * 10, "cannot be used"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
        (b"x" * (1 << 20) + b"xx", "longer than"),
    ],
)
async def test_a_file_that_is_none_is_told_before_anything_begins(
    tmp_path: Path, signed: Signed, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    at = Host("https://127.0.0.1:9")
    with pytest.raises(UsageError, match=said) as caught:
        around(tmp_path, at, signed, "ca.pem")
    assert caught.value.where == str(tmp_path / "ca.pem") and "ca_file" in caught.value.hint


def test_a_servers_own_certificate_is_no_authority(tmp_path: Path) -> None:
    served = serving(tmp_path, "own")
    with pytest.raises(UsageError, match="no certificate of an authority"):
        read_authorities(served.certificate)


async def test_an_abort_does_not_need_the_file(tmp_path: Path, signed: Signed) -> None:
    served = serving(tmp_path, "own")
    with host(served, signed.token) as at:
        everybodys = tmp_path / "everybody.pem"
        everybodys.write_bytes(served.ca.read_bytes())
        made = around(tmp_path, at, signed, everybodys.name, cluster_ca=served.ca.name)
        await made.backends.close()
        everybodys.unlink()
        with pytest.raises(UsageError):
            backends_of(made.loaded, SystemClock(), Redactor(), aborting=False)
        aborting = backends_of(made.loaded, SystemClock(), Redactor(), aborting=True)
        with pytest.raises(BackendError) as caught:
            await aborting.abort_cluster.connect()
        await aborting.close()
        assert not isinstance(caught.value, BackendUnreachable)
