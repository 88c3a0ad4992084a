"""The image registry: reading images, and what refers to them, by digest (OCI distribution spec 1.1)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cockpit.backends.http import hung_up
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible

if TYPE_CHECKING:
    import httpx

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Artifact type of Sigstore bundles attached to an image."""

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT = ", ".join((MANIFEST_TYPE, INDEX_TYPE, _DOCKER_MANIFEST, _DOCKER_INDEX))
_MAX_MANIFEST = 4 << 20  # the spec's advice to registries and clients
_MAX_REFERRERS = 200
_MAX_PAGES = 50
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a piece of content; `size` in bytes."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose bytes have the digest it was asked for by."""

    digest: str
    media_type: str
    artifact_type: str
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    """The platforms' manifests, when this is an index."""
    subject: Descriptor | None
    annotations: Mapping[str, str]
    raw: bytes

    @property
    def size(self) -> int:
        """Return what pulling the image transfers: config and (compressed) layers, in bytes."""
        return sum(one.size for one in (self.config, *self.layers) if one is not None)


class RegistryBackend(Protocol):
    """Reads a registry. Content is checked against its digest and its declared size; sizes are bounded.

    Each method raises BackendUnreachable, BackendRefused (status 404: it is not there) or BackendGarbage.
    """

    async def resolve(self, repository: str, reference: str) -> str:
        """Return the digest a tag (or digest) stands for now."""
        ...

    async def manifest(self, repository: str, digest: str) -> Manifest:
        """Return a manifest by digest."""
        ...

    async def config(self, repository: str, digest: str) -> dict[str, Any]:
        """Return the image config (user, labels, creation time) of the image with this manifest digest."""
        ...

    async def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> tuple[Descriptor, ...]:
        """Return what refers to a manifest, of one artifact type if given."""
        ...

    async def blob(self, repository: str, digest: str, *, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Return a blob of at most `limit` bytes."""
        ...

    async def bundles(self, repository: str, digest: str) -> tuple[bytes, ...]:
        """Return the Sigstore bundles attached to a manifest, unverified."""
        ...

    async def tags(self, repository: str) -> tuple[str, ...]:
        """Return the repository's tags, by name."""
        ...


class OciRegistry:
    """The real client; `deadline` seconds bound each call from connect to the last byte."""

    def __init__(
        self, url: str, *, token: str | None = None, deadline: float = 10.0, tls: Tls = USUAL
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._deadline = deadline
        self._tls = tls
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ping(self) -> Mapping[str, str]:
        """Return the headers of the base end point, which says that this is a registry we may use.

        Raises BackendError.
        """
        _, headers = await self._fetch(f"{self._url}/v2/", limit=64 * 1024, params=None, accept="*/*")
        return {name: visible(value, limit=200) for name, value in headers.items()}

    async def resolve(self, repository: str, reference: str) -> str:
        """Return the digest of a tag; see RegistryBackend."""
        return (await self._manifest(repository, reference)).digest

    async def manifest(self, repository: str, digest: str) -> Manifest:
        """Return a manifest by digest; see RegistryBackend."""
        _want(_DIGEST, digest, "digest")
        return await self._manifest(repository, digest)

    async def config(self, repository: str, digest: str) -> dict[str, Any]:
        """Return an image's config; see RegistryBackend."""
        manifest = await self.manifest(repository, digest)
        if manifest.config is None:
            raise BackendGarbage("an index has no config: name one platform's manifest", where=digest)
        data = await self._content(repository, manifest.config, limit=_MAX_MANIFEST)
        return _object(data, manifest.config.digest)

    async def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> tuple[Descriptor, ...]:
        """Return what refers to a manifest; see RegistryBackend."""
        _want(_DIGEST, digest, "digest")
        query = {"artifactType": artifact_type} if artifact_type else {}
        where = f"{repository}/referrers/{digest}"
        try:
            data, _ = await self._get(repository, f"referrers/{digest}", params=query, limit=_MAX_MANIFEST)
            found = _descriptors(_object(data, where).get("manifests"), where)
        except BackendRefused as error:
            if error.status != 404:
                raise
            found = await self._tagged_referrers(repository, digest)
        if len(found) > _MAX_REFERRERS:
            raise BackendGarbage(f"more than {_MAX_REFERRERS} referrers", where=where)
        # A registry may leave the filter out; what it sends is filtered here in any case.
        return tuple(one for one in found if not artifact_type or one.artifact_type == artifact_type)

    async def blob(self, repository: str, digest: str, *, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Return a blob; see RegistryBackend."""
        _want(_DIGEST, digest, "digest")
        data, _ = await self._get(repository, f"blobs/{digest}", limit=limit)
        _check(data, digest)
        return data

    async def bundles(self, repository: str, digest: str) -> tuple[bytes, ...]:
        """Return the attached Sigstore bundles; see RegistryBackend."""
        found = []
        for referrer in await self.referrers(repository, digest, BUNDLE_TYPE):
            manifest = await self.manifest(repository, referrer.digest)
            if manifest.subject is None or manifest.subject.digest != digest:
                raise BackendGarbage("a referrer that refers to something else", where=referrer.digest)
            if len(manifest.layers) != 1 or manifest.layers[0].media_type != BUNDLE_TYPE:
                raise BackendGarbage("a bundle referrer that holds no bundle", where=referrer.digest)
            found.append(await self._content(repository, manifest.layers[0], limit=MAX_ANSWER_BYTES))
        return tuple(found)

    async def tags(self, repository: str) -> tuple[str, ...]:
        """Return the tags; see RegistryBackend."""
        found: list[str] = []
        last = ""
        for _ in range(_MAX_PAGES):
            query = {"n": "500", **({"last": last} if last else {})}
            data, headers = await self._get(repository, "tags/list", params=query, limit=_MAX_MANIFEST)
            tags = _object(data, f"{repository}/tags").get("tags")
            if not isinstance(tags, list) or not all(isinstance(t, str) and _TAG.fullmatch(t) for t in tags):
                raise BackendGarbage("the tags are not a list of tags", where=repository)
            found += tags
            if not tags or "link" not in headers:
                return tuple(sorted(found))  # not every registry gives them in order
            last = tags[-1]
        raise BackendGarbage(f"more than {_MAX_PAGES} pages of tags", where=repository)

    async def _tagged_referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """Read the tag that stands in for the referrers API on registries without it (spec, fallback)."""
        try:
            return (await self._manifest(repository, digest.replace(":", "-"))).manifests
        except BackendRefused as error:
            if error.status == 404:
                return ()
            raise

    async def _manifest(self, repository: str, reference: str) -> Manifest:
        by_digest = _DIGEST.fullmatch(reference) is not None
        if not by_digest:
            _want(_TAG, reference, "tag")
        data, headers = await self._get(
            repository, f"manifests/{reference}", accept=_ACCEPT, limit=_MAX_MANIFEST
        )
        digest = reference if by_digest else f"sha256:{hashlib.sha256(data).hexdigest()}"
        _check(data, digest)
        if headers.get("docker-content-digest", digest) != digest:
            raise BackendGarbage("the registry names another digest than the manifest's", where=reference)
        return _read(data, digest, headers.get("content-type", "").partition(";")[0].strip())

    async def _content(self, repository: str, descriptor: Descriptor, *, limit: int) -> bytes:
        if descriptor.size > limit:
            raise BackendGarbage(f"{descriptor.size} bytes, more than {limit}", where=descriptor.digest)
        data = await self.blob(repository, descriptor.digest, limit=limit)
        if len(data) != descriptor.size:
            raise BackendGarbage(
                f"{len(data)} bytes instead of the declared {descriptor.size}", where=descriptor.digest
            )
        return data

    async def _get(
        self,
        repository: str,
        path: str,
        *,
        limit: int,
        params: Mapping[str, str] | None = None,
        accept: str = "*/*",
    ) -> tuple[bytes, Mapping[str, str]]:
        _want(_NAME, repository, "repository name")
        return await self._fetch(
            f"{self._url}/v2/{repository}/{path}", limit=limit, params=params, accept=accept
        )

    async def _fetch(
        self, url: str, *, limit: int, params: Mapping[str, str] | None, accept: str
    ) -> tuple[bytes, Mapping[str, str]]:
        import httpx

        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            async with (
                asyncio.timeout(self._deadline),
                self._http().stream("GET", url, params=params or {}, headers=headers) as answer,
            ):
                failed = answer.status_code != 200
                body = await _bounded(answer, 64 * 1024 if failed else limit, url)
                if failed:
                    raise _refusal(answer.status_code, body, url)
                return body, answer.headers
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=url) from None
        except httpx.RemoteProtocolError as error:
            text = visible(str(error), limit=200)
            if hung_up(error):
                raise BackendUnreachable(f"cut off: {text}", where=url) from None
            raise BackendGarbage(f"not HTTP: {text}", where=url) from None
        except httpx.HTTPError as error:
            raise BackendUnreachable(f"{type(error).__name__}: {error}", where=url) from error
        except httpx.InvalidURL as error:
            raise BackendRefused(f"not a registry address: {error}", where=url) from error

    def _http(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            local = urlsplit(self._url).hostname in ("127.0.0.1", "::1", "localhost")
            self._client = httpx.AsyncClient(
                timeout=self._deadline,
                trust_env=not local,
                verify=self._tls.context(environment=not local),
                follow_redirects=True,
                max_redirects=3,
            )
        return self._client


def _want(pattern: re.Pattern[str], text: str, what: str) -> None:
    if len(text) > 255 or not pattern.fullmatch(text):
        raise BackendRefused(f"{visible(text, limit=100)!r} is not a {what}", status=400)


def _check(data: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise BackendGarbage("the content does not have the digest it was asked for by", where=digest)


async def _bounded(answer: httpx.Response, limit: int, where: str) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise BackendGarbage(f"the answer is longer than {limit} bytes", where=where)
    return bytes(body)


def _refusal(status: int, body: bytes, where: str) -> Exception:
    text = ""
    try:
        [first, *_] = json.loads(body)["errors"]
        text = (
            f": {visible(str(first['code']), limit=60)} {visible(str(first.get('message', '')), limit=200)}"
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if status >= 500 or status == 429:
        return BackendUnreachable(f"the registry answered {status}{text}", where=where)
    if status >= 400:
        hint = "check the registry token" if status in (401, 403) else ""
        return BackendRefused(f"the registry answered {status}{text}", where=where, hint=hint, status=status)
    return BackendGarbage(f"the registry answered {status}", where=where)


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BackendGarbage("the answer is not JSON", where=where) from error
    if not isinstance(value, dict):
        raise BackendGarbage("the answer is not a JSON object", where=where)
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}


def _descriptor(value: Any, where: str) -> Descriptor:
    if isinstance(value, dict):
        media_type, digest, size = (value.get(name) for name in ("mediaType", "digest", "size"))
        artifact_type = value.get("artifactType") or ""
        if (
            isinstance(media_type, str)
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
            and type(size) is int
            and 0 <= size < 1 << 50
            and isinstance(artifact_type, str)
        ):
            return Descriptor(media_type, digest, size, artifact_type, _texts(value.get("annotations")))
    raise BackendGarbage("a descriptor without media type, SHA-256 digest and size", where=where)


def _descriptors(value: Any, where: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, list):
        raise BackendGarbage("a list of descriptors is missing", where=where)
    return tuple(_descriptor(one, where) for one in value)


def _read(data: bytes, digest: str, served_as: str) -> Manifest:
    value = _object(data, digest)
    media_type = value.get("mediaType", served_as)
    if value.get("schemaVersion") != 2 or not isinstance(media_type, str) or media_type != served_as:
        raise BackendGarbage("not a manifest of schema version 2, or served as something else", where=digest)
    index = media_type in (INDEX_TYPE, _DOCKER_INDEX)
    if not index and media_type not in (MANIFEST_TYPE, _DOCKER_MANIFEST):
        raise BackendGarbage(f"media type {visible(media_type, limit=100)} is no manifest's", where=digest)
    subject = value.get("subject")
    config = None if index else _descriptor(value.get("config"), digest)
    artifact_type = value.get("artifactType") or (config.media_type if config else "")
    return Manifest(
        digest=digest,
        media_type=media_type,
        artifact_type=artifact_type if isinstance(artifact_type, str) else "",
        config=config,
        layers=() if index else _descriptors(value.get("layers"), digest),
        manifests=_descriptors(value.get("manifests"), digest) if index else (),
        subject=None if subject is None else _descriptor(subject, digest),
        annotations=_texts(value.get("annotations")),
        raw=data,
    )
