"""Heavy or dangerous work in a Python process of its own: a request on its input, an answer back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from cockpit.base.errors import BackendGarbage, BackendUnreachable
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible


async def in_child(
    module: str,
    request: bytes,
    *,
    what: str,
    deadline: float,
    environment: Mapping[str, str] | None = None,
    most: int = MAX_ANSWER_BYTES,
) -> bytes:
    """Run `python -m module` on `request` and return what it wrote, at most `most` bytes.

    The child sees no environment but `environment` (isolated mode when none is given) and is killed after
    `deadline` seconds, or with the caller. `what` names it in errors: BackendUnreachable when it does not end
    in time, BackendGarbage when it fails or says too much.
    """
    isolated = ("-I",) if environment is None else ()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, *isolated, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"LANG": "C.UTF-8", **(environment or {})},
        cwd="/",
    )
    try:
        async with asyncio.timeout(deadline):
            answer, said = await child.communicate(request)
    except TimeoutError:
        raise BackendUnreachable(f"{what} did not end within {deadline:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        last = visible(said[-2000:].decode(errors="replace").strip().rpartition("\n")[2], limit=300)
        raise BackendGarbage(f"{what} ended with status {child.returncode}: {last}".rstrip(": "))
    if len(answer) > most:
        raise BackendGarbage(f"{what} answered more than {most} bytes")
    return answer
