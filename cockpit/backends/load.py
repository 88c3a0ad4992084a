"""Load, open loop: requests leave at their intended times whether or not answers come back.

Latency counts from the intended start: a stalled server cannot hide by slowing its sender down. A request
that was dropped, cut or timed out has an infinite one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cockpit.backends.http import origin
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.child import in_child
from cockpit.base.errors import BackendRefused, BackendUnreachable, UsageError
from cockpit.verdicts.rules.load_result import LoadResult, read_result

MAX_RPS = 5000.0
MAX_SECONDS = 600.0
GRACE = 30.0
"""Seconds beyond the sending: the process's start, and answers that come late."""


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """What to send: `rps` requests a second to each service for `seconds`; `paths` by service."""

    name: str
    rps: float
    seconds: float
    paths: Mapping[str, tuple[str, ...]]


class LoadGenerator(Protocol):
    """Sends load to the place the plan names."""

    @property
    def target(self) -> str:
        """The URL the load goes to."""
        ...

    @property
    def environment(self) -> str:
        """The environment the load goes to: dev or stage, never prod."""
        ...

    @property
    def lacking(self) -> str:
        """What it cannot send without and is not there; empty when it can send."""
        ...

    async def run(self, profile: LoadProfile) -> LoadResult:
        """Send; raises UsageError for a profile out of bounds, BackendUnreachable when nothing answered."""
        ...


class OpenLoopGenerator:
    """The built-in generator, in a process of its own; a request may take `timeout` seconds.

    One run at a time: two at once would measure each other.
    """

    def __init__(self, url: str, environment: str, *, timeout: float = 10.0, tls: Tls = USUAL) -> None:
        check_place(url, environment)
        self._url = url.rstrip("/")
        self._environment = environment
        self._timeout = timeout
        self._tls = tls
        self._turn = asyncio.Lock()

    @property
    def target(self) -> str:
        """The URL the load goes to."""
        return self._url

    @property
    def environment(self) -> str:
        """The environment the load goes to."""
        return self._environment

    @property
    def lacking(self) -> str:
        """Nothing: it comes with the cockpit."""
        return ""

    async def run(self, profile: LoadProfile) -> LoadResult:
        """Send `profile`; see LoadGenerator."""
        check_profile(profile, self._url)
        async with self._turn:
            raw = await in_child(
                "cockpit.backends.load_child",
                json.dumps(
                    {**request_of(profile, self._url, self._timeout), "authorities": self._tls.added}
                ).encode(),
                what="the load generator",
                deadline=profile.seconds + GRACE,
            )
        return measured(raw, self._url)


def check_place(url: str, environment: str) -> None:
    """Raise BackendRefused for an environment load must not go to, UsageError for a URL that is none."""
    if environment not in ("dev", "stage"):
        raise BackendRefused(
            f"load is never sent to {environment!r}", hint="targets.load must be dev or stage"
        )
    origin(url)


def check_profile(profile: LoadProfile, url: str) -> None:
    """Raise UsageError for a profile that is out of bounds or would leave `url`."""
    total = profile.rps * len(profile.paths)
    if not 0 < profile.rps <= MAX_RPS or total > MAX_RPS or not 0 < profile.seconds <= MAX_SECONDS:
        raise UsageError(f"a load of {total:g} requests/s for {profile.seconds:g} s is out of bounds")
    if not profile.paths or not all(profile.paths.values()):
        raise UsageError("a load needs at least one path for each service")
    for paths in profile.paths.values():
        for path in paths:
            # `//host` or `@` after the authority would leave the host the plan names.
            if origin(url + path) != origin(url) or not path.startswith("/"):
                raise UsageError(f"the path {path!r} leads away from the load's target")


def request_of(profile: LoadProfile, url: str, timeout: float) -> dict[str, Any]:
    """Return what a generator's process is told of a profile."""
    return {
        "url": url,
        "profile": profile.name,
        "rps": profile.rps,
        "seconds": profile.seconds,
        "timeout": timeout,
        "paths": {service: list(paths) for service, paths in profile.paths.items()},
    }


def measured(raw: bytes, url: str) -> LoadResult:
    """Return what a generator's process measured; raises BackendUnreachable when nothing was answered."""
    result = read_result(raw)
    if all(one.intended and one.cut + one.dropped == one.intended for one in result.services):
        raise BackendUnreachable("not one of the load's requests was answered", where=url)
    return result
