"""The HTTP face: authenticates, authorises, meets planned faults and hands requests to the registry."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from cockpit.rehearsal.kube import fields
from cockpit.rehearsal.kube import registry as kinds
from cockpit.rehearsal.kube.access import AccessTable, Attributes, User
from cockpit.rehearsal.kube.faults import ConnectionCut, Faults, inject
from cockpit.rehearsal.kube.registry import Registry, Write, patched_with, scale_of, settle
from cockpit.rehearsal.kube.requests import (
    MAX_BODY,
    ApiRequest,
    NotServed,
    attributes_of,
    continue_token,
    read_body,
    read_continue,
    read_request,
)
from cockpit.rehearsal.kube.resources import ACCESS_REVIEWS, discovery
from cockpit.rehearsal.kube.values import ApiError, Cause, Obj, bad_request, invalid
from cockpit.rehearsal.kube.watching import Watches

_HEALTH = frozenset({"healthz", "livez", "readyz"})
_NOTHING = ("404 page not found\n", 404)


class Api:
    """Answers every request of one server."""

    def __init__(self, registry: Registry, access: AccessTable, faults: Faults, watches: Watches) -> None:
        self._registry = registry
        self._access = access
        self._faults = faults
        self._watches = watches

    def application(self) -> web.Application:
        """Return the application that serves every path."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._handle(request)
        except ApiError as error:
            headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return _json(error.status(), error.code, headers)
        except web.HTTPRequestEntityTooLarge:
            large = ApiError(413, "RequestEntityTooLarge", f"limit is {MAX_BODY} bytes")
            return _json(large.status(), 413)
        except NotServed:
            text, status = _NOTHING
            return web.Response(text=text, status=status)
        except ConnectionCut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        parts = tuple(part for part in request.path.split("/") if part)
        user = self._access.authenticate(request.headers.get("Authorization"))
        query = dict(request.query)
        wanted = attributes_of(request.method, parts, query)
        if wanted is None:
            self._access.authorize_path(user, request.method, parts)
            if len(parts) == 1 and parts[0] in _HEALTH:
                return web.Response(text="ok")
            document = discovery(parts)
            if document is not None:
                return _json(document)
        agent = request.headers.get("User-Agent", "unknown").split("/")[0][:128]
        try:
            asked = read_request(request.method, parts, query, agent)
        except (ApiError, NotServed):
            if wanted is not None:
                self._access.authorize(user, wanted)  # who may not does not learn what is there
            raise
        fault = self._faults.take(asked.attributes)
        await inject(fault, after=False)
        self._access.authorize(user, asked.attributes)
        if asked.verb == "watch":
            return await self._watches.serve(request, asked)
        raw = await request.read() if request.can_read_body else b""
        body = read_body(raw, request.content_type)
        answer = (
            self._review(user, body)
            if asked.resource is ACCESS_REVIEWS
            else self._do(asked, request, body, raw)
        )
        await inject(fault, after=True)
        return answer

    def _do(self, asked: ApiRequest, request: web.Request, body: object, raw: bytes) -> web.Response:
        resource, namespace, name = asked.resource, asked.namespace, asked.name
        match asked.verb:
            case "get":
                found = self._registry.get(resource, namespace, name)
                return _json(scale_of(found) if asked.subresource == "scale" else found)
            case "list":
                return _json(self._list(asked))
            case "create":
                given, write = _checked(asked, body), _decoding(asked, raw)
                made = self._registry.create(resource, namespace, given, write)
                return _json(made, 201, warnings=write.told)
            case "update" | "patch" if asked.subresource == "scale":
                return self._scale(asked, request.content_type, body, raw)
            case "update":
                given, write = _checked(asked, body), _decoding(asked, raw)
                made = self._registry.update(resource, namespace, name, given, write)
                return _json(made, warnings=write.told)
            case "patch":
                return self._patch(asked, request.content_type, body, raw)
            case "delete":
                return _json(self._delete(asked, body))
        matches = asked.selected()
        gone = [item for item in self._registry.store.items(resource, namespace) if matches(item)]
        for item in gone:
            metadata = item["metadata"]
            self._registry.delete(
                resource, metadata.get("namespace", ""), metadata["name"], asked.deletion(body)
            )
        return _json(_list_of(asked, gone, self._registry.store.version))

    def _list(self, asked: ApiRequest) -> Obj:
        asked.check_list(self._registry.store.version)
        matches, limit = asked.selected(), max(0, asked.number("limit", 0, negative=True))
        found = [
            item for item in self._registry.store.items(asked.resource, asked.namespace) if matches(item)
        ]
        version = self._registry.store.version
        if token := asked.query.get("continue"):
            # Later pages show objects as they are now; only the version is that of the first page.
            version, after = read_continue(token)
            self._registry.store.since(asked.resource, version)
            found = [
                item
                for item in found
                if (item["metadata"].get("namespace", ""), item["metadata"]["name"]) > after
            ]
        listed = _list_of(asked, found[:limit] if limit else found, version)
        if limit and len(found) > limit:
            listed["metadata"]["continue"] = continue_token(version, found[limit - 1])
            listed["metadata"]["remainingItemCount"] = len(found) - limit
        return listed

    def _scale(self, asked: ApiRequest, kind: str, body: object, raw: bytes) -> web.Response:
        old = self._registry.get(asked.resource, asked.namespace, asked.name)
        if asked.verb == "update":
            scaled, write = body, _decoding(asked, raw, "Scale")
        else:
            scaled = patched_with(scale_of(old), kind, body, custom=False)
            write = asked.write()
            settle("Scale", scaled, kind, raw, write)
        made = self._registry.scale(asked.resource, asked.namespace, asked.name, scaled, write)
        return _json(scale_of(made), warnings=write.told)

    def _patch(self, asked: ApiRequest, kind: str, body: object, raw: bytes) -> web.Response:
        applying = kind == kinds.APPLY_PATCH
        there = self._registry.store.get(asked.resource, asked.namespace, asked.name) is not None
        if applying and asked.subresource and not there:
            raise asked.resource.not_found(asked.name)
        write = asked.write(applying=applying)
        patched = self._registry.patch(asked.resource, asked.namespace, asked.name, kind, body, write, raw)
        return _json(patched, 200 if there else 201, warnings=write.told)

    def _delete(self, asked: ApiRequest, body: object) -> Obj:
        how = asked.deletion(body)
        last, gone = self._registry.delete(asked.resource, asked.namespace, asked.name, how)
        if not gone or asked.resource.graceful:
            return last
        details = {**asked.resource.details(asked.name), "uid": last["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    @staticmethod
    def _review(user: User, body: object) -> web.Response:
        spec = body.get("spec") if isinstance(body, dict) else None
        asked = spec.get("resourceAttributes") if isinstance(spec, dict) else None
        if not isinstance(body, dict):
            raise bad_request("the body of the request must be an object")
        if not isinstance(asked, dict):
            text = (
                "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
            )
            raise invalid(".authorization.k8s.io", "", [Cause("FieldValueInvalid", text, "spec")])
        named = ("verb", "group", "resource", "subresource", "namespace", "name")
        allowed = user.may(Attributes(**{field: str(asked.get(field) or "") for field in named}))
        status = {
            "allowed": allowed,
            "reason": "" if allowed else "no rule of the rehearsal's table grants it",
        }
        review = {"kind": ACCESS_REVIEWS.kind, "apiVersion": ACCESS_REVIEWS.group_version, "metadata": {}}
        return _json({**review, "spec": spec, "status": status}, 201)


def _checked(asked: ApiRequest, body: object) -> Obj:
    """Raise a 400 for a body that is no object, or a custom one that does not say what it is."""
    if not isinstance(body, dict):
        raise bad_request("the body of the request must be an object")
    if asked.resource.custom and not (body.get("apiVersion") and body.get("kind")):
        raise bad_request(f"the object provided is unrecognized (must be of type {asked.resource.kind})")
    return body


def _decoding(asked: ApiRequest, raw: bytes, kind: str = "") -> Write:
    """Return how this request writes, with what there is to warn of its body; raises a 400 where strict."""
    write, kind = asked.write(), kind or asked.resource.kind
    if write.validation != "Ignore":
        write.told.extend(fields.problems(kind, raw, custom=asked.resource.custom))
    if write.validation == "Strict" and write.told:
        said = ", ".join(write.told)
        raise bad_request(
            f'{kind} in version "v1" cannot be handled as a {kind}: strict decoding error: {said}'
        )
    return write


def _list_of(asked: ApiRequest, items: list[Obj], version: int) -> Obj:
    return {
        "kind": f"{asked.resource.kind}List",
        "apiVersion": asked.resource.group_version,
        "metadata": {"resourceVersion": str(version)},
        "items": items,
    }


def _json(
    body: Obj, status: int = 200, headers: dict[str, str] | None = None, *, warnings: Sequence[str] = ()
) -> web.Response:
    answer = web.json_response(body, status=status, headers=headers or {})
    for text in warnings:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        if quoted.isascii() and quoted.isprintable():  # a header takes no other
            answer.headers.add("Warning", f'299 - "{quoted}"')
    return answer
