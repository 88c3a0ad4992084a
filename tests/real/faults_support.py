"""The cockpit's clients, each behind a real toxiproxy: what they are asked, and what is in between.

The servers behind the proxies are the stand-ins, for each fault and every client, and the real ones for those
that have one (`faults_servers`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from cockpit.backends.cluster import CONFIGMAP, KubernetesCluster
from cockpit.backends.flags import ConfigMapFlags
from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy_opa import OpaEngine, OpaHttp, OpaPolicyStore
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.flags import FlagsServer, serving_flags
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rehearsal.kube import KubeServer, admin
from cockpit.rehearsal.opa import OpaServer
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.real.toxiproxy import Proxy, Toxic, Toxiproxy, toxiproxy
from cockpit.rehearsal.registry import Image, RegistryServer, build_image
from cockpit.rehearsal.sigstore import Service, SigstoreServer
from cockpit.rehearsal.webhook import WebhookReceiver
from tests.real.faults_servers import MAP, POLICY, SPACE, Behind, Signing, stock
from tests.real.fixtures import need

FLAGS = "flags"
WHO = "https://rehearsal.invalid/conductor"
SECRET = "s3cret-of-the-webhook"
DEFINITIONS = {
    "flags": {"search": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}}
}
BOUND = 60.0
"""Seconds within which anything ends, on a busy machine: far above every client's own deadline."""
SOON = 0.6
"""A client's deadline where it is to run out."""
PATIENT = 30.0
"""A client's deadline where it is not to run out."""


@dataclass(frozen=True)
class World:
    """The stand-ins behind the proxies."""

    kube: KubeServer
    prometheus: PrometheusServer
    sigstore: SigstoreServer
    opa: OpaServer
    registry: RegistryServer
    image: Image
    webhook: WebhookReceiver
    issues: IssuesServer
    flags: FlagsServer
    scratch: Path
    kube_token: str = "root"
    kube_ca: str = ""
    opa_token: str = ""

    async def config_map(self) -> dict[str, Any]:
        """Return the ConfigMap without a way round: as it is in the cluster."""
        client = KubernetesCluster(self.kube.url, "root", SPACE, deadline=PATIENT)
        try:
            await client.connect()
            return await client.get(CONFIGMAP, MAP)
        finally:
            await client.close()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Run every stand-in."""
    image = build_image("web", "v3.0.0")
    kube = KubeServer({"root": admin()})
    await kube.start()
    try:
        async with AsyncExitStack() as stack:
            await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
            for name, data in ((MAP, {"a": "1"}), (FLAGS, {"flags.json": json.dumps(DEFINITIONS)})):
                await kube.apply(
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": name, "namespace": SPACE},
                        "data": data,
                    }
                )
            registry = await stack.enter_async_context(RegistryServer())
            stock(registry.repository("intelgraph/web"), image)
            flags = await stack.enter_async_context(
                serving_flags(kube.url, "root", namespace=SPACE, configmap=FLAGS)
            )
            issues = await stack.enter_async_context(IssuesServer())
            issues.add("somebody else's")
            yield World(
                kube=kube,
                prometheus=await stack.enter_async_context(PrometheusServer()),
                sigstore=await stack.enter_async_context(SigstoreServer()),
                opa=await stack.enter_async_context(OpaServer({"p": POLICY})),
                registry=registry,
                image=image,
                webhook=await stack.enter_async_context(
                    WebhookReceiver(folder / "webhooks.jsonl", secret=SECRET)
                ),
                issues=issues,
                flags=flags,
                scratch=folder,
            )
    finally:
        await kube.stop()


@dataclass
class Made:
    """A client behind a proxy. `ask` is right when it returns, and has left the same however often asked."""

    ask: Callable[[], Awaitable[object]]
    close: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))


Maker = Callable[[World, Callable[[str], str], float], Awaitable[Made]]
"""World, what makes a URL one through the proxy, deadline in seconds → a client that is ready."""
BehindMaker = Callable[[Behind, Callable[[str], str], float], Awaitable[Made]]
SigningMaker = Callable[[Signing, Callable[[str], str], float], Awaitable[Made]]
"""Those that need no stand-in."""


async def _cluster(w: Behind, via: Callable[[str], str], deadline: float) -> tuple[KubernetesCluster, Made]:
    client = KubernetesCluster(via(w.kube.url), w.kube_token, SPACE, ca_file=w.kube_ca, deadline=deadline)
    await client.connect()
    return client, Made(lambda: client.get(CONFIGMAP, MAP), client.close)


async def cluster_read(w: Behind, via: Callable[[str], str], deadline: float) -> Made:
    """Read an object."""
    return (await _cluster(w, via, deadline))[1]


async def cluster_write(w: Behind, via: Callable[[str], str], deadline: float) -> Made:
    """Write an object on the version read."""
    client, made = await _cluster(w, via, deadline)

    async def ask() -> object:
        found = await client.get(CONFIGMAP, MAP)
        version = found["metadata"]["resourceVersion"]
        return await client.patch(CONFIGMAP, MAP, {"data": {"a": "1"}}, resource_version=version)

    return Made(ask, made.close)


async def metrics(w: Behind, via: Callable[[str], str], deadline: float) -> Made:
    """Ask for a number."""
    client = PrometheusMetrics(
        via(w.prometheus.url), deadline=deadline, connect_timeout=deadline, read_timeout=deadline
    )

    async def ask() -> object:
        [sample] = (await client.query("vector(1)")).samples
        return sample

    return Made(ask, client.close)


def signing(service: Service) -> SigningMaker:
    """Sign, one of the services being behind the proxy."""

    async def make(w: Signing, via: Callable[[str], str], deadline: float) -> Made:
        plain, token_url, config = w.sigstore.url(service), w.sigstore.token_url, w.sigstore.trust_config()
        if service == "oidc":
            token_url = via(token_url)
        else:
            config = config.replace(plain, via(plain))
        token = HttpToken(token_url, secret=lambda: w.sigstore.token_secret, subject=WHO, timeout=deadline)
        backend = SigstoreSigning(config, token=token, identity=WHO, issuer=w.sigstore.issuer)
        return Made(lambda: backend.sign_bytes(b"evidence", deadline=deadline))

    return make


async def policy_decision(w: Behind, via: Callable[[str], str], deadline: float) -> Made:
    """Ask for a decision."""
    engine = OpaEngine(OpaHttp(via(w.opa.url), token=w.opa_token, deadline=deadline), package="p")

    async def ask() -> object:
        decision = await engine.decide({"a": 1})
        assert decision.allow
        return decision

    return Made(ask)


async def policy_write(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """Put a policy."""
    store = OpaPolicyStore(OpaHttp(via(w.opa.url), deadline=deadline))

    async def ask() -> object:
        await store.put("p", POLICY)
        assert w.opa.policies == {"p": POLICY}
        return True

    return Made(ask)


async def registry(w: Behind, via: Callable[[str], str], deadline: float) -> Made:
    """Read an image's digest, config and attached bundles."""
    client = OciRegistry(via(w.registry.url), deadline=deadline)

    async def ask() -> object:
        digest = await client.resolve("intelgraph/web", "v3.0.0")
        assert digest == w.image.digest
        assert (await client.config("intelgraph/web", digest))["os"] == "linux"
        assert await client.bundles("intelgraph/web", digest) == (b'{"bundle": 1}',)
        return digest

    return Made(ask, client.close)


async def notify(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """Post a message, always the same."""
    url = via(w.webhook.url)
    client = Webhook({url: SECRET}, deadline=deadline)
    return Made(lambda: client.post(url, "step", {"weight": 10}, key="message-1"))


def _issues(w: World, via: Callable[[str], str], deadline: float) -> GitHubIssues:
    return GitHubIssues(
        via(w.issues.url), w.issues.repository, w.issues.token, clock=SystemClock(), deadline=deadline
    )


async def issues_read(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """List issues."""
    client = _issues(w, via, deadline)
    return Made(client.issues)


async def issues_write(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """File an issue once."""
    client = _issues(w, via, deadline)
    return Made(lambda: client.file_once("incident", "faults:1", "an incident", "text"))


async def _flags(w: World, kube: str, evaluate: str, deadline: float) -> ConfigMapFlags:
    made = ConfigMapFlags(
        KubernetesCluster(kube, "root", SPACE, deadline=deadline),
        configmap=FLAGS,
        key="flags.json",
        evaluate_url=evaluate,
        deadline=deadline,
    )
    await made.read()
    return made


async def flags_seen(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """Ask the flag service what tenants see."""
    client = await _flags(w, w.kube.url, via(w.flags.url), deadline)

    async def ask() -> object:
        answers = await client.evaluate("search", ["t1", "t2", "t3"])
        assert [json.loads(one.body)["value"] for one in answers] == [True, True, True]
        return answers

    return Made(ask, client.close)


async def flags_write(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """Write the flags' definitions."""
    client = await _flags(w, via(w.kube.url), w.flags.url, deadline)

    async def ask() -> object:
        await client.stamp(fence=1)
        return True

    return Made(ask, client.close)


async def http_read(w: World, via: Callable[[str], str], deadline: float) -> Made:
    """Read a URL."""
    client, url = BoundedHttpReader(deadline=deadline), via(f"{w.opa.url}/health")

    async def ask() -> object:
        answer = await client.get(url)
        assert (answer.status, answer.body) == (200, b"{}")
        return answer

    return Made(ask)


CLIENTS: dict[str, tuple[Callable[[World], str], Maker]] = {
    "cluster, read": (lambda w: w.kube.url, cluster_read),
    "cluster, write": (lambda w: w.kube.url, cluster_write),
    "metrics": (lambda w: w.prometheus.url, metrics),
    "signing, token": (lambda w: w.sigstore.url("oidc"), signing("oidc")),
    "signing, certificate": (lambda w: w.sigstore.url("fulcio"), signing("fulcio")),
    "signing, log": (lambda w: w.sigstore.url("rekor"), signing("rekor")),
    "signing, time-stamp": (lambda w: w.sigstore.url("tsa"), signing("tsa")),
    "policy, decision": (lambda w: w.opa.url, policy_decision),
    "policy, write": (lambda w: w.opa.url, policy_write),
    "registry": (lambda w: w.registry.url, registry),
    "notify": (lambda w: w.webhook.url, notify),
    "issues, read": (lambda w: w.issues.url, issues_read),
    "issues, write": (lambda w: w.issues.url, issues_write),
    "flags, seen": (lambda w: w.flags.url, flags_seen),
    "flags, write": (lambda w: w.kube.url, flags_write),
    "http": (lambda w: w.opa.url, http_read),
}
"""Name → the server that is behind the proxy, and what makes the client."""


def behind(
    toxiproxy: Toxiproxy, w: World, client: str, *, deadline: float
) -> AbstractAsyncContextManager[tuple[Proxy, Made]]:
    """Put a proxy before a client's stand-in; yields it and the client, which has worked once."""
    return put_before(toxiproxy, w, *CLIENTS[client], deadline=deadline)


W = TypeVar("W")


@asynccontextmanager
async def put_before(
    toxiproxy: Toxiproxy,
    w: W,
    upstream: Callable[[W], str],
    make: Callable[[W, Callable[[str], str], float], Awaitable[Made]],
    *,
    deadline: float,
) -> AsyncIterator[tuple[Proxy, Made]]:
    """Put a proxy before a server; yields it and the client, which has worked once."""
    proxy = await toxiproxy.proxy(upstream(w))

    def via(url: str) -> str:
        # Only its own server's: what else a URL may lead to stays as it is.
        assert urlsplit(url).netloc == urlsplit(upstream(w)).netloc
        return proxy.url_of(url)

    made = await _ready(make, w, via, deadline)
    try:
        await works(made)
        yield proxy, made
    finally:
        async with asyncio.timeout(BOUND):
            await toxiproxy.remove(proxy)
            await made.close()


async def _ready(
    make: Callable[[W, Callable[[str], str], float], Awaitable[Made]],
    w: W,
    via: Callable[[str], str],
    deadline: float,
) -> Made:
    """Make a client whose short deadline a busy machine may miss at first."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                return await make(w, via, deadline)
            except BackendUnreachable:
                await asyncio.sleep(0.05)


async def works(made: Made) -> None:
    """Ask until it is answered: a busy machine, or what is left of a fault, may take some time."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                assert await made.ask()
                return
            except BackendUnreachable:
                await asyncio.sleep(0.05)


async def ended(ask: Callable[[], Awaitable[object]]) -> BaseException | object:
    """Return what a call ended with; fails when it does not end."""
    async with asyncio.timeout(BOUND):
        try:
            return await ask()
        except Exception as error:  # noqa: BLE001 - it is looked at
            return error


Inflict = Callable[[Proxy], Awaitable[Toxic | None]]

HANGS: dict[str, Inflict] = {
    "latency beyond the deadline": lambda proxy: proxy.latency(600_000),
    "half-open, no answer": lambda proxy: proxy.half_open("downstream"),
    "half-open, nothing arrives": lambda proxy: proxy.half_open("upstream"),
}
"""What keeps a call waiting until its deadline."""

ENDS: dict[str, Inflict] = {
    "cut": lambda proxy: _none(proxy.cut()),
    "reset": lambda proxy: proxy.reset(),
    "reset while asking": lambda proxy: proxy.reset(stream="upstream"),
    "closed before the answer": lambda proxy: proxy.limit(0),
}
"""What ends a connection."""

SLOWS: dict[str, Inflict] = {
    "latency": lambda proxy: proxy.latency(20, jitter_ms=10),
    "slow close": lambda proxy: proxy.slow_close(600_000),
    "bandwidth": lambda proxy: proxy.bandwidth(50),
}
"""What a call gets through."""


async def _none(done: Awaitable[None]) -> None:
    await done


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Run the stand-ins for a module's tests, in its loop."""
    async with world(tmp_path_factory.mktemp("world")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxies(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Toxiproxy]:
    """Run a real toxiproxy for a module's tests, in its loop."""
    need("toxiproxy-server")
    async with toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as running:
        yield running
