"""The kubelet of the demo world: for each pod of the API a real server, and the pod's readiness reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from cockpit.rehearsal.app.faults import Trigger
from cockpit.rehearsal.app.mirror import Mirror, Object
from cockpit.rehearsal.app.pod import PodIdentity, PodServer
from cockpit.rehearsal.app.records import RequestLog
from cockpit.rehearsal.topology import ADDRESS, CONTAINER, SERVING, Behaviour

_log = logging.getLogger("rehearsal.kubelet")

_GRACE = 3.0
_SETTLE = 0.15  # gateways see the deletion by the same watch; let a request just sent still arrive
_STRATEGIC = "application/strategic-merge-patch+json"

Labels = dict[str, str]


class Kubelet:
    """Runs the pods of one namespace.

    `images` maps an image reference to how it behaves; a pod whose image is not there never becomes ready,
    as with an image that cannot be pulled.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        namespace: str,
        images: Mapping[str, Behaviour],
        trigger: Trigger,
        log: RequestLog,
        changed: Callable[[], None],
    ) -> None:
        self.pods = Mirror(session, url, f"/api/v1/namespaces/{namespace}/pods", self._wake)
        self._session = session
        self._url = url
        self._namespace = namespace
        self._images = images
        self._trigger = trigger
        self._records = log
        self._changed = changed
        self._dirty = asyncio.Event()
        self._servers: dict[str, PodServer] = {}
        self._ending: set[str] = set()
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Follow the pods until cancelled; on the way out every server is closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.pods.run())
                while True:
                    await self._dirty.wait()
                    self._dirty.clear()
                    self._reconcile(tasks)
        finally:
            for server in self._servers.values():
                await server.stop(0.0)

    def targets(self) -> list[tuple[str, Labels]]:
        """Return the scrape targets: address and labels of each pod that listens."""
        return [
            (
                server.address,
                {
                    "namespace": self._namespace,
                    "service": server.identity.service,
                    "track": server.identity.track,
                    "pod": server.identity.name,
                    "version": server.behaviour.version,
                },
            )
            for server in self._servers.values()
            if server.address
        ]

    def _wake(self) -> None:
        self._dirty.set()
        self._changed()

    def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        for name, pod in self.pods.objects.items():
            if pod["metadata"].get("deletionTimestamp"):
                self._end(tasks, name, pod)
            elif name not in self._servers and name not in self._refused:
                self._begin(tasks, name, pod)
        for name in [name for name in self._servers if name not in self.pods.objects]:
            self._end(tasks, name, None)
        self._refused &= set(self.pods.objects)

    def _begin(self, tasks: asyncio.TaskGroup, name: str, pod: Object) -> None:
        labels = pod["metadata"].get("labels", {})
        image = next(
            (c.get("image", "") for c in pod["spec"].get("containers", []) if c.get("name") == CONTAINER), ""
        )
        behaviour = self._images.get(image)
        if behaviour is None:
            self._refused.add(name)
            _log.warning("image cannot be pulled", extra={"pod": name, "image": image})
            return
        identity = PodIdentity(
            name=name,
            namespace=self._namespace,
            service=labels.get("app.kubernetes.io/name", behaviour.service),
            track=labels.get("track", "stable"),
        )
        server = PodServer(identity, image, behaviour, self._trigger, self._records)
        self._servers[name] = server
        tasks.create_task(self._start(server))

    async def _start(self, server: PodServer) -> None:
        address = await server.start()
        name = server.identity.name
        _log.info("pod started", extra={"pod": name, "version": server.behaviour.version})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        serving = {"type": SERVING, "status": "True", "lastTransitionTime": now, "reason": "Listening"}
        pause = 0.05
        while name in self._servers and name not in self._ending:
            note = await self._patch(f"/{name}", {"metadata": {"annotations": {ADDRESS: address}}})
            told = note and await self._patch(f"/{name}/status", {"status": {"conditions": [serving]}})
            if told:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _patch(self, path: str, body: Mapping[str, Any]) -> bool:
        """Patch a pod; False means: not now, try again (404 ends the pod through the watch)."""
        url = f"{self._url}/api/v1/namespaces/{self._namespace}/pods{path}"
        try:
            async with self._session.patch(
                url, json=body, headers={"Content-Type": _STRATEGIC}, timeout=aiohttp.ClientTimeout(total=5)
            ) as answer:
                if answer.status >= 400:
                    _log.warning("pod patch refused", extra={"path": path, "status": answer.status})
                return answer.status < 400
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _end(self, tasks: asyncio.TaskGroup, name: str, pod: Object | None) -> None:
        if name in self._ending:
            return
        self._ending.add(name)
        tasks.create_task(self._stop(name, confirm=pod is not None))

    async def _stop(self, name: str, *, confirm: bool) -> None:
        server = self._servers.get(name)
        if server is not None:
            await asyncio.sleep(_SETTLE)
            await server.stop(_GRACE)
            self._servers.pop(name, None)
            _log.info("pod stopped", extra={"pod": name, "version": server.behaviour.version})
        if confirm:  # the API keeps a terminating pod until its kubelet says that it is gone
            url = f"{self._url}/api/v1/namespaces/{self._namespace}/pods/{name}"
            try:
                async with self._session.delete(
                    url, params={"gracePeriodSeconds": "0"}, timeout=aiohttp.ClientTimeout(total=5)
                ) as answer:
                    await answer.read()
            except (aiohttp.ClientError, TimeoutError):
                _log.warning("pod deletion not confirmed", extra={"pod": name})
        self._ending.discard(name)
        self._changed()
