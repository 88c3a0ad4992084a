"""The task graph of seed section 6 (gates.md, reading 5), and running it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from cockpit.base.tasks import first_error
from cockpit.conductor.timetable import NotYet

DEPENDS: dict[str, tuple[str, ...]] = {
    "P0": (),
    "P1": ("P0",),
    "P2": ("P1",),
    "P3": ("P0",),
    "P4": ("P2", "P3"),
    "P5": ("P4",),
    "P6": ("P5",),
    "P7": ("P6",),
    "P8": ("P7",),
}
"""Phase → the phases it starts after. A phase not in the plan passes its dependencies on."""


def check_graph(depends: Mapping[str, Collection[str]]) -> list[str]:
    """Return the phases in an order that respects the graph; raises ValueError for a cycle or a stranger."""
    ordered: list[str] = []
    done: set[str] = set()
    waiting = dict(depends)
    for phase, before in depends.items():
        unknown = set(before) - set(depends)
        if unknown:
            raise ValueError(f"{phase} depends on {', '.join(sorted(unknown))}, which is not in the graph")
    while waiting:
        ready = [phase for phase, before in waiting.items() if done.issuperset(before)]
        if not ready:
            raise ValueError(f"the graph has a cycle among {', '.join(sorted(waiting))}")
        ordered += ready
        done.update(ready)
        for phase in ready:
            del waiting[phase]
    return ordered


async def run_graph(
    depends: Mapping[str, Collection[str]],
    included: Collection[str],
    work: Callable[[str], Awaitable[bool]],
) -> list[str]:
    """Run each included phase after those it depends on, side by side where the graph allows it.

    `work` returns whether the phase passed. After a failure nothing new starts, and what runs goes on to its
    end. A phase whose day has not come (NotYet) holds up only what depends on it; once all else has ended the
    one that is due first is raised. Returns the phases that failed; any other exception in `work` ends
    everything and is raised.
    """
    check_graph(depends)
    ended = {phase: asyncio.Event() for phase in depends}
    passed: dict[str, bool] = {}
    failed: list[str] = []
    postponed: list[NotYet] = []

    async def one(phase: str) -> None:
        for before in depends[phase]:
            await ended[before].wait()
        try:
            if not all(passed[before] for before in depends[phase]) or failed:
                passed[phase] = False
            elif phase not in included:
                passed[phase] = True
            else:
                passed[phase] = await work(phase)
                if not passed[phase]:
                    failed.append(phase)
        except NotYet as error:
            passed[phase] = False
            postponed.append(error)
        finally:
            ended[phase].set()

    try:
        async with asyncio.TaskGroup() as group:
            for phase in depends:
                group.create_task(one(phase))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    if postponed and not failed:
        raise min(postponed, key=lambda error: error.due)
    return failed
