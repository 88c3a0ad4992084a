"""What a check is, how all are made side by side, and what comes of them.

Nothing that could not be measured is `ok`: what answers too late, or not what its protocol promises, fails;
what needs something that failed, and what this plan does not use, is `not checked` and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from cockpit.base.errors import BackendRefused, BackendUnreachable, CockpitError
from cockpit.base.tasks import first_error
from cockpit.base.text import visible

Status = Literal["ok", "warn", "fail", "not checked"]
Fact: TypeAlias = str | int | float
FORMAT = 1
"""Version of the report's JSON shape (docs/doctor.md)."""

EXIT_WELL, EXIT_FAILED, EXIT_UNREACHABLE = 0, 10, 50
_MOST_TEXT = 600


class Check(msgspec.Struct, frozen=True):
    """One thing that was checked: of which part, what, where, and what was found.

    `todo`: what to do about it; empty when it is ok. `facts`: what was measured, e.g. `version`, `rtt_ms`,
    `offset_ms` with `uncertainty_ms` (their clock minus ours). `unreachable`: nothing answered.
    """

    part: str
    check: str
    target: str
    status: Status
    found: str
    todo: str = ""
    facts: dict[str, Fact] = {}
    unreachable: bool = False


class Report(msgspec.Struct, frozen=True):
    """All checks of one plan, in the order of its parts; `exit` is what the command ends with."""

    format: int
    plan: str
    plan_sha256: str
    version: str
    at: str
    exit: int
    counts: dict[str, int]
    checks: list[Check]


@dataclass(frozen=True)
class Finding:
    """What a probe found."""

    status: Status
    found: str
    todo: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def ok(found: str, **facts: Fact) -> Finding:
    """All is well."""
    return Finding("ok", found, facts=facts)


def warn(found: str, todo: str, **facts: Fact) -> Finding:
    """It will do, and somebody should look at it."""
    return Finding("warn", found, todo, facts)


def fail(found: str, todo: str, **facts: Fact) -> Finding:
    """The release would fail over it."""
    return Finding("fail", found, todo, facts)


def unused(reason: str) -> Finding:
    """Nothing to check, and why."""
    return Finding("not checked", reason)


@dataclass(frozen=True, eq=False)
class Probe:
    """Something to find out. `needs` must have come out ok, or with a warning, for it to make sense.

    `todo` is what to do when it fails without knowing better, `refused` when it is refused with 401 or 403.
    """

    part: str
    check: str
    target: str
    make: Callable[[], Awaitable[Finding]]
    todo: str
    needs: Probe | None = None
    refused: str = ""
    quiet: bool = False
    """Made when all others are: it measures times, and those of a busy machine would be its own."""


async def examine(probes: Sequence[Probe], *, deadline: float) -> list[Check]:
    """Make every probe, each within `deadline` seconds and all side by side; return the checks in order.

    What a probe needs stands before it, and is no quiet one. Those that want quiet are made last.
    """
    made: dict[Probe, asyncio.Task[Check]] = {}
    for quiet in (False, True):
        async with asyncio.TaskGroup() as group:
            for probe in probes:
                if probe.quiet is quiet:
                    needed = made[probe.needs] if probe.needs is not None else None
                    made[probe] = group.create_task(_made(probe, needed, deadline))
    return [made[probe].result() for probe in probes]


async def _made(probe: Probe, needed: asyncio.Task[Check] | None, deadline: float) -> Check:
    if needed is not None:
        await asyncio.wait((needed,))  # not awaited itself: whoever is cancelled here must not cancel it
        before = needed.result()
        if before.status in ("fail", "not checked"):
            return _check(probe, unused(f"it needs “{before.part}: {before.check}”, which is not ok"))
    try:
        async with asyncio.timeout(deadline):
            return _check(probe, await probe.make())
    except Exception as error:  # noqa: BLE001 - a check that breaks has found nothing out, and hides no other
        grouped = isinstance(error, BaseExceptionGroup)
        return _failed(probe, first_error(error) if grouped else error, deadline)  # type: ignore[arg-type]


def _failed(probe: Probe, error: BaseException, deadline: float) -> Check:
    """Return what an error says: that nothing answered, that we may not, or that something is wrong."""
    away = probe.needs.todo if probe.needs is not None else probe.todo
    if isinstance(error, TimeoutError):
        return _check(probe, fail(f"no answer within {deadline:g} s", away), unreachable=True)
    if not isinstance(error, CockpitError):
        said = f"the check itself failed: {type(error).__name__}: {error}"
        return _check(probe, fail(said, probe.todo))
    todo = error.hint or (away if isinstance(error, BackendUnreachable) else probe.todo)
    if isinstance(error, BackendRefused) and error.status in (401, 403):
        todo = probe.refused or todo
    # The hint is what to do, and stands in its own column.
    said = f"{error.where}: {error.what}" if error.where else error.what
    return _check(probe, fail(said, todo), unreachable=isinstance(error, BackendUnreachable))


def _check(probe: Probe, finding: Finding, *, unreachable: bool = False) -> Check:
    # Whatever came from outside: bounded, and its control characters made visible.
    return Check(
        part=probe.part,
        check=probe.check,
        target=visible(probe.target, limit=200),
        status=finding.status,
        found=visible(finding.found, limit=_MOST_TEXT),
        todo=visible(finding.todo, limit=_MOST_TEXT) if finding.status in ("warn", "fail") else "",
        facts={
            name: visible(value, limit=200) if isinstance(value, str) else value
            for name, value in finding.facts.items()
        },
        unreachable=unreachable,
    )


def exit_of(checks: Sequence[Check]) -> int:
    """Return 0 when nothing failed, 50 when something was unreachable, else 10."""
    if any(check.unreachable for check in checks):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(check.status == "fail" for check in checks) else EXIT_WELL
