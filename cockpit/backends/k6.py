"""Load by k6, where it is installed: the same open model and results as the built-in generator's."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Literal

from cockpit.backends.load import (
    GRACE,
    LoadGenerator,
    LoadProfile,
    OpenLoopGenerator,
    check_place,
    check_profile,
    measured,
    request_of,
)
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.child import in_child
from cockpit.base.errors import BackendGarbage, UsageError
from cockpit.verdicts.rules.load_result import LoadResult

Choice = Literal["auto", "builtin", "k6"]

MAX_UNDER_WAY = 512
"""Most requests under way at once, as with the built-in generator; more are counted as dropped."""

_MODULE = "cockpit.backends.k6_child"
_MAX_REQUEST = 1 << 20
_VERSION_DEADLINE = 15.0
_MISSING = "k6 is not on the PATH: install it, or set targets.load.generator to builtin"


class K6Generator:
    """Sends load by the k6 at `program`; None when there is none, which `lacking` then tells.

    A request may take `timeout` seconds, and `under_way` of them may be under way at once. One run at a time.
    """

    def __init__(
        self,
        url: str,
        environment: str,
        program: Path | None,
        *,
        timeout: float = 10.0,
        under_way: int = MAX_UNDER_WAY,
        tls: Tls = USUAL,
    ) -> None:
        check_place(url, environment)
        self._url = url.rstrip("/")
        self._environment = environment
        self._program = program
        self._timeout = timeout
        self._under_way = under_way
        self._tls = tls
        self._turn = asyncio.Lock()

    @property
    def target(self) -> str:
        """The URL the load goes to."""
        return self._url

    @property
    def environment(self) -> str:
        """The environment the load goes to."""
        return self._environment

    @property
    def lacking(self) -> str:
        """That k6 is not there; empty when it is."""
        return "" if self._program is not None else _MISSING

    async def run(self, profile: LoadProfile) -> LoadResult:
        """Send `profile`; see LoadGenerator. Raises BackendGarbage when k6 fails or contradicts itself."""
        check_profile(profile, self._url)
        if self._program is None:
            raise UsageError(_MISSING)
        request = json.dumps(
            {
                **request_of(profile, self._url, self._timeout),
                "program": str(self._program),
                "under_way": self._under_way,
                "authorities": self._tls.added,
            }
        ).encode()
        if len(request) > _MAX_REQUEST:
            raise UsageError("the load's paths are too many")
        async with self._turn:
            raw = await in_child(
                _MODULE, request, what="the load generator", deadline=profile.seconds + self._timeout + GRACE
            )
        return measured(raw, self._url)


def installed(path: str | None = None) -> Path | None:
    """Return where k6 is installed; `path` is a search path other than the process's own."""
    found = shutil.which("k6", path=path)
    return Path(found).resolve() if found else None


async def version_of(program: Path) -> str:
    """Return the version k6 tells of itself, e.g. `1.8.1`; raises BackendGarbage, BackendUnreachable."""
    raw = await in_child(
        _MODULE, json.dumps({"program": str(program)}).encode(), what="k6", deadline=_VERSION_DEADLINE
    )
    try:
        return str(json.loads(raw)["version"])
    except (ValueError, KeyError, TypeError):
        raise BackendGarbage("k6 does not tell its version") from None


def generator_for(
    choice: Choice, url: str, environment: str, *, path: str | None = None, tls: Tls = USUAL
) -> LoadGenerator:
    """Return the generator a plan asks for: `auto` is k6 where it is installed; `k6` never falls back."""
    program = installed(path) if choice != "builtin" else None
    if choice == "k6" or program is not None:
        return K6Generator(url, environment, program, tls=tls)
    return OpenLoopGenerator(url, environment, tls=tls)
