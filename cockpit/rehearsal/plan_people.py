"""Whom a rehearsal's plan asks: the people, what each may decide, and where their secrets lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]


@dataclass(frozen=True)
class Persona:
    """Someone of the rehearsal: `id` as the plan names them, `identity` as the issuer does."""

    id: str
    identity: str
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the id without its sign, e.g. `sre`."""
        return self.id.removeprefix("@")

    @property
    def secret(self) -> str:
        """Return the file with what they sign in with, relative to the plan."""
        return f"world/secrets/person-{self.name}"

    @property
    def totp(self) -> str:
        """Return the file with the secret of their one-time passwords, relative to the plan."""
        return f"world/secrets/totp-{self.name}"


SRE = Persona("@sre", "sre@intelgraph.io", ("sre", "oncall"))
PLATFORM = Persona("@platform", "platform@intelgraph.io", ("platform",))
SECURITY = Persona("@security", "security@intelgraph.io", ("security",))
PRODUCT = Persona("@product", "product@intelgraph.io", ("product",))
CAST = (SRE, PLATFORM, SECURITY, PRODUCT)

APPROVERS = {"promote": (PLATFORM, SECURITY), "flip": (PRODUCT,), "break-glass": (SECURITY,)}
"""Who gives an approval where one is asked for."""

OVERRIDABLE = ("policy_ci", "hardening")


def approvals(login: str = "") -> Data:
    """Return the plan's people and rules; `login` is the broker they log in at, where there is one."""
    return {
        "people": [
            {
                "id": one.id,
                "identity": one.identity,
                "groups": list(one.groups),
                "totp": f"file:{one.totp}",
            }
            for one in CAST
        ],
        "rules": [
            {
                "asked": "promote",
                "threshold": 2,
                "groups": ["platform", "security"],
                "from_each": True,
                "expires": "10m",
                "valid": "1h",
            },
            {"asked": "flip", "threshold": 1, "groups": ["product"], "expires": "10m", "valid": "1h"},
            {
                "asked": "break-glass",
                "threshold": 1,
                "groups": ["security"],
                "expires": "10m",
                "valid": "1h",
                "step_up": "totp",
            },
        ],
        "break_glass": {"overridable": list(OVERRIDABLE), "expires": "1h", "second_person": True},
        # Nobody sits at a rehearsal's screen: the run waits this long for those who are asked elsewhere.
        "auto_wait": "2m",
        **({"login": login} if login else {}),
    }
