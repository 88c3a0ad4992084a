"""Load, open loop: requests leave at their intended times whether or not answers come back.

Latency counts from the intended start: a stalled server cannot hide by slowing its sender down. A request
that was dropped, cut or timed out has an infinite one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cockpit.backends.http import origin
from cockpit.base.errors import BackendRefused, BackendUnreachable, UsageError
from cockpit.verdicts.rules.load_result import LoadResult, bucket_of, read_result

if TYPE_CHECKING:
    import aiohttp

MAX_RPS = 5000.0
MAX_SECONDS = 600.0
MAX_UNDER_WAY = 512
"""Most requests under way at once; more are counted as dropped."""

_TIMEOUT = 10.0
_MAX_BODY = 1 << 20


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

    async def run(self, profile: LoadProfile) -> LoadResult:
        """Send; raises UsageError for a profile out of bounds, BackendUnreachable when nothing answered."""
        ...


class _Counts:
    def __init__(self) -> None:
        self.intended = self.good = self.good_in_window = self.errors = self.dropped = self.cut = 0
        self.buckets: dict[int, int] = {}

    def answered(self, status: int, latency_s: float, *, in_window: bool) -> None:
        if status >= 500:
            self.errors += 1
        else:
            self.good += 1
            self.good_in_window += in_window
        index = bucket_of(latency_s)
        self.buckets[index] = self.buckets.get(index, 0) + 1


class OpenLoopGenerator:
    """The built-in generator, over aiohttp. One run at a time: two at once would measure each other."""

    def __init__(self, url: str, environment: str) -> None:
        if environment not in ("dev", "stage"):
            raise BackendRefused(
                f"load is never sent to {environment!r}", hint="targets.load must be dev or stage"
            )
        origin(url)
        self._url = url.rstrip("/")
        self._environment = environment
        self._turn = asyncio.Lock()

    @property
    def target(self) -> str:
        """The URL the load goes to."""
        return self._url

    @property
    def environment(self) -> str:
        """The environment the load goes to."""
        return self._environment

    async def run(self, profile: LoadProfile) -> LoadResult:
        """Send `profile`; see LoadGenerator."""
        total = profile.rps * len(profile.paths)
        if not 0 < profile.rps <= MAX_RPS or total > MAX_RPS or not 0 < profile.seconds <= MAX_SECONDS:
            raise UsageError(f"a load of {total:g} requests/s for {profile.seconds:g} s is out of bounds")
        if not profile.paths or not all(profile.paths.values()):
            raise UsageError("a load needs at least one path for each service")
        for paths in profile.paths.values():
            for path in paths:
                # `//host` or `@` after the authority would leave the host the plan names.
                if origin(self._url + path) != origin(self._url) or not path.startswith("/"):
                    raise UsageError(f"the path {path!r} leads away from the load's target")
        async with self._turn:
            counts = await self._send(profile)
        return _result(profile, counts)

    async def _send(self, profile: LoadProfile) -> dict[str, _Counts]:
        import aiohttp

        counts = {service: _Counts() for service in profile.paths}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=MAX_UNDER_WAY)
        slots = _Slots(MAX_UNDER_WAY)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            start = asyncio.get_running_loop().time() + 0.02
            async with asyncio.TaskGroup() as tasks:
                for offset, (service, paths) in enumerate(profile.paths.items()):
                    # Services take turns within an interval instead of all sending at once.
                    shift = offset / (len(profile.paths) * profile.rps)
                    sender = _Sender(session, self._url, profile, start, shift, slots, counts[service])
                    tasks.create_task(sender.run(tasks, paths))
        return counts


class _Slots:
    def __init__(self, limit: int) -> None:
        self.free = limit


class _Sender:
    """Sends one service's requests."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        profile: LoadProfile,
        start: float,
        shift: float,
        slots: _Slots,
        counts: _Counts,
    ) -> None:
        self._session = session
        self._url = url
        self._profile = profile
        self._start = start
        self._shift = shift
        self._slots = slots
        self._counts = counts

    async def run(self, tasks: asyncio.TaskGroup, paths: tuple[str, ...]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(int(self._profile.rps * self._profile.seconds)):
            due = self._start + self._shift + number / self._profile.rps
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self._counts.intended += 1
            if self._slots.free <= 0:
                self._counts.dropped += 1
                continue
            self._slots.free -= 1
            tasks.create_task(self._request(self._url + paths[number % len(paths)], due))

    async def _request(self, url: str, due: float) -> None:
        import aiohttp
        from yarl import URL

        loop = asyncio.get_running_loop()
        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as answer:
                size = 0
                async for chunk in answer.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    if size > _MAX_BODY:
                        raise aiohttp.ClientPayloadError("too large")
            ended = loop.time()
            window = self._start + self._profile.seconds
            self._counts.answered(answer.status, ended - due, in_window=ended <= window)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self._counts.cut += 1
        finally:
            self._slots.free += 1


def _result(profile: LoadProfile, counts: Mapping[str, _Counts]) -> LoadResult:
    if all(one.intended and one.cut + one.dropped == one.intended for one in counts.values()):
        raise BackendUnreachable("not one of the load's requests was answered")
    document = {
        "profile": profile.name,
        "rps": profile.rps,
        "seconds": profile.seconds,
        "generator": "open loop, latency from the intended start",
        "services": {
            service: {
                "intended": one.intended,
                "good": one.good,
                "good_in_window": one.good_in_window,
                "errors": one.errors,
                "dropped": one.dropped,
                "cut": one.cut,
                "buckets": {str(index): one.buckets[index] for index in sorted(one.buckets)},
            }
            for service, one in counts.items()
        },
    }
    return read_result(json.dumps(document, sort_keys=True).encode())
