"""A queue of keys to look at, each at most once and not before its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from cockpit.rehearsal.kube.values import ApiError

K = TypeVar("K")
RETRY_SECONDS = 1.0


class WorkQueue(Generic[K]):
    """Keys are taken in the order they fall due; adding a key again can only bring it forward."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._added = asyncio.Event()

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Ask for `key` to be looked at in `after` seconds."""
        due = asyncio.get_running_loop().time() + after
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            self._added.set()

    async def get(self) -> K:
        """Wait for the next key that is due, and take it out."""
        while True:
            self._added.clear()
            wait: float | None = None
            if self._due:
                key = min(self._due, key=self._due.__getitem__)
                wait = self._due[key] - asyncio.get_running_loop().time()
                if wait <= 0:
                    del self._due[key]
                    return key
            try:
                async with asyncio.timeout(wait):
                    await self._added.wait()
            except TimeoutError:
                continue

    async def drain(self, work: Callable[[K], None]) -> None:
        """Do `work` for each key as it falls due, until cancelled."""
        while True:
            key = await self.get()
            try:
                work(key)
            except ApiError:
                # What the API refuses may fit after somebody has changed it; controllers try again.
                self.add(key, after=RETRY_SECONDS)
            # Let answers and watches go out between two steps of a controller.
            await asyncio.sleep(0)
