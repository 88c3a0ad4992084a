"""Who signs at this keyboard, for which plan, and how they prove who they are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cockpit.backends.tls import Tls
from cockpit.base.clock import SystemClock
from cockpit.base.errors import JournalError, UsageError
from cockpit.base.text import visible
from cockpit.control.client import operator
from cockpit.journal.blobs import BlobStore
from cockpit.journal.state import ReleaseState
from cockpit.plan.load import LoadedPlan, load_plan, parse_plan
from cockpit.plan.people import Approvals, Person
from cockpit.plan.registry import Registry

ID_TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 - the names of variables
TOKEN_SECRET = "COCKPIT_TOKEN_SECRET"  # noqa: S105
TOKEN_URL = "COCKPIT_TOKEN_URL"  # noqa: S105
_LOGIN_WITHIN = 600.0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Signer:
    """A person of a plan, and where their identity token comes from."""

    loaded: LoadedPlan
    registry: Registry
    person: Person
    arguments: argparse.Namespace

    async def sign(self, statement: Mapping[str, Any]) -> bytes:
        """Return the bundle of a statement signed by this person; raises BackendError or UsageError."""
        from cockpit.backends.signing import SigstoreSigning

        signing = self.loaded.plan.targets.signing
        trust = self.arguments.trust_config or self.loaded.base / signing.trust_config
        # The token first: a login may take as long as it takes, the signature may not.
        token = await self.token()

        async def given() -> str:
            return token

        client = SigstoreSigning(
            read_file(trust).decode("utf-8", "replace"),
            token=given,
            identity=self.person.identity,
            issuer=self.registry.issuer_of(self.person),
            tls=self._tls(),
        )
        return (await client.sign_statement(statement, deadline=signing.deadline)).bundle_json

    def _tls(self) -> Tls:
        from cockpit.connecting import tls_of  # loads every back end: not for a one-time password

        return tls_of(self.loaded.plan, self.loaded.base)

    async def token(self) -> str:
        """Return an identity token: from the environment, by logging in, or from a token end point."""
        from cockpit.backends.device_flow import DeviceFlow
        from cockpit.backends.signing import HttpToken

        if token := os.environ.get(ID_TOKEN, "").strip():
            return token
        if self.arguments.device:
            flow = DeviceFlow(self.registry.login_of(self.person), clock=SystemClock(), tls=self._tls())
            return await flow.token(_show, deadline=_LOGIN_WITHIN)
        signing, base = self.loaded.plan.targets.signing, self.loaded.base
        url = self.arguments.token_url or os.environ.get(TOKEN_URL, "") or signing.token_url
        given = self.arguments.token_secret or os.environ.get(TOKEN_SECRET, "")
        secret: str | Callable[[], str]
        if given:
            secret = given
        elif self.loaded.plan.rehearsal:
            # A stand-in vouches for everybody; the secret of a real plan is the conductor's alone.
            def secret() -> str:
                return signing.token_secret.read(base)
        else:
            raise UsageError(
                f"nothing proves that you are {self.person.id}",
                hint=f"log in with --device, set {ID_TOKEN}, or give --token-secret env:NAME",
            )
        return await HttpToken(url, secret=secret, subject=self.person.identity, tls=self._tls())()


def signer_of(loaded: LoadedPlan, arguments: argparse.Namespace) -> Signer:
    """Return who signs: `--as`, else COCKPIT_OPERATOR or the login name; raises UsageError."""
    approvals = approvals_of(loaded)
    registry = Registry(approvals, loaded.plan.targets.signing.issuer)
    name = arguments.person or operator()
    person = registry.person(name)
    if person is None:
        raise UsageError(
            f"nobody in the plan is {visible(name, limit=80)}",
            hint=f"--as one of {', '.join(one.id for one in approvals.people)}",
        )
    return Signer(loaded, registry, person, arguments)


def approvals_of(loaded: LoadedPlan) -> Approvals:
    """Return the plan's people; raises UsageError where it has none."""
    if loaded.plan.approvals is None:
        raise UsageError("the plan names nobody who decides", hint="it has no `approvals`")
    return loaded.plan.approvals


def plan_of_run(folder: Path, state: ReleaseState, plan: Path | None) -> LoadedPlan:
    """Return the plan a run was opened with; what it refers to lies beside `plan`, else in the run folder.

    Raises UsageError when `plan` is another one, or when nothing is recorded yet.
    """
    if state.run is None:
        raise UsageError("that run has not begun yet", where=str(folder))
    base = folder
    if plan is not None:
        given = load_plan(plan)
        if given.sha256 != state.run.plan_sha256:
            raise UsageError("this is not the plan the run was opened with", where=str(plan))
        base = given.base
    try:
        raw = BlobStore(folder / "blobs").get(state.run.plan_blob)
    except JournalError as error:
        raise UsageError(f"the run's plan cannot be read: {error.what}", where=str(folder)) from None
    return parse_plan(raw, "the run's plan", base=base.resolve())


def read_file(path: Path) -> bytes:
    """Return a file's bytes, a megabyte at most; raises UsageError."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"is larger than {_MAX_BYTES} bytes", where=str(path))
    return raw


def confirmed(arguments: argparse.Namespace, question: str) -> bool:
    """Ask at a terminal; elsewhere, or with --yes, giving the command is the decision."""
    if arguments.yes or not sys.stdin.isatty():
        return True
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show(prompt: Any) -> None:
    print(
        f"Open {prompt.address}\nand type {prompt.code} within {prompt.seconds:.0f} s.",
        file=sys.stderr,
        flush=True,
    )
