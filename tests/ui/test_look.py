"""Fitting text: exact widths whatever the characters, nothing lost without a sign."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cockpit.journal.projection import Point
from cockpit.screens.look import PLAIN, clip, fit, number, span, spread, width_of, wrap
from cockpit.screens.plot import Axes, Canvas, Series, draw, sparkline


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=120), st.integers(0, 60))
def test_fit_gives_exactly_the_width(text: str, width: int) -> None:
    fitted = fit(text, width)
    assert cell_len(fitted) == width
    assert fitted.isprintable() or any(not char.isprintable() for char in text)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(alphabet="ab日✓ ", max_size=20), max_size=6), st.integers(0, 60))
def test_clip_and_spread_give_exactly_the_width(texts: list[str], width: int) -> None:
    row = tuple((text, PLAIN) for text in texts)
    assert width_of(clip(row, width)) == width
    assert width_of(spread(row, (("right", PLAIN),), width)) == width


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet="ab 日\n", max_size=200), st.integers(10, 60))
def test_wrap_keeps_every_word_and_every_line_in_the_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_wrap_keeps_indentation_and_says_when_it_cuts() -> None:
    assert wrap("{\n  a\n}", 20) == ["{", "  a", "}"]
    assert wrap("x\n" * 50, 20, limit=5)[-1] == "…"


def test_durations_and_numbers_are_short() -> None:
    assert [span(s) for s in (0, 59.9, 60, 3599, 3600, 90000, -4)] == [
        "0 s", "59 s", "1m00", "59m59", "1h00", "1d01h", "0 s",
    ]  # fmt: skip
    assert [number(v) for v in (None, True, 3, 0.00154, 98.64, 1234.5, float("nan"), 2.0)] == [
        "–", "yes", "3", "0.00154", "98.6", "1,234", "NaN", "2",
    ]  # fmt: skip


def test_a_plot_leaves_holes_where_nothing_was_measured() -> None:
    canvas = Canvas(10, 2)
    points = [Point(0.0, 0.0), Point(1.0, 0.0), Point(2.0, None), Point(8.0, 4.0), Point(9.0, 4.0)]
    draw(canvas, Axes(0.0, 9.0, 4.0), [Series("burn", points, PLAIN)])
    upper, lower = ("".join(text for text, _ in row) for row in canvas.rows(PLAIN))
    assert upper == "        ⠈⠉"
    assert lower == "⣀⡀        "
    assert sparkline([Point(0, 1.0), Point(1, None), Point(2, 4.0)], 3) == "▂ █"
    assert sparkline([], 3) == ""
