"""The build's own signer: sigstore-python against the stand-in, as a CI job would sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import rfc8785

from cockpit.base.threads import BoundedThreads

if TYPE_CHECKING:
    from cockpit.rehearsal.sigstore.interface import Sigstore


class BuildSigning:
    """Signs in-toto statements as `identity`; its bundles are canonical JSON."""

    def __init__(self, server: Sigstore, identity: str, *, deadline: float = 60.0) -> None:
        self._server = server
        self._identity = identity
        self._deadline = deadline
        self._threads = BoundedThreads("build-signing", 2)

    async def sign(self, statement: Mapping[str, Any]) -> bytes:
        """Return the Sigstore bundle of a statement."""
        payload = rfc8785.dumps(dict(statement))
        config, token = self._server.trust_config(), self._server.token(self._identity)
        # In a thread: the services answer from the event loop that waits here.
        return await self._threads.run(lambda: _sign(config, token, payload), deadline=self._deadline)


def _sign(config: str, token: str, payload: bytes) -> bytes:
    import json

    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(config))
    rekor: Any = context._rekor
    sessions = [context._fulcio.session, rekor._session, *(tsa._session for tsa in context._tsa_clients)]
    for session in sessions:
        session.trust_env = False  # a proxy of the environment cannot reach this machine's loopback
    try:
        with context.signer(IdentityToken(token)) as signer:
            return rfc8785.dumps(json.loads(signer.sign_dsse(Statement(payload)).to_json()))
    finally:
        for session in sessions:
            session.close()
