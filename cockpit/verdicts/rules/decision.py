"""A policy decision as stored: read so that only a literal `true` without a denial is an allow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cockpit.base.errors import BackendGarbage
from cockpit.base.text import visible


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy decided. `raw` is a JSON document from which the decision can be read again.

    `denials` and `obligations` are sorted; an allow has no denial. `bundle_sha256` names the policy, the
    SHA-256 over its files' names and contents; `input_sha256` what was decided on.
    """

    allow: bool
    denials: tuple[str, ...]
    obligations: tuple[str, ...]
    raw: bytes
    bundle_sha256: str
    input_sha256: str


def read_decision(raw: bytes) -> Decision:
    """Read a decision from its `raw` form; raises BackendGarbage when it is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise BackendGarbage("the decision is not JSON") from None
    if not isinstance(document, dict):
        raise BackendGarbage("the decision is not an object")
    bundle, asked = document.get("bundle_sha256"), document.get("input_sha256")
    engine = document.get("engine")
    if not isinstance(bundle, str) or not isinstance(asked, str) or not isinstance(engine, dict):
        raise BackendGarbage("the decision does not name its bundle, its input and the engine's answer")
    allow, denials, obligations = _read_engine(engine)
    return Decision(allow, denials, obligations, raw, bundle, asked)


def _read_engine(engine: dict[str, Any]) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
    if "unfit" in engine:
        return False, (f"the input cannot be decided on: {visible(str(engine['unfit']), limit=200)}",), ()
    value = engine.get("value")
    if not isinstance(value, dict) or "deny" not in value:
        return False, ("the policy gives no decision (undefined)",), ()
    denials = _texts(value["deny"])
    obligations = _texts(value.get("obligations", []))
    if denials is None or obligations is None:
        return False, ("the policy's denials or obligations are not sets of texts",), ()
    allow = value.get("allow") is True and not denials
    if not allow and not denials:
        denials = ("the policy does not allow it",)
    return allow, denials, obligations


def _texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    return tuple(sorted(visible(one, limit=300) for one in value))
