"""The demo application's process: reads its settings from standard input and ends when that closes.

The world keeps the other end of the pipe, so this process goes away with the world however it ends.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from cockpit.rehearsal.app.api import api_session
from cockpit.rehearsal.app.faults import Trigger
from cockpit.rehearsal.app.kubelet import Kubelet
from cockpit.rehearsal.app.logs import log_to
from cockpit.rehearsal.app.metrics import CONTENT_TYPE
from cockpit.rehearsal.app.records import RequestLog
from cockpit.rehearsal.app.route_status import RouteStatus
from cockpit.rehearsal.gateway import Gateway
from cockpit.rehearsal.scenarios import Fault
from cockpit.rehearsal.topology import (
    NAMESPACES,
    PROD,
    SERVICES,
    STAGE,
    STAGE_RATES,
    TENANT_RATES,
    Behaviour,
)
from cockpit.rehearsal.traffic import Traffic

_MAX_SETTINGS = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What the world tells the application: where the API is, and what the images do."""

    kube_url: str
    token: str
    folder: Path
    images: Mapping[str, Behaviour]
    fault: Fault | None
    ca_file: str = ""
    """Who signed the API's certificate; empty where it speaks plain HTTP."""
    reports_routes: bool = False
    """Whether the gateways say of their routes that they are accepted."""

    def to_json(self) -> str:
        """Return the one line that `from_json` reads."""
        fault = asdict(self.fault) if self.fault else None
        images = {image: asdict(behaviour) for image, behaviour in self.images.items()}
        return json.dumps(
            {
                "kube_url": self.kube_url,
                "token": self.token,
                "folder": str(self.folder),
                "images": images,
                "fault": fault,
                "ca_file": self.ca_file,
                "reports_routes": self.reports_routes,
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Settings:
        """Read what `to_json` wrote; raises ValueError, KeyError or TypeError on anything else."""
        data: dict[str, Any] = json.loads(text)
        return cls(
            kube_url=data["kube_url"],
            token=data["token"],
            folder=Path(data["folder"]),
            images={image: Behaviour(**values) for image, values in data["images"].items()},
            fault=Fault(**data["fault"]) if data["fault"] else None,
            ca_file=str(data["ca_file"]),
            reports_routes=data["reports_routes"] is True,
        )


class Application:
    """Everything that runs in the process, by namespace."""

    def __init__(
        self, settings: Settings, api: aiohttp.ClientSession, inner: aiohttp.ClientSession, log: RequestLog
    ) -> None:
        self.log = log
        self.trigger = Trigger(settings.fault)
        self.kubelets: dict[str, Kubelet] = {}
        self.gateways: dict[str, Gateway] = {}
        self.reporters: list[RouteStatus] = []
        for namespace in NAMESPACES:
            # Only prod's canary springs the fault, and only prod's pods can be sick.
            trigger = self.trigger if namespace == PROD else Trigger(None)
            kubelet = Kubelet(
                api,
                settings.kube_url,
                namespace,
                settings.images,
                trigger,
                log,
                self._refresher(namespace),
            )
            self.kubelets[namespace] = kubelet
            self.gateways[namespace] = Gateway(
                api, inner, settings.kube_url, namespace, kubelet.pods.objects.values, trigger
            )
            if settings.reports_routes:
                self.reporters.append(RouteStatus(api, settings.kube_url, namespace))

    def _refresher(self, namespace: str) -> Callable[[], None]:
        return lambda: self.gateways[namespace].refresh()

    def targets(self) -> list[dict[str, Any]]:
        """Return the scrape targets in the shape of Prometheus' HTTP service discovery."""
        found = [target for kubelet in self.kubelets.values() for target in kubelet.targets()]
        found += [gateway.target() for gateway in self.gateways.values()]
        return [
            {"targets": [address], "labels": {"job": "intelgraph", **labels}} for address, labels in found
        ]


async def run(settings: Settings, gone: Callable[[], Any]) -> None:
    """Serve until `gone()` returns or the process is told to stop."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(api_session(settings.token, settings.ca_file or None))
        inner = await stack.enter_async_context(_session(15))
        users = await stack.enter_async_context(_session(20))
        log = RequestLog(settings.folder / "requests.jsonl")
        stack.callback(log.close)
        app = Application(settings, api, inner, log)
        for gateway in app.gateways.values():
            await gateway.start()
        traffic = Traffic(
            users,
            app.gateways[PROD].url,
            TENANT_RATES,
            paused=lambda: app.trigger.active("no-traffic"),
        )
        testers = Traffic(users, app.gateways[STAGE].url, STAGE_RATES, paused=lambda: False)
        discovery = await stack.enter_async_context(_discovery(app, traffic))
        ready = {
            "discovery": f"{discovery}/targets",
            "gateways": {namespace: gateway.url for namespace, gateway in app.gateways.items()},
        }
        print(json.dumps(ready), flush=True)
        await _until_stopped(app, {PROD: traffic, STAGE: testers}, gone)


async def _until_stopped(app: Application, traffic: Mapping[str, Traffic], gone: Callable[[], Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def watch() -> None:
        await gone()
        stop.set()

    async def users(namespace: str) -> None:
        while not app.gateways[namespace].serves(SERVICES):  # noqa: ASYNC110 - many mirrors, no single event
            await asyncio.sleep(0.1)
        await traffic[namespace].run()

    async with asyncio.TaskGroup() as tasks:
        jobs = [tasks.create_task(job) for job in (watch(), app.log.run())]
        jobs += [tasks.create_task(users(namespace)) for namespace in traffic]
        jobs += [tasks.create_task(gateway.run()) for gateway in app.gateways.values()]
        jobs += [tasks.create_task(kubelet.run()) for kubelet in app.kubelets.values()]
        jobs += [tasks.create_task(reporter.run()) for reporter in app.reporters]
        await stop.wait()
        for job in jobs:
            job.cancel()


def _session(seconds: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        timeout=aiohttp.ClientTimeout(total=seconds),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@asynccontextmanager
async def _discovery(app: Application, traffic: Traffic) -> AsyncIterator[str]:
    """Serve the list of scrape targets, and the users' metrics as one of them."""
    address = ""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.rel_url.path == "/metrics":
            return web.Response(body=traffic.exposition(), headers={"Content-Type": CONTENT_TYPE})
        if request.rel_url.path == "/targets":
            users = {"targets": [address], "labels": {"job": "users"}}
            return web.json_response([*app.targets(), users])
        return web.json_response({"error": "not found"}, status=404)

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        address = f"{host}:{port}"
        yield f"http://{address}"
    finally:
        await runner.cleanup()


async def _main() -> int:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MAX_SETTINGS)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    line = await reader.readline()
    if not line:
        return 0  # the world went away before it said anything
    try:
        settings = Settings.from_json(line)
    except (ValueError, KeyError, TypeError):
        print("the demo application is started by `python -m cockpit.rehearsal`", file=sys.stderr)
        return 64
    log_to(settings.folder / "app.log")
    try:
        await run(settings, reader.read)
    except (OSError, ExceptionGroup) as error:
        print(f"the demo application stopped: {_first(error)!r}", file=sys.stderr)
        return 70
    return 0


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
