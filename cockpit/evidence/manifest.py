"""The manifest inside a pack: the rows of seed section 10, with their files or the reason for having none."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import ValidationError

from cockpit.base.errors import EvidenceError
from cockpit.base.text import visible
from cockpit.rpc.manifest import Manifest, ManifestArtifact
from cockpit.rpc.validate import schema_of

NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20

ROWS: dict[str, str] = {
    "sbom": "sbom/*.spdx.json",
    "slsa": "attestations/*.intoto.jsonl",
    "signatures": "signatures/*.sig",
    "slo": "slo/*.png",
    "perf": "perf/{baseline,spike,headroom}.json",
    "migrations": "migrations/{plan,shadow_parity,rollback}.json",
    "dr": "dr/{failover,cutback}.json",
    "chaos": "chaos/*",
    "alerts": "alerts/hygiene.json",
    "identity": "identity/{scim,stepup,decision_logs}.json",
    "release_notes": "release_notes.md",
    "approvals": "approvals_matrix.json",
}
"""Name → path of the rows of seed section 10."""

_ALSO: dict[str, str] = {"signatures": "signatures/**"}
"""Signature bundles are named after what they sign, folders included."""


def rows_of(files: Iterable[str], absent: Mapping[str, str]) -> list[ManifestArtifact]:
    """Return every row for the files of a pack; `absent` gives reasons by name for rows without files."""
    names = sorted(files)
    rows = []
    for name, path in ROWS.items():
        found = [file for file in names if _in_row(name, file)]
        if not found:
            reason = absent.get(name) or "not made in this run"
            rows.append(ManifestArtifact(name=name, path=path, state="absent", reason=reason))
            continue
        missing = sorted(set(_expected(path)) - set(found))
        reason = f"without {', '.join(missing)}" if missing else ""
        rows.append(ManifestArtifact(name=name, path=path, state="present", files=found, reason=reason))
    return rows


def row_problems(manifest: Manifest, files: Collection[str]) -> list[str]:
    """Return how the rows differ from what they must be for these files."""
    problems = []
    if [(row.name, row.path) for row in manifest.artifacts] != list(ROWS.items()):
        return ["the rows are not those of the format"]
    wanted = rows_of(files, {row.name: row.reason for row in manifest.artifacts})
    for row, right in zip(manifest.artifacts, wanted, strict=True):
        if row.state == "absent" and not row.reason.strip():
            problems.append(f"{row.name} is absent without a reason")
        elif row != right:
            problems.append(f"{row.name} does not list the files there are")
    return problems


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as JSON, sorted and indented for people; raises EvidenceError when it is none."""
    raw = json.dumps(manifest.model_dump(mode="json", by_alias=True), sort_keys=True, indent=1).encode()
    if read(raw) != manifest:
        raise EvidenceError("the manifest does not survive its own format")
    return raw + b"\n"


def read(raw: bytes) -> Manifest:
    """Read a manifest, held to its JSON Schema; raises EvidenceError for anything else."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise EvidenceError(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        document = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
        problem = next(iter(_validator().iter_errors(document)), None)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"the manifest is not JSON: {visible(str(error), limit=200)}") from None
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "the manifest"
        said = visible(problem.message, limit=200)
        raise EvidenceError(f"the manifest does not meet its schema: {visible(where, limit=100)}: {said}")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise EvidenceError(f"the manifest: {visible(error.errors()[0]['msg'], limit=200)}") from None


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema_of(Manifest))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member name stands twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _in_row(row: str, file: str) -> bool:
    return any(_pattern(glob).fullmatch(file) for glob in (ROWS[row], _ALSO.get(row, "")) if glob)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    parts = []
    for piece in re.split(r"(\*\*|\*|\{[^}]*\})", glob):
        if piece == "**":
            parts.append(".+")
        elif piece == "*":
            parts.append("[^/]+")
        elif piece.startswith("{"):
            parts.append("(?:" + "|".join(re.escape(one) for one in piece[1:-1].split(",")) + ")")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


def _expected(path: str) -> list[str]:
    # Only rows that enumerate their files can lack some.
    head, brace, rest = path.partition("{")
    if not brace:
        return []
    choices, _, tail = rest.partition("}")
    return [f"{head}{choice}{tail}" for choice in choices.split(",")]
