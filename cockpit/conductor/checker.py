"""Checking people's statements without holding up the loop, which must take a HALT at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from cockpit.base.errors import BackendError, EvidenceError
from cockpit.base.threads import BoundedThreads
from cockpit.evidence.statements import Checked, CheckedGlass, check_approval, check_glass
from cockpit.plan.model import Plan
from cockpit.plan.registry import Registry
from cockpit.rpc.approval import ApprovalRequest

T = TypeVar("T")
_WITHIN = 20.0
_MAX_ROOT_BYTES = 1 << 20


@dataclass(frozen=True)
class Release:
    """What of a run a break-glass is bound to; `since` is when the run was opened."""

    run_id: str
    plan_sha256: str
    since: datetime


class StatementChecker(Protocol):
    """Checks what people signed; what cannot be checked has a problem, and never counts."""

    async def approval(self, bundle: bytes, request: ApprovalRequest) -> Checked:
        """Check an approval or rejection of a request."""
        ...

    async def glass(self, bundle: bytes, release: Release, now: datetime) -> CheckedGlass:
        """Check a signed break-glass."""
        ...


class SigstoreChecker:
    """The real one: against the trusted root kept in the run folder, in a thread, under a deadline."""

    def __init__(self, plan: Plan, registry: Registry, trusted_root: Path) -> None:
        self._plan = plan
        self._registry = registry
        self._root = trusted_root
        self._threads = BoundedThreads("the check of a statement", 2)

    async def approval(self, bundle: bytes, request: ApprovalRequest) -> Checked:
        """Check an approval or rejection of a request."""
        try:
            return await self._run(lambda: check_approval(bundle, request, self._registry, self._trusted()))
        except (BackendError, EvidenceError) as error:
            return Checked(problem=f"unchecked: {error}")

    async def glass(self, bundle: bytes, release: Release, now: datetime) -> CheckedGlass:
        """Check a signed break-glass."""
        plan = self._plan

        def call() -> CheckedGlass:
            return check_glass(
                bundle,
                run_id=release.run_id,
                version=plan.target_version,
                plan_sha256=release.plan_sha256,
                images={service.name: service.image.digest for service in plan.services},
                since=release.since,
                now=now,
                registry=self._registry,
                trusted_root=self._trusted(),
            )

        try:
            return await self._run(call)
        except (BackendError, EvidenceError) as error:
            return CheckedGlass(problem=f"unchecked: {error}")

    async def _run(self, call: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return call()
            except (BackendError, EvidenceError):
                raise
            except Exception as error:  # noqa: BLE001 - a certificate can be broken in any way
                raise EvidenceError(f"it cannot be read: {type(error).__name__}") from None

        return await self._threads.run(guarded, deadline=_WITHIN)

    def _trusted(self) -> bytes:
        try:
            with self._root.open("rb") as file:
                return file.read(_MAX_ROOT_BYTES + 1)
        except OSError as error:
            raise EvidenceError(
                f"the trusted root cannot be read: {error.strerror}", where=str(self._root)
            ) from None
