"""A real Prometheus with the inputs of the stand-in: it discovers over HTTP, scrapes, and has a past."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from cockpit.base.errors import BackendError
from cockpit.rehearsal.prometheus.rules import RecordingRule, Rule
from cockpit.rehearsal.prometheus.targets import TargetGroup
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.openmetrics import Points, openmetrics
from cockpit.rehearsal.real.servers import Restartable, Servers, free_ports

_RETENTION = "100y"  # a backfilled past may be of any age
_BACKFILL_SECONDS = 120.0
_RELOAD_SECONDS = 10.0
_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a Prometheus is told, seconds throughout; the same as the stand-in is told, and its alertmanagers.

    `scrape_timeout` is the interval unless it is given, and so is `rule_interval`.
    """

    scrape_interval: float
    scrape_timeout: float | None = None
    targets: tuple[str | TargetGroup, ...] = ()
    http_sd_urls: tuple[str, ...] = ()
    sd_interval: float = 1.0
    job: str = "app"
    rules: tuple[Rule, ...] = ()
    rule_interval: float | None = None
    lookback: float = 300.0
    query_timeout: float = 120.0
    max_samples: int = 50_000_000
    alertmanagers: tuple[str, ...] = ()
    remote_reads: tuple[str, ...] = ()


class RealPrometheus(Restartable):
    """A Prometheus on loopback; `url` stays the same over restarts, and so do its samples.

    Its discovery takes up to five seconds to tell of new targets, whatever interval is asked for.
    """

    def __init__(self, servers: Servers, name: str, options: Options, storage: Path, port: int) -> None:
        super().__init__(name)
        self.url = f"http://127.0.0.1:{port}"
        self.storage = storage
        self._servers = servers
        self._options = options
        self._folder = servers.folder / name
        self._address = f"127.0.0.1:{port}"

    async def start(self) -> None:
        """Write the configuration, start the process and wait until it is ready; raises BackendError."""
        _write(self._folder, self._options)
        options = self._options
        self._running = await self._servers.start(
            self._name,
            [
                binary("prometheus"),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.storage}",
                f"--storage.tsdb.retention.time={_RETENTION}",
                f"--web.listen-address={self._address}",
                "--web.enable-lifecycle",
                # It finds its Alertmanagers late; what fires before would wait a minute to be sent again.
                "--rules.alert.resend-delay=1s",
                f"--query.lookback-delta={_duration(options.lookback)}",
                f"--query.timeout={_duration(options.query_timeout)}",
                f"--query.max-samples={options.max_samples}",
                # Not in its help: how long new targets wait before they are scraped, otherwise 5 s.
                f"--scrape.discovery-reload-interval={_duration(min(5.0, options.sd_interval))}",
            ],
            ready=f"{self.url}/-/ready",
            within=_READY_SECONDS,
        )

    async def reload(
        self,
        *,
        targets: Sequence[str | TargetGroup] | None = None,
        http_sd_urls: Sequence[str] | None = None,
        rules: Sequence[Rule] | None = None,
        alertmanagers: Sequence[str] | None = None,
        remote_reads: Sequence[str] | None = None,
    ) -> None:
        """Change what is given and have the running server read it; raises BackendError when it will not."""
        given = {
            "targets": targets,
            "http_sd_urls": http_sd_urls,
            "rules": rules,
            "alertmanagers": alertmanagers,
            "remote_reads": remote_reads,
        }
        changes: dict[str, Any] = {name: tuple(value) for name, value in given.items() if value is not None}
        options = replace(self._options, **changes)
        _write(self._folder, options)
        timeout = aiohttp.ClientTimeout(total=_RELOAD_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{self.url}/-/reload") as answer,
            ):
                said = (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendError(f"{self._name} was not reloaded: {error!r}", where=self.url) from None
        if answer.status != 200:
            _write(self._folder, self._options)  # what it goes on with
            raise BackendError(f"{self._name} was not reloaded: {said[:500]}", where=self.url)
        self._options = options

    async def backfill(self, series: Iterable[tuple[Mapping[str, str], Points]]) -> None:
        """Put samples of the past into it, and start it again so that it sees them; raises BackendError."""
        await self.running.stop()
        await backfill(self.storage, series)
        await self.start()


@asynccontextmanager
async def prometheus(
    servers: Servers,
    *,
    scrape_interval: float,
    scrape_timeout: float | None = None,
    targets: Sequence[str | TargetGroup] = (),
    http_sd_urls: Sequence[str] = (),
    sd_interval: float = 1.0,
    job: str = "app",
    rules: Sequence[Rule] = (),
    rule_interval: float | None = None,
    lookback: float = 300.0,
    query_timeout: float = 120.0,
    max_samples: int = 50_000_000,
    storage: Path | None = None,
    alertmanagers: Sequence[str] = (),
    remote_reads: Sequence[str] = (),
    name: str = "prometheus",
) -> AsyncIterator[RealPrometheus]:
    """Run a Prometheus and yield it when it is ready; the arguments are those of the stand-in.

    `storage`: the folder of its samples, where `backfill` may have put a past; one of its own without.
    `alertmanagers`: base URLs. `remote_reads`: stores of samples that are asked too. `name` keeps several
    apart. Raises BackendError when it does not start.
    """
    options = Options(
        scrape_interval=scrape_interval,
        scrape_timeout=scrape_timeout,
        targets=tuple(targets),
        http_sd_urls=tuple(http_sd_urls),
        sd_interval=sd_interval,
        job=job,
        rules=tuple(rules),
        rule_interval=rule_interval,
        lookback=lookback,
        query_timeout=query_timeout,
        max_samples=max_samples,
        alertmanagers=tuple(alertmanagers),
        remote_reads=tuple(remote_reads),
    )
    (port,) = free_ports(1)
    server = RealPrometheus(servers, name, options, storage or servers.folder / name / "data", port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def backfill(storage: Path, series: Iterable[tuple[Mapping[str, str], Points]]) -> None:
    """Write series of the past into the folder of a Prometheus that does not run; raises BackendError.

    A staleness marker cannot be written this way; whatever is NaN is an ordinary NaN.
    """
    page = await asyncio.to_thread(_page, storage, openmetrics(series))
    process = await asyncio.create_subprocess_exec(
        *(str(binary("promtool")), "tsdb", "create-blocks-from", "openmetrics"),
        *("--quiet", str(page), str(storage)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=storage,
    )
    try:
        async with asyncio.timeout(_BACKFILL_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        raise BackendError(f"promtool did not end within {_BACKFILL_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await asyncio.to_thread(page.unlink)
    if process.returncode != 0:
        text = said.decode(errors="replace").strip()[-500:]
        raise BackendError(f"promtool did not take the samples: {text}", where=str(storage))


def _page(storage: Path, text: str) -> Path:
    storage.mkdir(parents=True, exist_ok=True)
    page = storage.parent / f"{storage.name}.openmetrics"
    page.write_text(text, encoding="utf-8")
    return page


def _write(folder: Path, options: Options) -> None:
    """Write prometheus.yml and rules.yml; JSON is YAML too."""
    folder.mkdir(parents=True, exist_ok=True)
    interval = options.scrape_interval
    scrape: dict[str, Any] = {"job_name": options.job}
    if options.targets:
        scrape["static_configs"] = [_group(one) for one in options.targets]
    if options.http_sd_urls:
        refresh = _duration(options.sd_interval)
        scrape["http_sd_configs"] = [
            {"url": url, "refresh_interval": refresh} for url in options.http_sd_urls
        ]
    config: dict[str, Any] = {
        "global": {
            "scrape_interval": _duration(interval),
            "scrape_timeout": _duration(min(options.scrape_timeout or interval, interval)),
            "evaluation_interval": _duration(options.rule_interval or interval),
        },
        "scrape_configs": [scrape],
    }
    if options.rules:
        _dump(folder / "rules.yml", {"groups": [{"name": "rules", "rules": list(map(_rule, options.rules))}]})
        config["rule_files"] = [str(folder / "rules.yml")]
    if options.alertmanagers:
        config["alerting"] = {"alertmanagers": [_alertmanager(url) for url in options.alertmanagers]}
    if options.remote_reads:
        # Of recent times too: when the other store fails, every answer comes with a warning.
        config["remote_read"] = [{"url": url, "read_recent": True} for url in options.remote_reads]
    _dump(folder / "prometheus.yml", config)


def _group(group: str | TargetGroup) -> dict[str, Any]:
    if isinstance(group, str):
        return {"targets": [group]}
    return {"targets": list(group.targets), "labels": dict(group.labels)}


def _rule(rule: Rule) -> dict[str, Any]:
    if isinstance(rule, RecordingRule):
        return {"record": rule.record, "expr": rule.expr, "labels": dict(rule.labels)}
    return {
        "alert": rule.alert,
        "expr": rule.expr,
        "for": _duration(rule.hold_s),
        "labels": dict(rule.labels),
        "annotations": dict(rule.annotations),
    }


def _alertmanager(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "scheme": parts.scheme,
        "path_prefix": parts.path or "/",
        "api_version": "v2",
        "static_configs": [{"targets": [parts.netloc]}],
    }


def _dump(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
