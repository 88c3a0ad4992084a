"""The cluster: a reader for agents, and the full client only the effects gate holds.

Through `kubernetes.aio` and its dynamic client, with the resource kinds given instead of discovered: the
client can then be used before, and without, any discovery answer, which matters to an abort.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import quote

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, Conflict
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
    from kubernetes.aio.dynamic import DynamicClient

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON gives it; its shape is checked where a field is read."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource kind: API group (empty for core), version, kind and plural."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """Return `group/version`, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
REPLICASET = Kind("apps", "v1", "ReplicaSet", "replicasets")
POD = Kind("", "v1", "Pod", "pods")
SERVICE = Kind("", "v1", "Service", "services")
HTTPROUTE = Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
CONFIGMAP = Kind("", "v1", "ConfigMap", "configmaps")
EVENT = Kind("", "v1", "Event", "events")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
KINDS = (DEPLOYMENT, REPLICASET, POD, SERVICE, CONFIGMAP, EVENT, HTTPROUTE, LEASE)


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """What the API server says of itself: its version, and its `Date` header (empty when it sends none)."""

    version: str
    date: str


class ClusterReader(Protocol):
    """What may be read of the cluster, in the plan's namespace."""

    async def get(self, kind: Kind, name: str) -> Object:
        """Return an object; raises BackendRefused with status 404 when there is none."""
        ...

    async def list(self, kind: Kind, *, selector: str = "") -> list[Object]:
        """Return all objects of a kind that match a label selector."""
        ...

    async def pod_log(self, pod: str, container: str, *, limit_bytes: int) -> bytes:
        """Return a container's log so far, at most about `limit_bytes` of it, with times."""
        ...


class Cluster(ClusterReader, Protocol):
    """Reading and writing. Every write carries the resourceVersion it read: a late one raises Conflict."""

    async def patch(self, kind: Kind, name: str, body: Object, *, resource_version: str) -> Object:
        """Apply a JSON merge patch on exactly the version read."""
        ...

    async def replace(self, kind: Kind, name: str, body: Object) -> Object:
        """Replace an object (its metadata carries the resourceVersion)."""
        ...

    async def create(self, kind: Kind, body: Object) -> Object:
        """Create an object; raises Conflict when it exists."""
        ...

    async def delete(self, kind: Kind, name: str, *, uid: str) -> None:
        """Delete exactly the object with that uid; raises Conflict when another has its name by now."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class KubernetesCluster:
    """The real client. `deadline` seconds bound each request, from connect to the last byte."""

    def __init__(
        self,
        url: str,
        token: str,
        namespace: str,
        *,
        ca_file: str = "",
        deadline: float = 10.0,
        tls: Tls = USUAL,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._namespace = namespace
        self._ca_file = ca_file
        self._tls = tls
        self._deadline = deadline
        self._client: DynamicClient | None = None
        self._resources: dict[Kind, Any] = {}

    async def connect(self) -> None:
        """Open a connection and prove it by reading the server's version; raises BackendError.

        May be called again after a failure.
        """
        await self.close()
        from kubernetes.aio.client import ApiClient, Configuration
        from kubernetes.aio.dynamic import DynamicClient
        from kubernetes.aio.dynamic.resource import Resource

        configuration = Configuration(host=self._url)
        configuration.api_key = {"authorization": f"Bearer {self._token}"}
        if self._ca_file:
            configuration.ssl_ca_cert = self._ca_file
        configuration.client_session_kwargs = {"middlewares": (_asked_again(self._deadline), _sent_once)}
        try:
            api = ApiClient(configuration)
            if not self._ca_file:  # a CA of its own is the only one
                self._tls.add_to(api.rest_client.ssl_context)
            client = DynamicClient(api)  # type: ignore[no-untyped-call]
        except OSError as error:  # TLS errors are such
            raise BackendUnreachable(
                f"the CA file cannot be used: {visible(str(error), limit=200)}",
                where=self._ca_file,
                hint="targets.kubernetes.ca_file names a PEM file with the CA of the API server",
            ) from None
        self._client = client
        self._resources = {
            kind: Resource(  # type: ignore[no-untyped-call]
                prefix="apis" if kind.group else "api",
                group=kind.group or None,
                api_version=kind.version,
                kind=kind.kind,
                name=kind.plural,
                namespaced=True,
                client=client,
            )
            for kind in KINDS
        }
        await self._call("version", client.request("get", "/version", **self._options()))

    async def version(self) -> ServerVersion:
        """Return which server answers; raises BackendError."""
        headers: dict[str, str] = {}
        answer = await self._call("version", self._request("get", "/version"), headers)
        return ServerVersion(visible(str(answer.get("gitVersion", "")), limit=80), headers.get("date", ""))

    async def may(self, verb: str, group: str, resource: str, *, namespace: str, name: str = "") -> bool:
        """Return whether our account may do something (SelfSubjectAccessReview); `resource` as `pods/log`.

        An empty name asks about all objects. Raises BackendError when it cannot be asked.
        """
        plural, _, subresource = resource.partition("/")
        attributes = {
            "namespace": namespace, "verb": verb, "group": group, "resource": plural,
            "subresource": subresource, "name": name,
        }  # fmt: skip
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        status = (await self._call("selfsubjectaccessreviews", self._request("post", REVIEWS, body))).get(
            "status"
        )
        if not isinstance(status, dict) or not isinstance(status.get("allowed"), bool):
            raise BackendGarbage("the access review says neither yes nor no", where=self._url)
        return status["allowed"] is True and status.get("denied") is not True

    async def served(self, group: str, version: str) -> frozenset[str]:
        """Return the resources the server serves of a group's version; none when it knows no such group."""
        path = f"/apis/{quote(group)}/{quote(version)}"
        try:
            found = (await self._call(path, self._request("get", path))).get("resources")
        except BackendRefused as error:
            if error.status == 404:
                return frozenset()
            raise
        if not isinstance(found, list):
            raise BackendGarbage("the discovery document lists no resources", where=f"{self._url} {path}")
        return frozenset(str(one["name"]) for one in found if isinstance(one, dict) and "name" in one)

    async def get(self, kind: Kind, name: str) -> Object:
        """Return an object; raises BackendRefused with status 404 when there is none."""
        resource = self._resource(kind)
        return await self._object(
            kind, name, resource.get(name=name, namespace=self._namespace, **self._options())
        )

    async def list(self, kind: Kind, *, selector: str = "") -> list[Object]:
        """Return all objects of a kind that match a label selector."""
        resource = self._resource(kind)
        answer = await self._call(
            kind.plural,
            resource.get(namespace=self._namespace, label_selector=selector or None, **self._options()),
        )
        items = answer.get("items")
        if not isinstance(items, list) or not all(_is_object(item) for item in items):
            raise BackendGarbage(f"the list of {kind.plural} has no proper items", where=self._url)
        return items

    async def pod_log(self, pod: str, container: str, *, limit_bytes: int) -> bytes:
        """Return a container's log; see ClusterReader."""
        if self._client is None:
            raise BackendUnreachable("the cluster client is not connected", where=self._url)
        path = f"/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(pod, safe='')}/log"
        asked = [("container", container), ("limitBytes", str(limit_bytes)), ("timestamps", "true")]
        # Without this header a log is refused: it is no JSON.
        options = {**self._options(), "query_params": asked, "header_params": {"Accept": "text/plain, */*"}}
        where = f"{self._url} pods/{pod}/log"
        raw = await self._raw(where, self._client.request("get", path, **options))
        return raw[: 2 * limit_bytes]

    async def patch(self, kind: Kind, name: str, body: Object, *, resource_version: str) -> Object:
        """Apply a JSON merge patch on exactly the version read."""
        resource = self._resource(kind)
        metadata = {**body.get("metadata", {}), "resourceVersion": resource_version}
        return await self._object(
            kind,
            name,
            resource.patch(
                name=name,
                namespace=self._namespace,
                body={**body, "metadata": metadata},
                content_type="application/merge-patch+json",
                field_manager="release-cockpit",
                **self._options(),
            ),
        )

    async def replace(self, kind: Kind, name: str, body: Object) -> Object:
        """Replace an object (its metadata carries the resourceVersion)."""
        resource = self._resource(kind)
        return await self._object(
            kind,
            name,
            resource.replace(
                name=name,
                namespace=self._namespace,
                body=body,
                field_manager="release-cockpit",
                **self._options(),
            ),
        )

    async def create(self, kind: Kind, body: Object) -> Object:
        """Create an object; raises Conflict when it exists."""
        resource = self._resource(kind)
        name = str(body.get("metadata", {}).get("name", ""))
        return await self._object(
            kind,
            name,
            resource.create(
                namespace=self._namespace, body=body, field_manager="release-cockpit", **self._options()
            ),
        )

    async def delete(self, kind: Kind, name: str, *, uid: str) -> None:
        """Delete exactly the object with that uid; see Cluster."""
        if not uid:
            raise BackendGarbage(f"{kind.plural}/{name} has no uid", where=self._url)
        resource = self._resource(kind)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        await self._call(
            f"{kind.plural}/{name}",
            resource.delete(name=name, namespace=self._namespace, body=body, **self._options()),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            pool = self._client.client.rest_client.pool_manager
            if pool is not None and pool.connector is not None:
                # Else a connection with TLS is closed some time later, by whoever still runs then.
                await pool.connector.close(abort_ssl=True)
            await self._client.client.close()
            self._client = None

    def _options(self) -> dict[str, Any]:
        return {"serialize": False, "_request_timeout": self._deadline}

    def _request(self, method: str, path: str, body: Object | None = None) -> Any:
        if self._client is None:
            raise BackendUnreachable("the cluster client is not connected", where=self._url)
        return self._client.request(method, path, body=body, **self._options())

    def _resource(self, kind: Kind) -> Any:
        if self._client is None:
            raise BackendUnreachable("the cluster client is not connected", where=self._url)
        return self._resources[kind]

    async def _object(self, kind: Kind, name: str, call: Any) -> Object:
        answer = await self._call(f"{kind.plural}/{name}", call)
        if not _is_object(answer) or answer.get("kind", kind.kind) != kind.kind:
            raise BackendGarbage(f"the answer for {kind.plural}/{name} is no {kind.kind}", where=self._url)
        return answer

    async def _call(self, what: str, call: Any, headers: dict[str, str] | None = None) -> Object:
        """Await a request whose answer is a JSON object, and put its headers into `headers`.

        Raises BackendError.
        """
        where = f"{self._url} {what}"
        raw = await self._raw(where, call, headers)
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            raise BackendGarbage("the answer is not JSON", where=where) from None
        if not isinstance(answer, dict):
            raise BackendGarbage("the answer is not a JSON object", where=where)
        return answer

    async def _raw(self, where: str, call: Any, headers: dict[str, str] | None = None) -> bytes:
        """Await a request within the deadline; map every failure to the error tree."""
        import aiohttp
        from kubernetes.aio.client.exceptions import ApiException

        try:
            async with asyncio.timeout(self._deadline):
                response = await call
                try:
                    if headers is not None:
                        headers.update(
                            (str(key).lower(), str(text)) for key, text in response.headers.items()
                        )
                    raw = await _read(response)
                finally:
                    response.release()
        except ApiException as error:
            raise _mapped(error, where) from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise BackendUnreachable(
                f"TLS with the cluster failed: {visible(str(error), limit=300)}",
                where=where,
                hint="targets.kubernetes.ca_file must hold the CA of the API server",
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = visible(str(error), limit=200) or type(error).__name__
            raise BackendUnreachable(f"the cluster did not answer: {text}", where=where) from None
        if raw is None:
            raise BackendGarbage(f"an answer of more than {MAX_ANSWER_BYTES} bytes", where=where)
        return raw


def _asked_again(deadline: float) -> ClientMiddlewareType:
    """Return what asks again after a 429 (it was turned away, not tried), when and if that is in time."""

    async def middleware(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        begun = asyncio.get_running_loop().time()
        while True:
            response = await send(request)
            after = response.headers.get("Retry-After", "")
            if response.status != 429 or not (after.isascii() and after.isdigit() and len(after) < 6):
                return response
            pause = max(1.0, float(after))  # whoever says nought does not mean a busy loop
            if asyncio.get_running_loop().time() - begun + pause >= deadline:
                return response
            response.release()
            await asyncio.sleep(pause)

    return middleware


async def _sent_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """Keep the HTTP library from sending a PUT or DELETE again whose answer was lost.

    The second would be told 409 or 404, and what was done would look as if it had been refused.
    """
    import aiohttp

    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method in ("GET", "HEAD") or isinstance(error, aiohttp.ClientConnectorError):
            raise
        # Of a class that the library does not repeat a request for.
        raise aiohttp.ClientConnectionError(str(error) or type(error).__name__) from error


async def _read(response: Any) -> bytes | None:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(1 << 16):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _is_object(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)


def _mapped(error: Any, where: str) -> Exception:
    status = int(error.status or 0)
    message = str(error.reason or "")
    try:
        body = json.loads(error.body or "")
        message = str(body.get("message", message))
    except (ValueError, TypeError, AttributeError):
        pass
    text = visible(message, limit=300)
    if status == 409:
        return Conflict(text or "the object changed since it was read", where=where)
    if status == 0 or status >= 500 or status == 429:
        return BackendUnreachable(f"the cluster answered {status}: {text}", where=where)
    hint = {401: "check the token", 403: "see docs/architecture.md for the rights needed"}.get(status, "")
    return BackendRefused(f"the cluster answered {status}: {text}", where=where, hint=hint, status=status)
