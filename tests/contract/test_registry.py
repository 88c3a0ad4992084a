"""The registry stand-in over plain HTTP, and the real client against it, good and bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.registry import BUNDLE_TYPE, MANIFEST_TYPE, OciRegistry
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.rehearsal.registry import Image, RegistryServer, build_image, push, referrer
from cockpit.rehearsal.sigstore import Fault

pytestmark = pytest.mark.contract
WEB = "intelgraph/web"


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RegistryServer]:
    async with RegistryServer() as running:
        yield running


@pytest_asyncio.fixture
async def registry(server: RegistryServer) -> AsyncIterator[OciRegistry]:
    client = OciRegistry(server.url)
    yield client
    await client.close()


@pytest.fixture
def image(server: RegistryServer) -> Image:
    made = build_image("web", "v3.0.0", [{"app/web/extra": b"more"}], revision="ab" * 20)
    push(server.repository(WEB), made, "v3.0.0", "latest")
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


async def test_push_and_pull_by_the_spec(server: RegistryServer) -> None:
    base = f"{server.url}/v2/team/app"
    layer, config = b"layer bytes", b'{"os":"linux"}'
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{server.url}/v2/")).json() == {}
        # POST then PUT
        begun = await http.post(f"{base}/blobs/uploads/")
        assert begun.status_code == 202
        location = server.url + begun.headers["location"]
        wrong = await http.put(location, params={"digest": sha(b"other")}, content=layer)
        assert (wrong.status_code, wrong.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        # in chunks
        location = server.url + (await http.post(f"{base}/blobs/uploads/")).headers["location"]
        assert (await http.patch(location, content=layer[:4])).headers["range"] == "0-3"
        await http.patch(location, content=layer[4:])
        assert (await http.put(location, params={"digest": sha(layer)})).status_code == 201
        assert (await http.put(location, params={"digest": sha(layer)})).status_code == 404
        # in one request
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
        assert early.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        posted = await http.post(f"{base}/blobs/uploads/", params={"digest": sha(config)}, content=config)
        assert posted.status_code == 201
        pushed = await http.put(f"{base}/manifests/v1", content=manifest, headers=kind)
        assert pushed.headers["docker-content-digest"] == sha(manifest)
        for reference in ("v1", sha(manifest)):
            head = await http.head(f"{base}/manifests/{reference}")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["docker-content-digest"] == sha(manifest)
            assert head.headers["content-length"] == str(len(manifest))
            assert (await http.get(f"{base}/manifests/{reference}")).content == manifest
        assert (await http.get(f"{base}/blobs/{sha(layer)}")).content == layer
        # from another repository
        mounted = await http.post(
            f"{server.url}/v2/other/blobs/uploads/", params={"mount": sha(layer), "from": "team/app"}
        )
        assert mounted.status_code == 201
        for path, code in (
            (f"{base}/manifests/v2", "MANIFEST_UNKNOWN"),
            (f"{base}/blobs/{sha(b'x')}", "BLOB_UNKNOWN"),
            (f"{server.url}/v2/nobody/tags/list", "NAME_UNKNOWN"),
            (f"{server.url}/elsewhere", "UNSUPPORTED"),
        ):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code)
        bad = await http.put(f"{base}/manifests/v1", content=b"[]", headers=kind)
        assert bad.json()["errors"][0]["code"] == "MANIFEST_INVALID"
        off = await http.put(f"{base}/manifests/{sha(b'x')}", content=manifest, headers=kind)
        assert off.json()["errors"][0]["code"] == "DIGEST_INVALID"


async def test_the_client_reads_images(registry: OciRegistry, image: Image) -> None:
    assert await registry.resolve(WEB, "v3.0.0") == image.digest
    assert await registry.resolve(WEB, image.digest) == image.digest
    manifest = await registry.manifest(WEB, image.digest)
    assert manifest.raw == image.manifest
    assert len(manifest.layers) == 3
    assert manifest.size == sum(len(blob) for blob in image.blobs.values())
    config = await registry.config(WEB, image.digest)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Labels"]["org.opencontainers.image.revision"] == "ab" * 20
    assert config["config"]["Labels"]["org.opencontainers.image.created"] == config["created"]
    for layer in manifest.layers:
        assert await registry.blob(WEB, layer.digest) == image.blobs[layer.digest]
    assert await registry.tags(WEB) == ("latest", "v3.0.0")


async def test_a_tag_moves_and_a_digest_does_not(
    server: RegistryServer, registry: OciRegistry, image: Image
) -> None:
    other = build_image("web", "v3.0.1")
    push(server.repository(WEB), other, "latest")
    assert await registry.resolve(WEB, "latest") == other.digest
    assert await registry.resolve(WEB, image.digest) == image.digest


async def test_referrers_by_type(server: RegistryServer, registry: OciRegistry, image: Image) -> None:
    repository = server.repository(WEB)
    assert await registry.referrers(WEB, image.digest) == ()
    first = referrer(repository, image, b'{"one":1}', "https://a.invalid")
    second = referrer(repository, image, b'{"two":2}', "https://b.invalid")
    found = await registry.referrers(WEB, image.digest, BUNDLE_TYPE)
    assert {one.digest for one in found} == {first, second}
    assert {one.annotations["dev.sigstore.bundle.predicateType"] for one in found} == {
        "https://a.invalid",
        "https://b.invalid",
    }
    assert await registry.referrers(WEB, image.digest, "application/other") == ()
    assert set(await registry.bundles(WEB, image.digest)) == {b'{"one":1}', b'{"two":2}'}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(
            f"{server.url}/v2/{WEB}/referrers/{image.digest}", params={"artifactType": "application/other"}
        )
    assert answer.headers["oci-filters-applied"] == "artifactType"
    assert answer.json()["manifests"] == []


async def test_many_tags_come_in_pages(server: RegistryServer, registry: OciRegistry, image: Image) -> None:
    push(server.repository(WEB), image, *(f"t{number:04}" for number in range(1203)))
    assert len(await registry.tags(WEB)) == 1205


async def test_what_is_not_there_is_refused(registry: OciRegistry, image: Image) -> None:
    for call in (
        registry.resolve(WEB, "v9"),
        registry.resolve("intelgraph/nobody", "v1"),
        registry.manifest(WEB, sha(b"x")),
        registry.blob(WEB, sha(b"x")),
        registry.tags("nobody"),
    ):
        with pytest.raises(BackendRefused) as refused:
            await call
        assert refused.value.status == 404
    assert await registry.referrers(WEB, sha(b"x")) == ()


async def test_names_cannot_leave_their_place(registry: OciRegistry) -> None:
    for call in (
        registry.resolve("../secrets", "v1"),
        registry.resolve(WEB, "../../x"),
        registry.resolve(WEB, "v1?x=y"),
        registry.manifest(WEB, "v1"),
        registry.blob("a//b", sha(b"")),
        registry.referrers(WEB, "sha256:short"),
    ):
        with pytest.raises(BackendRefused) as refused:
            await call
        assert refused.value.status == 400


async def test_a_token_is_needed_when_there_is_one(image: Image) -> None:
    async with RegistryServer(token="right") as server:
        push(server.repository(WEB), image)
        for token in (None, "wrong"):
            client = OciRegistry(server.url, token=token)
            with pytest.raises(BackendRefused) as refused:
                await client.resolve(WEB, "v3.0.0")
            assert refused.value.status == 401
            await client.close()
        client = OciRegistry(server.url, token="right")
        assert await client.resolve(WEB, "v3.0.0") == image.digest
        await client.close()


@pytest.mark.parametrize("kind", ["error", "hang", "refuse"])
async def test_an_outage_is_unreachable(server: RegistryServer, image: Image, kind: Fault) -> None:
    client = OciRegistry(server.url, deadline=0.3)
    await server.fault(kind)
    with pytest.raises(BackendUnreachable):
        await client.resolve(WEB, "v3.0.0")
    await server.fault(None)
    patient = OciRegistry(server.url)
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
