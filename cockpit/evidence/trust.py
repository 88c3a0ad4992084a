"""What a pack is held against: a Sigstore trusted root, and who must have signed.

From the command line, else from the user's configuration: `trusted_root.json` and `signer.json`
(`{"identity": …, "issuer": …}`) in `~/.config/release-cockpit/` (`$XDG_CONFIG_HOME` is honoured). Only a
rehearsal pack may be held against the root and the names it brings itself.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cockpit.base.text import visible
from cockpit.evidence.checks import Check
from cockpit.rpc.manifest import Manifest

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Trust:
    """A trusted root (its JSON) and the signer expected; `anchored`: none of it came with the pack."""

    root: bytes
    identity: str
    issuer: str
    anchored: bool


def config_folder() -> Path:
    """Return the folder of the user's configuration; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "release-cockpit"


def choose_trust(
    document: Manifest,
    own_root: bytes,
    *,
    trust_root: Path | None,
    identity: str,
    issuer: str,
    config: Path | None = None,
) -> tuple[Trust | None, Check]:
    """Return what to hold the pack against, and the check that says where it came from.

    None when there is nothing, or when the manifest names another signer than the one expected.
    """
    folder = config or config_folder()
    try:
        root = _read(trust_root) if trust_root else b""
        anchored = bool(root)
        if not document.rehearsal:
            root = root or _optional(folder / "trusted_root.json")
            anchored = bool(root)
            known_identity, known_issuer = _signer(folder / "signer.json")
            identity, issuer = identity or known_identity, issuer or known_issuer
    except (OSError, ValueError) as error:
        return None, Check("trust", False, visible(str(error), limit=300))
    if not document.rehearsal and not (root and identity and issuer):
        return None, Check(
            "trust",
            False,
            "only a rehearsal pack may bring its own trust: give --trust-root, --identity and --issuer, "
            f"or keep trusted_root.json and signer.json in {folder}",
        )
    # A name given without a root still has to match; it does not anchor anything.
    anchored = anchored and bool(identity and issuer)
    identity, issuer = identity or document.signed_by, issuer or document.issuer
    if (document.signed_by, document.issuer) != (identity, issuer):
        said = f"the manifest says it is signed by {document.signed_by} ({document.issuer})"
        return None, Check("trust", False, visible(said, limit=300))
    root = root or own_root
    if not root:
        return None, Check("trust", False, "there is no trusted root in the pack")
    where = "given by the verifier" if anchored else "brought by the pack itself: UNANCHORED"
    return Trust(root, identity, issuer, anchored), Check("trust", True, where)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_BYTES} bytes")
    return data


def _optional(path: Path) -> bytes:
    return _read(path) if path.exists() else b""


def _signer(path: Path) -> tuple[str, str]:
    if not path.exists():
        return "", ""
    document = json.loads(_read(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a JSON object")
    identity, issuer = document.get("identity", ""), document.get("issuer", "")
    if not isinstance(identity, str) or not isinstance(issuer, str):
        raise ValueError(f"{path}: identity and issuer are texts")
    return identity, issuer
