"""Verifying a pack as a stranger, offline: from the file, its bundle and a root of trust.

1. `container`: one canonical archive, bounds, plain names, nothing hidden.                      container
2. `manifest`: the schema, the rows of seed section 10.                                          manifest
3. `hashes`: every file is the one the manifest names; none is missing or extra.                 here
4. `signature`: the bundle is over exactly these bytes, by the expected identity.                signatures
5. `journal`, `plan`: every link holds; the run and its plan are those named.                     contents
6. `heads`: each is signed by the run's key and fits the journal; the manifest's covers it all.  here
7. `head attestation`: a logged signature certifies the run's key and this root.                 signatures
8. `state`: the fold of the journal is `state.json`.                                             here
9. `artifacts`: each is what the journal recorded; each signature of its own holds.              artifact_…
10. `blobs`: each is what its name says; nothing the journal needs is missing.                   contents
11. `promotion pack`: the closing pack names the one that was sealed.                            here
12. `go/no-go`: each follows from what was recorded before it, computed again.                   decisions
13. `steps earned`: each promotion step has its bake, its looks and its verdicts, in order.      steps
14. `effects in their place`, `rollbacks proven`: after go, outside a HALT; traffic taken off.   order
15. `bakes kept`, `calendar kept`: what people made of a bake; days, soak, window.  bake_…, calendar_check
16. `approvals hold`, `flips granted`: what people signed, each grant at its use.  approved, flip_check
17. `verdicts`, `looks`: judged again from the stored answers.                                   recompute

A pack that fails 1 or 2 is not read further; every other step is reported whatever came of those before it.
A rehearsal pack is held against the root inside it, which shows that formats and bindings hold and nothing
about who made it: UNANCHORED. Any other needs a root and an expected signer from outside the pack.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.evidence import container, manifest
from cockpit.evidence import recompute as recomputing
from cockpit.evidence.approved import approvals_hold
from cockpit.evidence.artifact_signatures import check_signatures, first_problem
from cockpit.evidence.bake_check import bakes_kept
from cockpit.evidence.calendar_check import calendar_kept
from cockpit.evidence.checks import Check, passed
from cockpit.evidence.contents import Journal, PackBlobs, Redacted, read_journal
from cockpit.evidence.decisions import decisions
from cockpit.evidence.flip_check import flips_granted
from cockpit.evidence.order import effects_in_place, rollbacks_proven
from cockpit.evidence.pack import STATE, TRUSTED_ROOT
from cockpit.evidence.plan_check import packed_plan
from cockpit.evidence.sealing import ATTESTATION, PREDICATE_TYPE, bundle_path
from cockpit.evidence.signatures import MAX_BUNDLE_BYTES, verify_bundle, verify_statement
from cockpit.evidence.steps import steps_earned
from cockpit.evidence.texts import made_on
from cockpit.evidence.trust import Trust, choose_trust
from cockpit.journal.events import ArtifactSigned, EvidenceSealed, RunOpened
from cockpit.journal.fold import Fold
from cockpit.journal.heads import PUBLIC_KEY_NAME, Head, origin_of, parse_and_verify
from cockpit.journal.state import encode
from cockpit.plan.model import Plan
from cockpit.rpc.manifest import Manifest
from cockpit.verdicts.questions import plain

_SIGNERS = ("signatures/", "attestations/")


@dataclass(frozen=True)
class Report:
    """What came of a verification. `unreadable`: there was nothing to verify; `note` is for people."""

    checks: tuple[Check, ...]
    anchored: bool = False
    unreadable: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether there were checks and all of them held."""
        return not self.unreadable and passed(self.checks)

    @property
    def exit_code(self) -> int:
        """Return 0 intact, 1 broken, 64 unreadable."""
        return 64 if self.unreadable else 0 if self.ok else 1


def verify_pack(
    pack: Path,
    *,
    bundle: Path | None = None,
    trust_root: Path | None = None,
    identity: str = "",
    issuer: str = "",
    recompute: bool = True,
    config: Path | None = None,
) -> Report:
    """Verify a pack; never raises for what is in it.

    `bundle` defaults to the file beside the pack. `trust_root`, `identity`, `issuer`: what the verifier
    trusts and expects; `config` is the folder where a user keeps them (`trust.py`). Blocking, about a second;
    offline.
    """
    try:
        if trust_root is not None:
            _read(trust_root, container.MAX_FILE_BYTES)  # a wrong path says nothing about the pack
        raw = _read(pack, container.MAX_PACK_BYTES)
        signature = _read_bundle(pack, bundle)
    except EvidenceError as error:
        return Report((Check("readable", False, str(error)),), unreadable=True)
    try:
        files = container.read(raw)
    except container.NotAPack as error:
        return Report((Check("container", False, str(error)),), unreadable=True)
    except EvidenceError as error:
        return Report((Check("container", False, error.what),))
    checks = [Check("container", True, f"{len(files)} files, {len(raw)} bytes, sha256 {sha256_hex(raw)}")]
    try:
        document = manifest.read(files.get(manifest.NAME, b""))
    except EvidenceError as error:
        return Report((*checks, Check("manifest", False, error.what)))
    trust, trust_check = choose_trust(
        document,
        files.get(TRUSTED_ROOT, b""),
        trust_root=trust_root,
        identity=identity,
        issuer=issuer,
        config=config,
    )
    checks.append(trust_check)
    verification = _Verification(raw, signature, files, document, trust)
    checks += verification.run(recompute=recompute)
    anchored = bool(trust and trust.anchored)
    return Report(tuple(checks), anchored=anchored, note=_note(document, anchored, verification.real))


class _Verification:
    def __init__(
        self,
        raw: bytes,
        signature: bytes | None,
        files: dict[str, bytes],
        document: Manifest,
        trust: Trust | None,
    ) -> None:
        self._raw = raw
        self._signature = signature
        self._files = files
        self._manifest = document
        self._trust = trust
        self._blobs = PackBlobs(files)
        self._plan: Plan | None = None

    def run(self, *, recompute: bool) -> list[Check]:
        """Return the checks of steps 2 to 17."""
        checks = [
            self._step("manifest", self._rows),
            self._step("hashes", self._hashes),
            self._step("signature", self._sealed),
        ]
        try:
            journal = read_journal(self._files)
        except CockpitError as error:
            return [*checks, Check("journal", False, visible(str(error), limit=400))]
        checks += [
            self._step("journal", lambda: self._run(journal)),
            self._step("plan", lambda: self._planned(journal)),
            self._step("heads", lambda: self._heads(journal)),
            self._step("head attestation", lambda: self._attested(journal)),
            self._step("state", lambda: self._state(journal)),
            self._step("artifacts", lambda: self._artifacts(journal)),
            self._step("artifact signatures", lambda: self._artifact_signatures(journal)),
            self._step("blobs", lambda: self._stored(journal)),
            self._step("promotion pack", lambda: self._promotion(journal)),
            decisions(journal.events, self._blobs.get, self._plan),
            steps_earned(journal.events, self._plan, self._blobs.get),
            effects_in_place(journal.events, self._plan),
            rollbacks_proven(journal.events),
            bakes_kept(journal.events, self._plan, self._blobs.get),
            calendar_kept(journal.events, self._plan, self._blobs.get),
            approvals_hold(
                journal.events, self._plan, self._blobs.get, self._trust.root if self._trust else b""
            ),
            flips_granted(journal.events, self._plan, self._blobs.get),
        ]
        if recompute:
            canary = plain(self._plan.canary) if self._plan else None
            checks += recomputing.recompute(journal.events, self._blobs.get, canary)
        return checks

    def _step(self, name: str, step: Callable[[], str]) -> Check:
        try:
            return Check(name, True, visible(step(), limit=400))
        except (CockpitError, ValueError, LookupError, RecursionError) as error:
            return Check(name, False, visible(str(error), limit=400) or type(error).__name__)

    @property
    def real(self) -> Mapping[str, str]:
        """Return the real servers of a rehearsal and their versions, as plan and journal agree on them."""
        return self._plan.real_servers if self._plan is not None else {}

    def _rows(self) -> str:
        others = [name for name in self._files if name != manifest.NAME]
        problems = manifest.row_problems(self._manifest, others)
        if problems:
            raise EvidenceError("; ".join(problems))
        absent = [row.name for row in self._manifest.artifacts if row.state == "absent"]
        return f"{self._manifest.kind} pack of {self._manifest.version}" + (
            f", absent: {', '.join(absent)}" if absent else ""
        )

    def _hashes(self) -> str:
        named, there = dict(self._manifest.hashes), set(self._files) - {manifest.NAME}
        problems = [f"{name} is missing" for name in sorted(set(named) - there)]
        problems += [f"{name} is not in the manifest" for name in sorted(there - set(named))]
        problems += [
            f"{name} is not the file the manifest names"
            for name in sorted(there & set(named))
            if sha256_hex(self._files[name]) != named[name]
        ]
        if problems:
            raise EvidenceError("; ".join(problems[:5]))
        return f"{len(named)} files"

    def _sealed(self) -> str:
        if self._signature is None:
            raise EvidenceError("there is no signature bundle beside the pack: it is not signed")
        trust = self._needed_trust()
        found = verify_bundle(
            self._signature,
            self._raw,
            trusted_root_json=trust.root,
            identity=trust.identity,
            issuer=trust.issuer,
        )
        return _all(found, f"by {trust.identity}, issued by {trust.issuer}")

    def _run(self, journal: Journal) -> str:
        opened = journal.events[0]
        if not isinstance(opened, RunOpened):
            raise EvidenceError("it does not begin with a run's opening")
        if any(isinstance(event, RunOpened) for event in journal.events[1:]):
            raise EvidenceError("it opens more than one run")
        document = self._manifest
        said = (
            document.version,
            document.run_id,
            document.rehearsal,
            document.reduced,
            document.trust_profile,
        )
        if said != (opened.version, opened.run_id, opened.rehearsal, opened.reduced, opened.trust_profile):
            raise EvidenceError("it is of another run than the manifest names")
        return f"{len(journal.events)} records of run {opened.run_id}, every link holds"

    def _planned(self, journal: Journal) -> str:
        opened = journal.events[0]
        if not isinstance(opened, RunOpened):
            raise EvidenceError("no run was opened")
        self._plan = packed_plan(opened, self._blobs.get)
        return f"sha256 {opened.plan_sha256}"

    def _key(self) -> bytes:
        key = base64.b64decode(self._files.get(f"heads/{PUBLIC_KEY_NAME}", b"").strip(), validate=True)
        if len(key) != 32:
            raise EvidenceError("the run's public key is not in the pack")
        return key

    def _head(self, journal: Journal) -> Head:
        origin = origin_of(self._manifest.run_id)
        head = parse_and_verify(self._manifest.journal_head.encode(), self._key(), origin=origin)
        if head.size != len(journal.tree) or head.root != journal.tree.root():
            raise EvidenceError("the manifest's head is not over the journal in the pack")
        return head

    def _heads(self, journal: Journal) -> str:
        self._head(journal)
        key, origin, count = self._key(), origin_of(self._manifest.run_id), 0
        for name, data in self._files.items():
            if not (name.startswith("heads/") and name.endswith(".checkpoint")):
                continue
            head = parse_and_verify(data, key, origin=origin)
            if not name.startswith(f"heads/{head.size:08d}-"):
                raise EvidenceError(f"{name} does not say its size, {head.size}")
            if head.size > len(journal.tree) or journal.tree.root(head.size) != head.root:
                raise EvidenceError(f"{name} is not over the journal in the pack")
            count += 1
        opened = journal.events[0]
        known = (base64.b64encode(key).decode(), key.hex())
        if isinstance(opened, RunOpened) and opened.run_key.strip() not in known:
            raise EvidenceError("the run's key is not the one the journal was opened with")
        return f"{count} heads and that of the pack, signed by the run's key"

    def _attested(self, journal: Journal) -> str:
        head, trust = self._head(journal), self._needed_trust()
        raw = self._files.get(ATTESTATION)
        if raw is None:
            raise EvidenceError("the journal's head is not attested: nothing certifies the run's key")
        statement, found = verify_statement(
            raw,
            trusted_root_json=trust.root,
            identity=trust.identity,
            issuer=trust.issuer,
            predicate_type=PREDICATE_TYPE,
            subject_sha256=head.root.hex(),
        )
        said = _all(found, f"log entry {self._manifest.rekor_uuid}")
        wanted = {
            "run_id": self._manifest.run_id,
            "size": head.size,
            "root": head.root.hex(),
            "run_key": base64.b64encode(self._key()).decode(),
        }
        if statement.get("predicate") != wanted or len(statement["subject"]) != 1:
            raise EvidenceError("the attestation is about another head or key")
        entry = json.loads(raw)["verificationMaterial"]["tlogEntries"][0]
        leaf = hashlib.sha256(b"\x00" + base64.b64decode(entry["canonicalizedBody"])).hexdigest()
        if leaf != self._manifest.rekor_uuid:
            raise EvidenceError("the manifest names another log entry than the attestation's")
        return said

    def _state(self, journal: Journal) -> str:
        if encode(Fold().apply_all(journal.events).snapshot()) != self._files.get(STATE):
            raise EvidenceError("folding the journal gives another state")
        return "the fold of the journal, bit for bit"

    def _artifacts(self, journal: Journal) -> str:
        recorded = Fold().apply_all(journal.events).snapshot().artifacts
        problems = []
        for one in recorded:
            data = self._files.get(one.path)
            if data is None:
                problems.append(f"{one.path} is missing")
            elif sha256_hex(data) != one.sha256:
                problems.append(f"{one.path} is not what the journal recorded")
        if problems:
            raise EvidenceError("; ".join(problems[:5]))
        return f"{len(recorded)} as recorded"

    def _artifact_signatures(self, journal: Journal) -> str:
        recorded = Fold().apply_all(journal.events).snapshot().artifacts
        signed = [event for event in journal.events if isinstance(event, ArtifactSigned)]
        found = check_signatures(self._files, recorded, self._needed_trust(), events=signed)
        if found.problems:
            raise EvidenceError("; ".join(found.problems[:5]))
        vouched = found.signed | found.attested
        bare = [one.path for one in recorded if one.path not in vouched and not one.path.startswith(_SIGNERS)]
        said = f"{len(found.signed)} signed, {len(found.attested)} attested"
        # The pack's own signature covers these too; but nobody signed them on their own, and that is said.
        return said + (f"; covered by the pack's signature alone: {', '.join(bare)}" if bare else "")

    def _stored(self, journal: Journal) -> str:
        problems, redacted = self._blobs.problems(), 0
        for digest in journal.blobs_needed():
            try:
                self._blobs.get(digest)
            except Redacted:
                redacted += 1
            except EvidenceError as error:
                problems.append(str(error))
        if problems:
            raise EvidenceError("; ".join(problems[:5]))
        count = sum(name.startswith("blobs/") for name in self._files)
        return f"{count} blobs" + (f", {redacted} redacted" if redacted else "")

    def _promotion(self, journal: Journal) -> str:
        sealed = [e for e in journal.events if isinstance(e, EvidenceSealed) and e.kind == "promotion"]
        wanted = f"sha256:{sealed[-1].sha256}" if sealed and self._manifest.kind == "closing" else ""
        if self._manifest.promotion_pack != wanted:
            raise EvidenceError(f"the manifest names {self._manifest.promotion_pack or 'none'}")
        if self._manifest.kind == "promotion":
            return "this is one"
        return wanted or "none was sealed before the run ended"

    def _needed_trust(self) -> Trust:
        if self._trust is None:
            raise EvidenceError("nothing to hold signatures against")
        return self._trust


def _all(found: list[Check], good: str) -> str:
    if not passed(found):
        raise EvidenceError(first_problem(found))
    return good


def _note(document: Manifest, anchored: bool, real: Mapping[str, str]) -> str:
    parts = []
    if document.rehearsal:
        parts.append(f"REHEARSAL: made on {made_on(real)}: it says nothing about a real release")
    if not anchored:
        parts.append("UNANCHORED: the root of trust came with the pack; anyone could have made it")
    if document.reduced:
        parts.append("REDUCED: " + "; ".join(document.reduced))
    return visible("\n".join(parts), limit=2000, newlines=True)


def _read_bundle(pack: Path, bundle: Path | None) -> bytes | None:
    if bundle is not None:
        return _read(bundle, MAX_BUNDLE_BYTES)
    beside = bundle_path(pack)
    return _read(beside, MAX_BUNDLE_BYTES) if beside.exists() else None


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise EvidenceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > most:
        raise EvidenceError(f"is larger than {most} bytes", where=str(path))
    if not data:
        raise EvidenceError("is empty", where=str(path))
    return data
