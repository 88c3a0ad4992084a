"""What a release works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from cockpit.base.clock import Clock
from cockpit.conductor.bake import Analyst
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.hooks import Hooks
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.people import People
from cockpit.conductor.phases import Phases
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import Targets
from cockpit.conductor.tools import BakeClock
from cockpit.plan.model import Plan


class Sealer(Protocol):
    """Builds, signs and records evidence packs."""

    async def seal(self, kind: str) -> str:
        """Seal a pack of `kind` (promotion or closing); return why it could not be signed, or nothing."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a release works with."""

    plan: Plan
    recorder: Recorder
    clock: Clock
    connect: Callable[[], Awaitable[None]]
    """Connects the back ends that must be; raises BackendError."""
    lease: ReleaseLease
    effects: EffectsGate
    targets: Targets
    abort_targets: Targets
    """The same objects through a client of its own that is already connected."""
    analyst: Analyst
    people: People
    phases: Phases
    gatekeeper: ReleaseGatekeeper
    sealer: Sealer
    bake: BakeClock
    hooks: Hooks = field(default_factory=Hooks)
    takeover: str = ""
    """The reason for taking the lock of a holder that has gone."""
