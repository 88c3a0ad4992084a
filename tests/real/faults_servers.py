"""What a toxiproxy stands before: what clients need to know of it, and the real servers themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cockpit.rehearsal.kube import Rule, User
from cockpit.rehearsal.real.binaries import SIGSTORE
from cockpit.rehearsal.real.control_plane import ControlPlane
from cockpit.rehearsal.real.opa import Opa, opa
from cockpit.rehearsal.real.prometheus import RealPrometheus, prometheus
from cockpit.rehearsal.real.registry import DockerRegistry, docker_registry
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.real.sigstore import RealSigstore, sigstore
from cockpit.rehearsal.registry import Image, build_image, push, referrer
from cockpit.rehearsal.registry.store import Repository
from cockpit.rehearsal.sigstore import Sigstore
from tests.real.fixtures import need

SPACE, MAP = "shop", "settings"
POLICY = 'package p\nimport rego.v1\n\ndecision := {"allow": input.a == 1}\n'


class Listens(Protocol):
    """A server."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...


class Behind(Protocol):
    """What clients need to know of the servers, stand-ins or real."""

    @property
    def kube(self) -> Listens: ...
    @property
    def kube_token(self) -> str: ...
    @property
    def kube_ca(self) -> str: ...
    @property
    def prometheus(self) -> Listens: ...
    @property
    def opa(self) -> Listens: ...
    @property
    def opa_token(self) -> str: ...
    @property
    def registry(self) -> Listens: ...
    @property
    def image(self) -> Image: ...


class Signing(Protocol):
    """What clients that sign need to know."""

    @property
    def sigstore(self) -> Sigstore: ...


def stock(repository: Repository, image: Image) -> None:
    """Put an image and what is attached to it into a repository."""
    push(repository, image)
    referrer(repository, image, b'{"bundle": 1}', "https://a.invalid")


@dataclass(frozen=True)
class RealWorld:
    """The real servers, but for Sigstore."""

    kube: ControlPlane
    kube_token: str
    kube_ca: str
    prometheus: RealPrometheus
    opa: Opa
    opa_token: str
    registry: DockerRegistry
    image: Image


@asynccontextmanager
async def real_world(plane: ControlPlane, folder: Path) -> AsyncIterator[RealWorld]:
    """Run the real servers beside a control plane; skips or fails when one is not there."""
    need("prometheus", "opa", "docker-registry")
    image = build_image("web", "v3.0.0")
    await plane.namespace(SPACE)
    writer = Rule(frozenset({"get", "patch"}), "", frozenset({"configmaps"}), frozenset({SPACE}))
    token = await plane.token_of(User("faults", (writer,)), SPACE)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MAP}, "data": {"a": "1"}}
    status, answer = await plane.admin.request("POST", f"api/v1/namespaces/{SPACE}/configmaps", body)
    assert status == 201, answer
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(Servers(folder))
        registry = await stack.enter_async_context(docker_registry(folder / "registry"))
        stock(registry.repository("intelgraph/web"), image)
        await registry.publish()
        yield RealWorld(
            kube=plane,
            kube_token=token,
            kube_ca=str(plane.ca_file),
            prometheus=await stack.enter_async_context(prometheus(servers, scrape_interval=1.0)),
            opa=await stack.enter_async_context(
                opa(folder / "opa", {"p.rego": POLICY}, token="t0ken-of-the-faults")
            ),
            opa_token="t0ken-of-the-faults",
            registry=registry,
            image=image,
        )


@dataclass(frozen=True)
class RealSigning:
    """The real Sigstore: of servers of its own, for no two of it can be in a network namespace."""

    sigstore: RealSigstore


@asynccontextmanager
async def real_signing(folder: Path) -> AsyncIterator[RealSigning]:
    """Run a Sigstore; skips or fails when it is not there."""
    need(*SIGSTORE)
    async with Servers(folder) as servers, sigstore(servers) as running:
        yield RealSigning(running)
