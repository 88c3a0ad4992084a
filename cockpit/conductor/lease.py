"""The release lock: a Kubernetes Lease per application and environment (design decision 5).

`fence` is the Lease's `leaseTransitions`: it grows with each new holder, and every object the release changes
carries it as an annotation. A Lease that was deleted starts again above what the objects carry.

A holder that has gone is recognised by its Lease not changing for its whole length on our own clock, never by
comparing the two machines' clocks. Taking over from one that did not give back needs a reason.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cockpit.backends.cluster import LEASE, Cluster, Object
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, Conflict, LockHeld
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import LeaseChanged, Noted
from cockpit.plan.model import Kubernetes

_ATTEMPTS = 3
_LONGEST = 3600


class ReleaseLease:
    """Takes, renews and gives back the Lease; says whether it is held."""

    def __init__(
        self, cluster: Cluster, target: Kubernetes, holder: str, recorder: Recorder, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._name = target.lease
        self._seconds = target.lease_seconds
        self._holder = holder
        self._recorder = recorder
        self._clock = clock
        self._fence = 0
        self._renewed_at: float | None = None
        self._fenced_out = False
        self._lost = False

    @property
    def fence(self) -> int:
        """The holder's number; 0 before the lease was taken."""
        return self._fence

    @property
    def held(self) -> bool:
        """Whether the lease is ours and fresh: it counts as lost a little before others may take it."""
        if self._fenced_out or self._renewed_at is None:
            return False
        return self._clock.monotonic() - self._renewed_at < self._seconds * 0.8

    @property
    def fenced_out(self) -> bool:
        """Whether another holder's fence was seen."""
        return self._fenced_out

    def note_foreign_fence(self) -> None:
        """Remember that another holder's fence stands on a target object: nothing may be changed any more."""
        self._fenced_out = True

    def assume(self, fence: int) -> None:
        """Go on under the number this run had, for an abort whose lease cannot be asked for."""
        self._fence = max(self._fence, fence)

    async def acquire(self, *, floor: int = 0, takeover: str = "") -> None:
        """Take the lease; raises LockHeld when another holds it, BackendError when it cannot be told.

        `floor`: the highest number seen on the objects. `takeover`: the reason for taking the lease of a
        holder that has gone. A lease of our own holder name (a restarted conductor) is taken at once.
        """
        for _ in range(_ATTEMPTS):
            try:
                current = await self._cluster.get(LEASE, self._name)
            except BackendRefused as error:
                if error.status != 404:
                    raise
                current = None
            try:
                if current is None:
                    await self._create(floor + 1)
                else:
                    await self._take(current, floor, takeover)
            except Conflict:
                continue  # somebody wrote in between, or our own write was sent twice: look who it was
            await self._record("acquired")
            return
        raise LockHeld("others keep taking the release lock", where=f"lease/{self._name}")

    async def _take(self, current: Object, floor: int, takeover: str) -> None:
        spec = _spec(current)
        holder = str(spec.get("holderIdentity") or "")
        if holder and holder != self._holder:
            await self._gone(spec, holder, takeover)
            current = await self._cluster.get(LEASE, self._name)
            if _spec(current).get("renewTime") != spec.get("renewTime"):
                raise self._held_by(holder, _transitions(spec))
        ours = holder == self._holder
        await self._write(
            current,
            max(_transitions(spec), floor) if ours else max(_transitions(spec), floor) + 1,
            acquired=True,
        )

    async def _gone(self, spec: dict[str, Any], holder: str, takeover: str) -> None:
        """Wait for the length of another's lease; raises LockHeld when it is renewed, or without a reason."""
        length = spec.get("leaseDurationSeconds")
        if not takeover.strip() or not isinstance(length, int) or not 0 < length <= _LONGEST:
            raise self._held_by(holder, _transitions(spec))
        until = self._clock.monotonic() + length
        while self._clock.monotonic() < until:
            await self._clock.sleep(min(1.0, length / 5))
            seen = _spec(await self._cluster.get(LEASE, self._name))
            if (seen.get("renewTime"), seen.get("holderIdentity")) != (spec.get("renewTime"), holder):
                raise self._held_by(holder, _transitions(spec))
        self._recorder.note(Noted(level="warning", text=f"taking over from {holder}: {takeover}"))

    def _held_by(self, holder: str, fence: int) -> LockHeld:
        self._recorder.note(LeaseChanged(state="refused", holder=holder, fence=fence))
        return LockHeld(
            f"{holder} holds the release lock",
            where=f"lease/{self._name}",
            hint="wait for it to end; if it has gone for good: --takeover with a reason",
        )

    async def keep(self) -> None:
        """Renew until cancelled; returns when the lease is lost."""
        while not self._fenced_out:
            await self._clock.sleep(self._seconds / 5)
            try:
                current = await self._cluster.get(LEASE, self._name)
                holder = str(_spec(current).get("holderIdentity") or "")
                if holder != self._holder:
                    self._fenced_out = True
                    self._recorder.note(LeaseChanged(state="lost", holder=holder, fence=self._fence))
                    return
                await self._write(current, self._fence, acquired=False)
                if self._lost:
                    self._lost = False
                    self._recorder.note(
                        LeaseChanged(state="acquired", holder=self._holder, fence=self._fence)
                    )
            except Conflict:
                continue  # somebody wrote it between our read and our write: the next read tells who
            except Exception as error:  # noqa: BLE001 - whatever it was: the lease lapses, an abort goes on
                # Keep trying: when the cluster answers again and nobody took it, it is still ours.
                if not self.held and not self._lost:
                    self._lost = True
                    self._recorder.note(LeaseChanged(state="lost", holder=self._holder, fence=self._fence))
                    self._recorder.note(
                        Noted(level="error", text=f"the release lock cannot be renewed: {error}")
                    )

    async def release(self) -> None:
        """Give the lease back; a failure is noted and the lease runs out by itself."""
        if self._renewed_at is None or self._fenced_out:
            return
        self._renewed_at = None
        try:
            current = await self._cluster.get(LEASE, self._name)
            if _spec(current).get("holderIdentity") == self._holder:
                current["spec"]["holderIdentity"] = ""
                await self._cluster.replace(LEASE, self._name, current)
                self._recorder.note(LeaseChanged(state="released", holder=self._holder, fence=self._fence))
        except (BackendError, asyncio.CancelledError) as error:
            self._recorder.note(Noted(level="warning", text=f"the release lock was not given back: {error}"))

    async def _create(self, fence: int) -> None:
        moment = iso(self._clock.now())
        body: Object = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name},
            "spec": self._lease_spec(fence, moment, moment),
        }
        started = self._clock.monotonic()
        await self._cluster.create(LEASE, body)
        self._renewed_at = started
        self._fence = fence

    async def _write(self, current: Object, fence: int, *, acquired: bool) -> None:
        moment = iso(self._clock.now())
        since = moment if acquired else str(_spec(current).get("acquireTime") or moment)
        # Fresh counts from before the request: the server's clock for it starts no earlier.
        started = self._clock.monotonic()
        await self._cluster.replace(
            LEASE, self._name, {**current, "spec": self._lease_spec(fence, since, moment)}
        )
        self._renewed_at = started
        self._fence = fence

    def _lease_spec(self, fence: int, acquired: str, renewed: str) -> dict[str, Any]:
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": fence,
        }

    async def _record(self, state: str) -> None:
        await self._recorder.record(LeaseChanged(state=state, holder=self._holder, fence=self._fence))


def _spec(lease: Object) -> dict[str, Any]:
    spec = lease.get("spec")
    if not isinstance(spec, dict):
        raise BackendGarbage("a Lease without a spec")
    return spec


def _transitions(spec: dict[str, Any]) -> int:
    value = spec.get("leaseTransitions", 0)
    if not isinstance(value, int) or value < 0:
        raise BackendGarbage("a Lease whose leaseTransitions is no count")
    return value
