"""What a release asks of its surroundings along the way: time, people, policy, stages, the hard stop.

Each is optional in a plan, so each has a default that asks for nothing; wiring puts the real ones in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from cockpit.conductor.phases import Failure


async def _nothing(_: str) -> None:
    return None


async def _no_failures() -> list[Failure]:
    return []


async def _no_step(_: int) -> None:
    return None


async def _no_more() -> str:
    return ""


def _unfrozen(cause: str, reason: str, gate: str) -> AbstractAsyncContextManager[None]:
    return nullcontext()


async def _stop_nothing(cause: str, reason: str, gate: str) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """See each field; all but `closed` and `overridden` may raise what stands against going on."""

    due: Callable[[str], Awaitable[None]] = _nothing
    """Before a phase begins: waits until the calendar allows it, or raises that it is too early."""
    stages: Callable[[], Awaitable[list[Failure]]] = _no_failures
    """Before the promotion pack: dev and stage take the same digests; returns what failed there."""
    allowed: Callable[[int], Awaitable[None]] = _no_step
    """Before a step moves traffic: approvals, policy, a request to promote."""
    baking: Callable[[int], Coroutine[Any, Any, None]] = _no_step
    """Beside a step's bake: watches what else must not happen (risk triggers); raises a breach."""
    advanced: Callable[[int], Awaitable[None]] = _no_step
    """After a step advanced: flags ramp, messages go out. Trouble with it never holds the release up."""
    aborted: Callable[[], Awaitable[str]] = _no_more
    """After an abort: what went along with the steps (flags) goes back too; returns what did not."""
    freezing: Callable[[str, str, str], AbstractAsyncContextManager[None]] = _unfrozen
    """Beside an abort of moved traffic: what is there at that moment is captured; the abort never waits."""
    hard_stop: Callable[[str, str, str], Awaitable[None]] = _stop_nothing
    """After an abort of moved traffic (cause, reason, gate): incident, evidence, notify, fix train."""
    closed: Callable[[], str] = lambda: ""
    """Why prod must not be promoted now, nothing when it may."""
    overridden: Callable[[], frozenset[str]] = frozenset
    """Phase gates that break-glass overrides at this moment."""
    glass_wait: float = 0.0
    """Seconds an unattended run waits for break-glass over a gate that may be overridden."""
    overridable: frozenset[str] = frozenset()
    watchers: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """What must run beside the release: the window's end, a lost operator. One that fails ends the run."""
    beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """What runs beside it and may fail: it is begun again, and its errors are noted."""
