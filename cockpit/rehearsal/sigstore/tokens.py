"""The token issuer behind HTTP: ambient credentials for jobs, the device flow for people."""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import Any

from aiohttp import web

from cockpit.rehearsal.sigstore.device import GRANT, DeviceGrants
from cockpit.rehearsal.sigstore.faulty import FaultyService
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, BROKER, LIFETIME, Issuer


class TokenService:
    """Issues identity tokens on a loopback port of its own.

    `name` is the URL written into tokens (default: where the issuer is served). `secret` is the bearer secret
    of `POST /token` (default: a random one). `brokered`: see Issuer.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        secret: str | None = None,
        device: DeviceGrants | None = None,
        brokered: bool = False,
    ) -> None:
        self._name = name
        self._brokered = brokered
        self.secret = secret or secrets.token_urlsafe(24)
        self._people: dict[str, str] = {}
        self._device = device or DeviceGrants()
        self._issuer: Issuer | None = None
        broker = [web.get(f"{BROKER}/.well-known/openid-configuration", self._broker_discovery)]
        self.http = FaultyService(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                *(broker if brokered else []),
                web.get("/keys", self._keys),
                web.post("/token", self._token),
                web.post("/device_authorization", self._begin_device),
                web.post("/device", self._decide_device),
            ]
        )

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        await self.http.start()
        self._issuer = Issuer(self._name or self.http.url, brokered=self._brokered)

    async def stop(self) -> None:
        """Close the port."""
        await self.http.stop()

    @property
    def issuer(self) -> Issuer:
        """The issuer itself; there is one once the service was started."""
        if self._issuer is None:
            raise RuntimeError("start the server first")
        return self._issuer

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return f"{self.http.url}/token"

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token for `sub` without the HTTP way round."""
        return self.issuer.token(sub, audience=audience, lifetime=lifetime)

    def enrol(self, identity: str) -> str:
        """Return a bearer secret of `POST /token` that gets tokens for this identity and for no other."""
        secret = secrets.token_urlsafe(24)
        self._people[secret] = identity
        return secret

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.discovery(self.http.url))

    async def _broker_discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.discovery(self.http.url, broker=True))

    async def _keys(self, _: web.Request) -> web.Response:
        return web.json_response(self.issuer.keys())

    async def _begin_device(self, request: web.Request) -> web.Response:
        client_id = (await request.post()).get("client_id")
        if not isinstance(client_id, str) or not client_id:
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response(self._device.begin(client_id, self.http.url))

    async def _decide_device(self, request: web.Request) -> web.Response:
        """Take what a person would do in the browser: log in as `sub` for a code, or deny it."""
        given = request.headers.get("Authorization", "")
        if not _bears(given, self.secret):
            return _problem(401, "a bearer secret is needed")
        body = await json_object(request)
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
        if not person and not _bears(given, self.secret):
            return _problem(401, "a bearer secret is needed")
        body = await json_object(request)
        sub, audience = body.get("sub"), body.get("audience", AUDIENCE)
        if not isinstance(sub, str) or not sub or not isinstance(audience, str):
            return _problem(400, "sub and audience must be text")
        if person and sub != person:
            return _problem(403, "this secret is another person's")
        return web.json_response({"value": self.token(sub, audience=audience)})


def _bears(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), f"Bearer {secret}".encode())


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message}, status=status)


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return a request's JSON object; raises web.HTTPBadRequest."""
    try:
        body = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return body
