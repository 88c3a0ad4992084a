"""Blocking libraries in bounded daemon threads that a deadline abandons.

`asyncio.to_thread` is not used: a cancelled call keeps its thread, and the interpreter waits for it at exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from cockpit.base.errors import BackendUnreachable

T = TypeVar("T")


class BoundedThreads:
    """At most `limit` blocking calls at once, each in a daemon thread of its own."""

    def __init__(self, name: str, limit: int = 8) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(limit)

    async def run(self, call: Callable[[], T], *, deadline: float) -> T:
        """Run `call`; raise BackendUnreachable after `deadline` seconds (the thread is abandoned)."""
        try:
            async with asyncio.timeout(deadline):
                async with self._slots:
                    return await self._start(call)
        except TimeoutError:
            raise BackendUnreachable(f"no answer from {self._name} within {deadline:g} s") from None

    async def _start(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]

        def body() -> None:
            value: T | None = None
            error: BaseException | None = None
            try:
                value = call()
            except BaseException as caught:  # noqa: BLE001 - handed to the awaiting task
                error = caught
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:
                pass  # the loop has closed: nobody waits for this answer any more

        threading.Thread(target=body, name=f"cockpit-{self._name}", daemon=True).start()
        return await done
