"""The signing services and our identity there; nothing is signed, and nothing gets into a log."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from cockpit.backends.device_flow import TokenInvalid, claims_of
from cockpit.backends.http import HttpAnswer, HttpReader
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.connecting import Clients
from cockpit.doctor.checks import Finding, Probe, fail, ok, warn
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.model import Plan

PART = "signing"
AUDIENCE = "sigstore"
_NOT_SERVED = (404, 405, 501)
"""Rekor with its tiles elsewhere knows the path and says that it is not implemented there."""
_SHORT_S = 30.0
"""A token that ends sooner than this may not last for one signature."""

T = TypeVar("T")


class SigningPart:
    """The probes of signing."""

    def __init__(self, plan: Plan, clients: Clients, clock: Clock, reader: HttpReader) -> None:
        self._plan = plan
        self._clients = clients
        self._clock = clock
        self._reader = reader
        self._threads = BoundedThreads("the signing services", 4)
        self._trust = ""
        self._services: Mapping[str, str] = {}

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        target = self._plan.targets.signing
        todo = "give `targets.signing.trust_config`, the client trust configuration of your Sigstore"
        trust = Probe(PART, "trust", target.trust_config, self._trusted, todo)
        yield trust
        for check, name, make, ask in (
            ("certificate authority", "Fulcio", self._authority, self._authority_date),
            ("transparency log", "Rekor", self._log, self._log_date),
            ("time-stamps", "time-stamps", self._stamps, self._stamp),
        ):
            todo = f"check that {name} runs and is the one the trust configuration names"
            probe = Probe(PART, check, target.trust_config, make, todo, trust)
            yield probe
            # A time-stamp has whole seconds, as a rule cut off.
            yield clock_probe(PART, name, ask, self._clock, probe, f"clock of {name}")
        todo = "check `targets.signing.token_url` and `token_secret`, and that the token issuer runs"
        refused = "check the secret `targets.signing.token_secret` refers to"
        yield Probe(PART, "identity", target.token_url, self._identity, todo, refused=refused)

    # -- services -------------------------------------------------------------------------------------

    async def _trusted(self) -> Finding:
        self._trust = trust = self._clients.trust()

        def read() -> Any:
            from cockpit.backends import sigstore_probe

            return sigstore_probe.services(trust)

        found = await self._thread(read)
        self._services = {"fulcio": found.fulcio, "rekor": found.rekor, "tsa": found.tsa}
        return ok(f"{self._plan.targets.signing.profile}; {found.fulcio}", **self._services)

    async def _authority(self) -> Finding:
        answer = await self._bundle()
        if answer.status != 200:
            raise _refused(answer)
        trust, body = self._trust, answer.body

        def check() -> str:
            from cockpit.backends import sigstore_probe

            return sigstore_probe.check_authority(trust, body)

        return ok(f"its root is trusted: {await self._thread(check)}", url=self._services["fulcio"])

    async def _authority_date(self) -> str:
        return (await self._bundle()).headers.get("date", "")

    async def _bundle(self) -> HttpAnswer:
        return await self._reader.get(f"{self._services['fulcio'].rstrip('/')}/api/v2/trustBundle")

    async def _log(self) -> Finding:
        url, answer = self._services["rekor"], await self._checkpoint()
        if answer.status in _NOT_SERVED:
            todo = "nothing, if signing works elsewhere; else check that this is the log (Rekor v2)"
            return warn("it answers and serves no checkpoint there", todo, url=url)
        if answer.status != 200:
            raise _refused(answer)
        trust, body = self._trust, answer.body

        def check() -> Any:
            from cockpit.backends import sigstore_probe

            return sigstore_probe.check_checkpoint(trust, body)

        found = await self._thread(check)
        return ok(f"{found.origin}, {found.size} entries", url=url, origin=found.origin, size=found.size)

    async def _log_date(self) -> str:
        return (await self._checkpoint()).headers.get("date", "")

    async def _checkpoint(self) -> HttpAnswer:
        # Where the log's reading side lies is its operator's choice; these two are in use.
        url = self._services["rekor"].rstrip("/")
        answer = await self._reader.get(f"{url}/api/v2/checkpoint")
        return await self._reader.get(f"{url}/checkpoint") if answer.status in _NOT_SERVED else answer

    async def _stamps(self) -> Finding:
        await self._stamp()
        return ok("a trusted authority gives them", url=self._services["tsa"])

    async def _stamp(self) -> float:
        trust, deadline = self._trust, self._plan.targets.signing.deadline
        tls = self._clients.tls()

        def stamp() -> float:
            from cockpit.backends import sigstore_probe

            return sigstore_probe.stamped(trust, deadline, tls).replace(microsecond=0).timestamp()

        return await self._thread(stamp)

    # -- identity -------------------------------------------------------------------------------------

    async def _identity(self) -> Finding:
        target = self._plan.targets.signing
        token = await self._clients.token()()
        issuer = _issuer_in(token)
        try:
            claims = await claims_of(
                token, issuer, client_id=AUDIENCE, timeout=target.deadline, tls=self._clients.tls()
            )
        except TokenInvalid as error:
            todo = f"the token must be of {target.issuer}, for the audience {AUDIENCE}, and still hold"
            return fail(error.what, todo, issuer=issuer)
        who, expires = _names(claims), float(claims["exp"])
        left = expires - self._clock.now().timestamp()
        facts: dict[str, str | int | float] = {
            "issuer": issuer, "subject": visible(str(claims["sub"]), limit=200),
            "expires_in_s": round(left),
        }  # fmt: skip
        federated = claims.get("federated_claims")
        behind = federated.get("connector_id") if isinstance(federated, dict) else None
        if target.issuer not in (issuer, behind):
            todo = "correct `targets.signing.issuer`, or ask another issuer for the token"
            return fail(f"the token is {issuer}'s, not {target.issuer}'s", todo, **facts)
        if target.identity not in who:
            todo = "correct `targets.signing.identity`, or use the credentials of that identity"
            return fail(f"the token is of {' or '.join(who)}, not of {target.identity}", todo, **facts)
        if left < _SHORT_S:
            return warn(f"the token ends in {left:.0f} s", "let the issuer give longer tokens", **facts)
        return ok(f"{target.identity}, token for {left:.0f} s", **facts)

    async def _thread(self, call: Callable[[], T]) -> T:
        return await self._threads.run(call, deadline=self._plan.targets.signing.deadline)


def _names(claims: Mapping[str, Any]) -> list[str]:
    """Return whom a certificate for this token would name: Fulcio's rules, by kind of issuer."""
    found = [claims["sub"]]
    if claims.get("email_verified") is True:
        found.insert(0, claims.get("email"))
    for claim in ("job_workflow_ref", "ci_config_ref_uri"):  # GitHub's and GitLab's workflows
        if isinstance(claims.get(claim), str):
            host = "github.com/" if claim == "job_workflow_ref" else ""
            found.insert(0, f"https://{host}{claims[claim]}")
    kubernetes = claims.get("kubernetes.io")
    if isinstance(kubernetes, dict) and isinstance(kubernetes.get("serviceaccount"), dict):
        space, name = kubernetes.get("namespace"), kubernetes["serviceaccount"].get("name")
        found.insert(0, f"https://kubernetes.io/namespaces/{space}/serviceaccounts/{name}")
    return [visible(one, limit=200) for one in dict.fromkeys(found) if isinstance(one, str)]


def _issuer_in(token: str) -> str:
    """Return whose token it says it is; its issuer's keys will tell whether it is."""
    try:
        payload = token.split(".")[1]
        issuer = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        issuer = None
    if not isinstance(issuer, str) or len(issuer) > 500:
        raise BackendGarbage("the identity token cannot be read")
    return issuer


def _refused(answer: HttpAnswer) -> BackendUnreachable | BackendRefused | BackendGarbage:
    said, where = f"it answered {answer.status}", visible(answer.url, limit=200)
    if answer.status >= 500 or answer.status == 429:
        return BackendUnreachable(said, where=where)
    if answer.status >= 400:
        return BackendRefused(said, where=where, status=answer.status)
    return BackendGarbage(said, where=where)
