"""The task graph: order, phases side by side, failures, phases left out, cycles, exceptions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.conductor.dag import DEPENDS, check_graph, run_graph
from cockpit.conductor.timetable import NotYet

PHASES = list(DEPENDS)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Return a graph without cycles, its phases in any order."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 9)))]
    edges = {
        name: tuple(draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=3)) if index else ())
        for index, name in enumerate(names)
    }
    return {name: edges[name] for name in draw(st.permutations(names))}


@given(graphs())
@settings(derandomize=True, deadline=None)
def test_the_order_respects_the_graph(graph: dict[str, tuple[str, ...]]) -> None:
    order = check_graph(graph)
    assert sorted(order) == sorted(graph)
    for phase, before in graph.items():
        assert all(order.index(other) < order.index(phase) for other in before)


@given(graphs(), st.data())
@settings(derandomize=True, deadline=None)
def test_a_cycle_and_a_stranger_are_refused(graph: dict[str, tuple[str, ...]], data: st.DataObject) -> None:
    order = check_graph(graph)
    first, last = sorted(data.draw(st.lists(st.sampled_from(order), min_size=2, max_size=2)), key=order.index)
    cyclic = {**graph, first: (*graph[first], last), last: (*graph[last], first)}
    with pytest.raises(ValueError, match="cycle"):
        check_graph(cyclic)
    with pytest.raises(ValueError, match="nobody"):
        check_graph({**graph, first: ("nobody",)})


async def test_a_graph_with_a_cycle_runs_nothing() -> None:
    ran: list[str] = []

    async def work(phase: str) -> bool:
        ran.append(phase)
        return True

    with pytest.raises(ValueError, match="cycle"):
        await run_graph({"a": ("b",), "b": ("a",), "c": ()}, ["a", "b", "c"], work)
    assert ran == []


@given(graphs(), st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_run_respects_the_graph_and_starts_nothing_new_after_a_failure(
    graph: dict[str, tuple[str, ...]], data: st.DataObject
) -> None:
    included = data.draw(st.sets(st.sampled_from(list(graph))))
    failing = data.draw(st.sets(st.sampled_from(list(graph))))
    turns = data.draw(st.lists(st.integers(0, 3), min_size=len(graph), max_size=len(graph)))
    log: list[tuple[str, str]] = []

    async def work(phase: str) -> bool:
        log.append(("start", phase))
        for _ in range(turns[list(graph).index(phase)]):
            await asyncio.sleep(0)
        log.append(("fail" if phase in failing else "pass", phase))
        return phase not in failing

    failed = asyncio.run(run_graph(graph, included, work))
    started = [phase for what, phase in log if what == "start"]
    assert len(set(started)) == len(started)
    assert set(started) <= included
    assert sorted(failed) == sorted(phase for what, phase in log if what == "fail")
    for phase in started:
        before = log[: log.index(("start", phase))]
        assert not any(what == "fail" for what, _ in before)
        for other in _all_before(graph, phase) & included:
            assert ("pass", other) in before
    if not failed:
        assert set(started) == included


def _all_before(graph: dict[str, tuple[str, ...]], phase: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[phase])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += graph[other]
    return found


async def test_p2_and_p3_run_side_by_side() -> None:
    both = {"P2": asyncio.Event(), "P3": asyncio.Event()}

    async def work(phase: str) -> bool:
        if phase in both:
            both[phase].set()
            for other in both.values():
                await other.wait()
        return True

    async with asyncio.timeout(10):
        assert await run_graph(DEPENDS, PHASES, work) == []


async def test_p3_does_not_wait_for_p1() -> None:
    p3_ended = asyncio.Event()

    async def work(phase: str) -> bool:
        if phase == "P1":
            await p3_ended.wait()
        if phase == "P3":
            p3_ended.set()
        return True

    async with asyncio.timeout(10):
        assert await run_graph(DEPENDS, PHASES, work) == []


async def test_what_runs_beside_a_failure_goes_on_to_its_end() -> None:
    failed, ended = asyncio.Event(), []

    async def work(phase: str) -> bool:
        if phase == "P3":
            failed.set()
            return False
        if phase == "P1":
            await failed.wait()
        ended.append(phase)
        return True

    async with asyncio.timeout(10):
        assert await run_graph(DEPENDS, PHASES, work) == ["P3"]
    assert ended == ["P0", "P1"]


async def test_an_exception_ends_everything_and_is_raised_as_itself() -> None:
    cancelled: list[str] = []

    async def work(phase: str) -> bool:
        if phase == "P3":
            raise LookupError("broken")
        if phase == "P1":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(phase)
                raise
        return True

    async with asyncio.timeout(10):
        with pytest.raises(LookupError, match="broken"):
            await run_graph(DEPENDS, PHASES, work)
    assert cancelled == ["P1"]


async def test_a_phase_whose_day_has_not_come_holds_up_only_what_depends_on_it() -> None:
    # T-14 in the seed's calendar: P1 is due beside P3, which is a week away, and P2 ends before it is.
    ended: list[str] = []
    beginning = datetime(2025, 9, 9, 8, 0, tzinfo=UTC)
    away = {"P2": beginning + timedelta(days=4), "P3": beginning + timedelta(days=7)}

    async def work(phase: str) -> bool:
        if phase in away:
            raise NotYet(away[phase], phase)
        for _ in range(20):
            await asyncio.sleep(0)
        ended.append(phase)
        return True

    with pytest.raises(NotYet) as error:
        await run_graph(DEPENDS, PHASES, work)
    assert ended == ["P0", "P1"] and error.value.waits_for == "P2"


async def test_a_failure_counts_before_what_is_only_not_due() -> None:
    async def work(phase: str) -> bool:
        if phase == "P3":
            raise NotYet(datetime(2025, 9, 16, tzinfo=UTC), phase)
        return phase != "P1"

    assert await run_graph(DEPENDS, PHASES, work) == ["P1"]
