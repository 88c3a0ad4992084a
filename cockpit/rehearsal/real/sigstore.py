"""A real, private Sigstore with the rehearsal's issuer: Fulcio, CT log, Rekor (tiles), timestamp authority.

Independent implementations of what the stand-in imitates, but operated by one hand: who runs this process
has all the keys. The trusted root says so in each operator field.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cockpit.base.errors import UsageError
from cockpit.base.files import write_private
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.servers import Running, Servers, free_ports
from cockpit.rehearsal.sigstore.ca import Authority, code_signing_authority, new_key, spki
from cockpit.rehearsal.sigstore.device import DeviceGrants
from cockpit.rehearsal.sigstore.faulty import Fault
from cockpit.rehearsal.sigstore.interface import Service
from cockpit.rehearsal.sigstore.log import log_id
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, BROKER, LIFETIME, ORIGIN_CLAIM
from cockpit.rehearsal.sigstore.tokens import TokenService
from cockpit.rehearsal.sigstore.trust import Addresses, Anchors, Trust, dumps
from cockpit.rehearsal.sigstore.tsa import time_stamping_authority

OPERATOR = "rehearsal, private servers"
ORIGIN = "log.rehearsal.invalid"

Part = Literal["ctlog", "fulcio", "rekor", "tsa"]
PARTS: tuple[Part, ...] = get_args(Part)
"""In the order they start: Fulcio wants its log."""

_CT_PREFIX = "ct"
_SEAL = serialization.PrivateFormat.PKCS8
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class _Keys:
    """Fresh for each start; `password` seals Fulcio's key, which it does not take unsealed."""

    ca: Authority
    tsa: Authority
    ct: ec.EllipticCurvePrivateKey = field(repr=False)
    log: ed25519.Ed25519PrivateKey = field(repr=False)
    password: str = field(repr=False)


class RealSigstore:
    """The servers, running; the same to ask as `cockpit.rehearsal.sigstore.SigstoreServer`.

    `folder` holds keys, configuration and the log's tiles; the log of each server is beside it.
    """

    def __init__(self, servers: Servers, *, device: DeviceGrants | None = None) -> None:
        self.folder = servers.folder / "sigstore"
        self._servers = servers
        self._tokens = TokenService(device=device, brokered=True)
        self._ports: dict[str, int] = {}
        self._running: dict[Part, Running] = {}
        self._commands: dict[Part, list[str | Path]] = {}
        self._trust: Trust | None = None

    async def start(self) -> None:
        """Make keys, write configuration and start every server; raises BackendError or UsageError."""
        programs = {name: binary(name) for name in ("ctlog", "fulcio", "rekor", "timestamp-server")}
        names = (*PARTS, "fulcio-grpc", "fulcio-metrics", "rekor-grpc", "rekor-metrics")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        await self._tokens.start()
        keys = _Keys(
            ca=code_signing_authority(OPERATOR),
            tsa=time_stamping_authority(OPERATOR),
            ct=new_key(),
            log=ed25519.Ed25519PrivateKey.generate(),
            password=secrets.token_urlsafe(24),
        )
        _write(self.folder, keys, self._fulcio_settings(keys.password), _issuers(self.issuer))
        self._trust = Trust(_anchors(keys))
        self._commands = self._written(programs)
        for part in PARTS:
            await self._start(part)

    async def stop(self) -> None:
        """Stop every server, then the issuer."""
        for part in reversed(PARTS):
            if part in self._running:
                await self._running[part].stop()
        await self._tokens.stop()

    @property
    def issuer(self) -> str:
        """The issuer's URL, as certificates name it."""
        return self._tokens.issuer.url

    @property
    def login(self) -> str:
        """Where people log in: at the broker, whose tokens Fulcio takes for people."""
        return self.issuer + BROKER

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return self._tokens.token_url

    @property
    def token_secret(self) -> str:
        """The bearer secret of `POST /token` that gets tokens for whomever."""
        return self._tokens.secret

    def url(self, service: Service | Literal["ctlog"]) -> str:
        """Return a service's base URL."""
        return self._tokens.http.url if service == "oidc" else f"http://127.0.0.1:{self._ports[service]}"

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token for `sub` without the HTTP way round."""
        return self._tokens.token(sub, audience=audience, lifetime=lifetime)

    def enrol(self, identity: str) -> str:
        """Return a bearer secret of `POST /token` that gets tokens for this identity and for no other."""
        return self._tokens.enrol(identity)

    def trusted_root(self) -> str:
        """Return the trusted root, JSON."""
        return dumps(self._trusted().root(self._addresses()))

    def trust_config(self) -> str:
        """Return the client trust configuration, JSON."""
        return dumps(self._trusted().config(self._addresses()))

    def running(self, part: Part) -> Running:
        """Return the server as it runs now: another one after a restart."""
        return self._running[part]

    async def fault(self, service: Service | Literal["ctlog"], kind: Fault | None) -> None:
        """Kill a server (`refuse`), freeze it (`hang`), or have it going again (`None`).

        Our own issuer can answer 500 (`error`) too; the real servers cannot be told to: UsageError.
        """
        if service == "oidc":
            await self._tokens.http.fault(kind)
            return
        running = self._running[service]
        if kind == "refuse":
            await running.kill()
        elif kind == "hang":
            running.suspend()
        elif kind is not None:
            raise UsageError(f"{service} cannot be made to fail by {kind}: it is the real one")
        elif running.ended:
            await self._start(service)
        else:
            running.resume()

    def checkpoint(self) -> str:
        """Return the log's newest checkpoint; empty before its first.

        Rekor leaves reading to a web server before its files; here they are read where they lie.
        """
        try:
            return (self.folder / "tiles" / "checkpoint").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _trusted(self) -> Trust:
        if self._trust is None:
            raise RuntimeError("start the servers first")
        return self._trust

    def _addresses(self) -> Addresses:
        return Addresses(
            oidc=self.url("oidc"),
            fulcio=self.url("fulcio"),
            rekor=self.url("rekor"),
            tsa=self.url("tsa"),
            ctlog=f"{self.url('ctlog')}/{_CT_PREFIX}",
        )

    async def _start(self, part: Part) -> None:
        ready = {
            "ctlog": f"{self.url('ctlog')}/healthz",
            "fulcio": f"{self.url('fulcio')}/healthz",
            "rekor": f"{self.url('rekor')}/healthz",
            "tsa": f"{self.url('tsa')}/ping",
        }
        self._running[part] = await self._servers.start(part, self._commands[part], ready=ready[part])

    def _fulcio_settings(self, password: str) -> dict[str, Any]:
        place = self.folder
        return {
            "host": "127.0.0.1",
            "port": str(self._ports["fulcio"]),
            "grpc-host": "127.0.0.1",
            "grpc-port": str(self._ports["fulcio-grpc"]),
            "metrics-port": str(self._ports["fulcio-metrics"]),
            # In the namespace's abstract names, not in the file system.
            "legacy-unix-domain-socket": f"@fulcio-{self._ports['fulcio-grpc']}",
            "ca": "fileca",
            "fileca-cert": str(place / "ca-chain.pem"),
            "fileca-key": str(place / "ca-key.pem"),
            "fileca-key-passwd": password,
            "fileca-watch": False,
            "config-path": str(place / "issuers.json"),
            "ct-log-url": f"{self.url('ctlog')}/{_CT_PREFIX}",
            "ct-log-public-key-path": str(place / "ct-public.pem"),
            "log_type": "prod",
        }

    def _written(self, programs: dict[str, Path]) -> dict[Part, list[str | Path]]:
        place, ports = self.folder, self._ports
        return {
            "ctlog": [
                programs["ctlog"],
                f"-http=127.0.0.1:{ports['ctlog']}",
                f"-prefix={_CT_PREFIX}",
                f"-roots={place / 'ca-root.pem'}",
                f"-key={place / 'ct-key.pem'}",
            ],
            # Its settings in a file: one of them is a password.
            "fulcio": [programs["fulcio"], "serve", f"--config={place / 'fulcio.json'}"],
            "rekor": [
                *(programs["rekor"], "serve", f"--hostname={ORIGIN}", "--log-level=warn"),
                *("--http-address=127.0.0.1", f"--http-port={ports['rekor']}"),
                *("--grpc-address=127.0.0.1", f"--grpc-port={ports['rekor-grpc']}"),
                f"--http-metrics-port={ports['rekor-metrics']}",
                f"--storage-dir={place / 'tiles'}",
                f"--signer-filepath={place / 'log-key.pem'}",
                # As soon as it can: it publishes each second however it is told.
                *("--checkpoint-interval=100ms", "--batch-max-age=10ms", "--persistent-antispam=false"),
            ],
            "tsa": [
                *(programs["timestamp-server"], "serve", "--host=127.0.0.1", f"--port={ports['tsa']}"),
                *("--timestamp-signer=file", f"--file-signer-key-path={place / 'tsa-key.pem'}"),
                f"--certificate-chain-path={place / 'tsa-chain.pem'}",
                # There is no way to the time servers of the internet from here. And answers hold the leaf
                # alone: a chain is written in an order that DER forbids for every second pair of keys.
                *("--disable-ntp-monitoring", "--log-type=prod"),
            ],
        }


@asynccontextmanager
async def sigstore(servers: Servers, *, device: DeviceGrants | None = None) -> AsyncIterator[RealSigstore]:
    """Run a private Sigstore, its files below the folder of `servers`; it ends with the context.

    Raises UsageError when a binary is not there, BackendError when a server does not start.
    """
    running = RealSigstore(servers, device=device)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


def _issuers(url: str) -> dict[str, Any]:
    """Return whose tokens Fulcio takes: jobs by their subject, people by their e-mail address."""
    return {
        "OIDCIssuers": {
            url: {
                "IssuerURL": url,
                "ClientID": AUDIENCE,
                "Type": "ci-provider",
                "CIProvider": "rehearsal",
            },
            url + BROKER: {
                "IssuerURL": url + BROKER,
                "ClientID": AUDIENCE,
                "Type": "email",
                "IssuerClaim": f"$.federated_claims.{ORIGIN_CLAIM}",
            },
        },
        "CIIssuerMetadata": {"rehearsal": {"SubjectAlternativeNameTemplate": "{{ .sub }}"}},
    }


def _anchors(keys: _Keys) -> Anchors:
    public = keys.log.public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return Anchors(
        operator=OPERATOR,
        ca=(keys.ca.certificate, keys.ca.root),
        ct_key=spki(keys.ct.public_key()),
        log_origin=ORIGIN,
        log_key=public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        log_id=log_id(ORIGIN, raw),
        tsa=(keys.tsa.certificate, keys.tsa.root),
    )


def _write(folder: Path, keys: _Keys, fulcio: dict[str, Any], issuers: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "tiles").mkdir(exist_ok=True)
    sealed = serialization.BestAvailableEncryption(keys.password.encode())
    write_private(folder / "ca-key.pem", keys.ca.key.private_bytes(_PEM, _SEAL, sealed))
    open_ = serialization.NoEncryption()
    write_private(folder / "ct-key.pem", keys.ct.private_bytes(_PEM, _SEAL, open_))
    write_private(folder / "log-key.pem", keys.log.private_bytes(_PEM, _SEAL, open_))
    write_private(folder / "tsa-key.pem", keys.tsa.key.private_bytes(_PEM, _SEAL, open_))
    write_private(folder / "fulcio.json", json.dumps(fulcio).encode())
    public = keys.ct.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for name, text in {
        "ca-root.pem": keys.ca.root.public_bytes(_PEM),
        "ca-chain.pem": keys.ca.certificate.public_bytes(_PEM) + keys.ca.root.public_bytes(_PEM),
        "tsa-chain.pem": keys.tsa.certificate.public_bytes(_PEM) + keys.tsa.root.public_bytes(_PEM),
        "ct-public.pem": public,
        "issuers.json": json.dumps(issuers).encode(),
    }.items():
        (folder / name).write_bytes(text)
