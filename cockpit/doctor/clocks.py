"""How far a server's clock is from ours, as far as its answers can tell.

An answer with a time in it bounds the offset: the server wrote it after we asked and before we had it. A
`Date` header has whole seconds: one answer leaves a second of doubt and the round trip, several less.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeAlias, TypeVar

from cockpit.base.clock import Clock
from cockpit.doctor.checks import Finding, Probe, fail, ok, warn

T = TypeVar("T")

FAILS_BEYOND_S, WARNS_BEYOND_S = 5.0, 1.0
"""Certificates for signing live for minutes, samples and approvals have an age: 5 s is where that breaks."""

_LOOKS, _APART_S = 4, 0.27
"""Requests spread over a second: whole seconds then tell more than each by itself."""

_ADVICE = (
    "set both clocks by NTP, that machine's and this one's; where every back end differs alike, it is this "
    "machine's"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A request: when it left and when its answer was there, Unix seconds by our clock."""

    sent: float
    received: float

    @property
    def rtt_ms(self) -> float:
        """The round trip."""
        return round((self.received - self.sent) * 1000, 1)


async def timed(clock: Clock, call: Awaitable[T]) -> tuple[T, Span]:
    """Await a request and say when it was."""
    sent, start = clock.now().timestamp(), clock.monotonic()
    answer = await call
    return answer, Span(sent, sent + clock.monotonic() - start)


class ServerClock:
    """What the answers of one server say of its clock: bounds of (theirs - ours), in seconds."""

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        self._torn = False

    def heard_date(self, header: str, span: Span) -> None:
        """Take in a `Date` header; what is none says nothing."""
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        # Some servers write the header once for all answers of about a second.
        self.heard(moment.timestamp(), span, resolution=1.1)

    def heard(self, theirs: float, span: Span, *, resolution: float) -> None:
        """Take in a time that was cut off to `resolution` seconds."""
        low, high = theirs - span.received, theirs + resolution - span.sent
        if max(low, self._low) > min(high, self._high):
            # No clock fits: it was set meanwhile, or several machines answer. Then any of it may be so.
            self._torn = True
        if self._torn:
            self._low, self._high = min(low, self._low), max(high, self._high)
        else:
            self._low, self._high = max(low, self._low), min(high, self._high)

    def finding(self) -> Finding:
        """Return what that comes to."""
        if self._low == float("-inf"):
            return warn("it does not say what time it has", "look at its clock by other means")
        offset, doubt = (self._low + self._high) / 2, (self._high - self._low) / 2
        said = f"{offset * 1000:+.0f} ± {doubt * 1000:.0f} ms"
        facts = {"offset_ms": round(offset * 1000, 1), "uncertainty_ms": round(doubt * 1000, 1)}
        if self._torn:
            return fail(f"its answers contradict each other: {said}", _ADVICE, **facts)
        nearest = 0.0 if self._low <= 0 <= self._high else min(abs(self._low), abs(self._high))
        if nearest > FAILS_BEYOND_S:
            return fail(f"{said}: more than {FAILS_BEYOND_S:g} s from ours", _ADVICE, **facts)
        if max(abs(self._low), abs(self._high)) > FAILS_BEYOND_S:
            return warn(
                f"{said}: it cannot be told whether that is within {FAILS_BEYOND_S:g} s",
                "look at what makes its answers so slow",
                **facts,
            )
        if nearest > WARNS_BEYOND_S:
            return warn(f"{said}: more than {WARNS_BEYOND_S:g} s from ours", _ADVICE, **facts)
        return ok(said, **facts)


Ask: TypeAlias = Callable[[], Awaitable[str | float]]
"""Makes one request and gives the server's time from its answer: a `Date` header, or Unix seconds."""


def clock_probe(
    part: str,
    target: str,
    ask: Ask,
    clock: Clock,
    needs: Probe,
    check: str = "clock",
    resolution: float = 1.0,
) -> Probe:
    """Return the probe of a server's clock: some requests, apart, when nothing else keeps us busy.

    `resolution`: to how many seconds a time given as a number was cut off.
    """

    async def make() -> Finding:
        theirs, trips = ServerClock(), []
        for number in range(_LOOKS):
            if number:
                await clock.sleep(_APART_S)
            said, span = await timed(clock, ask())
            trips.append(span.rtt_ms)
            if isinstance(said, str):
                theirs.heard_date(said, span)
            else:
                theirs.heard(said, span, resolution=resolution)
        found = theirs.finding()
        rtt = min(trips)
        return replace(
            found, found=f"{found.found}; {rtt:g} ms there and back", facts={**found.facts, "rtt_ms": rtt}
        )

    return Probe(part, check, target, make, _ADVICE, needs, quiet=True)
