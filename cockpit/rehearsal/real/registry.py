"""A real Docker registry (2.8), and what puts images and their referrers into it over HTTP.

It has no referrers API: what refers to an image is listed under a tag made of the image's digest (OCI
distribution spec 1.1, referrers tag schema).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cockpit.base.errors import BackendError
from cockpit.base.files import write_private
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.servers import Running, Servers, free_ports
from cockpit.rehearsal.registry.store import INDEX_TYPE, Manifest, Repository

_SECONDS = 30.0
_NAME = "rehearsal registry"
_EVERYTHING = ("pull", "push")


class Tokens:
    """Makes the tokens the registry takes: JWTs whose key it was started with."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """Return what the registry checks tokens by."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def token(
        self, repositories: Iterable[str], actions: Iterable[str] = ("pull",), *, seconds: float = 3600
    ) -> str:
        """Return a token for these repositories; one of negative `seconds` has expired already."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=seconds)
        claims = {
            "iss": _NAME,
            "aud": _NAME,
            "sub": "rehearsal",
            "iat": now,
            "nbf": min(now, until) - timedelta(minutes=5),
            "exp": until,
            "jti": secrets.token_hex(8),
            "access": [
                {"type": "repository", "name": name, "actions": list(actions)} for name in repositories
            ],
        }
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        return jwt.encode(
            claims, self._key, algorithm="ES256", headers={"x5c": [base64.b64encode(der).decode()]}
        )


@dataclass(frozen=True)
class DockerRegistry:
    """A registry that runs. `repository` takes what is to be in it, `publish` puts it there."""

    url: str
    server: Running
    tokens: Tokens | None
    _held: dict[str, Repository] = field(default_factory=dict)
    _pushed: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host and port, as image references begin."""
        return self.url.partition("://")[2]

    def repository(self, name: str) -> Repository:
        """Return what is to be in repository `name`; it is there once `publish` was called."""
        return self._held.setdefault(name, Repository())

    async def publish(self) -> None:
        """Push all that `repository` was given since the last time; raises BackendError."""
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for name, held in self._held.items():
                await self._publish(
                    _Pusher(session, f"{self.url}/v2/{name}", self._headers(name)), name, held
                )

    def _headers(self, name: str) -> dict[str, str]:
        if self.tokens is None:
            return {}
        return {"Authorization": f"Bearer {self.tokens.token([name], _EVERYTHING)}"}

    async def _publish(self, pusher: _Pusher, name: str, held: Repository) -> None:
        for digest, blob in held.blobs.items():
            if self._new(name, digest, ""):
                await pusher.blob(digest, blob)
        for digest, manifest in held.manifests.items():
            if self._new(name, f"@{digest}", ""):
                await pusher.manifest(digest, manifest.data, manifest.media_type)
        for subject, index in _referrers(held.manifests).items():
            data = json.dumps(index, sort_keys=True).encode()
            if self._new(name, f"^{subject}", data.decode()):
                await pusher.manifest(subject.replace(":", "-"), data, INDEX_TYPE)
        for tag, digest in held.tags.items():
            if self._new(name, f":{tag}", digest):
                manifest = held.manifests[digest]
                await pusher.manifest(tag, manifest.data, manifest.media_type)

    def _new(self, name: str, what: str, value: str) -> bool:
        known = self._pushed.get(name + what)
        self._pushed[name + what] = value
        return known != value


def _referrers(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, Any]]:
    """Return by subject the index that a client keeps where the registry has no referrers API."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in manifests.values():
        if one.subject:
            found.setdefault(one.subject, []).append(one.descriptor())
    return {
        subject: {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed}
        for subject, listed in found.items()
    }


@dataclass(frozen=True)
class _Pusher:
    session: aiohttp.ClientSession
    base: str
    headers: Mapping[str, str]

    async def blob(self, digest: str, data: bytes) -> None:
        begun = await self._send("POST", f"{self.base}/blobs/uploads/", b"")
        place = begun["Location"]
        await self._send("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)

    async def manifest(self, reference: str, data: bytes, media_type: str) -> None:
        await self._send("PUT", f"{self.base}/manifests/{reference}", data, {"Content-Type": media_type})

    async def _send(
        self, method: str, url: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, str]:
        try:
            async with self.session.request(
                method, url, data=data, headers={**self.headers, **(headers or {})}
            ) as answer:
                if answer.status not in (201, 202):
                    said = (await answer.text())[:300]
                    raise BackendError(f"the registry answered {answer.status}: {said}", where=url)
                return dict(answer.headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendError(f"the registry: {type(error).__name__}: {error}", where=url) from None


@asynccontextmanager
async def docker_registry(folder: Path, *, access: bool = False) -> AsyncIterator[DockerRegistry]:
    """Run a registry with its content in `folder`; with `access`, for bearers of its tokens only."""
    program = binary("docker-registry")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    tokens = Tokens() if access else None
    _configure(folder, url, tokens)
    async with Servers(folder) as servers:
        running = await servers.start(
            "docker-registry",
            [program, "serve", "config.yml"],
            ready=f"{url}/",  # open to everybody, and says nothing
        )
        yield DockerRegistry(url, running, tokens)


def _configure(folder: Path, url: str, tokens: Tokens | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "content")}, "delete": {"enabled": True}},
        "http": {"addr": url.partition("://")[2], "secret": secrets.token_hex(16), "host": url},
    }
    if tokens is not None:
        write_private(folder / "tokens.pem", tokens.certificate_pem)
        settings["auth"] = {
            "token": {
                "realm": f"{url}/no-tokens-are-given-here",
                "service": _NAME,
                "issuer": _NAME,
                "rootcertbundle": str(folder / "tokens.pem"),
            }
        }
    # YAML takes JSON.
    (folder / "config.yml").write_text(json.dumps(settings), encoding="ascii")
