"""Series and log lines for screens and plots: bounded, apart from the state they would bloat."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

import msgspec

from cockpit.journal.events import AnyEvent, LookTaken, StepStarted, WeightSeen


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a moment (Unix seconds); `None` where it could not be measured."""

    at: float
    value: float | None


@dataclass(frozen=True, slots=True)
class TailLine:
    """A line of the journal for people; `text` is not markup."""

    seq: int
    at: str
    kind: str
    text: str


class Projection:
    """Burn rates, weights and metrics over time, and the journal's tail."""

    def __init__(self, *, points: int = 600, lines: int = 2000) -> None:
        self._points = points
        self.series: dict[str, deque[Point]] = {}
        self.steps: list[tuple[float, int]] = []
        self.tail: deque[TailLine] = deque(maxlen=lines)

    def apply(self, event: AnyEvent) -> None:
        """Take in one event."""
        self.tail.append(TailLine(event.seq, event.at, kind_of(event), describe(event)))
        if isinstance(event, WeightSeen):
            self._add("weight.desired", event.at, float(event.desired))
            if event.observed is not None:
                self._add("weight.observed", event.at, event.observed)
        elif isinstance(event, LookTaken):
            for name, burn in event.burn.items():
                self._add(f"burn.{name}", event.at, burn)
            for name, metric in event.metrics.items():
                if isinstance(metric, (int, float)) and not isinstance(metric, bool):
                    self._add(f"metric.{name}", event.at, float(metric))
        elif isinstance(event, StepStarted):
            self.steps.append((_seconds(event.at), event.weight))

    def _add(self, name: str, at: str, value: float | None) -> None:
        series = self.series.get(name)
        if series is None:
            series = self.series[name] = deque(maxlen=self._points)
        series.append(Point(_seconds(at), value))


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()


def kind_of(event: AnyEvent) -> str:
    """Return the type of an event without its version, e.g. `canary.look`."""
    tag = event.__struct_config__.tag
    return str(tag).rpartition(".v")[0]


_HIDDEN = {"seq", "at", "roster", "plan_blob", "response", "answers", "verdict_blob", "run_key", "blob"}


def describe(event: AnyEvent, *, limit: int = 200) -> str:
    """Return an event's fields on one line, for people; digests of stored payloads are left out."""
    parts = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _HIDDEN or value in ("", None, [], {}):
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        parts.append(f"{name}={text}")
    line = " ".join(parts)
    return line if len(line) <= limit else line[: limit - 1] + "…"
