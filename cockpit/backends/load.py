"""Load, open loop: requests leave at their intended times whether or not answers come back.

Latency counts from the intended start: a stalled server cannot hide by slowing its sender down. A request that
was dropped, cut or timed out has an infinite one.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cockpit.backends.http import origin
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, UsageError

if TYPE_CHECKING:
    import aiohttp

MAX_RPS = 5000.0
MAX_SECONDS = 600.0
MAX_UNDER_WAY = 512
"""Most requests under way at once; more are counted as dropped."""

_TIMEOUT = 10.0
_GROWTH = 1.01  # relative width of a bucket: a percentile is overstated by at most 1 %
_LOG_GROWTH = math.log(_GROWTH)
_MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """What to send: `rps` requests a second to each service for `seconds`; `paths` by service."""

    name: str
    rps: float
    seconds: float
    paths: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What came of one service's requests.

    `good` answers have a status below 500; `good_in_window` of them came before the sending ended.
    `dropped`: never sent; `cut`: no answer. `buckets`: latency bucket number → count of answers; bucket n
    holds up to 1.01ⁿ milliseconds.
    """

    service: str
    intended: int
    good: int
    good_in_window: int
    errors: int
    dropped: int
    cut: int
    buckets: Mapping[int, int]

    @property
    def error_rate(self) -> float:
        """Return the share of intended requests without a good answer; NaN when there were none."""
        return 1 - self.good / self.intended if self.intended else math.nan

    def percentile_ms(self, share: float) -> float:
        """Return the latency not exceeded by `share` of all intended requests, in ms, from above.

        Requests without an answer are infinitely late; NaN when nothing was intended.
        """
        return percentile(self.buckets, self.intended, share)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a run measured. `raw` is the JSON document it can be read from again."""

    profile: str
    rps: float
    seconds: float
    services: tuple[ServiceLoad, ...]
    raw: bytes

    @property
    def intended(self) -> int:
        """Return the number of requests that were to be sent."""
        return sum(one.intended for one in self.services)


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


def percentile(buckets: Mapping[int, int], intended: int, share: float) -> float:
    """Return the upper end of the bucket in which `share` of `intended` requests is reached, in ms."""
    if intended <= 0:
        return math.nan
    wanted = math.ceil(share * intended)
    seen = 0
    for index in sorted(buckets):
        seen += buckets[index]
        if seen >= wanted:
            return _GROWTH**index
    return math.inf


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
        index = max(0, math.ceil(math.log(max(latency_s * 1000, 1.0)) / _LOG_GROWTH))
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


def read_result(raw: bytes) -> LoadResult:
    """Read a result from its JSON document; raises BackendGarbage when it is none or contradicts itself."""
    try:
        document: dict[str, Any] = json.loads(raw)
        services = tuple(_service(name, one) for name, one in sorted(document["services"].items()))
        result = LoadResult(
            str(document["profile"]), float(document["rps"]), float(document["seconds"]), services, raw
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BackendGarbage("not a load result") from None
    if not result.rps > 0 or not result.seconds > 0 or not math.isfinite(result.rps * result.seconds):
        raise BackendGarbage("a load result without rate or duration")
    return result


def _service(name: str, one: Mapping[str, Any]) -> ServiceLoad:
    figures = {key: one[key] for key in ("intended", "good", "good_in_window", "errors", "dropped", "cut")}
    buckets = {int(index): count for index, count in one["buckets"].items()}
    if not all(type(value) is int and value >= 0 for value in (*figures.values(), *buckets.values())):
        raise ValueError("a count is no count")
    answered = figures["good"] + figures["errors"]
    if (
        answered + figures["dropped"] + figures["cut"] != figures["intended"]
        or sum(buckets.values()) != answered
        or figures["good_in_window"] > figures["good"]
        or not all(0 <= index < 4000 for index in buckets)
    ):
        raise ValueError("the counts do not add up")
    return ServiceLoad(service=name, buckets=buckets, **figures)
