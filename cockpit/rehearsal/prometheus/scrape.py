"""Scraping: one loop a target, spread over the interval, with `up`, durations and staleness markers."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import aiohttp

from cockpit.rehearsal.prometheus.exposition import Exposed, Exposition, ExpositionError
from cockpit.rehearsal.prometheus.store import NAME, STALE, Series, Store
from cockpit.rehearsal.prometheus.targets import Target

MAX_PAGE_BYTES = 8 << 20
_HEADERS = {
    "Accept": "text/plain;version=0.0.4;q=0.9,*/*;q=0.1",
    "User-Agent": "release-cockpit-prometheus-stand-in",
}


class ScrapeFailed(Exception):
    """A scrape that brought nothing usable."""


class ScrapeLoop:
    """Scrapes one target until cancelled; `retired`: it will not be scraped again, so its series end."""

    def __init__(
        self,
        target: Target,
        store: Store,
        session: aiohttp.ClientSession,
        *,
        interval_s: float,
        timeout_s: float,
        now_ms: Callable[[], int],
        paused: Callable[[], bool],
    ) -> None:
        self.target = target
        self.health = "unknown"
        self.last_error = ""
        self.last_scrape_ms = 0
        self.last_duration_s = 0.0
        self.retired = False
        self._store = store
        self._session = session
        self._interval = interval_s
        self._timeout = timeout_s
        self._now_ms = now_ms
        self._paused = paused
        self._page: Exposition[Series] = Exposition(self._resolve)
        self._live: set[Series] = set()
        self._own = {
            name: store.series({NAME: name, **target.labels})
            for name in ("up", "scrape_duration_seconds", "scrape_samples_scraped")
        }

    @property
    def offset_s(self) -> float:
        """Where in the interval this target is scraped: the same each time, spread over all targets."""
        seed = f"{self.target.url}{sorted(self.target.labels.items())}".encode()
        return zlib.crc32(seed) / 2**32 * self._interval

    async def run(self) -> None:
        """Scrape at each due time; a scrape that overruns makes the next ones be left out, never pile up."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.offset_s
        try:
            while True:
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not self._paused():
                    await self._scrape()
                due += self._interval
                if due < loop.time():
                    due += ((loop.time() - due) // self._interval + 1) * self._interval
        finally:
            # As in Prometheus, a server that ends marks nothing: it may be back where it was.
            if self.retired:
                at = max(self._now_ms(), self.last_scrape_ms + 1)
                for series in (*self._live, *self._own.values()):
                    self._put(series, at, STALE)

    async def _scrape(self) -> None:
        loop = asyncio.get_running_loop()
        started, at = loop.time(), max(self._now_ms(), self.last_scrape_ms + 1)
        samples: list[Exposed[Series]] = []
        try:
            samples = self._page.read(await self._fetch())
            self.health, self.last_error = "up", ""
        except (
            ScrapeFailed,
            ExpositionError,
            aiohttp.ClientError,
            TimeoutError,
            OSError,
            ValueError,
        ) as error:
            self.health, self.last_error = "down", str(error) or type(error).__name__
        self.last_scrape_ms, self.last_duration_s = at, loop.time() - started
        self._record(samples, at)

    async def _fetch(self) -> str:
        async with asyncio.timeout(self._timeout):
            async with self._session.get(self.target.url, headers=_HEADERS) as response:
                if response.status != 200:
                    raise ScrapeFailed(f"server returned HTTP status {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    body += chunk
                    if len(body) > MAX_PAGE_BYTES:
                        raise ScrapeFailed("the page is too large")
                return body.decode()

    def _record(self, samples: list[Exposed[Series]], at: int) -> None:
        live: set[Series] = set()
        seen: set[Series] = set()
        for series, value, own_time in samples:
            if series in seen:
                continue  # a series twice on one page: the first one counts
            seen.add(series)
            self._put(series, at if own_time is None else own_time, value)
            if own_time is None:  # as in Prometheus, who brings timestamps cares for staleness alone
                live.add(series)
        for series in self._live - live:
            self._put(series, at, STALE)
        self._live = live
        self._put(self._own["up"], at, 1.0 if self.health == "up" else 0.0)
        self._put(self._own["scrape_duration_seconds"], at, self.last_duration_s)
        self._put(self._own["scrape_samples_scraped"], at, float(len(samples)))

    def _put(self, series: Series, at: int, value: float) -> None:
        if not series.times:
            series = self._store.adopt(series)
        series.append(at, value)

    def _resolve(self, labels: dict[str, str]) -> Series:
        """Add the target's labels; a label of the page that collides is kept as `exported_…`."""
        merged = dict(labels)
        for name, value in self.target.labels.items():
            if name in merged:
                merged[f"exported_{name}"] = merged[name]
            merged[name] = value
        return self._store.series(merged)
