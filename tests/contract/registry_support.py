"""Registries for one suite over both: the stand-in, and a real one that is started once for a module."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from cockpit.backends.registry import OciRegistry
from cockpit.rehearsal.real.registry import DockerRegistry, docker_registry
from cockpit.rehearsal.registry import RegistryServer
from cockpit.rehearsal.registry.store import Repository
from tests.real.fixtures import need

_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """A registry; `name` is a repository nobody else uses. `standin` or `real` is what it is."""

    url: str
    name: str
    standin: RegistryServer | None
    real: DockerRegistry | None

    def repository(self, name: str = "") -> Repository:
        """Return what is to be in a repository, its own unless named; see `publish`."""
        holder = self.real or self.standin
        assert holder is not None
        return holder.repository(name or self.name)

    async def publish(self) -> None:
        """Put what `repository` was given into the registry; the stand-in has it already."""
        if self.real is not None:
            await self.real.publish()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def docker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DockerRegistry]:
    """Run a real registry, open to everybody, for a module's tests."""
    need("docker-registry")
    async with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.real)])
def registry_kind(request: pytest.FixtureRequest) -> DockerRegistry | None:
    """Give the real registry where it is one."""
    # Asked for here, outside of any loop: it runs in its module's.
    return request.getfixturevalue("docker") if request.param == "real" else None


@pytest_asyncio.fixture
async def place(registry_kind: DockerRegistry | None) -> AsyncIterator[Place]:
    """Give a registry of each kind."""
    name = f"intelgraph/web-{next(_numbers)}"
    if registry_kind is not None:
        yield Place(registry_kind.url, name, None, registry_kind)
        return
    async with RegistryServer() as server:
        yield Place(server.url, name, server, None)


@pytest_asyncio.fixture
async def registry(place: Place) -> AsyncIterator[OciRegistry]:
    """Give the client under test."""
    client = OciRegistry(place.url)
    yield client
    await client.close()
