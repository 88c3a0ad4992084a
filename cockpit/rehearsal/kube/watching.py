"""Watches: history from a version on, then what happens, as lines of JSON until the time is up."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from cockpit.rehearsal.kube.requests import ApiRequest
from cockpit.rehearsal.kube.selectors import Match
from cockpit.rehearsal.kube.storage import Change, Store
from cockpit.rehearsal.kube.values import ApiError, Obj

DEFAULT_SECONDS = 1800
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Watches:
    """Serves the watches of one store; `bookmark_interval` in seconds."""

    def __init__(self, store: Store, *, bookmark_interval: float = 10.0) -> None:
        self._store = store
        self._interval = bookmark_interval
        self._generation = 0

    def drop(self) -> None:
        """End every watch now open, as a restarting API server does; clients have to come back."""
        self._generation += 1
        self._store.wake()

    async def serve(self, request: web.Request, asked: ApiRequest) -> web.StreamResponse:
        """Answer a watch; one from a forgotten version gets an ERROR event of code 410.

        One from a version that is still to come hears nothing until that has passed.
        """
        asked.check_watch()
        matches = asked.selected()
        version = asked.number("resourceVersion", 0)
        stream = _Stream(request, asked)
        await stream.open()
        try:
            if version == 0 or asked.flag("sendInitialEvents"):
                version = self._store.version
                for obj in self._store.items(asked.resource, asked.namespace):
                    if matches(obj):
                        await stream.send("ADDED", obj)
                if asked.flag("allowWatchBookmarks"):
                    await stream.bookmark(version, {INITIAL_EVENTS_END: "true"})
            await self._follow(stream, asked, matches, version)
        except ApiError as error:
            await stream.send("ERROR", error.status())
        except ConnectionResetError:
            pass  # the client has gone; nobody is left to tell
        return stream.response

    async def _follow(self, stream: _Stream, asked: ApiRequest, matches: Match, version: int) -> None:
        loop, generation, begun = asyncio.get_running_loop(), self._generation, version
        end = loop.time() + asked.number("timeoutSeconds", DEFAULT_SECONDS, negative=True)
        bookmarks = asked.flag("allowWatchBookmarks")
        mark = loop.time() + self._interval
        while generation == self._generation:
            changes = self._store.since(asked.resource, version)
            version = max(version, self._store.version)
            for change in changes:
                kind = _seen_as(change, matches)
                if kind:
                    await stream.send(kind, change.obj)
            now = loop.time()
            if bookmarks and now >= min(mark, end):
                if version > begun:  # else there is nothing to say
                    await stream.bookmark(version)
                mark = now + self._interval
            if now >= end:
                return
            if version >= self._store.version:
                try:
                    async with asyncio.timeout_at(min(mark, end) if bookmarks else end):
                        await self._store.changed()
                except TimeoutError:
                    continue


def _seen_as(change: Change, matches: Match) -> str:
    """Return the event a selecting watcher sees: an object that stops matching is deleted for it."""
    before = change.previous is not None and matches(change.previous)
    after = matches(change.obj)
    if change.type == "DELETED":
        return "DELETED" if before or after else ""
    if after:
        return "MODIFIED" if before else "ADDED"
    return "DELETED" if before else ""


class _Stream:
    def __init__(self, request: web.Request, asked: ApiRequest) -> None:
        self._request = request
        self._asked = asked
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})

    async def open(self) -> None:
        self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)

    async def send(self, kind: str, obj: Obj) -> None:
        line = json.dumps({"type": kind, "object": obj}, separators=(",", ":"))
        await self.response.write(line.encode() + b"\n")

    async def bookmark(self, version: int, annotations: dict[str, str] | None = None) -> None:
        metadata: Obj = {"resourceVersion": str(version)}
        if annotations:
            metadata["annotations"] = annotations
        resource = self._asked.resource
        obj = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": metadata}
        await self.send("BOOKMARK", obj)
