"""The registry's client over the stand-in and a real Docker registry, and against one that lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.registry import BUNDLE_TYPE, INDEX_TYPE, MANIFEST_TYPE, OciRegistry
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.rehearsal.real.registry import Tokens, docker_registry
from cockpit.rehearsal.registry import Image, RegistryServer, build_image, push, referrer
from cockpit.rehearsal.sigstore import Fault
from tests.contract.registry_support import Place, docker, place, registry, registry_kind
from tests.real.fixtures import need

__all__ = ["docker", "place", "registry", "registry_kind"]
pytestmark = pytest.mark.contract
WEB = "intelgraph/web"
CHUNK = {"Content-Type": "application/octet-stream"}


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest_asyncio.fixture
async def image(place: Place) -> Image:
    made = build_image("web", "v3.0.0", [{"app/web/extra": b"more"}], revision="ab" * 20)
    push(place.repository(), made, "v3.0.0", "latest")
    await place.publish()
    return made


def test_images_are_the_same_each_time() -> None:
    one, two = build_image("web", "v3.0.0"), build_image("web", "v3.0.0")
    assert one == two
    others = (
        build_image("web", "v3.0.1"),
        build_image("api", "v3.0.0"),
        build_image("web", "v3.0.0", [{"a": b""}]),
        build_image("web", "v3.0.0", revision="ab" * 20),
    )
    assert len({image.digest for image in (one, *others)}) == 5


async def test_push_and_pull_by_the_spec(place: Place) -> None:
    base = f"{place.url}/v2/{place.name}"
    layer, config = b"layer bytes", b'{"os":"linux"}'
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:

        async def begin() -> str:
            begun = await http.post(f"{base}/blobs/uploads/")
            assert begun.status_code == 202
            return urljoin(place.url, begun.headers["location"])

        def ending(location: str, digest: str) -> str:
            return f"{location}{'&' if '?' in location else '?'}digest={digest}"

        assert (await http.get(f"{place.url}/v2/")).json() == {}
        # POST then PUT
        wrong = await http.put(ending(await begin(), sha(b"other")), content=layer)
        assert (wrong.status_code, wrong.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        assert (await http.put(ending(await begin(), sha(config)), content=config)).status_code == 201
        # in chunks
        first = await http.patch(await begin(), content=layer[:4], headers=CHUNK)
        assert (first.status_code, first.headers["range"]) == (202, "0-3")
        second = await http.patch(
            urljoin(place.url, first.headers["location"]), content=layer[4:], headers=CHUNK
        )
        location = urljoin(place.url, second.headers["location"])
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": "application/json", "digest": sha(config), "size": len(config)},
                "layers": [{"mediaType": "application/x", "digest": sha(layer), "size": len(layer)}],
            }
        ).encode()
        kind = {"Content-Type": MANIFEST_TYPE}
        early = await http.put(f"{base}/manifests/v1", content=manifest, headers=kind)
        assert (early.status_code, early.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert (await http.put(ending(location, sha(layer)))).status_code == 201
        assert (await http.put(ending(location, sha(layer)))).status_code == 404
        pushed = await http.put(f"{base}/manifests/v1", content=manifest, headers=kind)
        assert (pushed.status_code, pushed.headers["docker-content-digest"]) == (201, sha(manifest))
        accept = {"Accept": MANIFEST_TYPE}
        for reference in ("v1", sha(manifest)):
            head = await http.head(f"{base}/manifests/{reference}", headers=accept)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["docker-content-digest"] == sha(manifest)
            assert head.headers["content-length"] == str(len(manifest))
            assert (await http.get(f"{base}/manifests/{reference}", headers=accept)).content == manifest
        assert (await http.get(f"{base}/blobs/{sha(layer)}")).content == layer
        # from another repository
        mounted = await http.post(
            f"{place.url}/v2/{place.name}-more/blobs/uploads/",
            params={"mount": sha(layer), "from": place.name},
        )
        assert (mounted.status_code, mounted.headers["docker-content-digest"]) == (201, sha(layer))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("NAME/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        (f"NAME/manifests/{'sha256:' + '0' * 64}", 404, "MANIFEST_UNKNOWN"),
        (f"NAME/blobs/{'sha256:' + '0' * 64}", 404, "BLOB_UNKNOWN"),
        ("NAME/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("nobody/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        (f"nobody/blobs/{'sha256:' + '0' * 64}", 404, "BLOB_UNKNOWN"),
        ("nobody/tags/list", 404, "NAME_UNKNOWN"),
        ("NAME/elsewhere", 404, ""),
    ],
)
async def test_what_is_not_there_is_said_alike(
    place: Place, image: Image, path: str, status: int, code: str
) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"Accept": MANIFEST_TYPE}) as http:
        answer = await http.get(f"{place.url}/v2/{path.replace('NAME', place.name)}")
    assert answer.status_code == status
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if code:
        assert answer.json()["errors"][0]["code"] == code


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", INDEX_TYPE])
async def test_a_manifest_is_for_who_asks_for_its_type(place: Place, image: Image, accept: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(
            f"{place.url}/v2/{place.name}/manifests/v3.0.0", headers={"Accept": accept} if accept else {}
        )
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"[]", MANIFEST_TYPE, "MANIFEST_INVALID"),
        (b"{", MANIFEST_TYPE, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2, "mediaType": "text/plain"}', MANIFEST_TYPE, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2}', "text/plain", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2}', "", "MANIFEST_INVALID"),
    ],
)
async def test_a_manifest_that_is_none_is_not_taken(place: Place, body: bytes, kind: str, code: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(
            f"{place.url}/v2/{place.name}/manifests/v1",
            content=body,
            headers={"Content-Type": kind} if kind else {},
        )
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, code)
        digest = sha(b"another")
        manifest = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}).encode()
        off = await http.put(
            f"{place.url}/v2/{place.name}/manifests/{digest}",
            content=manifest,
            headers={"Content-Type": INDEX_TYPE},
        )
        assert (off.status_code, off.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")


async def test_the_client_reads_images(registry: OciRegistry, place: Place, image: Image) -> None:
    name = place.name
    assert await registry.resolve(name, "v3.0.0") == image.digest
    assert await registry.resolve(name, image.digest) == image.digest
    manifest = await registry.manifest(name, image.digest)
    assert manifest.raw == image.manifest
    assert len(manifest.layers) == 3
    assert manifest.size == sum(len(blob) for blob in image.blobs.values())
    config = await registry.config(name, image.digest)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Labels"]["org.opencontainers.image.revision"] == "ab" * 20
    assert config["config"]["Labels"]["org.opencontainers.image.created"] == config["created"]
    for layer in manifest.layers:
        assert await registry.blob(name, layer.digest) == image.blobs[layer.digest]
    assert await registry.tags(name) == ("latest", "v3.0.0")


async def test_a_tag_moves_and_a_digest_does_not(place: Place, registry: OciRegistry, image: Image) -> None:
    other = build_image("web", "v3.0.1")
    push(place.repository(), other, "latest")
    await place.publish()
    assert await registry.resolve(place.name, "latest") == other.digest
    assert await registry.resolve(place.name, "v3.0.0") == image.digest
    assert await registry.resolve(place.name, image.digest) == image.digest


async def test_referrers_by_type(place: Place, registry: OciRegistry, image: Image) -> None:
    name, repository = place.name, place.repository()
    assert await registry.referrers(name, image.digest) == ()
    first = referrer(repository, image, b'{"one":1}', "https://a.invalid")
    await place.publish()
    assert [one.digest for one in await registry.referrers(name, image.digest)] == [first]
    second = referrer(repository, image, b'{"two":2}', "https://b.invalid")
    await place.publish()
    found = await registry.referrers(name, image.digest, BUNDLE_TYPE)
    assert {one.digest for one in found} == {first, second}
    assert {one.annotations["dev.sigstore.bundle.predicateType"] for one in found} == {
        "https://a.invalid",
        "https://b.invalid",
    }
    assert await registry.referrers(name, image.digest, "application/other") == ()
    assert set(await registry.bundles(name, image.digest)) == {b'{"one":1}', b'{"two":2}'}
    referring = await registry.manifest(name, first)
    assert referring.subject is not None and referring.subject.digest == image.digest


async def test_referrers_are_filtered_by_the_stand_in() -> None:
    image = build_image("web", "v3.0.0")
    async with RegistryServer() as server:
        push(server.repository(WEB), image)
        referrer(server.repository(WEB), image, b"{}", "https://a.invalid")
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(
                f"{server.url}/v2/{WEB}/referrers/{image.digest}", params={"artifactType": "other"}
            )
    assert answer.headers["oci-filters-applied"] == "artifactType"
    assert answer.json()["manifests"] == []


async def test_many_tags(place: Place, registry: OciRegistry, image: Image) -> None:
    # The stand-in gives them in pages; this real one gives them all at once, whatever is asked for.
    count = 1203 if place.real is None else 40
    names = tuple(f"t{number:04}" for number in range(count))
    push(place.repository(), image, *names)
    await place.publish()
    assert await registry.tags(place.name) == ("latest", *names, "v3.0.0")


async def test_what_is_not_there_is_refused(place: Place, registry: OciRegistry, image: Image) -> None:
    for call in (
        registry.resolve(place.name, "v9"),
        registry.resolve("intelgraph/nobody", "v1"),
        registry.manifest(place.name, sha(b"x")),
        registry.config(place.name, sha(b"x")),
        registry.blob(place.name, sha(b"x")),
        registry.tags("nobody"),
    ):
        with pytest.raises(BackendRefused) as refused:
            await call
        assert refused.value.status == 404
    assert await registry.referrers(place.name, sha(b"x")) == ()
    assert await registry.bundles(place.name, sha(b"x")) == ()


async def test_names_cannot_leave_their_place(place: Place, registry: OciRegistry) -> None:
    for call in (
        registry.resolve("../secrets", "v1"),
        registry.resolve(place.name, "../../x"),
        registry.resolve(place.name, "v1?x=y"),
        registry.manifest(place.name, "v1"),
        registry.blob("a//b", sha(b"")),
        registry.referrers(place.name, "sha256:short"),
    ):
        with pytest.raises(BackendRefused) as refused:
            await call
        assert refused.value.status == 400


async def test_what_is_larger_than_asked_for_is_garbage(place: Place, registry: OciRegistry) -> None:
    data = b"x" * 300_000
    place.repository().put_blob(data, sha(data))
    await place.publish()
    assert await registry.blob(place.name, sha(data), limit=len(data)) == data
    with pytest.raises(BackendGarbage, match="longer"):
        await registry.blob(place.name, sha(data), limit=len(data) - 1)


async def test_an_index_names_its_platforms(place: Place, registry: OciRegistry, image: Image) -> None:
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [image.descriptor()]}
    ).encode()
    place.repository().put_manifest("all", index, INDEX_TYPE)
    await place.publish()
    found = await registry.manifest(place.name, await registry.resolve(place.name, "all"))
    assert [one.digest for one in found.manifests] == [image.digest] and found.raw == index
    with pytest.raises(BackendGarbage, match="index"):
        await registry.config(place.name, found.digest)


async def test_a_token_is_needed_when_there_is_one() -> None:
    image = build_image("web", "v3.0.0")
    async with RegistryServer(token="right") as server:
        push(server.repository(WEB), image)
        await needs_a_token(server.url, image, "right", (None, "wrong"))


@pytest.mark.real
async def test_a_real_token_is_needed_when_there_is_one(tmp_path: Path) -> None:
    need("docker-registry")
    image = build_image("web", "v3.0.0")
    async with docker_registry(tmp_path, access=True) as real:
        push(real.repository(WEB), image)
        await real.publish()
        assert real.tokens is not None
        # Expired, for another repository, of another key, for pushing only.
        wrong = (
            real.tokens.token([WEB], seconds=-300),
            real.tokens.token(["intelgraph/other"]),
            Tokens().token([WEB]),
            real.tokens.token([WEB], ("push",)),
        )
        await needs_a_token(real.url, image, real.tokens.token([WEB]), (None, "wrong", *wrong))


async def needs_a_token(url: str, image: Image, right: str, wrong: tuple[str | None, ...]) -> None:
    for token in wrong:
        client = OciRegistry(url, token=token)
        for call in (
            client.resolve(WEB, "v3.0.0"),
            client.blob(WEB, sha(b"x")),
            client.tags(WEB),
            client.bundles(WEB, image.digest),
        ):
            with pytest.raises(BackendRefused, match="token") as refused:
                await call
            assert refused.value.status == 401
        await client.close()
    client = OciRegistry(url, token=right)
    assert await client.resolve(WEB, "v3.0.0") == image.digest
    assert await client.bundles(WEB, image.digest) == ()
    await client.close()


@pytest.mark.real
@pytest.mark.parametrize("registry_kind", ["real"], indirect=True)
async def test_a_real_registry_that_is_frozen_is_unreachable(
    place: Place, registry: OciRegistry, image: Image
) -> None:
    assert place.real is not None
    impatient = OciRegistry(place.url, deadline=0.5)
    place.real.server.suspend()
    try:
        with pytest.raises(BackendUnreachable):
            await impatient.resolve(place.name, "v3.0.0")
    finally:
        place.real.server.resume()
        await impatient.close()
    assert await registry.resolve(place.name, "v3.0.0") == image.digest


@pytest.mark.parametrize("kind", ["error", "hang", "refuse"])
async def test_an_outage_is_unreachable(kind: Fault) -> None:
    image = build_image("web", "v3.0.0")
    async with RegistryServer() as server:
        push(server.repository(WEB), image)
        client, patient = OciRegistry(server.url, deadline=0.3), OciRegistry(server.url)
        await server.fault(kind)
        with pytest.raises(BackendUnreachable):
            await client.resolve(WEB, "v3.0.0")
        await server.fault(None)
        assert await patient.resolve(WEB, "v3.0.0") == image.digest
        await patient.close()
        await client.close()


# --- a registry that lies

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def lying(handler: Handler) -> AsyncIterator[OciRegistry]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = OciRegistry(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


def answering(
    body: bytes, *, kind: str = MANIFEST_TYPE, status: int = 200, headers: dict[str, str] | None = None
) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": kind, **(headers or {})})

    return handler


def manifest(**changes: Any) -> bytes:
    part = {"mediaType": "application/x", "digest": sha(b""), "size": 0}
    value = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": part, "layers": [part], **changes}
    return json.dumps({name: one for name, one in value.items() if one is not None}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 200_000,
        manifest(schemaVersion=1),
        manifest(mediaType="text/plain"),
        manifest(config=None),
        manifest(layers=None),
        manifest(layers=[{}]),
        manifest(layers=[{"mediaType": "x", "digest": sha(b""), "size": -1}]),
        manifest(layers=[{"mediaType": "x", "digest": sha(b""), "size": True}]),
        manifest(layers=[{"mediaType": "x", "digest": "sha256:../..", "size": 1}]),
        manifest(subject={"digest": 1}),
        b" " * (5 << 20),
    ],
)
async def test_a_manifest_that_is_none_is_garbage(body: bytes) -> None:
    async with lying(answering(body)) as client:
        with pytest.raises(BackendGarbage):
            await client.resolve(WEB, "v1")


async def test_content_with_another_digest_is_garbage() -> None:
    for handler in (
        answering(manifest()),
        answering(manifest(), headers={"Docker-Content-Digest": sha(b"x")}),
        answering(b"", status=204),
    ):
        async with lying(handler) as client:
            with pytest.raises(BackendGarbage):
                await client.manifest(WEB, sha(b"asked for"))
            with pytest.raises(BackendGarbage):
                await client.blob(WEB, sha(b"asked for"))
    async with lying(answering(manifest(), headers={"Docker-Content-Digest": sha(b"x")})) as client:
        with pytest.raises(BackendGarbage):
            await client.resolve(WEB, "v1")
    async with lying(answering(b"x" * 100)) as client:
        with pytest.raises(BackendGarbage):
            await client.blob(WEB, sha(b"x" * 100), limit=99)
        assert len(await client.blob(WEB, sha(b"x" * 100), limit=100)) == 100


async def test_a_declared_size_that_is_not_so_is_garbage() -> None:
    config = b"{}"
    lie = manifest(config={"mediaType": "application/x", "digest": sha(config), "size": 3})

    async def handler(request: web.Request) -> web.StreamResponse:
        if "/blobs/" in request.path:
            return web.Response(body=config)
        return web.Response(body=lie, content_type=MANIFEST_TYPE)

    async with lying(handler) as client:
        with pytest.raises(BackendGarbage):
            await client.config(WEB, sha(lie))


async def test_a_registry_without_referrers_has_them_under_a_tag() -> None:
    described = {"mediaType": MANIFEST_TYPE, "digest": sha(b"r"), "size": 1, "artifactType": BUNDLE_TYPE}
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [described]}).encode()
    subject = sha(b"subject")

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == f"/v2/{WEB}/manifests/{subject.replace(':', '-')}":
            return web.Response(body=index, content_type=kind)
        return web.Response(status=404)

    async with lying(handler) as client:
        assert [one.digest for one in await client.referrers(WEB, subject, BUNDLE_TYPE)] == [sha(b"r")]
        assert await client.referrers(WEB, subject, "other") == ()


async def test_a_refusals_text_is_made_visible() -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "\x1b[31mno\x07"}]}).encode()
    async with lying(answering(body, status=403)) as client:
        with pytest.raises(BackendError) as caught:
            await client.resolve(WEB, "v1")
    assert "DENIED" in str(caught.value)
    assert "\x1b" not in str(caught.value)
