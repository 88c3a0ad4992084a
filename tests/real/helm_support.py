"""A service that Helm installed on the real API server, and the cockpit's own pieces that release it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cockpit.backends.cluster import (
    CONFIGMAP,
    DEPLOYMENT,
    HTTPROUTE,
    SERVICE,
    Kind,
    KubernetesCluster,
    Object,
)
from cockpit.backends.rights import ACCOUNT, manifest
from cockpit.base.errors import Conflict
from cockpit.conductor.abort import Abort
from cockpit.conductor.canary import Promotion, Wiring
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import Targets
from cockpit.conductor.tools import BakeClock
from cockpit.plan.model import Plan
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.conductor.support import FastClock, ToldAnalyst, plan_of, recording

CHART = Path(__file__).parent / "helm" / "chart"
RELEASE = "web"
STABLE, CANARY, ROUTE = "web-stable", "web-canary", "intelgraph"
OLD_DIGEST, NEW_DIGEST = "sha256:" + "1" * 64, "sha256:" + "a" * 64
OLD, NEW = (f"registry.example/web@{digest}" for digest in (OLD_DIGEST, NEW_DIGEST))
REPLICAS = 4
_KINDS = {kind.kind: kind for kind in (DEPLOYMENT, HTTPROUTE, SERVICE, CONFIGMAP)}
_SPEED = 5.0
_HELM_WITHIN = 90.0


def digests(stable: str = OLD_DIGEST, canary: str = OLD_DIGEST) -> tuple[str, ...]:
    """Return the values that say which images stable and canary run."""
    return "--set", f"stable.digest={stable},canary.digest={canary}"


@dataclass(frozen=True)
class Helm:
    """The program, in a home of its own and with no PATH; it reaches one namespace of the API server."""

    home: Path
    namespace: str

    async def run(self, *command: str) -> str:
        """Run a command to its end and return what it printed; it must succeed."""
        process = await asyncio.create_subprocess_exec(
            *(str(binary("helm")), *command, "--namespace", self.namespace),
            env={
                "HOME": str(self.home),
                "KUBECONFIG": str(self.home / "kubeconfig"),
                **{f"HELM_{name}_HOME": str(self.home / name) for name in ("CACHE", "CONFIG", "DATA")},
                "PATH": "",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_HELM_WITHIN):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, (command, err.decode())
        return out.decode()

    async def install(self) -> None:
        """Install the service, and wait until it runs."""
        await self.run("install", RELEASE, str(CHART), *digests(), "--wait", "--timeout=60s")

    async def upgrade(self, *values: str) -> None:
        """Upgrade the release with exactly these values."""
        await self.run("upgrade", RELEASE, str(CHART), *values)

    async def rendered(self) -> list[Object]:
        """Return what Helm last rendered of the release, as it keeps it."""
        said = await self.run("get", "manifest", RELEASE)
        return [one for one in YAML(typ="safe", pure=True).load_all(StringIO(said)) if one]


@dataclass
class Site:
    """The service, the cockpit with the rights `cockpit doctor --rbac` prints, and an administrator."""

    helm: Helm
    admin: KubernetesCluster
    recorder: Recorder
    clock: FastClock
    plan: Plan
    lease: ReleaseLease
    gate: EffectsGate
    targets: Targets
    abort_targets: Targets
    analyst: ToldAnalyst
    meanwhile: Callable[[int], Awaitable[None]] | None = None
    """What happens under a step that has baked, before it is decided on."""
    looked: list[tuple[int, list[int], int, str, int, str]] = field(default_factory=list)
    """Under each step: weight, weights of the route, replicas and image of the canary, and of stable."""

    def promotion(self) -> Promotion:
        """Return a promotion on which nobody has to decide."""

        async def resumed() -> None:
            return

        async def undecided(doubt: Exception) -> None:
            raise doubt

        async def nothing(_: int) -> None:
            return

        return Promotion(
            Wiring(
                effects=self.gate,
                targets=self.targets,
                analyst=self.analyst,
                gatekeeper=_Looking(self),
                recorder=self.recorder,
                plan=self.plan,
                clock=self.clock,
                resumed=resumed,
                undecided=undecided,
                bake=BakeClock(self.recorder),
                before=nothing,
                after=nothing,
                closed=lambda: "",
            )
        )

    async def look(self, step: int) -> None:
        """Keep what is there under a step, then let happen what is to."""
        canary, stable = await self.live(DEPLOYMENT, CANARY), await self.live(DEPLOYMENT, STABLE)
        self.looked.append(
            (
                self.plan.canary.steps[step - 1],
                await self.weights(),
                *(canary["spec"]["replicas"], image(canary)),
                *(stable["spec"]["replicas"], image(stable)),
            )
        )
        if self.meanwhile is not None:
            await self.meanwhile(step)

    async def roll_back(self, promotion: Promotion) -> bool:
        """Abort as after a breach; tell whether it was verified."""
        abort = Abort(
            effects=self.gate,
            targets=self.abort_targets,
            observer=self.analyst,
            recorder=self.recorder,
            plan=self.plan,
            clock=self.clock,
        )
        stable, replacing = promotion.stable, promotion.replacing
        return await abort.run("slo_breach", "a test", "A1", stable, replacing=replacing)

    async def live(self, kind: Kind, name: str) -> Object:
        """Return an object as it is in the cluster."""
        return await self.admin.get(kind, name)

    async def change(self, kind: Kind, name: str, body: Object) -> None:
        """Change an object as somebody else would."""
        while True:
            version = (await self.live(kind, name))["metadata"]["resourceVersion"]
            try:
                await self.admin.patch(kind, name, body, resource_version=version)
                return
            except Conflict:
                continue  # a controller was quicker

    async def weights(self) -> list[int]:
        """Return the route's weights, stable's first."""
        [rule] = (await self.live(HTTPROUTE, ROUTE))["spec"]["rules"]
        return [ref["weight"] for ref in rule["backendRefs"]]

    async def specs(self) -> dict[str, tuple[int, object]]:
        """Return generation and spec of all that the cockpit may change."""
        found = [await self.live(kind, name) for kind, name in self.targets.names()]
        return {one["metadata"]["name"]: (one["metadata"]["generation"], one["spec"]) for one in found}

    async def differences(self) -> list[str]:
        """Return where a live object is not as Helm has rendered it, on the fields that it rendered."""
        wrong: list[str] = []
        rendered = await self.helm.rendered()
        assert {one["kind"] for one in rendered} == set(_KINDS)
        for wanted in rendered:
            name = wanted["metadata"]["name"]
            found = await self.live(_KINDS[wanted["kind"]], name)
            wrong += _differences(wanted, found, f"{wanted['kind']}/{name}")
        return wrong

    async def owned(self, kind: Kind, name: str, manager: str) -> set[str]:
        """Return the leaves of an object which a field manager owns, as paths."""
        managed = (await self.live(kind, name))["metadata"]["managedFields"]
        found: set[str] = set()
        for entry in managed:
            if entry["manager"] == manager and "subresource" not in entry:
                found |= set(_leaves(entry["fieldsV1"], ""))
        return found


@dataclass(frozen=True)
class _Looking:
    """A gatekeeper to whom all is well; under each step it looks at what is there."""

    site: Site

    async def preflight(self, step: int) -> list[str]:
        """Find nothing."""
        return []

    async def under_step(self, step: int) -> None:
        """Look; find nothing."""
        await self.site.look(step)


@asynccontextmanager
async def site(plane: ControlPlane, folder: Path, **canary: Any) -> AsyncIterator[Site]:
    """Install the service with Helm and yield what releases it."""
    namespace = f"helm-{secrets.token_hex(4)}"
    await plane.namespace(namespace)
    clock = FastClock(_SPEED)
    plan = _at(plan_of(clock, url=plane.url, canary={"required_passes": 2, **canary}), namespace, plane)
    helm = Helm(folder / "helm", namespace)
    helm.home.mkdir()
    (helm.home / "kubeconfig").write_text(json.dumps(_kubeconfig(plane)), encoding="utf-8")
    (helm.home / "kubeconfig").chmod(0o600)
    await helm.install()
    token = await _token(plane, plan)
    mine, admin = (
        KubernetesCluster(plane.url, one, namespace, ca_file=str(plane.ca_file), deadline=10.0)
        for one in (token, plane.admin_token)
    )
    try:
        await mine.connect()
        await admin.connect()
        async with recording(folder / "run", clock) as recorder:
            lease = ReleaseLease(mine, plan.targets.kubernetes, "ann", recorder, clock)
            await lease.acquire()
            targets = Targets(mine, plan, lease)
            yield Site(
                helm,
                admin,
                recorder,
                clock,
                plan,
                lease,
                EffectsGate(recorder, lease, clock, plan.window_utc, frozenset({"prod"})),
                targets,
                Targets(mine, plan, lease, abort="test"),
                ToldAnalyst(weight=targets.weight),
            )
    finally:
        await mine.close()
        await admin.close()


async def _token(plane: ControlPlane, plan: Plan) -> str:
    """Return a token of the account of `cockpit doctor --rbac`, once it may do what it is to do."""
    space = plan.targets.kubernetes.namespace
    for document in YAML(typ="safe", pure=True).load_all(manifest(plan)):
        # The plan's stages and flags lie in namespaces of their own, which are not looked at here.
        if document["metadata"]["namespace"] == space:
            await plane.admin.make(document)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"api/v1/namespaces/{space}/serviceaccounts/{ACCOUNT}/token"
    status, answer = await plane.admin.request("POST", path, asked)
    assert status == 201, answer
    token = str(answer["status"]["token"])
    bearer = plane.as_bearer(token)
    async with asyncio.timeout(20):
        while await bearer.reads(f"apis/apps/v1/namespaces/{space}/deployments") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return token


def _at(plan: Plan, namespace: str, plane: ControlPlane) -> Plan:
    kubernetes = plan.targets.kubernetes.model_copy(
        update={"namespace": namespace, "ca_file": str(plane.ca_file)}
    )
    return plan.model_copy(update={"targets": plan.targets.model_copy(update={"kubernetes": kubernetes})})


def _kubeconfig(plane: ControlPlane) -> Object:
    server = {"server": plane.url, "certificate-authority": str(plane.ca_file)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "real", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": plane.admin_token}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
        "current-context": "real",
    }


def image(deployment: Object) -> str:
    """Return the image of a Deployment's one container."""
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def _differences(wanted: object, found: object, where: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key, value in wanted.items()
            for line in _differences(value, found.get(key), f"{where}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [
            line for number, (one, other) in pairs for line in _differences(one, other, f"{where}[{number}]")
        ]
    return [] if wanted == found else [f"{where}: {wanted!r} rendered, {found!r} there"]


def _leaves(fields: Object, path: str) -> list[str]:
    """Return the paths of managed fields; of a list's item only what lies in it."""
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner:
        return [path]
    return [leaf for key, value in inner.items() for leaf in _leaves(value, f"{path}/{key}")]
