"""`cockpit promote`: Promote v2 to a run that waits for it, over the API's socket (seed section 7)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cockpit.base.errors import BackendGarbage, BackendUnreachable, UsageError
from cockpit.base.ids import new_trace_id
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.base.text import visible
from cockpit.cli.folders import find_run
from cockpit.cli.status import state_of
from cockpit.control.client import API_SOCKET, socket_address
from cockpit.journal.events import RunOpened

_WITHIN = 15.0


def main(arguments: argparse.Namespace) -> int:
    """Send the request; 0 when it was taken, 1 when it was refused (the reasons are printed)."""
    folder = find_run(arguments.run)
    state = state_of(folder)
    if state.closed is not None:
        raise UsageError(f"that run has ended: {state.closed.outcome}", where=str(folder))
    if state.run is None:
        raise UsageError("that run has not begun yet", where=str(folder))
    body = _read(arguments.file) if arguments.file else json.dumps(_of(state.run)).encode()
    status, answer = post(folder, "/v2/promote", body, plan_sha256=state.run.plan_sha256)
    if status == 200:
        print(f"taken: the promotion of {state.run.version} begins (trace {answer.get('trace_id', '')})")
        return 0
    reasons = answer.get("reasons")
    for reason in reasons if isinstance(reasons, list) else [f"status {status}"]:
        print(f"not taken: {visible(str(reason), limit=1000)}", file=sys.stderr)
    return 1


def _of(run: RunOpened) -> dict[str, Any]:
    """Return the Promote v2 that says again what the run's plan says."""
    return {
        "version": run.version,
        "canary": run.steps,
        "required_gates": run.required_gates,
        "abort_on": {"slo": "burn>0", "perf": f"headroom<{run.headroom_target:g}"},
        "trace_id": new_trace_id(),
    }


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MESSAGE_BYTES)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None


def post(folder: Path, path: str, body: bytes, *, plan_sha256: str) -> tuple[int, dict[str, Any]]:
    """Post to the API of a run; return the status and the answer. Raises BackendError."""
    import httpx

    headers = {"Content-Type": "application/json", "If-Match": f'"{plan_sha256}"'}
    try:
        with (
            socket_address(folder.absolute(), API_SOCKET) as address,
            httpx.Client(transport=httpx.HTTPTransport(uds=address), timeout=_WITHIN) as client,
        ):
            answer = client.post(f"http://cockpit{path}", content=body, headers=headers)
            document = answer.json()
    except httpx.HTTPError as error:
        raise BackendUnreachable(
            f"no conductor answers ({visible(str(error), limit=200)})",
            where=str(folder / API_SOCKET),
            hint="see `cockpit status`; the release may have ended",
        ) from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BackendGarbage("the answer is not a JSON object", where=str(folder / API_SOCKET))
    return answer.status_code, document
