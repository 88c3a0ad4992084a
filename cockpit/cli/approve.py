"""`cockpit approve`: sign an approval or a rejection and hand it in, also from another machine.

On the machine of the run, the request is read from its journal and the statement goes over the control
socket. Elsewhere, `--request FILE --plan PLAN --out BUNDLE` signs what was carried there, and `--bundle`
hands in what was carried back.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any, Literal

from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendUnreachable, CockpitError, UsageError
from cockpit.base.files import sha256_hex, write_private
from cockpit.base.text import visible
from cockpit.cli.folders import find_run
from cockpit.cli.signer import Signer, confirmed, plan_of_run, read_file, signer_of
from cockpit.cli.status import state_of
from cockpit.control.client import ControlClient
from cockpit.journal.blobs import BlobStore
from cockpit.journal.state import ReleaseState
from cockpit.journal.state_people import RequestView
from cockpit.plan.load import load_plan
from cockpit.plan.registry import entitled, is_person
from cockpit.rpc.approval import ApprovalRequest, request_bytes, statement_for
from cockpit.rpc.validate import check

WITHIN = 45.0
"""Seconds a conductor may take to check a statement."""

_LEFT = "approvals"
_MOST_BUNDLE = 48 * 1024


def main(arguments: argparse.Namespace) -> int:
    """Return 0 when the statement counted, was written, or was left for the next sitting; 1 when refused."""
    if arguments.carried is not None:
        if arguments.plan is None or arguments.out is None:
            raise UsageError(
                "--request needs the plan it is about, and where the statement goes: --plan, --out"
            )
        return _carried(arguments)
    folder = find_run(arguments.run)
    state = state_of(folder)
    if arguments.list:
        return _list(state)
    if arguments.bundle is not None:
        raw = read_file(arguments.bundle)
        if len(raw) > _MOST_BUNDLE:
            raise UsageError("that is no statement of a person", where=str(arguments.bundle))
        request = arguments.request or _request_of(raw)
        return asyncio.run(hand_in(folder, request, raw))
    view = _open(folder, state, arguments.request)
    signer = signer_of(plan_of_run(folder, state, arguments.plan), arguments)
    raw = _signed(signer, _document(folder, view), arguments)
    if arguments.out is not None:
        return _written(arguments.out, raw)
    return asyncio.run(hand_in(folder, view.request, raw, signer.person.id))


async def hand_in(folder: Path, request: str, raw: bytes, by: str = "") -> int:
    """Hand a statement in; where nobody listens, leave it for the run's next sitting."""
    client = ControlClient(folder, source="shell", by=by)
    try:
        await client.connect(hello=False)
        reply = await client.send("approve", question=request, statement=raw.decode(), deadline=WITHIN)
    except BackendUnreachable:
        path = folder / _LEFT / f"{request}.{sha256_hex(raw)[:12]}.sigstore.json"
        try:
            write_private(path, raw)
        except OSError as error:
            raise UsageError(f"the statement cannot be left: {error.strerror}", where=str(path)) from None
        print(f"no conductor answers; the statement is left in {path} and is counted when the run goes on")
        return 0
    finally:
        await client.close()
    if reply.ok:
        print(f"{request}: taken, and counted")
        return 0
    print(f"cockpit: {request}: does not count: {visible(reply.text, limit=500)}", file=sys.stderr)
    return 1


def _carried(arguments: argparse.Namespace) -> int:
    """Sign a request that was carried here, by the plan that was."""
    raw = read_file(arguments.carried)
    document = check(ApprovalRequest, raw)
    if request_bytes(document) != raw.rstrip(b"\n"):
        raise UsageError("the request was altered: it is not in canonical form", where=str(arguments.carried))
    loaded = load_plan(arguments.plan)
    if (loaded.sha256, loaded.plan.target_version) != (document.plan_sha256, document.version):
        raise UsageError("the request is about another plan", where=str(arguments.plan))
    return _written(arguments.out, _signed(signer_of(loaded, arguments), document, arguments))


def _signed(signer: Signer, document: ApprovalRequest, arguments: argparse.Namespace) -> bytes:
    """Show what is signed, and sign it."""
    if not arguments.reason.strip():
        raise UsageError("a decision needs a reason", hint="--reason TEXT")
    person = signer.person
    if is_person(person, document.requester):
        raise UsageError(f"{person.id} asked for this and cannot decide it")
    if not entitled(person, document.groups):
        raise UsageError(f"{person.id} is not asked: it takes somebody of {', '.join(document.groups)}")
    decision: Literal["approve", "reject"] = "reject" if arguments.reject else "approve"
    print("\n".join(described(document)))
    print(f"{person.id} ({person.identity}) signs: {decision}, because: {visible(arguments.reason)}")
    if not confirmed(arguments, f"Sign this {'rejection' if arguments.reject else 'approval'}?"):
        raise UsageError("nothing was signed")
    statement = statement_for(
        document,
        decision=decision,
        reason=arguments.reason,
        approver=person.id,
        signed_at=SystemClock().now(),
    )
    return asyncio.run(signer.sign(statement))


def described(document: ApprovalRequest) -> list[str]:
    """Return a request in words: everything a signature is bound to."""
    who = f"{document.threshold} of {', '.join(document.groups) or 'everybody listed'}"
    lines = [
        f"{document.request}: {visible(document.text)}",
        f"  release    {visible(document.version)} to {visible(document.environment)}",
        f"  run        {visible(document.run_id)}",
        f"  plan       sha256:{document.plan_sha256}",
        f"  asked by   {visible(document.requester)} at {document.asked_at}",
        f"  needed     {who}{', one of each' if document.from_each else ''}",
        f"  expires    {document.expires}",
    ]
    if document.step_up != "none":
        lines.append(f"  step-up    {document.step_up}, shown before: cockpit step-up")
    return lines + [f"  {visible(name)}: {visible(value)}" for name, value in sorted(document.about.items())]


def _list(state: ReleaseState) -> int:
    for view in state.people.requests:
        said = view.result or f"open until {view.expires}"
        by = ", ".join(f"{one.by} {one.decision}" for one in view.statements if one.counted)
        needed = f"{view.threshold} of {', '.join(view.groups) or 'everybody listed'}"
        counted = f" ({visible(by)})" if by else ""
        print(f"{view.request}: {said}: {visible(view.text)}; needs {needed}{counted}")
    if not state.people.requests:
        print("nothing was asked")
    return 0


def _open(folder: Path, state: ReleaseState, name: str) -> RequestView:
    """Return the request meant: by its id, by the glass a review is about, or the only one that waits."""
    waiting = [one for one in state.people.requests if not one.result]
    if name:
        found = [one for one in state.people.requests if one.request == name]
        found = found or [one for one in waiting if _about(folder, one).get("glass") == name]
        if not found:
            raise UsageError(f"there is no request {visible(name, limit=80)}", hint="cockpit approve --list")
        if found[0].result:
            raise UsageError(f"{found[0].request} is {found[0].result} already")
        return found[0]
    if len(waiting) != 1:
        names = ", ".join(one.request for one in waiting)
        raise UsageError(
            f"{len(waiting)} requests wait" + (f": {names}" if names else ""), hint="name the one you mean"
        )
    return waiting[0]


def _document(folder: Path, view: RequestView) -> ApprovalRequest:
    return check(ApprovalRequest, BlobStore(folder / "blobs").get(view.blob))


def _about(folder: Path, view: RequestView) -> dict[str, str]:
    return _document(folder, view).about if view.asked == "break-glass" else {}


def _request_of(raw: bytes) -> str:
    """Return the request a bundle says it is about; the conductor checks that it is."""
    try:
        payload: Any = json.loads(base64.b64decode(json.loads(raw)["dsseEnvelope"]["payload"]))
        return str(payload["predicate"]["request"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UsageError("this is no signed statement", hint="name its request as well") from None


def _written(path: Path, raw: bytes) -> int:
    try:
        write_private(path, raw)
    except OSError as error:
        raise CockpitError(f"cannot be written: {error.strerror}", where=str(path)) from None
    print(f"signed; hand it in on the run's machine: cockpit approve --run DIR --bundle {path}")
    return 0
