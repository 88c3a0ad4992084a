"""The burn rate over time against the factor at which the alert fires, and the metrics behind it."""

from __future__ import annotations

from typing import ClassVar

from cockpit.base.text import visible
from cockpit.journal.projection import Point
from cockpit.screens.look import Look, Row, Segment, clip, fit, number, span, spread
from cockpit.screens.plot import Axes, Canvas, Series, draw, sparkline
from cockpit.screens.view import View
from cockpit.screens.widgets.canary import weight_of
from cockpit.screens.widgets.pane import Pane

_GUTTER = 6
_MOST_SERIES = 3


class Burn(Pane):
    """A plot with step marks; below it the metrics as sparklines, when there is room."""

    TITLE: ClassVar[str] = "Burn rate"

    def title(self, view: View) -> str:
        """Return the title with the highest burn rate now, and whether the alert fires."""
        last = view.state.canary.last
        values = [value for value in last.burn.values() if value is not None] if last else []
        if not last:
            return "Burn rate"
        if not values:
            return "Burn rate · not measured"
        firing = bool(view.factors) and max(values) > min(view.factors)
        return f"Burn rate · {number(max(values))}×{' ✗ ABOVE THE LIMIT' if firing else ''}"

    def fresh(self, view: View) -> str:
        """Return when the canary was last looked at."""
        return view.state.canary.last.at if view.state.canary.last else ""

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return plot, legend and sparklines for the size."""
        look = self.look
        series = _series(view, look)
        if not series:
            return [
                ((" nothing burned yet:", look.quiet),),
                ((" the canary has not been looked at", look.quiet),),
            ]
        names = (
            name.removeprefix("metric.") for name in view.projection.series if name.startswith("metric.")
        )
        metrics = sorted((name for name in names if not name.startswith(("burn", "requests"))), key=weight_of)
        extra = min(len(metrics), 4, max(0, height - 8))
        plot = self._plot(view, series, width, max(3, height - 2 - extra))
        rows = [*plot, self._legend(view, series, width)]
        for name in metrics[:extra]:
            rows.append(_spark(name, list(view.projection.series[f"metric.{name}"]), width, look))
        return rows

    def _plot(self, view: View, series: list[Series], width: int, height: int) -> list[Row]:
        look = self.look
        points = [point for one in series for point in one.points]
        values = [point.value for point in points if point.value is not None and point.value == point.value]
        factor = min(view.factors, default=0.0)
        top = max(max(values, default=0.0) * 1.1, factor * 1.3, 1.0)
        begin, end = min(point.at for point in points), max(point.at for point in points)
        axes = Axes(begin, max(end, begin + 1.0), top)
        canvas = Canvas(max(8, width - _GUTTER), height)
        draw(canvas, axes, series)
        for at, _ in view.projection.steps:
            if begin < at <= end:
                column = axes.x(at, 2 * canvas.width) // 2
                for row in range(height):
                    canvas.char(column, row, "╎", look.quiet)
        line = axes.y(factor, 4 * height) // 4 if factor else -1
        if factor:
            for column in range(canvas.width):
                canvas.char(column, line, "╌", look.bad)
        labels = {0: (number(top), look.quiet), height - 1: ("0", look.quiet)}
        if factor:
            labels[line] = (f"{number(factor)}×", look.bad)
        rows: list[Row] = []
        for index, drawn in enumerate(canvas.rows(look.text)):
            text, style = labels.get(index, ("", look.quiet))
            rows.append(((f"{text:>{_GUTTER - 1}}", style), ("│", look.frame), *drawn))
        marks = [(axes.x(at, 2 * canvas.width) // 2, f"{weight}%") for at, weight in view.projection.steps]
        rows.append(self._axis(marks, canvas.width, end - begin))
        return rows

    def _axis(self, marks: list[tuple[int, str]], width: int, seconds: float) -> Row:
        line = ["─"] * width
        free = 0
        for column, text in marks:
            start = max(free, min(column, width - len(text)))
            if 0 <= start <= width - len(text):
                line[start : start + len(text)] = list(text)
                free = start + len(text) + 1
        total = span(seconds)
        if free <= width - len(total) - 2:
            line[width - len(total) :] = list(total)
        return ((" " * (_GUTTER - 1) + "└", self.look.frame), ("".join(line), self.look.quiet))

    def _legend(self, view: View, series: list[Series], width: int) -> Row:
        look = self.look
        left: list[Segment] = [(" ", look.text)]
        for one in series:
            value = one.points[-1].value if one.points else None
            left += [("━ ", one.style), (f"{visible(one.name, limit=16)} {number(value)}×  ", look.text)]
        if width < 50:
            limit: Row = ()
        elif view.factors:
            limit = ((f"fires above {number(min(view.factors))}× ", look.bad),)
        else:
            limit = (("firing factor unknown ", look.quiet),)
        return spread(tuple(left), limit, width)


def _series(view: View, look: Look) -> list[Series]:
    styles = (look.busy, look.mark, look.good)
    names = sorted(name for name in view.projection.series if name.startswith("burn."))[:_MOST_SERIES]
    found = [
        Series(name.removeprefix("burn."), list(view.projection.series[name]), style)
        for name, style in zip(names, styles, strict=False)
    ]
    return [one for one in found if one.points]


def _spark(name: str, points: list[Point], width: int, look: Look) -> Row:
    label = fit(name, 14)
    value = f"{number(points[-1].value if points else None):>8} "
    row: Row = (
        (f" {label}", look.quiet),
        (value, look.strong),
        (sparkline(points, max(4, width - 25)), look.busy),
    )
    return clip(row, width)
