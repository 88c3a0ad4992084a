"""Objects with their versions and the history a watch is served from."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cockpit.rehearsal.kube.resources import Resource
from cockpit.rehearsal.kube.values import Obj, expired

FIRST_VERSION = 1000
"""Where versions begin: high enough that a small number is always one from before this server's time."""


@dataclass(frozen=True)
class Change:
    """One step of history; `previous` is None for ADDED, `obj` is the last state for DELETED."""

    version: int
    type: str
    resource: Resource
    obj: Obj
    previous: Obj | None

    @property
    def namespace(self) -> str:
        """Where it happened; empty for a cluster-wide object."""
        return str(self.obj["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        """The name of the object that changed."""
        return str(self.obj["metadata"]["name"])


@dataclass
class _Shelf:
    objects: dict[tuple[str, str], Obj] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    forgotten: int = FIRST_VERSION


class Store:
    """Holds the objects of one world; all calls come from one event loop and none of them waits.

    `history` is how many changes of each resource are remembered before old ones are forgotten.
    """

    def __init__(self, *, history: int = 4096) -> None:
        self.version = FIRST_VERSION
        self._history = history
        self._shelves: dict[Resource, _Shelf] = {}
        self._listeners: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every change; it must only take note and return."""
        self._listeners.append(listener)

    def get(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """Return an object, shared: clone it before changing anything."""
        return self._shelf(resource).objects.get((namespace, name))

    def items(self, resource: Resource, namespace: str = "") -> list[Obj]:
        """Return the objects of a namespace, or of all of them, ordered by namespace and name."""
        found = sorted(self._shelf(resource).objects.items())
        return [obj for (space, _), obj in found if not namespace or space == namespace]

    def everything(self) -> Iterator[tuple[Resource, Obj]]:
        """Yield every object with its resource, as of the call."""
        for resource, shelf in list(self._shelves.items()):
            for obj in list(shelf.objects.values()):
                yield resource, obj

    def put(self, resource: Resource, obj: Obj) -> Obj:
        """Store an object under a new version and return it."""
        shelf, metadata = self._shelf(resource), obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        previous = shelf.objects.get(key)
        stored = self._stamped(obj)
        shelf.objects[key] = stored
        self._record(shelf, "MODIFIED" if previous is not None else "ADDED", resource, stored, previous)
        return stored

    def remove(self, resource: Resource, obj: Obj) -> Obj:
        """Take an object out and return its last state, under a version of its own."""
        shelf, metadata = self._shelf(resource), obj["metadata"]
        previous = shelf.objects.pop((metadata.get("namespace", ""), metadata["name"]))
        last = self._stamped(obj)
        self._record(shelf, "DELETED", resource, last, previous)
        return last

    def since(self, resource: Resource, version: int) -> list[Change]:
        """Return the changes after `version`; raises a 410 when some of them are forgotten."""
        shelf = self._shelf(resource)
        if version < shelf.forgotten:
            raise expired(version, shelf.forgotten)
        return shelf.history[bisect_right(shelf.history, version, key=lambda change: change.version) :]

    def forget(self) -> None:
        """Drop all history, as compaction does: every watch from an older version now gets a 410."""
        for shelf in self._shelves.values():
            shelf.history.clear()
            shelf.forgotten = self.version

    async def changed(self) -> None:
        """Wait for the next change (or `wake`)."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let everyone who waits look again."""
        self._changed.set()
        # A new event instead of clear(): those who were just woken must not find it unset again.
        self._changed = asyncio.Event()

    def _shelf(self, resource: Resource) -> _Shelf:
        return self._shelves.setdefault(resource, _Shelf())

    def _stamped(self, obj: Obj) -> Obj:
        self.version += 1
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}

    def _record(self, shelf: _Shelf, kind: str, resource: Resource, obj: Obj, previous: Obj | None) -> None:
        change = Change(self.version, kind, resource, obj, previous)
        shelf.history.append(change)
        if len(shelf.history) > self._history:
            dropped = len(shelf.history) // 2
            shelf.forgotten = shelf.history[dropped - 1].version
            del shelf.history[:dropped]
        for listener in self._listeners:
            listener(change)
        self.wake()
