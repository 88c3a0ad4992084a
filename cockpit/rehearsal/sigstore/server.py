"""The four services behind HTTP, and what clients need to know of them."""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from cockpit.rehearsal.sigstore.ca import CertificateAuthority, RequestRefused
from cockpit.rehearsal.sigstore.device import DeviceGrants
from cockpit.rehearsal.sigstore.faulty import FAULTS, Fault, FaultyService
from cockpit.rehearsal.sigstore.interface import SERVICES, Service
from cockpit.rehearsal.sigstore.log import EntryKnown, EntryRefused, TransparencyLog
from cockpit.rehearsal.sigstore.merkle import TILE
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, LIFETIME, TokenRefused
from cockpit.rehearsal.sigstore.tokens import TokenService, json_object
from cockpit.rehearsal.sigstore.trust import OPERATOR, Addresses, Anchors, Trust, dumps
from cockpit.rehearsal.sigstore.tsa import StampRefused, TimestampAuthority

__all__ = ["FAULTS", "SERVICES", "Fault", "Service", "SigstoreServer"]

T = TypeVar("T")

_TILE_PATH = "/api/v2/tile/{level:[0-9]{1,2}|entries}/{index:[0-9]{3}}"
# gRPC's status codes, and as which status of HTTP its gateway gives them.
_INVALID, _NOT_FOUND, _EXISTS = 3, 5, 6
_STATUS = {_INVALID: 400, _NOT_FOUND: 404, _EXISTS: 409}


class SigstoreServer:
    """Token issuer, CA, transparency log and time-stamp authority, each on a loopback port of its own.

    `issuer` is the URL written into tokens and certificates (default: where the issuer is served).
    `token_secret` is the bearer secret of `POST /token` (default: a random one).
    """

    def __init__(
        self,
        issuer: str | None = None,
        *,
        token_secret: str | None = None,
        origin: str = "log.rehearsal.invalid",
        device: DeviceGrants | None = None,
    ) -> None:
        self._tokens = TokenService(issuer, secret=token_secret, device=device)
        self.log = TransparencyLog(origin)
        self._tsa = TimestampAuthority()
        self._authority: CertificateAuthority | None = None
        self._trust: Trust | None = None
        self._services: dict[Service, FaultyService] = {
            "oidc": self._tokens.http,
            "fulcio": FaultyService(
                [
                    web.post("/api/v2/signingCert", self._certify),
                    web.get("/api/v2/trustBundle", self._trust_bundle),
                ]
            ),
            "rekor": FaultyService(
                [
                    web.post("/api/v2/log/entries", self._add_entry),
                    # What a web server before the log's files answers.
                    web.get("/api/v2/checkpoint", self._checkpoint),
                    web.get(_TILE_PATH, self._tile),
                    web.get(_TILE_PATH + ".p/{width:[0-9]{1,3}}", self._tile),
                ],
                max_body=16 << 20,
            ),
            "tsa": FaultyService([web.post("/api/v1/timestamp", self._stamp)]),
        }

    async def __aenter__(self) -> SigstoreServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1, ports chosen by the machine."""
        await self._tokens.start()
        for name, service in self._services.items():
            if name != "oidc":
                await service.start()
        self._authority = CertificateAuthority(self.issuer)
        self._trust = Trust(
            Anchors(
                operator=OPERATOR,
                ca=(self._authority.intermediate, self._authority.root),
                ct_key=self._authority.ct_public_key,
                log_origin=self.log.origin,
                log_key=self.log.public_key,
                log_id=self.log.log_id,
                tsa=(self._tsa.certificate, self._tsa.root),
            )
        )

    async def stop(self) -> None:
        """Close every port."""
        for service in self._services.values():
            await service.stop()

    def url(self, service: Service) -> str:
        """Return a service's base URL."""
        return self._services[service].url

    @property
    def issuer(self) -> str:
        """The issuer's URL, as tokens and certificates name it."""
        return self._tokens.issuer.url

    @property
    def login(self) -> str:
        """Where people log in: at the issuer itself."""
        return self.issuer

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return self._tokens.token_url

    @property
    def token_secret(self) -> str:
        """The bearer secret of `POST /token` that gets tokens for whomever."""
        return self._tokens.secret

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token for `sub` without the HTTP way round."""
        return self._tokens.token(sub, audience=audience, lifetime=lifetime)

    def enrol(self, identity: str) -> str:
        """Return a bearer secret of `POST /token` that gets tokens for this identity and for no other."""
        return self._tokens.enrol(identity)

    def trusted_root(self) -> str:
        """Return the trusted root, JSON."""
        return dumps(_started(self._trust).root(self._addresses()))

    def trust_config(self) -> str:
        """Return the client trust configuration, JSON."""
        return dumps(_started(self._trust).config(self._addresses()))

    async def fault(self, service: Service, kind: Fault | None) -> None:
        """Make one service answer 500 (`error`), `hang`, or `refuse` connections; `None` mends it."""
        await self._services[service].fault(kind)

    def requests(self, service: Service) -> int:
        """Return how many requests a service has received."""
        return self._services[service].requests

    def _addresses(self) -> Addresses:
        return Addresses(
            oidc=self.url("oidc"),
            fulcio=self.url("fulcio"),
            rekor=self.url("rekor"),
            tsa=self.url("tsa"),
            ctlog=f"{self.url('fulcio')}/ct",
        )

    # --- CA

    async def _certify(self, request: web.Request) -> web.Response:
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        body = await json_object(request)
        try:
            identity = self._tokens.issuer.subject(token)
            pem = base64.b64decode(body.get("certificateSigningRequest", ""), validate=True)
            chain = _started(self._authority).issue(identity, pem)
        except TokenRefused:
            return _refusal(_INVALID, "There was an error processing the identity token")
        except (RequestRefused, binascii.Error, TypeError) as error:
            return _refusal(_INVALID, str(error))
        pems = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
        return web.json_response({"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}})

    async def _trust_bundle(self, _: web.Request) -> web.Response:
        authority = _started(self._authority)
        pems = [one.public_bytes(Encoding.PEM).decode() for one in (authority.intermediate, authority.root)]
        return web.json_response({"chains": [{"certificates": pems}]})

    # --- transparency log

    async def _add_entry(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self.log.add(await json_object(request)), status=201)
        except EntryRefused as error:
            return _refusal(_INVALID, str(error))
        except EntryKnown as error:
            return _refusal(_EXISTS, str(error))

    async def _tile(self, request: web.Request) -> web.Response:
        level, index = request.match_info["level"], int(request.match_info["index"])
        width = int(request.match_info.get("width", TILE))
        try:
            if level == "entries":
                return web.Response(body=self.log.entries(index, width))
            return web.Response(body=self.log.tile(int(level), index, width))
        except ValueError as error:
            return _refusal(_NOT_FOUND, str(error))

    async def _checkpoint(self, _: web.Request) -> web.Response:
        return web.Response(text=self.log.checkpoint())

    # --- time-stamp authority

    async def _stamp(self, request: web.Request) -> web.Response:
        if request.content_type != "application/timestamp-query":
            return web.json_response({"code": 415, "message": "unsupported media type"}, status=415)
        try:
            answer = self._tsa.answer(await request.read())
        except StampRefused as error:
            return web.json_response({"code": 400, "message": str(error)}, status=400)
        return web.Response(body=answer, content_type="application/timestamp-reply")


def _started(part: T | None) -> T:
    if part is None:
        raise RuntimeError("start the server first")
    return part


def _refusal(code: int, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message, "details": []}, status=_STATUS[code])
