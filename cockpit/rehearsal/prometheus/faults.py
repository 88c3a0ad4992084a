"""Faults to switch on while the server runs."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, get_args

FaultMode = Literal["none", "unavailable", "hang", "drop", "drip", "garbage", "truncated", "partial", "nan"]


class Faults:
    """How the HTTP API misbehaves; to be used on the server's event loop.

    none: it does not. unavailable: 503. hang: accepts and never answers, until another mode is set.
    drop: cuts the connection. drip: a valid start, then a byte now and then. garbage: HTML with status 200.
    truncated: a whole HTTP answer with half the JSON. partial: half of the result, with a warning.
    nan: every value is NaN. `matching` limits it to queries that contain the text.
    `scraping` False: no target is scraped, so samples grow old. `hanging` counts the requests held just now.
    """

    def __init__(self) -> None:
        self.mode: FaultMode = "none"
        self.matching = ""
        self.scraping = True
        self.hanging = 0
        self._changed = asyncio.Event()

    def set(self, mode: FaultMode, *, matching: str = "") -> None:
        """Switch to `mode`; requests that hang are let go."""
        if mode not in get_args(FaultMode):
            raise ValueError(f"no such fault: {mode}")
        self.mode, self.matching = mode, matching
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def clear(self) -> None:
        """Behave again."""
        self.scraping = True
        self.set("none")

    def applies(self, query: str) -> FaultMode:
        """Return the fault for a request; `query` is its PromQL or empty."""
        return self.mode if self.matching in query else "none"

    async def hang(self) -> None:
        """Hold a request until the next `set`."""
        self.hanging += 1
        try:
            await self.changed()
        finally:
            self.hanging -= 1

    async def changed(self) -> None:
        """Wait until the next `set`."""
        await self._changed.wait()


def spoil(mode: FaultMode, data: dict[str, Any]) -> list[str]:
    """Apply `partial` or `nan` to the data of a query's answer, in place; return the warnings to send."""
    result = data.get("result")
    if data.get("resultType") not in ("vector", "matrix") or not isinstance(result, list):
        return []
    if mode == "nan":
        for entry in result:
            for pair in [entry["value"]] if "value" in entry else entry["values"]:
                pair[1] = "NaN"
    if mode == "partial":
        del result[len(result) // 2 :]
        return ["the stand-in was told to leave out a part of the result"]
    return []
