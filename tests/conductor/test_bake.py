"""The five outcomes during a bake (gates.md): what counts, what holds, what rolls back, what sticks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.clock import VirtualClock
from cockpit.conductor.bake import Bake, Breach, Inconclusive, LookResult
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events import LookTaken
from cockpit.verdicts.rule import Outcome
from tests.conductor.support import ToldAnalyst, events, look, plan_of, recording


async def bake(
    folder: Path, looks: list[LookResult], *, after: LookResult | None = None, **canary: Any
) -> tuple[Bake, ToldAnalyst, VirtualClock, list[LookTaken]]:
    """Bake on the looks given; what ends the bake is raised after its records were read."""
    clock = VirtualClock(auto=True)
    section = plan_of(clock, canary=canary).canary
    analyst = ToldAnalyst(looks=list(looks), after=after or look())
    async with recording(folder, clock) as recorder:
        made = Bake(analyst, section, clock, recorder, 1)
        try:
            async with asyncio.timeout(30):
                await made.until_passed()
        except (Breach, Inconclusive) as error:
            error.add_note(str(len(analyst.windows)))
            raise
        return made, analyst, clock, await events(recorder, LookTaken)


async def breach(folder: Path, looks: list[LookResult], **canary: Any) -> tuple[Breach, int]:
    with pytest.raises(Breach) as error:
        await bake(folder, looks, **canary)
    return error.value, int(error.value.__notes__[0])


async def doubt(
    folder: Path, looks: list[LookResult], *, after: LookResult, **canary: Any
) -> tuple[str, int]:
    with pytest.raises(Inconclusive) as error:
        await bake(folder, looks, after=after, **canary)
    return str(error.value), int(error.value.__notes__[0])


async def test_enough_passes_and_the_last_over_the_whole_bake(tmp_path: Path) -> None:
    made, analyst, clock, looks = await bake(tmp_path, [], bake="10s", required_passes=2)
    assert clock.monotonic() >= 10.0
    assert analyst.windows[-1] == (1, 10.0)
    assert [window for _, window in analyst.windows] == sorted(window for _, window in analyst.windows)
    assert looks[-1].passes >= 2
    assert "passes" in made.summary


async def test_one_failure_is_excused_by_a_pass_and_two_in_a_row_are_not(tmp_path: Path) -> None:
    made, *_ = await bake(tmp_path / "a", [look("fail"), look(), look("fail"), look()])
    assert made.summary
    error, looks = await breach(tmp_path / "b", [look(), look("fail"), look("fail")], bake="20s")
    assert (error.critical, looks) == (False, 3)


async def test_a_look_that_tells_nothing_does_not_excuse_a_failure(tmp_path: Path) -> None:
    _, looks = await breach(tmp_path, [look("fail"), look("provider_error"), look("fail")], bake="20s")
    assert looks == 3


async def test_a_critical_failure_ends_it_at_once(tmp_path: Path) -> None:
    error, looks = await breach(tmp_path, [look("fail", critical=True)], failure_limit=3)
    assert (error.critical, looks) == (True, 1)


async def test_low_traffic_holds_and_after_its_deadline_it_is_inconclusive(tmp_path: Path) -> None:
    _, _, clock, looks = await bake(tmp_path / "a", [look("low_traffic")] * 5)
    assert clock.monotonic() >= 6.0
    assert [taken.passes for taken in looks][:6] == [0, 0, 0, 0, 0, 1]
    text, count = await doubt(tmp_path / "b", [], after=look("low_traffic"), low_traffic_deadline="8s")
    assert ("too little" in text, count) == (True, 9)
    text, _ = await doubt(tmp_path / "c", [], after=look("no_data"), low_traffic_deadline="8s")
    assert "too little" in text


async def test_a_provider_error_is_tried_again_more_slowly_until_the_grace_period(tmp_path: Path) -> None:
    made, *_ = await bake(tmp_path / "a", [look("provider_error")] * 2, provider_grace="60s")
    assert made.summary
    text, count = await doubt(tmp_path / "b", [], after=look("provider_error"), provider_grace="60s")
    assert "metrics" in text
    assert count < 15  # a look a second would have been sixty


async def test_neither_a_breach_nor_a_pass_comes_of_a_provider_error(tmp_path: Path) -> None:
    looks = [look("pass"), look("provider_error")] * 3
    _, _, _, taken = await bake(tmp_path, looks, required_passes=3)
    assert [t.failures for t in taken] == [0] * len(taken)
    assert taken[-1].outcome == "pass"
    assert taken[-1].passes >= 3


OUTCOMES: list[Outcome] = ["pass", "fail", "no_data", "low_traffic", "provider_error"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.booleans()), max_size=25))
def test_whatever_the_looks_say_a_pass_is_earned(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[Outcome, bool]]
) -> None:
    looks = [look(outcome, critical=critical and outcome == "fail") for outcome, critical in told]
    folder = tmp_path_factory.mktemp("bake")
    try:
        _, analyst, _, _ = asyncio.run(bake(folder, looks, after=look("no_data"), bake="5s"))
    except Breach as error:
        seen = looks[: int(error.__notes__[0])]
        tail = [one for one in seen if one.outcome in ("pass", "fail")][-2:]
        assert seen[-1].outcome == "fail"
        assert seen[-1].critical or [one.outcome for one in tail] == ["fail", "fail"]
        assert not any(one.critical for one in seen[:-1])
    except Inconclusive as error:
        assert (looks + [look("no_data")] * 50)[int(error.__notes__[0]) - 1].outcome not in ("pass", "fail")
    else:
        seen = looks[: len(analyst.windows)]
        assert seen[-1].outcome == "pass"
        assert sum(one.outcome == "pass" for one in seen) >= 2
        assert analyst.windows[-1][1] == 5.0
        assert not any(one.critical for one in seen)


async def test_a_look_outside_the_bake_only_tells_of_a_breach(tmp_path: Path) -> None:
    clock = VirtualClock(auto=True)
    section = plan_of(clock).canary
    analyst = ToldAnalyst(looks=[look("no_data")] * 30, after=look("fail", critical=True))
    async with recording(tmp_path, clock) as recorder:
        made = Bake(analyst, section, clock, recorder, 1)
        for _ in range(30):
            await made.look_for_breach()
            clock.advance(1.0)
        with pytest.raises(Breach):
            await made.look_for_breach()


async def people_bake(
    folder: Path, on_look: Callable[[int, BakeClock, VirtualClock], None]
) -> tuple[Bake, ToldAnalyst, VirtualClock, BakeClock]:
    """Bake for 4 s, a look each second, while a person does something at each look (from 1)."""
    clock = VirtualClock(auto=True)
    section = plan_of(clock, canary={"bake": "4s", "interval": "1s", "required_passes": 2}).canary
    async with recording(folder, clock) as recorder:
        length, analyst = BakeClock(recorder), ToldAnalyst()
        analyst.on_look = lambda number: on_look(number, length, clock)
        made = Bake(analyst, section, clock, recorder, 1, length)
        async with asyncio.timeout(30):
            while True:
                await made.until_passed()
                if length.over(made.extra):
                    break
        await events(recorder, LookTaken)
        return made, analyst, clock, length


async def test_what_a_bake_was_paused_does_not_count(tmp_path: Path) -> None:
    def pause(number: int, length: BakeClock, clock: VirtualClock) -> None:
        if number in (2, 6):
            assert length.pause(number == 2, "ann", "a look at it") == ""

    _, analyst, clock, _ = await people_bake(tmp_path, pause)
    assert clock.monotonic() >= 4 + 4
    assert analyst.windows[-1] == (1, 4.0)


async def test_a_pause_between_two_looks_stands_for_all_the_time_between_them(tmp_path: Path) -> None:
    def blink(number: int, length: BakeClock, clock: VirtualClock) -> None:
        if number < 6:
            length.pause(True, "ann", "a look at it")
            length.pause(False, "ann", "seen")

    _, _, clock, _ = await people_bake(tmp_path, blink)
    assert clock.monotonic() >= 5 + 3


@pytest.mark.parametrize("at", [1, 4])
async def test_a_bake_made_longer_bakes_longer_even_when_it_had_passed(tmp_path: Path, at: int) -> None:
    def extend(number: int, length: BakeClock, clock: VirtualClock) -> None:
        if number == at:
            assert length.extend(20.0, "ann", "it looks odd") == ""

    made, analyst, clock, length = await people_bake(tmp_path, extend)
    assert clock.monotonic() >= 24.0
    assert (analyst.windows[-1], made.extra) == ((1, 24.0), 20.0)
    assert "bake of this step is over" in length.extend(20.0, "ann", "once more")
    assert "bake of this step is over" in length.pause(True, "ann", "a look at it")
    length.begin()
    assert length.pause(True, "ann", "the next step") == ""
