"""Samples in memory: append-only series found by label matchers, with staleness markers and retention."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cockpit.rehearsal.prometheus.regex import compile_pattern

Labels = Mapping[str, str]
LabelKey = frozenset[tuple[str, str]]

NAME = "__name__"
_STALE_BITS = struct.pack("<Q", 0x7FF8_0000_0000_0002)
STALE: float = struct.unpack("<d", _STALE_BITS)[0]
"""The staleness marker: a NaN told from all others by its payload (a quiet one, safe to move about)."""


def is_stale(value: float) -> bool:
    """Tell whether `value` is the staleness marker; an ordinary NaN is not."""
    return value != value and struct.pack("<d", value) == _STALE_BITS


@dataclass(frozen=True, slots=True)
class Matcher:
    """One label matcher; an absent label matches as the empty string."""

    name: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str

    def test(self) -> Callable[[str], bool]:
        """Return the predicate over the label's value; raises BadPattern or UnknownPattern."""
        value = self.value
        if self.op == "=":
            return lambda text: text == value
        if self.op == "!=":
            return lambda text: text != value
        match = compile_pattern(value).fullmatch
        if self.op == "=~":
            return lambda text: match(text) is not None
        return lambda text: match(text) is None


class Series:
    """The samples of one label set: times in Unix milliseconds, strictly rising, and float values."""

    __slots__ = ("key", "labels", "place", "times", "values")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.key: LabelKey = frozenset(labels.items())
        self.place = tuple(sorted(labels.items()))
        """Its place among others: Prometheus evaluates series in this order, and sums depend on it."""
        self.times = array("q")
        self.values = array("d")

    def append(self, time_ms: int, value: float) -> bool:
        """Add a sample; False when it is not newer than the last one (it is then dropped)."""
        if self.times and time_ms <= self.times[-1]:
            return False
        self.times.append(time_ms)
        self.values.append(value)
        return True

    def latest(self, at_ms: int, lookback_ms: int) -> tuple[int, float] | None:
        """Return the newest sample in [at - lookback, at], None when there is none or it is a marker."""
        index = bisect_right(self.times, at_ms) - 1
        if index < 0 or self.times[index] < at_ms - lookback_ms:
            return None
        value = self.values[index]
        return None if is_stale(value) else (self.times[index], value)

    def window(self, start_ms: int, end_ms: int) -> tuple[list[int], list[float]]:
        """Return times and values in the closed range [start, end], markers left out."""
        low, high = bisect_left(self.times, start_ms), bisect_right(self.times, end_ms)
        times, values = self.times[low:high], self.values[low:high]
        total = sum(values)
        if total == total:  # no NaN among them, so no marker; cheaper than to look at each
            return times.tolist(), values.tolist()
        kept = [(t, v) for t, v in zip(times, values, strict=True) if not is_stale(v)]
        return [t for t, _ in kept], [v for _, v in kept]

    def forget(self, before_ms: int) -> None:
        """Drop samples older than `before_ms`."""
        index = bisect_left(self.times, before_ms)
        if index:
            del self.times[:index], self.values[:index]


class Store:
    """All series of the server, indexed by metric name."""

    def __init__(self, retention_s: float = 900.0) -> None:
        self._retention_ms = round(retention_s * 1000)
        self._by_name: dict[str, dict[LabelKey, Series]] = {}

    @property
    def retention_s(self) -> float:
        """How long samples are kept, in seconds."""
        return self._retention_ms / 1000

    def series(self, labels: Labels) -> Series:
        """Return the series of `labels` (which hold `__name__`), made when new."""
        family = self._by_name.setdefault(labels[NAME], {})
        key = frozenset(labels.items())
        found = family.get(key)
        if found is None:
            found = family[key] = Series(dict(labels))
        return found

    def adopt(self, series: Series) -> Series:
        """Return the stored series of the same labels, storing this one again when it had been forgotten."""
        return self._by_name.setdefault(series.labels[NAME], {}).setdefault(series.key, series)

    def append(self, labels: Labels, time_ms: int, value: float) -> bool:
        """Add one sample by its labels; False when it came too late."""
        return self.series(labels).append(time_ms, value)

    def compact(self, now_ms: int) -> None:
        """Forget what is older than the retention, and series with nothing left."""
        before = now_ms - self._retention_ms
        for name, family in list(self._by_name.items()):
            for key, one in list(family.items()):
                one.forget(before)
                if not one.times:
                    del family[key]
            if not family:
                del self._by_name[name]

    def select(self, matchers: Iterable[Matcher]) -> Iterator[Series]:
        """Yield the series all of whose matchers hold; raises BadPattern or UnknownPattern."""
        names: list[str] | None = None
        tests: list[tuple[str, Callable[[str], bool]]] = []
        for matcher in matchers:
            if matcher.name == NAME and matcher.op == "=" and names is None:
                names = [matcher.value]
            else:
                tests.append((matcher.name, matcher.test()))
        for name in list(self._by_name) if names is None else names:
            for one in list(self._by_name.get(name, {}).values()):
                labels = one.labels
                if all(test(labels.get(label, "")) for label, test in tests):
                    yield one

    def __iter__(self) -> Iterator[Series]:
        for family in list(self._by_name.values()):
            yield from list(family.values())

    def __len__(self) -> int:
        return sum(len(family) for family in self._by_name.values())
