"""A local copy of one Kubernetes collection, kept up to date by list and watch over plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

Object = dict[str, Any]

_WATCH_SECONDS = 240
_BACKOFF = (0.05, 0.2, 0.5, 1.0)


class _Expired(Exception):
    """The server has forgotten our resourceVersion: list again."""


class Mirror:
    """The objects of `path` (e.g. `/api/v1/namespaces/x/pods`) by name.

    `run` lists, watches from there, and lists again after a cut or a 410; `changed` is called after each
    change. While the server is away the last known objects stay: traffic goes on as it was.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, path: str, changed: Callable[[], None]
    ) -> None:
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        self._session = session
        self._url = url + path
        self._changed = changed
        self._version = ""

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self._list()
                    failures = 0
                await self._watch()
                failures = 0
            except _Expired:
                self._version = ""
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
                # Cut, refused or garbled: what is known stays, and a new list starts over.
                self._version = ""
                await asyncio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                failures += 1

    async def _list(self) -> None:
        async with self._session.get(self._url, timeout=aiohttp.ClientTimeout(total=10)) as answer:
            answer.raise_for_status()
            body = await answer.json()
        found = {item["metadata"]["name"]: item for item in body["items"]}
        self.objects.clear()  # in place: others hold views of this dict
        self.objects.update(found)
        self._version = body["metadata"]["resourceVersion"]
        self.synced.set()
        self._changed()

    async def _watch(self) -> None:
        query = {
            "watch": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            "allowWatchBookmarks": "true",
        }
        patience = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_WATCH_SECONDS + 15)
        async with self._session.get(self._url, params=query, timeout=patience) as answer:
            if answer.status == 410:
                raise _Expired
            answer.raise_for_status()
            async for line in answer.content:
                if line.strip():
                    self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _Expired
            raise ValueError(item.get("message", "watch failed"))
        metadata = item["metadata"]
        self._version = metadata["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self.objects.pop(metadata["name"], None)
        else:
            self.objects[metadata["name"]] = item
        self._changed()
