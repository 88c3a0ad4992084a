"""The artifacts' own signatures in a pack: recorded in the journal, listed in the index, and attestations.

`signatures/index.json` lists what the notary signed: `path`, `sha256`, `bundle`, and the place in the log;
the journal records the same. A row about an older content of a file is stale: the file counts as unsigned, as
it does without a row; every other signature must be told by both, in the same words.
`attestations/*.intoto.jsonl` hold one DSSE bundle a line; a subject that is a file of the pack with another
content is stale too. That files are what the journal recorded is checked elsewhere; here every signature
there is must hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cockpit.base.files import sha256_hex
from cockpit.evidence.checks import Check, passed
from cockpit.evidence.signatures import verify_bundle, verify_statement
from cockpit.evidence.trust import Trust
from cockpit.journal.events import ArtifactSigned
from cockpit.journal.state import ArtifactView

INDEX = "signatures/index.json"
_MOST = 5000


@dataclass(frozen=True)
class Signatures:
    """What was found: paths with a signature that holds, paths attested, and what is wrong."""

    signed: frozenset[str]
    attested: frozenset[str]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Claim:
    path: str
    sha256: str
    bundle: str
    log_index: int
    entry_id: str


def check_signatures(
    files: Mapping[str, bytes],
    recorded: Iterable[ArtifactView],
    trust: Trust,
    *,
    events: Iterable[ArtifactSigned],
) -> Signatures:
    """Verify every signature of an artifact and every attestation in a pack; never raises for content.

    `recorded` are the artifacts as they stand, `events` all signatures ever recorded: a file that was written
    again just as it was has lost its signature in the first and not in the second.
    """
    problems: list[str] = []
    signed: set[str] = set()
    known = tuple(recorded)
    told = {_claim(one) for one in known if one.bundle}
    ever = {_claim(one) for one in events}
    listed: set[_Claim] = set()
    try:
        listed = _index(files)
    except (ValueError, LookupError, TypeError, RecursionError):
        problems.append(f"{INDEX} cannot be read")
    else:
        problems += _disagreements(told, ever, listed, {one.path: one.sha256 for one in known})
    claims = told | listed
    for claim in sorted(claims, key=lambda one: (one.path, one.bundle, one.log_index)):
        data, bundle = files.get(claim.path), files.get(claim.bundle)
        if bundle is None:
            problems.append(f"the signature of {claim.path} is missing")
        elif data is None:
            problems.append(f"{claim.path} is signed and missing")
        elif sha256_hex(data) == claim.sha256:
            found = _verify(data, bundle, trust)
            if passed(found):
                signed.add(claim.path)
            else:
                problems.append(f"the signature of {claim.path}: {first_problem(found)}")
    attested, wrong = _attestations(files, trust)
    return Signatures(frozenset(signed), frozenset(attested), (*problems, *wrong))


def _index(files: Mapping[str, bytes]) -> set[_Claim]:
    raw = files.get(INDEX)
    if raw is None:
        return set()
    rows = json.loads(raw)["signed"]
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise ValueError("not a list of signatures")
    return {
        _Claim(
            str(row["path"]),
            str(row["sha256"]),
            str(row["bundle"]),
            int(row["log_index"]),
            str(row["entry_id"]),
        )
        for row in rows
    }


def _claim(one: ArtifactView | ArtifactSigned) -> _Claim:
    bundle = one.bundle.removeprefix("artifacts/")
    return _Claim(one.path, one.sha256, bundle, one.log_index, one.entry_id)


def _disagreements(
    told: set[_Claim], ever: set[_Claim], listed: set[_Claim], contents: Mapping[str, str]
) -> list[str]:
    """Return which signatures only the journal tells of, or only the index (stale rows set aside)."""
    current = {one for one in listed if contents.get(one.path) == one.sha256}
    found = [f"the journal's signature of {one.path} is not in {INDEX}" for one in told - listed]
    found += [f"the journal does not tell of the signature of {one.path}" for one in current - ever]
    return sorted(found)


def _verify(data: bytes, bundle: bytes, trust: Trust) -> list[Check]:
    if b'"dsseEnvelope"' not in bundle:
        return verify_bundle(
            bundle, data, trusted_root_json=trust.root, identity=trust.identity, issuer=trust.issuer
        )
    return verify_statement(
        bundle,
        trusted_root_json=trust.root,
        identity=trust.identity,
        issuer=trust.issuer,
        subject_sha256=sha256_hex(data),
    )[1]


def _attestations(files: Mapping[str, bytes], trust: Trust) -> tuple[set[str], list[str]]:
    attested: set[str] = set()
    problems: list[str] = []
    for name, raw in sorted(files.items()):
        if not (name.startswith("attestations/") and name.endswith(".intoto.jsonl")):
            continue
        for line in raw.splitlines():
            statement, found = verify_statement(
                line, trusted_root_json=trust.root, identity=trust.identity, issuer=trust.issuer
            )
            if not statement:
                problems.append(f"{name}: {first_problem(found)}")
                continue
            for subject in statement["subject"]:
                data = files.get(str(subject.get("name")))
                if data is not None and sha256_hex(data) == subject["digest"]["sha256"]:
                    attested.add(str(subject["name"]))
    return attested, problems


def first_problem(found: list[Check]) -> str:
    """Return what the first failed check says."""
    bad = next((check for check in found if not check.ok), None)
    return f"{bad.name}: {bad.detail}" if bad else "nothing was checked"
