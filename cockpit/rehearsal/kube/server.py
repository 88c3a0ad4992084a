"""The server: one world's Kubernetes API on loopback, with its controllers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from cockpit.rehearsal.kube.access import AccessTable, User
from cockpit.rehearsal.kube.api import Api
from cockpit.rehearsal.kube.deployments import DeploymentController
from cockpit.rehearsal.kube.faults import Faults
from cockpit.rehearsal.kube.gateway import GatewayController
from cockpit.rehearsal.kube.kubelet import Kubelet
from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import APPLY_PATCH, Registry, Write
from cockpit.rehearsal.kube.replicasets import ReplicaSetController
from cockpit.rehearsal.kube.resources import BY_KIND, NAMESPACES
from cockpit.rehearsal.kube.storage import Store
from cockpit.rehearsal.kube.values import Obj, bad_request
from cockpit.rehearsal.kube.watching import Watches

HOST = "127.0.0.1"
_SEEDER = Write(Manager("rehearsal-world", "Apply"), force=True)


class KubeServer:
    """A stand-in for the Kubernetes API, and says so in its version.

    `tokens` gives each bearer token its user (see `access`); `start_delay` and `stop_delay` are the seconds a
    pod takes to start and to end; `history` is how many changes of a resource a watch can go back.
    `faults` is the seam through which scenarios make it fail.
    """

    def __init__(
        self,
        tokens: Mapping[str, User],
        *,
        start_delay: float = 0.2,
        stop_delay: float = 0.2,
        history: int = 4096,
        bookmark_interval: float = 10.0,
    ) -> None:
        self.faults = Faults()
        self._store = Store(history=history)
        self._registry = Registry(self._store)
        self._watches = Watches(self._store, bookmark_interval=bookmark_interval)
        self._api = Api(self._registry, AccessTable(tokens), self.faults, self._watches)
        self._controllers = (
            DeploymentController(self._registry),
            ReplicaSetController(self._registry),
            Kubelet(self._registry, self.faults, start_delay=start_delay, stop_delay=stop_delay),
            GatewayController(self._registry),
        )
        self._runner: web.AppRunner | None = None
        self._tasks: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self) -> str:
        """Begin to serve on a free port of loopback and return the base URL."""
        for name in ("default", "kube-system"):
            self._registry.create(NAMESPACES, "", {"metadata": {"name": name}})
        self._tasks = asyncio.create_task(self._run_controllers(), name="kube controllers")
        # A watch whose client has gone is cancelled at once instead of at its time-out.
        self._runner = web.AppRunner(
            self._api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}"
        return self.url

    async def stop(self) -> None:
        """End watches, connections and controllers; a controller that failed raises here."""
        self._watches.drop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._tasks is not None:
            self._tasks.cancel()
            try:
                await self._tasks
            except asyncio.CancelledError:
                pass
            self._tasks = None

    async def apply(self, obj: Obj) -> Obj:
        """Create or change an object as the world itself, past tokens and faults; return it as stored."""
        resource = BY_KIND.get((str(obj.get("apiVersion")), str(obj.get("kind"))))
        if resource is None:
            raise bad_request(f"not served: {obj.get('kind')} in {obj.get('apiVersion')}")
        metadata = obj.get("metadata") or {}
        space = metadata.get("namespace", "default") if resource.namespaced else ""
        return self._registry.patch(resource, space, str(metadata.get("name", "")), APPLY_PATCH, obj, _SEEDER)

    def drop_watches(self) -> None:
        """End every open watch, as a restarting API server does."""
        self._watches.drop()

    def forget_history(self) -> None:
        """Forget past changes, as compaction does: older watches and pages get 410 Expired."""
        self._store.forget()
        self._watches.drop()

    async def _run_controllers(self) -> None:
        async with asyncio.TaskGroup() as group:
            for controller in self._controllers:
                group.create_task(controller.run())
