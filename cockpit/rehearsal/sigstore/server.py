"""The four services behind HTTP, and what clients need to know of them."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from cockpit.rehearsal.sigstore.ca import CertificateAuthority, RequestRefused
from cockpit.rehearsal.sigstore.device import GRANT, DeviceGrants
from cockpit.rehearsal.sigstore.faulty import FAULTS, Fault, FaultyService
from cockpit.rehearsal.sigstore.log import EntryRefused, TransparencyLog
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, LIFETIME, Issuer, TokenRefused
from cockpit.rehearsal.sigstore.trust import Addresses, Trust, dumps
from cockpit.rehearsal.sigstore.tsa import StampRefused, TimestampAuthority

__all__ = ["FAULTS", "SERVICES", "Fault", "Service", "SigstoreServer"]

T = TypeVar("T")
Service = Literal["oidc", "fulcio", "rekor", "tsa"]
SERVICES: tuple[Service, ...] = get_args(Service)


class SigstoreServer:
    """Token issuer, CA, transparency log and time-stamp authority, each on a loopback port of its own.

    `issuer` is the URL written into tokens and certificates (default: where the issuer is served).
    `token_secret` is the bearer secret of `POST /token` (default: a random one, see `token_secret`).
    """

    def __init__(
        self,
        issuer: str | None = None,
        *,
        token_secret: str | None = None,
        origin: str = "log.rehearsal.invalid",
        device: DeviceGrants | None = None,
    ) -> None:
        self._issuer_name = issuer
        self.token_secret = token_secret or secrets.token_urlsafe(24)
        self._people: dict[str, str] = {}
        self.log = TransparencyLog(origin)
        self._tsa = TimestampAuthority()
        self._device = device or DeviceGrants()
        self._issuer: Issuer | None = None
        self._authority: CertificateAuthority | None = None
        self._trust: Trust | None = None
        self._services: dict[Service, FaultyService] = {
            "oidc": FaultyService(
                [
                    web.get("/.well-known/openid-configuration", self._discovery),
                    web.get("/keys", self._keys),
                    web.post("/token", self._token),
                    web.post("/device_authorization", self._begin_device),
                    web.post("/device", self._decide_device),
                ]
            ),
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
        for service in self._services.values():
            await service.start()
        self._issuer = Issuer(self._issuer_name or self.url("oidc"))
        self._authority = CertificateAuthority(self._issuer.url)
        self._trust = Trust(self._authority, self.log, self._tsa)

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
        return _started(self._issuer).url

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return f"{self.url('oidc')}/token"

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token for `sub` without the HTTP way round."""
        return _started(self._issuer).token(sub, audience=audience, lifetime=lifetime)

    def enrol(self, identity: str) -> str:
        """Return a bearer secret of `POST /token` that gets tokens for this identity and for no other."""
        secret = secrets.token_urlsafe(24)
        self._people[secret] = identity
        return secret

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
        return Addresses(*(self.url(service) for service in SERVICES))

    # --- token issuer

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(_started(self._issuer).discovery(self.url("oidc")))

    async def _keys(self, _: web.Request) -> web.Response:
        return web.json_response(_started(self._issuer).keys())

    async def _begin_device(self, request: web.Request) -> web.Response:
        client_id = (await request.post()).get("client_id")
        if not isinstance(client_id, str) or not client_id:
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response(self._device.begin(client_id, self.url("oidc")))

    async def _decide_device(self, request: web.Request) -> web.Response:
        """Take what a person would do in the browser: log in as `sub` for a code, or deny it."""
        given = request.headers.get("Authorization", "")
        if not _bears(given, self.token_secret):
            return _problem(401, "a bearer secret is needed")
        body = await _json(request)
        code, sub = str(body.get("user_code", "")), str(body.get("sub", ""))
        if not self._device.decide(code, sub, allow=body.get("allow") is True):
            return _problem(404, "no such code waits")
        return web.json_response({})

    async def _device_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("grant_type") != GRANT:
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        client_id = str(form.get("client_id", ""))
        sub, error = self._device.poll(str(form.get("device_code", "")), client_id)
        if error:
            return web.json_response({"error": error}, status=400)
        token = self.token(sub, audience=client_id)
        return web.json_response({"id_token": token, "token_type": "Bearer", "expires_in": 600})

    async def _token(self, request: web.Request) -> web.Response:
        if request.content_type == "application/x-www-form-urlencoded":
            return await self._device_token(request)
        given = request.headers.get("Authorization", "")
        person = next((who for secret, who in self._people.items() if _bears(given, secret)), "")
        if not person and not _bears(given, self.token_secret):
            return _problem(401, "a bearer secret is needed")
        body = await _json(request)
        sub, audience = body.get("sub"), body.get("audience", AUDIENCE)
        if not isinstance(sub, str) or not sub or not isinstance(audience, str):
            return _problem(400, "sub and audience must be text")
        if person and sub != person:
            return _problem(403, "this secret is another person's")
        return web.json_response({"value": self.token(sub, audience=audience)})

    # --- CA

    async def _certify(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return _problem(401, "an identity token is needed")
        body = await _json(request)
        try:
            identity = _started(self._issuer).subject(token)
            pem = base64.b64decode(body.get("certificateSigningRequest", ""), validate=True)
            chain = _started(self._authority).issue(identity, pem)
        except TokenRefused as error:
            return _problem(401, str(error))
        except (RequestRefused, binascii.Error, TypeError) as error:
            return _problem(400, str(error))
        pems = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
        return web.json_response({"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}})

    async def _trust_bundle(self, _: web.Request) -> web.Response:
        authority = _started(self._authority)
        pems = [one.public_bytes(Encoding.PEM).decode() for one in (authority.intermediate, authority.root)]
        return web.json_response({"chains": [{"certificates": pems}]})

    # --- transparency log

    async def _add_entry(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self.log.add(await _json(request)), status=201)
        except EntryRefused as error:
            return _problem(400, str(error))

    async def _get_entry(self, request: web.Request) -> web.Response:
        try:
            size = int(request.query["size"]) if "size" in request.query else None
            return web.json_response(self.log.entry(int(request.match_info["index"]), size))
        except ValueError as error:
            return _problem(404, str(error))

    async def _consistency(self, request: web.Request) -> web.Response:
        try:
            first, second = int(request.query["first"]), int(request.query.get("second", len(self.log)))
            return web.json_response(self.log.consistency(first, second))
        except (KeyError, ValueError) as error:
            return _problem(400, f"sizes refused: {error}")

    async def _checkpoint(self, _: web.Request) -> web.Response:
        return web.Response(text=self.log.checkpoint())

    # --- time-stamp authority

    async def _stamp(self, request: web.Request) -> web.Response:
        try:
            answer = self._tsa.answer(await request.read())
        except StampRefused as error:
            return _problem(400, str(error))
        return web.Response(body=answer, status=201, content_type="application/timestamp-reply")


def _started(part: T | None) -> T:
    if part is None:
        raise RuntimeError("start the server first")
    return part


def _bears(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), f"Bearer {secret}".encode())


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message, "details": []}, status=status)


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return body
