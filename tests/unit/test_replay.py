"""The replay controller: wherever it goes, its state is that of the same events folded straight."""

from __future__ import annotations

import math
import random

import pytest

from cockpit.base.clock import VirtualClock, parse_iso
from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.projection import Projection
from cockpit.journal.replay import SPEEDS, Replay
from cockpit.journal.state import encode
from tests.ui import sample


def folded(events: list[AnyEvent]) -> bytes:
    """Return the state of events folded straight."""
    return encode(Fold().apply_all(events).snapshot())


def long_recording() -> list[AnyEvent]:
    """Return five thousand events with waivers and errors all along: copies of a fold must be whole."""
    scribe = sample.Scribe()
    scribe.add(sample.opened())
    for number in range(2500):
        scribe.add(ev.WaiverRecorded(what=f"w{number}", owner="o", reason="r"))
        scribe.add(ev.Noted(level="error" if number % 7 == 0 else "info", text=f"n{number}"))
    return scribe.events


def test_every_position_of_a_recording_is_the_fold_of_its_events() -> None:
    events = sample.rolled_back()
    replay = Replay(VirtualClock())
    replay.extend(events)
    order = list(range(len(events) + 1))
    random.Random(7).shuffle(order)
    for position in order:
        replay.seek(position)
        assert replay.position == position
        assert encode(replay.fold.snapshot()) == folded(events[:position])


def test_seeking_through_frames_does_not_disturb_them() -> None:
    events = long_recording()
    replay = Replay(VirtualClock())
    replay.extend(events)
    replay.seek(len(events))
    for position in (4100, 10, 4500, 2000, 1999, 4001, 2001, 4100, len(events)):
        replay.seek(position)
        straight = Projection()
        for event in events[:position]:
            straight.apply(event)
        assert encode(replay.fold.snapshot()) == folded(events[:position])
        assert list(replay.projection.tail) == list(straight.tail)
        assert replay.projection.series == straight.series


def test_play_follows_the_clock_and_the_speed_and_stops_at_the_end() -> None:
    events = sample.green()
    times = [parse_iso(event.at).timestamp() for event in events]
    clock = VirtualClock()
    replay = Replay(clock, speed=4.0)
    replay.extend(events)
    assert not replay.advance()
    replay.play()
    clock.advance(2.0)
    assert replay.advance()
    assert replay.position == sum(1 for at in times if at <= times[0] + 8.0)
    assert replay.now == pytest.approx(times[0] + 8.0)
    replay.pause()
    clock.advance(100.0)
    assert not replay.advance()
    replay.play()
    clock.advance(1000.0)
    replay.advance()
    assert replay.ended
    replay.advance()
    assert not replay.playing
    replay.play()
    assert replay.position == 0


def test_as_fast_as_can_be_takes_a_bounded_number_of_events_a_turn() -> None:
    replay = Replay(VirtualClock(), speed=math.inf)
    events = long_recording()
    replay.extend(events)
    replay.play()
    replay.advance()
    assert 0 < replay.position < len(events)
    for _ in range(len(events)):
        replay.advance()
    assert replay.ended
    assert encode(replay.fold.snapshot()) == folded(events)


def test_steps_seeks_in_time_and_the_ends() -> None:
    events = sample.green()
    replay = Replay(VirtualClock())
    replay.extend(events)
    replay.step()
    replay.step()
    assert replay.position == 2
    replay.step(-5)
    assert replay.position == 0
    replay.seek_seconds(10.0)
    assert replay.now == pytest.approx(replay.begin + 10.0)
    assert parse_iso(events[replay.position - 1].at).timestamp() <= replay.now
    replay.seek_seconds(1e9)
    assert replay.ended
    assert replay.now == replay.finish
    assert replay.position_of(3) == 4


def test_nothing_past_a_limit_is_ever_applied() -> None:
    events = sample.green()
    replay = Replay(VirtualClock(), speed=math.inf)
    replay.extend(events)
    replay.seek(len(events))
    replay.limit_to(20)
    assert replay.position == 20
    assert encode(replay.fold.snapshot()) == folded(events[:20])
    replay.seek(len(events))
    replay.step(3)
    assert replay.position == 20
    replay.limit_to(0)
    assert replay.position == 0


def test_speeds_stay_in_their_range() -> None:
    replay = Replay(VirtualClock())
    for _ in range(20):
        replay.faster()
    assert replay.speed == SPEEDS[-1]
    for _ in range(20):
        replay.faster(-1)
    assert replay.speed == SPEEDS[0]


def test_an_empty_recording_goes_nowhere() -> None:
    replay = Replay(VirtualClock())
    replay.play()
    replay.advance()
    replay.seek(5)
    replay.seek_seconds(3.0)
    replay.step()
    assert (replay.position, replay.length, replay.now) == (0, 0, 0.0)
