"""The stand-in server: discovery, scraping, rules and the HTTP API on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType

import aiohttp
from aiohttp import web

from cockpit.rehearsal.prometheus.api import application
from cockpit.rehearsal.prometheus.faults import Faults
from cockpit.rehearsal.prometheus.rules import ActiveAlert, Rule, RuleRunner
from cockpit.rehearsal.prometheus.scrape import ScrapeLoop
from cockpit.rehearsal.prometheus.store import Store
from cockpit.rehearsal.prometheus.targets import Target, TargetGroup, expand, parse_http_sd

_COMPACT_S = 30.0
_MAX_LINE = 1 << 20  # Go's limit for a request's head; a query may be long
_MAX_SD_BYTES = 4 << 20


class PrometheusServer:
    """A Prometheus stand-in on 127.0.0.1; an async context manager, or `start` and `stop`.

    `targets`: `host:port` texts or target groups. `http_sd_urls`: asked for target groups each
    `sd_interval` seconds; the last good answer stays in force. `scrape_timeout` defaults to the interval.
    `job` is the scrape job's name. `clock_offset_s` sets its clock wrong on purpose. `store` holds what it
    knows from the beginning, and its own retention.
    """

    def __init__(
        self,
        *,
        scrape_interval: float = 0.5,
        scrape_timeout: float | None = None,
        targets: Sequence[str | TargetGroup] = (),
        http_sd_urls: Sequence[str] = (),
        sd_interval: float = 1.0,
        job: str = "app",
        rules: Sequence[Rule] = (),
        rule_interval: float | None = None,
        lookback_s: float = 300.0,
        retention_s: float = 900.0,
        clock_offset_s: float = 0.0,
        port: int = 0,
        store: Store | None = None,
    ) -> None:
        self.store = store if store is not None else Store(retention_s)
        self.faults = Faults()
        self.lookback_ms = round(lookback_s * 1000)
        self.url = ""
        self._interval = scrape_interval
        self._timeout = min(scrape_timeout or scrape_interval, scrape_interval)
        self._job = job
        self._static = _groups(targets)
        self._sd_urls = tuple(http_sd_urls)
        self._sd_interval = sd_interval
        self._discovered: dict[str, list[TargetGroup]] = {}
        self.sd_errors: dict[str, str] = {}
        self._rule_interval = rule_interval or scrape_interval
        self.interval_ms = max(1, round(self._rule_interval * 1000))
        runner = RuleRunner(rules, self.store, self.lookback_ms, self.interval_ms)
        self._rules = runner if rules else None
        self._clock_offset = clock_offset_s
        self._port = port
        self._loops: dict[object, tuple[ScrapeLoop, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    def now_ms(self) -> int:
        """Return this server's present time, Unix milliseconds."""
        return round((datetime.now(UTC).timestamp() + self._clock_offset) * 1000)

    def scrapes(self) -> list[ScrapeLoop]:
        """Return the loops of the present targets."""
        return [loop for loop, _ in self._loops.values()]

    def alerts(self) -> list[ActiveAlert]:
        """Return pending and firing alerts."""
        return self._rules.alerts if self._rules is not None else []

    def set_targets(self, targets: Sequence[str | TargetGroup]) -> None:
        """Replace the static targets; series of those that go are marked stale."""
        self._static = _groups(targets)
        self._wake.set()

    async def start(self) -> str:
        """Listen and begin to scrape; return the base URL."""
        self._runner = web.AppRunner(
            application(self),
            access_log=None,
            shutdown_timeout=1.0,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._main = asyncio.create_task(self._run(), name="prometheus-stand-in")
        return self.url

    async def stop(self) -> None:
        """Stop scraping and close the port; may be called twice."""
        self.faults.clear()
        main, self._main = self._main, None
        if main is not None:
            main.cancel()
            await asyncio.wait([main])
            if not main.cancelled() and (error := main.exception()) is not None:
                raise error
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> PrometheusServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                asyncio.TaskGroup() as tasks,
            ):
                for url in self._sd_urls:
                    tasks.create_task(self._discover(session, url))
                if self._rules is not None:
                    tasks.create_task(self._evaluate_rules(self._rules))
                tasks.create_task(self._compact())
                while True:
                    self._wake.clear()
                    self._reconcile(tasks, session)
                    await self._wake.wait()
        finally:
            self._loops.clear()

    def _reconcile(self, tasks: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        groups = [*self._static, *(group for found in self._discovered.values() for group in found)]
        wanted: dict[object, Target] = {target.key: target for target in expand(groups, self._job)}
        for key in [key for key in self._loops if key not in wanted]:
            gone, task = self._loops.pop(key)
            gone.retired = True
            task.cancel()
        for key, target in wanted.items():
            if key not in self._loops:
                loop = ScrapeLoop(
                    target,
                    self.store,
                    session,
                    interval_s=self._interval,
                    timeout_s=self._timeout,
                    now_ms=self.now_ms,
                    paused=lambda: not self.faults.scraping,
                )
                self._loops[key] = (loop, tasks.create_task(loop.run()))

    async def _discover(self, session: aiohttp.ClientSession, url: str) -> None:
        headers = {
            "Accept": "application/json",
            "X-Prometheus-Refresh-Interval-Seconds": f"{self._sd_interval:g}",
        }
        while True:
            try:
                async with asyncio.timeout(5.0), session.get(url, headers=headers) as response:
                    if response.status != 200 or response.content_type != "application/json":
                        raise ValueError(f"answered {response.status} {response.content_type}")
                    body = bytearray()
                    async for chunk in response.content.iter_chunked(1 << 16):
                        body += chunk
                        if len(body) > _MAX_SD_BYTES:
                            raise ValueError("the answer is too large")
                found = parse_http_sd(bytes(body))
                self.sd_errors.pop(url, None)
                if self._discovered.get(url) != found:
                    self._discovered[url] = found
                    self._wake.set()
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self.sd_errors[url] = str(error) or type(error).__name__
            await asyncio.sleep(self._sd_interval)

    async def _evaluate_rules(self, rules: RuleRunner) -> None:
        while True:
            rules.evaluate(self.now_ms())
            await asyncio.sleep(self._rule_interval)

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(_COMPACT_S)
            self.store.compact(self.now_ms())


def _groups(targets: Iterable[str | TargetGroup]) -> list[TargetGroup]:
    return [TargetGroup((entry,)) if isinstance(entry, str) else entry for entry in targets]
