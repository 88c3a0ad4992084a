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
from cockpit.rehearsal.sigstore.log import EntryRefused, TransparencyLog
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, LIFETIME, TokenRefused
from cockpit.rehearsal.sigstore.tokens import TokenService, json_object, problem
from cockpit.rehearsal.sigstore.trust import OPERATOR, Addresses, Anchors, Trust, dumps
from cockpit.rehearsal.sigstore.tsa import StampRefused, TimestampAuthority

__all__ = ["FAULTS", "SERVICES", "Fault", "Service", "SigstoreServer"]

T = TypeVar("T")


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
                    web.get("/api/v2/log/entries/{index:[0-9]{1,12}}", self._get_entry),
                    web.get("/api/v2/log/consistency", self._consistency),
                    web.get("/api/v2/checkpoint", self._checkpoint),
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
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return problem(401, "an identity token is needed")
        body = await json_object(request)
        try:
            identity = self._tokens.issuer.subject(token)
            pem = base64.b64decode(body.get("certificateSigningRequest", ""), validate=True)
            chain = _started(self._authority).issue(identity, pem)
        except TokenRefused as error:
            return problem(401, str(error))
        except (RequestRefused, binascii.Error, TypeError) as error:
            return problem(400, str(error))
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
            return problem(400, str(error))

    async def _get_entry(self, request: web.Request) -> web.Response:
        try:
            size = int(request.query["size"]) if "size" in request.query else None
            return web.json_response(self.log.entry(int(request.match_info["index"]), size))
        except ValueError as error:
            return problem(404, str(error))

    async def _consistency(self, request: web.Request) -> web.Response:
        try:
            first, second = int(request.query["first"]), int(request.query.get("second", len(self.log)))
            return web.json_response(self.log.consistency(first, second))
        except (KeyError, ValueError) as error:
            return problem(400, f"sizes refused: {error}")

    async def _checkpoint(self, _: web.Request) -> web.Response:
        return web.Response(text=self.log.checkpoint())

    # --- time-stamp authority

    async def _stamp(self, request: web.Request) -> web.Response:
        try:
            answer = self._tsa.answer(await request.read())
        except StampRefused as error:
            return problem(400, str(error))
        return web.Response(body=answer, status=201, content_type="application/timestamp-reply")


def _started(part: T | None) -> T:
    if part is None:
        raise RuntimeError("start the server first")
    return part
