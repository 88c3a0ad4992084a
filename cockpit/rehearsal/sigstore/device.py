"""The device flow of the token issuer (RFC 8628): a code for the terminal, a decision by the person."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any, Literal

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass
class _Pending:
    user_code: str
    client_id: str
    ends: float
    asked: float
    decision: Literal["", "allowed", "denied"] = ""
    sub: str = ""


class DeviceGrants:
    """Codes given out and what became of them. `interval` and `lifetime` are seconds."""

    def __init__(self, *, interval: float = 1.0, lifetime: float = 300.0) -> None:
        self._interval = interval
        self._lifetime = lifetime
        self._pending: dict[str, _Pending] = {}

    def begin(self, client_id: str, base: str) -> dict[str, Any]:
        """Return the answer to a device authorization request; `base` is where people log in."""
        user_code = "".join(secrets.choice(_LETTERS) for _ in range(8))
        user_code = f"{user_code[:4]}-{user_code[4:]}"
        device_code = secrets.token_urlsafe(32)
        now = self._now()
        self._pending[device_code] = _Pending(user_code, client_id, now + self._lifetime, now)
        return {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": f"{base}/device",
            "verification_uri_complete": f"{base}/device?user_code={user_code}",
            "expires_in": self._lifetime,
            "interval": self._interval,
        }

    def decide(self, user_code: str, sub: str, *, allow: bool) -> bool:
        """Log `sub` in for a code, or deny it; return whether the code waits for that."""
        for one in self._pending.values():
            if one.user_code == user_code and not one.decision and self._now() < one.ends:
                one.decision, one.sub = ("allowed" if allow else "denied"), sub
                return True
        return False

    def poll(self, device_code: str, client_id: str) -> tuple[str, str]:
        """Return (who logged in, error): the error is empty when somebody has. A code is good for once."""
        one = self._pending.get(device_code)
        if one is None or one.client_id != client_id:
            return "", "invalid_grant"
        now = self._now()
        before, one.asked = one.asked, now
        if one.decision == "allowed":
            del self._pending[device_code]
            return one.sub, ""
        if one.decision == "denied":
            return "", "access_denied"
        if now >= one.ends:
            return "", "expired_token"
        # A little slack: a timer may fire a moment early.
        return "", "slow_down" if now - before < self._interval * 0.8 else "authorization_pending"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
