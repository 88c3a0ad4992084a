"""Starts the demo application's process and keeps the pipe whose end tells it that the world is gone."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass

from cockpit.base.errors import BackendError
from cockpit.rehearsal.app.process import Settings

_START_SECONDS = 30.0
_STOP_SECONDS = 6.0


@dataclass(frozen=True)
class AppEndpoints:
    """Where the application listens: scrape targets by HTTP service discovery, and a gateway a namespace."""

    discovery: str
    gateways: dict[str, str]


class AppProcess:
    """The demo application as a child process."""

    def __init__(self, process: asyncio.subprocess.Process, endpoints: AppEndpoints) -> None:
        self._process = process
        self.endpoints = endpoints

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @classmethod
    async def start(cls, settings: Settings) -> AppProcess:
        """Start it and wait until it listens; raises BackendError when it does not."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cockpit.rehearsal.app.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the world, which then closes the pipe
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                process.stdin.write(settings.to_json().encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            ready = json.loads(line)
            return cls(process, AppEndpoints(ready["discovery"], ready["gateways"]))
        except (TimeoutError, OSError, ValueError, KeyError):
            await _end(process)
            raise BackendError("the demo application did not start") from None
        except BaseException:
            await _end(process)
            raise

    async def died(self) -> str:
        """Wait until the process ends by itself; return how."""
        code = await self._process.wait()
        return f"the demo application ended with status {code}"

    async def stop(self) -> None:
        """Close the pipe, wait for it to finish writing, and end it if it does not."""
        await _end(self._process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
