"""The record of every request the demo application served: one JSON line each in `world/requests.jsonl`."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_FLUSH_SECONDS = 0.2


@dataclass(frozen=True)
class Served:
    """One request; `at` is when it reached the pod, `latency_ms` how long the pod took, queue included."""

    at: datetime
    track: str
    tenant: str
    service: str
    status: int
    env: str
    version: str
    pod: str
    latency_ms: float

    def line(self) -> str:
        """Return the JSON line without its newline."""
        return json.dumps(
            {
                "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "track": self.track,
                "tenant": self.tenant,
                "service": self.service,
                "status": self.status,
                "env": self.env,
                "version": self.version,
                "pod": self.pod,
                "latency_ms": round(self.latency_ms, 3),
            },
            separators=(",", ":"),
        )


class RequestLog:
    """Appends what was served; on disk at most a quarter of a second later, and complete after `close`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._buffer: list[str] = []

    def add(self, served: Served) -> None:
        """Note one request."""
        self._buffer.append(served.line())

    async def run(self) -> None:
        """Write what has come in, several times a second, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Write what has come in; raises OSError when the disk is full."""
        if not self._buffer:
            return
        data = ("\n".join(self._buffer) + "\n").encode()
        self._buffer.clear()
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Write the rest and close the file."""
        try:
            self.flush()
        finally:
            os.close(self._fd)
