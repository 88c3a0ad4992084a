"""The fault seam: answers that fail, come late, get lost or never come, chosen by what a request asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cockpit.rehearsal.kube.access import Attributes
from cockpit.rehearsal.kube.values import ApiError, Cause

Matcher = Callable[[Attributes], bool]

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ConnectionCut(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class Fault:
    """One planned fault; `times` counts down and None means until cleared. `seen` counts what it hit."""

    matches: Matcher
    status: int | None = None
    delay: float = 0.0
    times: int | None = 1
    retry_after: int | None = None
    after: bool = False
    denied: str = ""
    seen: int = 0


def matching(
    verb: str = "", resource: str = "", *, subresource: str | None = None, namespace: str = "", name: str = ""
) -> Matcher:
    """Return a matcher on the given parts; what is left empty matches anything."""

    def matches(wanted: Attributes) -> bool:
        return (
            verb in ("", wanted.verb)
            and resource in ("", wanted.resource)
            and subresource in (None, wanted.subresource)
            and namespace in ("", wanted.namespace)
            and name in ("", wanted.name)
        )

    return matches


class Faults:
    """The faults planned for one server; the first that matches a request is the one it meets.

    `unpullable` holds images whose containers never start (ImagePullBackOff).
    """

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self.unpullable: set[str] = set()

    def fail(
        self,
        matches: Matcher,
        status: int,
        *,
        times: int | None = 1,
        retry_after: int | None = None,
        after: bool = False,
    ) -> Fault:
        """Answer matching requests with `status`; with `after`, only once they have taken effect."""
        return self._plan(Fault(matches, status=status, times=times, retry_after=retry_after, after=after))

    def deny(self, matches: Matcher, words: str, *, times: int | None = None) -> Fault:
        """Refuse matching requests as an admission policy does, in its `words`."""
        return self._plan(Fault(matches, status=422, times=times, denied=words))

    def cut(self, matches: Matcher, *, times: int | None = 1, after: bool = False) -> Fault:
        """Close the connection without an answer; with `after`, once the request has taken effect."""
        return self._plan(Fault(matches, times=times, after=after))

    def delay(self, matches: Matcher, seconds: float, *, times: int | None = None) -> Fault:
        """Let matching requests wait before they are looked at; they are then answered as usual."""
        return self._plan(Fault(matches, delay=seconds, times=times))

    def clear(self) -> None:
        """Forget every planned fault."""
        self._planned.clear()

    def _plan(self, fault: Fault) -> Fault:
        self._planned.append(fault)
        return fault

    def take(self, wanted: Attributes) -> Fault | None:
        """Return the fault this request meets, counted as used."""
        for fault in self._planned:
            if fault.times != 0 and fault.matches(wanted):
                fault.seen += 1
                fault.times = fault.times - 1 if fault.times is not None else None
                return fault
        return None


async def inject(fault: Fault | None, *, after: bool) -> None:
    """Let a fault act before the request is handled, or after it; raises what the client is to see."""
    if fault is None or (fault.delay and after):
        return
    if fault.delay:
        await asyncio.sleep(fault.delay)
        return
    if fault.after is not after:
        return
    if fault.status is None:
        raise ConnectionCut
    if fault.denied:
        by = "ValidatingAdmissionPolicy 'rehearsal' with binding 'rehearsal' denied request"
        raise ApiError(422, "Invalid", f"{by}: {fault.denied}", causes=[Cause("", fault.denied, "")])
    reason = _REASONS.get(fault.status, "InternalError")
    raise ApiError(fault.status, reason, "planned by the rehearsal", retry_after=fault.retry_after)
