"""The token issuer: what a CI's ambient-credential end point answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

AUDIENCE = "sigstore"
LIFETIME = timedelta(minutes=10)
_ALGORITHM = "ES256"
_KEY_ID = "rehearsal-1"
BROKER = "/people"
"""Where the broker for people is, below a brokered issuer."""
ORIGIN_CLAIM = "connector_id"
"""The claim below `federated_claims` in which a broker says where somebody logged in (as Dex does)."""


class TokenRefused(Exception):
    """A token the CA must not honour."""


class Issuer:
    """Signs identity tokens and says how to check them (OpenID Connect discovery, JWKS).

    `brokered`: the CA's tokens of people, known by an e-mail address, come from a broker that names this
    issuer as where they logged in. Fulcio certifies either jobs or people of one issuer, never both.
    """

    def __init__(self, url: str, *, brokered: bool = False) -> None:
        self.url = url
        self._brokered = brokered
        self.key = ec.generate_private_key(ec.SECP256R1())

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return a signed token for `sub`; a negative `lifetime` gives one that has expired."""
        now = datetime.now(UTC)
        begin = min(now, now + lifetime)
        claims: dict[str, Any] = {
            "iss": self.url,
            "sub": sub,
            "aud": audience,
            "iat": int(begin.timestamp()),
            "nbf": int(begin.timestamp()),
            "exp": int((now + lifetime).timestamp()),
        }
        if "@" in sub and "://" not in sub:
            claims |= {"email": sub, "email_verified": True}
            if self._brokered and audience == AUDIENCE:
                claims |= {"iss": self.url + BROKER, "federated_claims": {ORIGIN_CLAIM: self.url}}
        return jwt.encode(claims, self.key, _ALGORITHM, headers={"kid": _KEY_ID})

    def subject(self, token: str, *, audience: str = AUDIENCE) -> str:
        """Return whom a token speaks for; raise TokenRefused unless signature, iss, aud and exp hold."""
        try:
            claims = jwt.decode(
                token,
                self.key.public_key(),
                algorithms=[_ALGORITHM],
                audience=audience,
                issuer=self.url,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(f"identity token refused: {error}") from error
        identity = claims.get("email") or claims["sub"]
        if not isinstance(identity, str) or not identity:
            raise TokenRefused("identity token names nobody")
        return identity

    def discovery(self, base: str, *, broker: bool = False) -> dict[str, Any]:
        """Return the discovery document of the issuer or its broker; `base` is where both are served."""
        return {
            "issuer": self.url + BROKER if broker else self.url,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "device_authorization_endpoint": f"{base}/device_authorization",
            "jwks_uri": f"{base}/keys",
            "response_types_supported": ["code", "id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
        }

    def keys(self) -> dict[str, Any]:
        """Return the JSON web key set."""
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**key, "kid": _KEY_ID, "alg": _ALGORITHM, "use": "sig"}]}
