"""SLO plots as PNG, drawn by matplotlib in a child process: same series, same bytes.

`render` starts `python -m cockpit.evidence.plots`, which reads one JSON document on standard input and writes
one on standard output; the parent never imports matplotlib. No time of drawing and no version goes into an
image.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cockpit.base.child import in_child
from cockpit.base.errors import BackendError, EvidenceError
from cockpit.base.text import visible
from cockpit.journal.events import AnyEvent
from cockpit.journal.projection import Point, Projection

_MAX_ANSWER = 32 << 20
_MAX_POINTS = 5000
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "MPLCONFIGDIR", "PYTHONPATH", "VIRTUAL_ENV")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Plot:
    """One image: series of (Unix seconds, value or None), steps as (Unix seconds, weight in percent)."""

    title: str
    unit: str
    series: dict[str, list[tuple[float, float | None]]]
    steps: list[tuple[float, int]] = field(default_factory=list)
    limit: float | None = None


def plots_of(events: Iterable[AnyEvent], *, limits: Mapping[str, float] | None = None) -> dict[str, Plot]:
    """Return the plots of a run by path in a pack: burn rate, weights, and one for each metric of the looks.

    `limits` draws a threshold by metric name, `burn` included. A run without looks has no plots.
    """
    projection = Projection(points=_MAX_POINTS, lines=1)
    for event in events:
        projection.apply(event)
    bounds = dict(limits or {})
    steps = list(projection.steps)
    plots: dict[str, Plot] = {}
    groups = (("burn", "burn_rate", "× budget"), ("weight", "canary_weight", "%"))
    for prefix, title, unit in groups:
        series = _series(projection, f"{prefix}.")
        if series:
            plots[f"slo/{title}.png"] = Plot(title, unit, series, steps, bounds.get(prefix))
    for name, points in sorted(projection.series.items()):
        if name.startswith("metric."):
            metric = name.removeprefix("metric.")
            found = {metric: _points(points)}
            plots[f"slo/{metric}.png"] = Plot(metric, "", found, steps, bounds.get(metric))
    return plots


async def render(plots: Mapping[str, Plot], *, deadline: float) -> dict[str, bytes]:
    """Draw the plots in a child process within `deadline` seconds; raises EvidenceError when it does not."""
    if not plots:
        return {}
    question = json.dumps({name: asdict(plot) for name, plot in plots.items()}).encode()
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        answer = await in_child(
            "cockpit.evidence.plots",
            question,
            what="drawing the plots",
            deadline=deadline,
            environment={**environment, "MPLBACKEND": "Agg"},
            most=_MAX_ANSWER,
        )
    except BackendError as error:
        raise EvidenceError(f"the plots could not be drawn: {error}") from None
    return _images(answer, plots)


def _images(answer: bytes, plots: Mapping[str, Plot]) -> dict[str, bytes]:
    try:
        found = {name: base64.b64decode(text, validate=True) for name, text in json.loads(answer).items()}
    except (ValueError, AttributeError, TypeError, binascii.Error):
        found = {}
    if found.keys() != plots.keys() or not all(image.startswith(_PNG) for image in found.values()):
        raise EvidenceError("the plots could not be drawn: the child's answer is not the images asked for")
    return found


def _series(projection: Projection, prefix: str) -> dict[str, list[tuple[float, float | None]]]:
    return {
        name.removeprefix(prefix): _points(points)
        for name, points in sorted(projection.series.items())
        if name.startswith(prefix)
    }


def _points(points: Iterable[Point]) -> list[tuple[float, float | None]]:
    return [
        (point.at, point.value if point.value is not None and math.isfinite(point.value) else None)
        for point in points
    ]


def _draw(plot: Mapping[str, Any]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [at for points in plot["series"].values() for at, _ in points]
    begin = min([*times, *(at for at, _ in plot["steps"])], default=0.0)
    for name, points in plot["series"].items():
        values = [math.nan if value is None else value for _, value in points]
        axes.plot([at - begin for at, _ in points], values, marker=".", linewidth=1.2, label=_plain(name))
    for at, weight in plot["steps"]:
        axes.axvline(at - begin, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(f"{weight} %", (at - begin, 1), xycoords=("data", "axes fraction"), color="0.4")
    if plot["limit"] is not None:
        axes.axhline(plot["limit"], color="tab:red", linewidth=1, linestyle="--", label="limit")
    axes.set_title(_plain(plot["title"]))
    axes.set_xlabel("seconds since the first sample")
    axes.set_ylabel(_plain(plot["unit"]))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="upper left")
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _plain(text: str) -> str:
    # A dollar sign would start matplotlib's formula language.
    return visible(text, limit=80).replace("$", r"\$")


def main(arguments: Sequence[str] = ()) -> int:
    """Read plots on standard input, write images on standard output; 0 when all were drawn."""
    plots = json.loads(sys.stdin.buffer.read())
    images = {name: base64.b64encode(_draw(plot)).decode() for name, plot in plots.items()}
    sys.stdout.write(json.dumps(images))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
