from __future__ import annotations

import math
import struct
import sys

import pytest

from cockpit.base.errors import EvidenceError
from cockpit.evidence.plots import Plot, plots_of, render
from cockpit.journal.events import AnyEvent, LookTaken, StepStarted, WeightSeen


def look(second: int, burn: float | None) -> LookTaken:
    return LookTaken(
        at=f"2025-09-23T08:00:{second:02}.000000Z", step=1, look=1, outcome="pass", critical=False, reason="",
        requests=100, metrics={"p95_ms": 80.0, "burn": 0, "odd": None}, burn={"8s": burn}, passes=1,
        required=1, failures=0, answers="",
    )  # fmt: skip


EVENTS: list[AnyEvent] = [
    StepStarted(at="2025-09-23T08:00:00.000000Z", step=1, weight=10),
    WeightSeen(at="2025-09-23T08:00:01.000000Z", desired=10, observed=9.5),
    look(2, 0.5),
    look(3, None),
    look(4, math.inf),
    look(5, 2.0),
]


async def test_images_are_drawn_and_always_the_same() -> None:
    plots = plots_of(EVENTS, limits={"p95_ms": 150.0})
    assert set(plots) == {"slo/burn_rate.png", "slo/canary_weight.png", "slo/p95_ms.png", "slo/burn.png"}
    assert [value for _, value in plots["slo/burn_rate.png"].series["8s"]] == [0.5, None, None, 2.0]
    first, second = await render(plots, deadline=60), await render(plots, deadline=60)
    assert first == second
    for image in first.values():
        width, height = struct.unpack(">2L", image[16:24])
        assert (width, height) == (900, 400)
        assert b"Software" not in image
        assert b"tIME" not in image


async def test_text_from_outside_is_only_text() -> None:
    hostile = Plot(r"$\frac{1}{$ \x1b[31m", "$", {"_hidden$": [(0.0, 1.0)]})
    assert await render({"slo/x.png": hostile}, deadline=60)


async def test_nothing_to_draw() -> None:
    assert plots_of([]) == {}
    assert await render({}, deadline=1) == {}


async def test_a_child_that_fails_or_hangs() -> None:
    with pytest.raises(EvidenceError, match="could not be drawn"):
        await render({"a": Plot("t", "u", {"s": [("x", 1.0)]})}, deadline=60)  # type: ignore[list-item]
    with pytest.raises(EvidenceError, match="did not end within"):
        await render({"a": Plot("t", "u", {"s": [(0.0, 1.0)]})}, deadline=0.01)


def test_the_parent_does_not_load_matplotlib() -> None:
    import subprocess

    code = "import sys, cockpit.evidence.plots, cockpit.evidence.pack; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
