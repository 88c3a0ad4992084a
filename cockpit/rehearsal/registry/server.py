"""The registry behind HTTP: OCI distribution spec 1.1, pull, push, tags and referrers."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType

from aiohttp import web

from cockpit.rehearsal.registry.store import DIGEST, Manifest, Refused, Repository
from cockpit.rehearsal.sigstore.faulty import Fault, FaultyService

_NAME = "{name:[a-z0-9]+(?:[._/-]+[a-z0-9]+)*}"
_UPLOAD = _NAME + "/blobs/uploads/{session:[A-Za-z0-9_-]+}"
_MAX_BODY = 64 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RegistryServer:
    """A registry on a free loopback port; with `token`, only bearers of it may do anything."""

    def __init__(self, *, token: str | None = None) -> None:
        self._token = token
        self._repositories: dict[str, Repository] = {}
        self._uploads: dict[str, bytearray] = {}
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v2/", self._base),
            ("POST", f"/v2/{_NAME}/blobs/uploads/", self._begin_upload),
            ("PATCH", f"/v2/{_UPLOAD}", self._continue_upload),
            ("PUT", f"/v2/{_UPLOAD}", self._end_upload),
            ("GET", f"/v2/{_NAME}/blobs/{{digest}}", self._get_blob),
            ("GET", f"/v2/{_NAME}/manifests/{{reference}}", self._get_manifest),
            ("PUT", f"/v2/{_NAME}/manifests/{{reference}}", self._put_manifest),
            ("GET", f"/v2/{_NAME}/referrers/{{digest}}", self._referrers),
            ("GET", f"/v2/{_NAME}/tags/list", self._tags),
            ("*", "/{rest:.*}", self._nothing),
        ]
        # aiohttp answers HEAD from a GET route, without the body.
        routes = [
            web.get(path, self._guarded(handler))
            if method == "GET"
            else web.route(method, path, self._guarded(handler))
            for method, path, handler in table
        ]
        self._service = FaultyService(routes, max_body=_MAX_BODY)

    async def __aenter__(self) -> RegistryServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        await self._service.start()

    async def stop(self) -> None:
        """Close the port."""
        await self._service.stop()

    async def fault(self, kind: Fault | None) -> None:
        """Answer 500 (`error`), `hang` or `refuse`; `None` mends it."""
        await self._service.fault(kind)

    @property
    def url(self) -> str:
        """Base URL; the API is under `/v2/`."""
        return self._service.url

    @property
    def host(self) -> str:
        """Host and port, as image references begin."""
        return self.url.partition("://")[2]

    def repository(self, name: str) -> Repository:
        """Return the repository `name`, made when there is none: for seeding without HTTP."""
        return self._repositories.setdefault(name, Repository())

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self._authorise(request)
                found = await handler(request)
            except Refused as error:
                headers = {"WWW-Authenticate": 'Bearer realm="rehearsal"'} if error.status == 401 else None
                body = {"errors": [{"code": error.code, "message": error.message, "detail": None}]}
                found = web.json_response(body, status=error.status, headers=headers)
            found.headers["Docker-Distribution-API-Version"] = "registry/2.0"
            return found

        return answer

    def _authorise(self, request: web.Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            raise Refused(401, "UNAUTHORIZED", "a bearer token is needed")

    def _known(self, request: web.Request, code: str) -> Repository:
        name = request.match_info["name"]
        if name not in self._repositories:
            # A registry tells a stranger's repository from an empty one only where it lists tags.
            raise Refused(404, code, f"no repository {name}")
        return self._repositories[name]

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise Refused(
            404 if request.method in ("GET", "HEAD") else 405, "UNSUPPORTED", "there is nothing here"
        )

    async def _base(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({})

    # --- blobs

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "DIGEST_INVALID", "not a SHA-256 digest")
        data = self._known(request, "BLOB_UNKNOWN").blob(digest)
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        return web.Response(body=data, headers=headers)

    async def _begin_upload(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        repository = self.repository(name)
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        if mount in getattr(self._repositories.get(source), "blobs", {}):
            repository.blobs[mount] = self._repositories[source].blobs[mount]
            return _created(f"/v2/{name}/blobs/{mount}", mount)
        if "digest" in request.query:
            digest = request.query["digest"]
            repository.put_blob(await request.read(), digest)
            return _created(f"/v2/{name}/blobs/{digest}", digest)
        session = secrets.token_urlsafe(12)
        self._uploads[session] = bytearray()
        return self._accepted(name, session)

    async def _continue_upload(self, request: web.Request) -> web.StreamResponse:
        upload = self._upload(request)
        upload += await request.read()
        if len(upload) > _MAX_BODY:
            raise Refused(413, "SIZE_INVALID", "too large for a rehearsal")
        return self._accepted(request.match_info["name"], request.match_info["session"])

    async def _end_upload(self, request: web.Request) -> web.StreamResponse:
        upload = self._upload(request)
        upload += await request.read()
        digest, name = request.query.get("digest", ""), request.match_info["name"]
        self.repository(name).put_blob(bytes(upload), digest)
        del self._uploads[request.match_info["session"]]
        return _created(f"/v2/{name}/blobs/{digest}", digest)

    def _upload(self, request: web.Request) -> bytearray:
        try:
            return self._uploads[request.match_info["session"]]
        except KeyError:
            raise Refused(404, "BLOB_UPLOAD_UNKNOWN", "no such upload") from None

    def _accepted(self, name: str, session: str) -> web.Response:
        size = len(self._uploads[session])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{session}", "Range": f"0-{max(0, size - 1)}"}
        return web.Response(status=202, headers=headers)

    # --- manifests

    async def _get_manifest(self, request: web.Request) -> web.StreamResponse:
        manifest = self._known(request, "MANIFEST_UNKNOWN").manifest(request.match_info["reference"])
        taken = {one.partition(";")[0].strip() for one in request.headers.get("Accept", "").split(",")}
        if manifest.media_type not in taken:
            raise Refused(404, "MANIFEST_UNKNOWN", f"the Accept header does not name {manifest.media_type}")
        headers = {"Docker-Content-Digest": manifest.digest, "Content-Type": manifest.media_type}
        return web.Response(body=manifest.data, headers=headers)

    async def _put_manifest(self, request: web.Request) -> web.StreamResponse:
        name, reference = request.match_info["name"], request.match_info["reference"]
        media_type = request.headers.get("Content-Type", "").partition(";")[0]
        manifest: Manifest = self.repository(name).put_manifest(reference, await request.read(), media_type)
        answer = _created(f"/v2/{name}/manifests/{manifest.digest}", manifest.digest)
        if manifest.subject:
            answer.headers["OCI-Subject"] = manifest.subject
        return answer

    async def _referrers(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "DIGEST_INVALID", "not a SHA-256 digest")
        wanted = request.query.get("artifactType")
        index = self._known(request, "NAME_UNKNOWN").referrers(digest, wanted)
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted is not None else None
        return web.json_response(index, headers=headers, content_type=str(index["mediaType"]))

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        tags = sorted(self._known(request, "NAME_UNKNOWN").tags)
        last, count = request.query.get("last", ""), request.query.get("n", "")
        after = [tag for tag in tags if tag > last]
        name = request.match_info["name"]
        headers = None
        if count.isdigit() and int(count) < len(after):
            after = after[: int(count)]
            if after:
                headers = {"Link": f'</v2/{name}/tags/list?n={count}&last={after[-1]}>; rel="next"'}
        return web.json_response({"name": name, "tags": after}, headers=headers)


def _created(location: str, digest: str) -> web.Response:
    return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})
