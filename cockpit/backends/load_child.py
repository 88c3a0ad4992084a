"""The child process of the load generator: a profile on standard input, its result on standard output.

In a process of its own, because whatever else the cockpit does would delay requests and be taken for latency.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

from cockpit.verdicts.rules.load_result import BUILT_IN, bucket_of

MAX_UNDER_WAY = 512
"""Most requests under way at once; more are counted as dropped."""

_MAX_BODY = 1 << 20


class Counts:
    def __init__(self) -> None:
        self.intended = self.good = self.good_in_window = self.errors = self.dropped = self.cut = 0
        self.buckets: dict[int, int] = {}
        self.late: dict[int, int] = {}

    def sent(self, late_s: float) -> None:
        index = bucket_of(late_s)
        self.late[index] = self.late.get(index, 0) + 1

    def answered(self, status: int, latency_s: float, *, in_window: bool) -> None:
        if status >= 500:
            self.errors += 1
        else:
            self.good += 1
            self.good_in_window += in_window
        index = bucket_of(latency_s)
        self.buckets[index] = self.buckets.get(index, 0) + 1


async def send(
    url: str,
    rps: float,
    seconds: float,
    paths: Mapping[str, list[str]],
    timeout_s: float,
    authorities: str = "",
) -> dict[str, Counts]:
    """Send `rps` requests a second to each service for `seconds`; return what came of them.

    `authorities` (PEM) are trusted besides the machine's.
    """
    counts = {service: Counts() for service in paths}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    trust = ssl.create_default_context()
    if authorities:
        trust.load_verify_locations(cadata=authorities)
    connector = aiohttp.TCPConnector(limit=MAX_UNDER_WAY, ssl=trust)
    slots = _Slots(MAX_UNDER_WAY)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
        start = asyncio.get_running_loop().time() + 0.05
        async with asyncio.TaskGroup() as tasks:
            for offset, (service, own) in enumerate(paths.items()):
                # Services take turns within an interval instead of all sending at once.
                shift = offset / (len(paths) * rps)
                sender = _Sender(session, url, rps, seconds, start, shift, slots, counts[service])
                tasks.create_task(sender.run(tasks, own))
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
        rps: float,
        seconds: float,
        start: float,
        shift: float,
        slots: _Slots,
        counts: Counts,
    ) -> None:
        self._session = session
        self._url = url
        self._rps = rps
        self._seconds = seconds
        self._start = start
        self._shift = shift
        self._slots = slots
        self._counts = counts

    async def run(self, tasks: asyncio.TaskGroup, paths: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(int(self._rps * self._seconds)):
            due = self._start + self._shift + number / self._rps
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self._counts.intended += 1
            if self._slots.free <= 0:
                self._counts.dropped += 1
                continue
            self._slots.free -= 1
            self._counts.sent(loop.time() - due)
            tasks.create_task(self._request(self._url + paths[number % len(paths)], due))

    async def _request(self, url: str, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as answer:
                size = 0
                async for chunk in answer.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    if size > _MAX_BODY:
                        raise aiohttp.ClientPayloadError("too large")
            ended = loop.time()
            window = self._start + self._seconds
            self._counts.answered(answer.status, ended - due, in_window=ended <= window)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self._counts.cut += 1
        finally:
            self._slots.free += 1


def main() -> int:
    """Run one profile."""
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    counts = asyncio.run(
        send(
            request["url"],
            request["rps"],
            request["seconds"],
            request["paths"],
            request["timeout"],
            request.get("authorities", ""),
        )
    )
    services = {
        service: {
            "intended": one.intended,
            "good": one.good,
            "good_in_window": one.good_in_window,
            "errors": one.errors,
            "dropped": one.dropped,
            "cut": one.cut,
            "buckets": {str(index): one.buckets[index] for index in sorted(one.buckets)},
            "late": {str(index): one.late[index] for index in sorted(one.late)},
        }
        for service, one in counts.items()
    }
    document = {
        "profile": request["profile"],
        "rps": request["rps"],
        "seconds": request["seconds"],
        "by": BUILT_IN,
        "generator": "open loop, latency from the intended start",
        "services": services,
    }
    sys.stdout.write(json.dumps(document, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
