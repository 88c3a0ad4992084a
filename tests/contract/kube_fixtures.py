"""What the Kubernetes contract suite runs against: a base URL, two tokens and a namespace of its own.

`cluster` is the stand-in and the real API server in turn; `seam` is the stand-in alone, for tests of what
only it has: faults that are planned.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import aiohttp
import pytest
from kubernetes.aio import client
from kubernetes.aio.dynamic import DynamicClient

from cockpit.rehearsal.kube import KubeServer, Rule, User, admin, conductor
from cockpit.rehearsal.real.control_plane import ControlPlane, connection

Obj: TypeAlias = dict[str, Any]
DEADLINE = 20.0
"""Seconds a condition may take to come true on a busy machine; when all is well nothing waits that long."""

DEPLOYMENTS = "apis/apps/v1/namespaces/{ns}/deployments"
PODS = "api/v1/namespaces/{ns}/pods"
CONFIG_MAPS = "api/v1/namespaces/{ns}/configmaps"
EVENTS = "api/v1/namespaces/{ns}/events"
LEASES = "apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
ROUTES = "apis/gateway.networking.k8s.io/v1/namespaces/{ns}/httproutes"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: its status, its JSON body and its headers."""

    status: int
    body: Obj
    headers: dict[str, str]

    def ok(self) -> Obj:
        """Return the body of a success."""
        assert self.status in (200, 201), (self.status, self.body.get("message"))
        return self.body

    def refused(self, status: int, reason: str) -> Obj:
        """Return the body of a refusal, which must be a complete `Status`."""
        assert self.status == status, (self.status, self.body)
        assert (self.body["kind"], self.body["status"]) == ("Status", "Failure")
        assert (self.body["code"], self.body["reason"]) == (status, reason)
        return self.body


@dataclass(frozen=True)
class KubeCluster:
    """One cluster under test; `server` is None when it is a real one.

    `admin` may do everything in the namespace of the test and nothing elsewhere, `conductor` what the cockpit
    documents. `root` is for setting up what belongs to no namespace.
    """

    url: str
    admin: str = field(repr=False)
    conductor: str = field(repr=False)
    namespace: str
    scratch: Path
    http: aiohttp.ClientSession
    root: str = field(repr=False)
    server: KubeServer | None = None
    plane: ControlPlane | None = None
    user: str = "conductor"
    """The name the API server knows the conductor by."""
    drilling: str = field(default="", repr=False)
    """On the stand-in, the token of a conductor whose drills are in this namespace; see `driller`."""

    @property
    def ca_file(self) -> str:
        """The file of the CA to be trusted; empty where there is no TLS."""
        return "" if self.plane is None else str(self.plane.ca_file)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        """Send one request, as the namespace's administrator unless `token` says otherwise; `{ns}` is it."""
        headers = {"Authorization": f"Bearer {self.admin if token is None else token}"}
        if body is not None:
            headers["Content-Type"] = content_type
        url = f"{self.url}/{path.format(ns=self.namespace)}"
        data = None if body is None else aiohttp.JsonPayload(body, content_type=content_type)
        async with self.http.request(method, url, data=data, headers=headers, params=query) as answer:
            return Answer(answer.status, _json(await answer.text()), dict(answer.headers))

    async def everywhere(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request about what belongs to no namespace, or to another."""
        return await self.call(method, path, body, token=self.root)

    async def patch(self, path: str, body: object, kind: str = "merge-patch+json", **query: str) -> Answer:
        """Send a patch of media type `application/<kind>`."""
        return await self.call("PATCH", path, body, content_type=f"application/{kind}", **query)

    async def apply(self, path: str, body: Obj, manager: str, *, force: bool = False) -> Answer:
        """Send a server-side apply."""
        forced = {"force": "true"} if force else {}
        return await self.patch(path, body, "apply-patch+yaml", fieldManager=manager, **forced)

    async def driller(self) -> str:
        """Return the token of a conductor that may drill in this namespace too."""
        if self.plane is None:
            return self.drilling
        return await self.plane.token_for("driller", [self.namespace], drills=[self.namespace])

    async def forget(self) -> None:
        """Make the server forget its history, as it does by itself every few minutes."""
        if self.server is not None:
            self.server.forget_history()
        if self.plane is not None:
            # What is compacted to stays: something newer than all that is to be forgotten.
            last = (await self.call("POST", CONFIG_MAPS, {"metadata": {"generateName": "last-"}})).ok()
            await self.plane.compact(last["metadata"]["resourceVersion"])

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        """Yield a way to the server that can be cut; TLS goes through it as it is."""
        relay = Relay(urlsplit(self.url))
        server = await asyncio.start_server(relay.carry, "127.0.0.1", 0)
        relay.url = f"{relay.target.scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield relay
        finally:
            server.close()
            relay.cut()
            await server.wait_closed()

    @asynccontextmanager
    async def dynamic(self, token: str | None = None, *, url: str = "") -> AsyncIterator[Any]:
        """Yield the dynamic client of the real library, discovery cached in a file of this test."""
        configuration = client.Configuration(host=url or self.url)
        configuration.api_key = {"BearerToken": f"Bearer {token or self.admin}"}
        configuration.ssl_ca_cert = self.ca_file or None
        async with client.ApiClient(configuration) as api:
            cache = str(self.scratch / f"discovery-{secrets.token_hex(4)}")
            try:
                yield await DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]
            finally:
                if api.rest_client.pool_manager is not None:
                    # Without it the library leaves a TLS connection to the garbage collector.
                    await api.rest_client.pool_manager.connector.close(abort_ssl=True)


class Relay:
    """Carries connections to `target`; `cut` ends them all, `hold` lets nothing more through."""

    def __init__(self, target: SplitResult) -> None:
        self.target = target
        self.url = ""
        self.carried = 0
        self.held = 0
        """Bytes kept back."""
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection both ways until either end closes."""
        self.carried += 1
        upstream, forward = await asyncio.open_connection(self.target.hostname, self.target.port)
        ends = {writer, forward}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, forward))
                tasks.create_task(self._pump(upstream, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                if not self._open.is_set():
                    self.held += len(data)
                    return  # never to be sent: the connection only looks alive
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            if self._open.is_set():
                sink.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._writers) // 2

    def hold(self) -> None:
        """Let nothing more through, and leave every connection open."""
        self._open.clear()

    def cut(self) -> None:
        """End every connection without a word; what was held goes on."""
        self._open.set()
        for writer in self._writers:
            writer.transport.abort()


def owner(namespace: str) -> User:
    """Return the user who may do everything in a namespace, and nothing elsewhere."""
    everything = frozenset({"*"})
    return User("owner", (Rule(everything, "*", everything, frozenset({namespace})),))


@asynccontextmanager
async def stand_in(scratch: Path) -> AsyncIterator[KubeCluster]:
    """A stand-in with a namespace and a conductor's rights in it."""
    tokens = {name: secrets.token_urlsafe(24) for name in ("root", "admin", "conductor", "driller")}
    users = {
        tokens["root"]: admin(),
        tokens["admin"]: owner("shop"),
        tokens["conductor"]: conductor(["shop"]),
        tokens["driller"]: conductor(["shop"], "driller", drills=["shop"]),
    }
    server = KubeServer(users, start_delay=0.05, stop_delay=0.05, bookmark_interval=0.2)
    url = await server.start()
    try:
        await server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE)) as http:
            yield KubeCluster(
                url,
                tokens["admin"],
                tokens["conductor"],
                "shop",
                scratch,
                http,
                tokens["root"],
                server=server,
                drilling=tokens["driller"],
            )
    finally:
        await server.stop()


@asynccontextmanager
async def real(plane: ControlPlane, scratch: Path) -> AsyncIterator[KubeCluster]:
    """A namespace of a real control plane and a service account with a conductor's rights in it."""
    namespace = f"shop-{secrets.token_hex(4)}"
    await plane.namespace(namespace)
    token = await plane.token_for("conductor", [namespace])
    owning = await plane.token_of(owner(namespace), namespace)
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    async with connection(context, seconds=DEADLINE) as http:
        yield KubeCluster(
            plane.url,
            owning,
            token,
            namespace,
            scratch,
            http,
            plane.admin_token,
            plane=plane,
            user=f"system:serviceaccount:{namespace}:conductor",
        )
    # The namespace stays: the servers end with the session, and taking it down would keep them busy.


@pytest.fixture(name="real_plane", params=["standin", pytest.param("real", marks=pytest.mark.real)])
def both_planes(request: pytest.FixtureRequest) -> ControlPlane | None:
    """The session's control plane for the real half of a suite, None for the stand-in's."""
    plane: ControlPlane | None = request.getfixturevalue("plane") if request.param == "real" else None
    return plane


@pytest.fixture(name="cluster")
async def kube_cluster(real_plane: ControlPlane | None, tmp_path: Path) -> AsyncIterator[KubeCluster]:
    """A cluster with a namespace and a conductor's rights in it."""
    async with stand_in(tmp_path) if real_plane is None else real(real_plane, tmp_path) as cluster:
        yield cluster


@pytest.fixture(name="seam")
async def kube_seam(tmp_path: Path) -> AsyncIterator[KubeCluster]:
    """The stand-in alone."""
    async with stand_in(tmp_path) as cluster:
        yield cluster


@pytest.fixture(name="server")
def kube_server(seam: KubeCluster) -> KubeServer:
    """The stand-in's server, for tests of its seams."""
    assert seam.server is not None
    return seam.server


def _json(text: str) -> Obj:
    """Return a JSON answer; what is no JSON object is under `text`."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": text}


async def until(probe: Callable[[], Awaitable[Any]]) -> Any:
    """Poll until `probe` returns something true, and return it; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while True:
            if found := await probe():
                return found
            await asyncio.sleep(0.02)


def config_map(name: str = "settings", **data: str) -> Obj:
    """A config map."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def event(name: str, namespace: str) -> Obj:
    """An event about nothing much: of all kinds the one an API server serves without a cache."""
    about = {"kind": "Pod", "name": "one", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": about}


def deployment(name: str = "web", *, replicas: int = 2, image: str = "shop/web:1", **spec: Any) -> Obj:
    """A deployment of one container."""
    labels = {"app": name}
    container = {
        "name": "app",
        "image": image,
        "ports": [{"containerPort": 8080}],
        "env": [{"name": "A", "value": "1"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            **spec,
        },
    }


def route(name: str = "web", *weights: object) -> Obj:
    """An HTTPRoute over services `web-0`, `web-1`, … with the given weights."""
    backends = [
        {"name": f"web-{number}", "port": 80, "weight": weight} for number, weight in enumerate(weights)
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}]},
    }


def condition(obj: Obj, kind: str) -> Obj:
    """Return a condition of the object's status, empty when it is not there."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})
