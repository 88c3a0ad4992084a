"""The text exposition format 0.0.4, read strictly; a line's series is parsed once, its value each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from cockpit.rehearsal.prometheus.store import NAME

S = TypeVar("S")

MAX_SAMPLES_PER_SCRAPE = 50_000
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"[ \t]*(,|$)', re.ASCII)
_ESCAPE = re.compile(r"\\(.)")


class ExpositionError(ValueError):
    """A page that is not in the text exposition format."""


class Exposed(NamedTuple, Generic[S]):
    """One sample of a page; `time_ms` is the target's own timestamp (Unix milliseconds), mostly absent."""

    series: S
    value: float
    time_ms: int | None


class Exposition(Generic[S]):
    """Reads the pages of one target; `resolve` turns a new series' labels into what the caller keeps."""

    def __init__(self, resolve: Callable[[dict[str, str]], S]) -> None:
        self._resolve = resolve
        self._known: dict[str, S] = {}

    def read(self, page: str) -> list[Exposed[S]]:
        """Return the samples of a page, in order; raises ExpositionError and then nothing of it counts."""
        if len(self._known) > 2 * MAX_SAMPLES_PER_SCRAPE:
            self._known.clear()  # a target whose label values keep changing
        out: list[Exposed[S]] = []
        known = self._known
        for number, line in enumerate(page.split("\n"), 1):
            if not line or line[0] == "#":
                continue
            cut = line.rfind("}") + 1 or _name_end(line)
            prefix = line[:cut]
            series = known.get(prefix)
            if series is None:
                if not line.strip():
                    continue
                series = known[prefix] = self._resolve(_labels(prefix, number))
            rest = line[cut:].split()
            try:
                value = float(rest[0])
                time_ms = int(rest[1]) if len(rest) > 1 else None
            except (IndexError, ValueError):
                raise ExpositionError(f"line {number}: no value where one must be") from None
            if len(rest) > 2 or "_" in line[cut:]:
                raise ExpositionError(f"line {number}: unexpected text after the value")
            out.append(Exposed(series, value, time_ms))
        if len(out) > MAX_SAMPLES_PER_SCRAPE:
            raise ExpositionError(f"more than {MAX_SAMPLES_PER_SCRAPE} samples")
        return out


def _name_end(line: str) -> int:
    found = _METRIC.match(line)
    return found.end() if found else len(line)


def _labels(prefix: str, number: int) -> dict[str, str]:
    name, brace, inner = prefix.strip().partition("{")
    name = name.rstrip()
    if _METRIC.fullmatch(name) is None:
        raise ExpositionError(f"line {number}: invalid metric name")
    labels = {NAME: name}
    if not brace:
        return labels
    inner = inner[:-1]
    position = 0
    while inner[position:].strip():
        found = _LABEL.match(inner, position)
        if found is None:
            raise ExpositionError(f"line {number}: invalid labels")
        label, text = found.group(1), found.group(2)
        if label in labels:
            raise ExpositionError(f"line {number}: label {label} occurs twice")
        labels[label] = _ESCAPE.sub(_unescape, text)
        position = found.end()
    return {label: text for label, text in labels.items() if text}


def _unescape(found: re.Match[str]) -> str:
    escaped = found.group(1)
    if escaped == "n":
        return "\n"
    # What is no escape stays as it is written, backslash and all, as in Prometheus.
    return escaped if escaped in '"\\' else found.group(0)
