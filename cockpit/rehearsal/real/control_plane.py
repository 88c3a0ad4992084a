"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler, and nodes by kwok.

Nothing is executed on its three nodes: kwok says of each pod what a kubelet would. TLS and RBAC are on.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp

from cockpit.base.errors import BackendError
from cockpit.rehearsal.kube.access import User, conductor
from cockpit.rehearsal.real import pki, rights, stages
from cockpit.rehearsal.real.binaries import binary, share
from cockpit.rehearsal.real.rights import Obj
from cockpit.rehearsal.real.servers import Probe, Running, Servers, free_ports

NODES = 3
_WITHIN = 60.0
_POLL = 0.05
_COLLECTIONS = {
    "Namespace": "api/v1/namespaces",
    "ServiceAccount": "api/v1/namespaces/{ns}/serviceaccounts",
    "Role": f"apis/{rights.RBAC}/v1/namespaces/{{ns}}/roles",
    "RoleBinding": f"apis/{rights.RBAC}/v1/namespaces/{{ns}}/rolebindings",
    "ClusterRole": f"apis/{rights.RBAC}/v1/clusterroles",
    "ClusterRoleBinding": f"apis/{rights.RBAC}/v1/clusterrolebindings",
    "Node": "api/v1/nodes",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
_CONTROLLERS = (
    "deployment-controller,replicaset-controller,job-controller,disruption-controller,"
    # The last one takes the not-ready taint off the nodes.
    "endpointslice-controller,namespace-controller,garbage-collector-controller,pod-garbage-collector-controller,"
    "node-lifecycle-controller"
)


@asynccontextmanager
async def connection(context: ssl.SSLContext, *, seconds: float = 20) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session over TLS whose connections are really gone at its end, not closed some time later."""
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            yield session
        finally:
            await connector.close(abort_ssl=True)


@dataclass(frozen=True)
class Api:
    """The API of a control plane for one bearer of a token; every call is a connection of its own."""

    url: str
    token: str = field(repr=False)
    context: ssl.SSLContext

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> tuple[int, Obj]:
        """Send one request; return its status and JSON answer. Raises BackendError without an answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            async with (
                connection(self.context) as session,
                session.request(
                    method, f"{self.url}/{path}", data=data, headers=headers, params=query
                ) as answer,
            ):
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BackendError(
                f"the API server did not answer: {error!r}", where=f"{method} {path}"
            ) from None

    async def make(self, obj: Obj) -> Obj:
        """Create an object of a kind a rehearsal sets up, or replace it; raises BackendError."""
        metadata = obj["metadata"]
        path = _COLLECTIONS[obj["kind"]].format(ns=metadata.get("namespace", ""))
        status, answer = await self.request("POST", path, obj)
        if status == 409:
            status, answer = await self.request("PUT", f"{path}/{metadata['name']}", obj)
        if status not in (200, 201):
            raise BackendError(f"{status}: {answer.get('message', '')}", where=f"{path}/{metadata['name']}")
        return answer

    async def make_yaml(self, path: str, text: bytes) -> Obj:
        """Create an object that lies in a file, in the collection `path`; raises BackendError."""
        status, answer = await self.request("POST", path, text, content_type="application/yaml")
        if status != 201:
            raise BackendError(f"{status}: {answer.get('message', '')}", where=path)
        return answer

    async def reads(self, path: str) -> Obj | None:
        """Return what is at a path, or None while it cannot be read."""
        try:
            status, answer = await self.request("GET", path)
        except BackendError:  # a group that is not served yet is answered with a text that is no JSON
            return None
        return answer if status == 200 else None


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that runs; `admin` may do everything and is for setting up, never for the cockpit."""

    url: str
    ca_file: Path
    admin_token: str = field(repr=False)
    issuer_key: Path
    """The key that signs tokens of ServiceAccounts."""
    etcd_url: str
    admin: Api
    servers: Mapping[str, Running]

    def as_bearer(self, token: str) -> Api:
        """Return the API for another bearer."""
        return Api(self.url, token, self.admin.context)

    async def namespace(self, name: str) -> None:
        """Make a namespace."""
        await self.admin.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def token_for(
        self, account: str, namespaces: Iterable[str], *, drills: Iterable[str] = (), seconds: int = 3600
    ) -> str:
        """Return a token of ServiceAccount `account`, which may do what a release cockpit needs, no more.

        The account lies in the first of `namespaces`; in `drills` it may delete pods as well.
        """
        spaces = list(namespaces)
        return await self.token_of(conductor(spaces, account, drills=drills), spaces[0], seconds=seconds)

    async def token_of(self, user: User, home: str, *, seconds: int = 3600) -> str:
        """Return a token of a ServiceAccount in namespace `home` with the rules of `user`, once they hold."""
        for obj in rights.manifests(user, home):
            await self.admin.make(obj)
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"api/v1/namespaces/{home}/serviceaccounts/{user.name}/token"
        status, answer = await self.admin.request("POST", path, asked)
        if status != 201:
            raise BackendError(f"no token: {status} {answer.get('message', '')}", where=path)
        token = str(answer["status"]["token"])
        bearer = self.as_bearer(token)
        for wanted in rights.reviews(user):
            await _until(partial(_may, bearer, wanted), f"the right to {wanted}")
        return token

    async def compact(self, version: str) -> None:
        """Make etcd forget what was before `version`, as it does by itself every few minutes."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            session.post(
                f"{self.etcd_url}/v3/kv/compaction", json={"revision": version, "physical": True}
            ) as answer,
        ):
            if answer.status != 200:
                raise BackendError(f"etcd did not compact: {answer.status} {await answer.text()}")


@asynccontextmanager
async def control_plane(
    servers: Servers, *, namespaces: Iterable[str] = (), crds: str = "gateway-api"
) -> AsyncIterator[ControlPlane]:
    """Start a control plane with `namespaces` and the CRDs of a folder of `share`, until it serves them all.

    Its processes stop with `servers`. Raises BackendError when one does not start, UsageError without its
    binaries or outside a network namespace.
    """
    programs = {name: binary(name) for name in ("etcd", "kube-apiserver", "kwok")}
    programs |= {name: binary(name) for name in ("kube-controller-manager", "kube-scheduler")}
    definitions = [path.read_bytes() for path in sorted(share(crds).glob("*.yaml"))]
    folder = servers.folder / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(
        zip(("etcd", "peers", "api", "controllers", "scheduler", "kwok"), free_ports(6), strict=True)
    )
    etcd, url = f"http://127.0.0.1:{ports['etcd']}", f"https://127.0.0.1:{ports['api']}"
    tls = pki.serving(folder / "pki", "apiserver", "kubernetes.default.svc")
    context = ssl.create_default_context(cafile=str(tls.ca))
    key = pki.new_key(folder / "pki" / "accounts.key")
    public = pki.public_file(folder / "pki" / "accounts.pub", key)
    token = secrets.token_urlsafe(24)
    tokens = pki.write_private(folder / "tokens.csv", f'{token},admin,admin,"system:masters"\n'.encode())
    running: dict[str, Running] = {}
    running["etcd"] = await servers.start(
        "etcd",
        [
            programs["etcd"],
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{ports['peers']}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{ports['peers']}",
            f"--initial-cluster=default=http://127.0.0.1:{ports['peers']}",
            "--unsafe-no-fsync",  # nothing of it outlives the run
            "--log-level=warn",
        ],
        ready=f"{etcd}/readyz",
    )
    running["kube-apiserver"] = await servers.start(
        "kube-apiserver",
        [
            programs["kube-apiserver"],
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={ports['api']}",
            f"--cert-dir={folder / 'pki'}",
            f"--tls-cert-file={tls.certificate}",
            f"--tls-private-key-file={tls.key}",
            f"--client-ca-file={tls.ca}",  # of nobody: its key is not kept
            f"--service-account-issuer={url}",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={folder / 'pki' / 'accounts.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",  # loopback is no endpoint
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            # Pods need no token of their own: nothing runs in them.
            "--disable-admission-plugins=ServiceAccount",
        ],
        ready=_answers(context, f"{url}/readyz"),
        within=_WITHIN,
    )
    admin = Api(url, token, context)
    plane = ControlPlane(url, tls.ca, token, folder / "pki" / "accounts.key", etcd, admin, running)
    config = pki.write_private(folder / "kubeconfig", json.dumps(_kubeconfig(url, token, tls.ca)).encode())
    staged = folder / "stages.yaml"
    staged.write_text(
        "\n---\n".join(json.dumps(stage) for stage in stages.load(share("kwok"))), encoding="utf-8"
    )
    common = [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        f"--tls-cert-file={tls.certificate}",
        f"--tls-private-key-file={tls.key}",
    ]
    async with asyncio.TaskGroup() as tasks:
        # Side by side: each of them waits most of the time.
        defined = [
            tasks.create_task(admin.make_yaml(_COLLECTIONS["CustomResourceDefinition"], definition))
            for definition in definitions
        ]
        for number in range(NODES):
            tasks.create_task(admin.make(_node(f"node-{number}")))
        for name in namespaces:
            tasks.create_task(plane.namespace(name))
        starts = {
            "kube-controller-manager": tasks.create_task(
                servers.start(
                    "kube-controller-manager",
                    [
                        programs["kube-controller-manager"],
                        *common,
                        f"--secure-port={ports['controllers']}",
                        f"--controllers={_CONTROLLERS}",
                        "--node-monitor-period=1s",
                    ],
                    ready=_answers(context, f"https://127.0.0.1:{ports['controllers']}/healthz"),
                    within=_WITHIN,
                )
            ),
            "kube-scheduler": tasks.create_task(
                servers.start(
                    "kube-scheduler",
                    [programs["kube-scheduler"], *common, f"--secure-port={ports['scheduler']}"],
                    ready=_answers(context, f"https://127.0.0.1:{ports['scheduler']}/healthz"),
                    within=_WITHIN,
                )
            ),
            "kwok": tasks.create_task(
                servers.start(
                    "kwok",
                    [
                        programs["kwok"],
                        f"--kubeconfig={config}",
                        "--manage-all-nodes=true",
                        f"--server-address=127.0.0.1:{ports['kwok']}",
                        f"--config={staged}",
                    ],
                    ready=f"http://127.0.0.1:{ports['kwok']}/healthz",
                    within=_WITHIN,
                )
            ),
        }
    running |= {name: task.result() for name, task in starts.items()}
    names = [task.result()["metadata"]["name"] for task in defined]
    await _until(lambda: _serves(admin, names), "the definitions of the gateway")
    await _until(lambda: _nodes_ready(admin), "the nodes")
    yield plane


def _answers(context: ssl.SSLContext, url: str) -> Probe:
    async def probe() -> bool:
        try:
            async with connection(context, seconds=2) as session, session.get(url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    return probe


async def _until(probe: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(_WITHIN):
            while not await probe():  # noqa: ASYNC110 - the server is asked, there is no event
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise BackendError(f"the control plane has not got {what} within {_WITHIN:g} s") from None


async def _may(bearer: Api, wanted: Obj) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    path = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    status, answer = await bearer.request("POST", path, review)
    return status == 201 and answer["status"]["allowed"] is True


async def _serves(admin: Api, names: Iterable[str]) -> bool:
    """Tell whether each definition is established and its resource is in discovery."""
    for name in names:
        found = await admin.reads(f"{_COLLECTIONS['CustomResourceDefinition']}/{name}")
        if found is None or not _holds(found, "Established"):
            return False
        group = found["spec"]["group"]
        for version in found["spec"]["versions"]:
            if version["served"]:
                listed = await admin.reads(f"apis/{group}/{version['name']}")
                plurals = {one["name"] for one in listed["resources"]} if listed else set()
                if found["spec"]["names"]["plural"] not in plurals:
                    return False
    return True


async def _nodes_ready(admin: Api) -> bool:
    listed = await admin.reads(_COLLECTIONS["Node"])
    nodes = listed["items"] if listed else []
    return len(nodes) == NODES and all(
        _holds(node, "Ready") and not node["spec"].get("taints") for node in nodes
    )


def _holds(obj: Obj, kind: str) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _node(name: str) -> Obj:
    room = {"cpu": "32", "memory": "256Gi", "pods": "500"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name},
        },
        "status": {"allocatable": room, "capacity": room},
    }


def _kubeconfig(url: str, token: str, ca: Path) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "real", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
        "current-context": "real",
    }
