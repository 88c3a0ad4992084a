"""What a pack says of itself, for people: read, not verified."""

from __future__ import annotations

from pathlib import Path

from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.base.text import visible
from cockpit.evidence import container, manifest
from cockpit.evidence.contents import read_journal
from cockpit.evidence.texts import made_on
from cockpit.journal.fold import Fold
from cockpit.journal.state import ReleaseState
from cockpit.rpc.manifest import Manifest


def show(pack: Path) -> str:
    """Return a summary of a pack; raises EvidenceError when it cannot be read. Nothing in it is verified."""
    try:
        with pack.open("rb") as file:
            raw = file.read(container.MAX_PACK_BYTES + 1)
    except OSError as error:
        raise EvidenceError(f"the pack cannot be read: {error.strerror}", where=str(pack)) from None
    files = container.read(raw)
    document = manifest.read(files.get(manifest.NAME, b""))
    state: ReleaseState | None = None
    try:
        state = Fold().apply_all(read_journal(files).events).snapshot()
    except CockpitError as error:
        run = [f"journal: {error}"]
    else:
        run = _run(state)
    real = state.run.real if state is not None and state.run is not None else {}
    lines = [*_head(document, len(files), len(raw), made_on(real)), "", *_rows(document), "", *run]
    lines += ["", "Read, not verified: run `cockpit evidence verify`."]
    return visible("\n".join(lines), limit=20_000, newlines=True) + "\n"


def _head(document: Manifest, files: int, size: int, made: str) -> list[str]:
    lines = [f"{document.kind} pack of {document.version}, run {document.run_id}"]
    if document.rehearsal:
        lines.append(f"REHEARSAL: made on {made}")
    lines += [f"REDUCED: {reason}" for reason in document.reduced]
    lines += [
        f"commits    {document.commit_range.from_} .. {document.commit_range.to}",
        f"signed by  {document.signed_by} (issuer {document.issuer}; trust profile {document.trust_profile})",
        f"log entry  {document.rekor_uuid or 'none: the journal head is not attested'}",
        f"content    {files} files, {size} bytes",
    ]
    if document.promotion_pack:
        lines.append(f"promotion  {document.promotion_pack}")
    return lines


def _rows(document: Manifest) -> list[str]:
    lines = []
    for row in document.artifacts:
        if row.state == "present":
            said = f"{len(row.files)} file(s)" + (f", {row.reason}" if row.reason else "")
        else:
            said = f"absent: {row.reason}"
        lines.append(f"{row.name:<14} {row.path:<46} {said}")
    return lines


def _run(state: ReleaseState) -> list[str]:
    lines = [f"records    {state.seq + 1}, the last at {state.at}"]
    lines += [
        f"gate       {gate}: {result}" + (f" ({reason})" if (reason := state.gate_reasons.get(gate)) else "")
        for gate, result in sorted(state.required_gates.items())
    ]
    if state.go is not None:
        lines.append("decision   go" if state.go else "decision   no-go: " + "; ".join(state.no_go_reasons))
    canary = state.canary
    if canary.step:
        lines.append(f"canary     step {canary.step}, weight {canary.desired} %, {canary.looks} looks")
    if state.rollback is not None:
        lines.append(f"rollback   {state.rollback.status}: {state.rollback.cause}")
    if canary.released:
        lines.append("released   yes")
    if state.pending:
        lines += [f"pending    {one}" for one in state.pending]
    if state.closed is not None:
        lines.append(f"closed     exit {state.closed.exit}, {state.closed.outcome}: {state.closed.cause}")
    return lines
