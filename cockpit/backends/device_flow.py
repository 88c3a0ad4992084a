"""Logging in from a terminal: the OAuth 2.0 device flow (RFC 8628), and checking the ID token it gives.

The person opens an address on any device and types a code; the terminal asks until it is told. Nothing of
what is secret is kept or shown: neither the device code nor the token.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, CockpitError, UsageError
from cockpit.base.text import visible

CLIENT_ID = "sigstore"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MAX_BYTES = 256 * 1024
_SLOWER = 5.0
_LONGEST_PAUSE = 60.0
_ALGORITHMS = ("ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "EdDSA")
_SKEW = 60.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the person is shown: where to go, what to type there, and for how many seconds it can be typed."""

    address: str
    code: str
    seconds: float


class DeviceFlow:
    """Gets an ID token of whoever logs in; `issuer` is the OpenID issuer's URL."""

    def __init__(
        self,
        issuer: str,
        *,
        clock: Clock,
        client_id: str = CLIENT_ID,
        timeout: float = 10.0,
        tls: Tls = USUAL,
    ) -> None:
        self._issuer = issuer
        self._clock = clock
        self._client_id = client_id
        self._timeout = timeout
        self._tls = tls

    async def token(self, show: Callable[[Prompt], None], *, deadline: float) -> str:
        """Return an ID token once the person has logged in, within `deadline` seconds.

        Raises BackendRefused when they or the issuer say no or the code expires, BackendUnreachable when the
        issuer does not answer, BackendGarbage for nonsense.
        """
        http = _Http(self._timeout, self._tls)
        found = await _discover(http, self._issuer)
        asked = await http.post(
            _address(found, "device_authorization_endpoint", self._issuer),
            {"client_id": self._client_id, "scope": "openid email"},
        )
        if asked.status >= 300:
            raise _refused("the issuer gave no code", asked, self._issuer)
        device, user = _text(asked.body, "device_code"), _text(asked.body, "user_code")
        address = asked.body.get("verification_uri_complete") or _text(asked.body, "verification_uri")
        if not isinstance(address, str) or not address.startswith(("https://", "http://")):
            raise BackendGarbage("the issuer names no address to log in at", where=self._issuer)
        lasts = min(_seconds(asked.body, "expires_in", 600.0), deadline)
        pause = _seconds(asked.body, "interval", 5.0)
        show(Prompt(visible(address, limit=500), visible(user, limit=40), lasts))
        end = self._clock.monotonic() + lasts
        form = {"grant_type": GRANT, "device_code": device, "client_id": self._client_id}
        token_endpoint = _address(found, "token_endpoint", self._issuer)
        while self._clock.monotonic() + pause < end:
            await self._clock.sleep(pause)
            try:
                answer = await http.post(token_endpoint, form)
            except BackendUnreachable:
                pause = min(pause * 2, _LONGEST_PAUSE)  # RFC 8628, 3.5: back off when it does not answer
                continue
            if answer.status < 300:
                token = _text(answer.body, "id_token")
                if token.count(".") != 2:
                    raise BackendGarbage("the issuer gave no ID token", where=self._issuer)
                return token
            error = answer.body.get("error")
            if error == "slow_down":
                pause += _SLOWER
            elif error != "authorization_pending":
                raise _refused("the login was refused", answer, self._issuer)
        raise BackendRefused(f"nobody logged in within {lasts:g} s", where=self._issuer)


class TokenInvalid(BackendRefused):
    """An identity token that does not hold; `what` says why."""


async def claims_of(
    token: str, issuer: str, *, client_id: str, timeout: float, tls: Tls = USUAL
) -> Mapping[str, Any]:
    """Return the claims of an ID token that `issuer` has signed for `client_id` and that has not expired.

    Raises TokenInvalid, and BackendError when the issuer's keys cannot be had.
    """
    import jwt

    http = _Http(timeout, tls)
    found = await _discover(http, issuer)
    keys = await http.get(_address(found, "jwks_uri", issuer))
    try:
        header = jwt.get_unverified_header(token)
        known = jwt.PyJWKSet.from_dict(dict(keys))
        key = next((one for one in known.keys if one.key_id == header.get("kid")), None)
        if key is None:
            raise TokenInvalid("the issuer has not signed this login", where=issuer)
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[header["alg"]] if header.get("alg") in _ALGORITHMS else [],
            audience=client_id,
            issuer=issuer,
            leeway=_SKEW,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except (jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
        text = visible(str(error), limit=200)
        raise TokenInvalid(f"the login does not hold: {text}", where=issuer) from None
    return claims


class IdTokenChecker:
    """Checks that an ID token is of a person's fresh login; each token holds once."""

    def __init__(
        self,
        *,
        clock: Clock,
        client_id: str = CLIENT_ID,
        max_age: float = 300.0,
        timeout: float = 10.0,
    ) -> None:
        self._clock = clock
        self._client_id = client_id
        self._max_age = max_age
        self._timeout = timeout
        self._used: set[str] = set()

    async def check(
        self, token: str, issuer: str, identity: str, *, broker: str = "", tls: Tls = USUAL
    ) -> str:
        """Return why a token does not prove that `identity` has just logged in at `issuer`, or nothing.

        A token of `broker` proves it too, where it says that the login was at `issuer`: of its own it knows
        people by a verified e-mail address alone, as the CA does. Raises BackendError when the
        issuer's keys cannot be had.
        """
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        if digest in self._used:
            return "this login was used before"
        brokered = broker not in ("", issuer) and _said_issuer(token) == broker
        try:
            claims = await claims_of(
                token,
                broker if brokered else issuer,
                client_id=self._client_id,
                timeout=self._timeout,
                tls=tls,
            )
        except TokenInvalid as error:
            return error.what
        if brokered and _behind(claims) != issuer:
            return f"the login was not at {visible(issuer, limit=200)}"
        problem = self._problem(claims, identity, own=not brokered)
        if not problem:
            self._used.add(digest)
        return problem

    def _problem(self, claims: Mapping[str, Any], identity: str, *, own: bool) -> str:
        email = claims.get("email") if claims.get("email_verified") is True else None
        if identity not in (email, claims.get("sub") if own else None):
            return "somebody else has logged in"
        moment = claims.get("auth_time", claims.get("iat"))
        if isinstance(moment, bool) or not isinstance(moment, (int, float)):
            return "the login does not say when it was"
        age = self._clock.now().timestamp() - moment
        if not -_SKEW <= age <= self._max_age:
            return f"the login is {age:.0f} s old; at most {self._max_age:g} s are taken"
        return ""


def _said_issuer(token: str) -> object:
    """Return whose token it says it is, unproven: it only tells whose keys are asked for."""
    import jwt

    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None


def _behind(claims: Mapping[str, Any]) -> object:
    """Return where somebody logged in, as a broker says (the claim Dex gives, and Fulcio reads)."""
    federated = claims.get("federated_claims")
    return federated.get("connector_id") if isinstance(federated, dict) else None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Mapping[str, Any]


class _Http:
    """Bounded requests to an issuer; addresses are https, or on this machine."""

    def __init__(self, timeout: float, tls: Tls) -> None:
        self._timeout = timeout
        self._tls = tls

    async def get(self, url: str) -> Mapping[str, Any]:
        answer = await self._send("GET", url, None)
        if answer.status != 200:
            raise _refused(f"the issuer answered {answer.status}", answer, url)
        return answer.body

    async def post(self, url: str, form: Mapping[str, str]) -> _Answer:
        return await self._send("POST", url, form)

    async def _send(self, method: str, url: str, form: Mapping[str, str] | None) -> _Answer:
        import httpx

        local = _guarded(url)
        try:
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(
                    timeout=self._timeout,
                    trust_env=not local,
                    verify=self._tls.context(environment=not local),
                ) as client,
                client.stream(method, url, data=dict(form) if form is not None else None) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_BYTES:
                        raise BackendGarbage(f"an answer longer than {_MAX_BYTES} bytes", where=url)
                status = answer.status_code
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._timeout:g} s", where=url) from None
        except (httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise UsageError(f"the issuer cannot be asked: {error}", where=url) from error
        except httpx.HTTPError as error:
            raise BackendUnreachable(f"{type(error).__name__}: {error}", where=url) from error
        if status >= 500:
            raise BackendUnreachable(f"the issuer answered {status}", where=url)
        try:
            document = json.loads(bytes(body))
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise BackendGarbage("the issuer's answer is not a JSON object", where=url)
        return _Answer(status, document)


async def _discover(http: _Http, issuer: str) -> Mapping[str, Any]:
    found = await http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if found.get("issuer") != issuer:
        raise BackendGarbage("the discovery document is another issuer's", where=issuer)
    return found


def _address(found: Mapping[str, Any], name: str, issuer: str) -> str:
    address = found.get(name)
    if not isinstance(address, str) or not address:
        raise BackendRefused(f"the issuer has no {name.replace('_', ' ')}", where=issuer)
    _guarded(address)
    return address


def _guarded(url: str) -> bool:
    """Return whether a URL is on this machine; raise UsageError for one that is neither that nor https."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if host in _LOOPBACK and parts.scheme in ("http", "https"):
        return True
    if parts.scheme != "https" or not host:
        raise UsageError("an issuer is asked over https only", where=visible(url, limit=200))
    return False


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BackendGarbage(f"the issuer's answer has no {name}")
    return value


def _seconds(body: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = body.get(name, otherwise)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 86400:
        raise BackendGarbage(f"the issuer's {name} is no number of seconds")
    return float(value)


def _refused(what: str, answer: _Answer, where: str) -> CockpitError:
    said = answer.body.get("error_description") or answer.body.get("error") or answer.status
    return BackendRefused(f"{what}: {visible(str(said), limit=200)}", where=where, status=answer.status)
