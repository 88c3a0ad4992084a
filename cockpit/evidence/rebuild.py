"""Building a run's pack a second time, from its folder, and comparing the bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cockpit.base.errors import EvidenceError
from cockpit.base.files import sha256_hex
from cockpit.evidence import container, manifest
from cockpit.evidence.pack import PackFacts, build_pack, collect
from cockpit.rpc.manifest import Manifest

PACK = "evidence.zip"


def facts_of(document: Manifest, files: dict[str, bytes], own: set[str]) -> PackFacts:
    """Return what a pack was built with; files that do not come from the run folder (`own`) are its extras.

    Those are the plots: drawn from the journal by a process of their own, and part of the pack alone.
    """
    extra = {name: data for name, data in files.items() if name not in own and name != manifest.NAME}
    return PackFacts(
        commit_from=document.commit_range.from_,
        commit_to=document.commit_range.to,
        identity=document.signed_by,
        issuer=document.issuer,
        entry_id=document.rekor_uuid,
        absent={row.name: row.reason for row in document.artifacts if row.state == "absent"},
        extra={name: data for name, data in extra.items() if name.startswith("slo/")},
    )


def rebuild(run_dir: Path, pack: Path | None = None) -> tuple[bool, str]:
    """Build the pack of a run again; return whether the bytes are the same, and what to tell.

    `pack` defaults to the run's closing pack. Raises EvidenceError when either cannot be read.
    """
    path = pack or run_dir / PACK
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"the pack cannot be read: {error.strerror}", where=str(path)) from None
    files = container.read(raw)
    document = manifest.read(files.get(manifest.NAME, b""))
    head = document.journal_head.encode()
    bare = facts_of(document, files, set(files))
    own, _ = collect(run_dir, document.kind, bare, head=head)
    facts = facts_of(document, files, set(own))
    with tempfile.TemporaryDirectory() as folder:
        made = build_pack(run_dir, document.kind, facts, head=head, path=Path(folder) / PACK)
        again = container.read(made.path.read_bytes())
    if made.sha256 == sha256_hex(raw):
        plots = f", {len(facts.extra)} plots taken over" if facts.extra else ""
        return True, f"a second build has the same digest, sha256:{made.sha256}{plots}"
    differ = sorted(name for name in {*files, *again} if files.get(name) != again.get(name))
    named = ", ".join(differ[:5]) or "the order of the files"
    return False, f"a second build has another digest, sha256:{made.sha256}; it differs in {named}"
