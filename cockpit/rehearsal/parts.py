"""The servers a rehearsal's world is made of, whoever provides them: stand-ins, or the real ones."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cockpit.rehearsal.pace import Pace
from cockpit.rehearsal.registry.store import Repository
from cockpit.rehearsal.sigstore.interface import Sigstore


class KubernetesApi(Protocol):
    """A Kubernetes API, and the way past its tokens that seeds it."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    async def apply(self, obj: dict[str, Any]) -> object:
        """Create or change an object as the world itself; raises BackendError when it is refused."""
        ...


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes with two who may use it: the world, which may do all, and the one who releases."""

    api: KubernetesApi
    world_token: str = field(repr=False)
    conductor_token: str = field(repr=False)
    ca_file: Path | None = None
    """Who signed its certificate; None where it speaks plain HTTP."""
    routes_reported: bool = True
    """Whether it says by itself that its HTTPRoutes are accepted; else whoever carries the traffic must."""


class Metrics(Protocol):
    """A Prometheus that scrapes the demo application."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    async def outage(self) -> None:
        """Answer no query any more."""
        ...


@dataclass(frozen=True)
class ImageStore:
    """A registry: what is put into `repository(name)` can be pulled once `publish` was awaited."""

    url: str
    repository: Callable[[str], Repository]
    publish: Callable[[], Coroutine[Any, Any, None]]

    @property
    def host(self) -> str:
        """Host and port, as image references begin."""
        return self.url.partition("://")[2]


@dataclass(frozen=True)
class Policy:
    """An OPA; the world puts the policy of the release before into it."""

    url: str
    token: str = field(repr=False)


class Parts(Protocol):
    """Where the servers of a world come from; each ends with its context, its files below `place`."""

    @property
    def profile(self) -> Literal["embedded", "private"]:
        """The trust profile of what signs here."""
        ...

    @property
    def ready_within(self) -> float:
        """Seconds until the platform must carry traffic."""
        ...

    @property
    def signers(self) -> int:
        """How many statements the build signs at a time."""
        ...

    def real(self) -> Mapping[str, str]:
        """Return the servers that are the real ones and their versions; what is not named is a stand-in."""
        ...

    def pace(self, pace: Pace) -> Pace:
        """Return the timings of a release on these servers."""
        ...

    def cluster(self, place: Path) -> AbstractAsyncContextManager[Cluster]:
        """Run a Kubernetes."""
        ...

    def metrics(self, place: Path, *, discovery: str, scrape: float) -> AbstractAsyncContextManager[Metrics]:
        """Run a Prometheus that scrapes each `scrape` seconds what `discovery` (HTTP) tells."""
        ...

    def signing(self, place: Path) -> AbstractAsyncContextManager[Sigstore]:
        """Run a Sigstore."""
        ...

    def registry(self, place: Path) -> AbstractAsyncContextManager[ImageStore]:
        """Run a registry."""
        ...

    def policy(self, place: Path, *, token: str) -> AbstractAsyncContextManager[Policy]:
        """Run an OPA; only bearers of `token` may ask or change anything."""
        ...
