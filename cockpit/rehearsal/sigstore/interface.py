"""What the rest of a rehearsal asks of its Sigstore, whether that is the stand-in or the real servers."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Protocol, get_args

from cockpit.rehearsal.sigstore.faulty import Fault
from cockpit.rehearsal.sigstore.oidc import AUDIENCE, LIFETIME

Service = Literal["oidc", "fulcio", "rekor", "tsa"]
SERVICES: tuple[Service, ...] = get_args(Service)


class Sigstore(Protocol):
    """Token issuer, CA with its CT log, transparency log and time-stamp authority, on loopback."""

    @property
    def issuer(self) -> str:
        """The issuer's URL, as certificates name it."""
        ...

    @property
    def login(self) -> str:
        """The issuer at which people log in: a broker before `issuer`, or that one itself."""
        ...

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        ...

    @property
    def token_secret(self) -> str:
        """The bearer secret that gets tokens for whomever."""
        ...

    def url(self, service: Service) -> str:
        """Return a service's base URL."""
        ...

    def token(self, sub: str, *, audience: str = AUDIENCE, lifetime: timedelta = LIFETIME) -> str:
        """Return an identity token for `sub` without the HTTP way round."""
        ...

    def enrol(self, identity: str) -> str:
        """Return a bearer secret that gets tokens for this identity and for no other."""
        ...

    def trusted_root(self) -> str:
        """Return the trusted root, JSON."""
        ...

    def trust_config(self) -> str:
        """Return the client trust configuration, JSON."""
        ...

    async def fault(self, service: Service, kind: Fault | None) -> None:
        """Make one service fail in the way named; `None` mends it."""
        ...
