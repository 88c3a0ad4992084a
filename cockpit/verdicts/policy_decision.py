"""A decision of the release policy as stored: read so that only a literal `true` is an allow.

(`cockpit/verdicts/rules/decision.py` reads the admission policy's decisions on manifests.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.base.errors import BackendGarbage
from cockpit.base.text import visible
from cockpit.verdicts.obligations import Obligation

MAX_OBLIGATIONS = 50
MAX_REASONS = 100


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy engine decided.

    `allow` says nothing of the obligations: they must be met besides. `reasons` says why not, and may explain
    an allow. `raw` is a JSON document from which the decision, its input and the engine's answer can be read
    again. `engine` is `embedded` or `opa`.
    """

    allow: bool
    obligations: tuple[Obligation, ...]
    reasons: tuple[str, ...]
    raw: bytes
    engine: str


def stored(*, engine: str, path: str, policy: str, input: Mapping[str, Any] | None, **answered: str) -> bytes:
    """Return the `raw` form: `answered` is `answer` (the engine's JSON), `unfit` or `error`.

    `path` is the data path asked, `policy` the SHA-256 of the policy's files where the engine knows it.
    """
    document = {"engine": engine, "path": path, "policy_sha256": policy, "input": input, **answered}
    # What cannot be encoded is shown escaped: such input is refused, and the record says which it was.
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")


def read_decision(raw: bytes) -> Decision:
    """Read a decision from its `raw` form; raises BackendGarbage when it is none, or records an error."""
    document = _object(raw, "the stored decision")
    engine = document.get("engine")
    if not isinstance(engine, str):
        raise BackendGarbage("the stored decision does not name its engine")
    if isinstance(document.get("error"), str):
        raise BackendGarbage(f"no decision came: {visible(document['error'], limit=300)}")
    if isinstance(document.get("unfit"), str):
        reason = f"the input cannot be decided on: {visible(document['unfit'], limit=200)}"
        return Decision(False, (), (reason,), raw, engine)
    answer = document.get("answer")
    if not isinstance(answer, str):
        raise BackendGarbage("the stored decision holds no answer")
    allow, obligations, reasons = _read(_object(answer, "the policy engine's answer"))
    return Decision(allow, obligations, reasons, raw, engine)


def input_of(raw: bytes) -> dict[str, Any] | None:
    """Return what a stored decision was made on; None when it does not say."""
    found = _object(raw, "the stored decision").get("input")
    return found if isinstance(found, dict) else None


def policy_of(raw: bytes) -> str:
    """Return the digest of the policy a stored decision was made by, `""` when the engine did not say."""
    return str(_object(raw, "the stored decision").get("policy_sha256", ""))


def digest_of(modules: list[tuple[str, str]]) -> str:
    """Return the SHA-256 that names a policy: over the JSON of its (name, content) pairs in order."""
    return hashlib.sha256(json.dumps(modules, ensure_ascii=False).encode()).hexdigest()


def _object(data: bytes | str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BackendGarbage(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise BackendGarbage(f"{what} is not an object")
    return document


def _read(answer: dict[str, Any]) -> tuple[bool, tuple[Obligation, ...], tuple[str, ...]]:
    if "result" not in answer:
        return False, (), ("undefined: the policy gives no decision on this",)
    result = answer["result"]
    if not isinstance(result, dict):
        return False, (), ("the policy's decision is not an object",)
    obligations = _obligations(result.get("obligations", []))
    reasons = _texts(result.get("reasons", []))
    if obligations is None:
        return False, (), ("the policy's obligations cannot be read",)
    if reasons is None:
        return False, obligations, ("the policy's reasons cannot be read",)
    allow = result.get("allow") is True
    if not allow and not reasons:
        reasons = ("the policy does not allow it",)
    return allow, obligations, reasons


def _obligations(value: Any) -> tuple[Obligation, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_OBLIGATIONS:
        return None
    found: dict[str, Obligation] = {}
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
            return None
        params = {name: inner for name, inner in one.items() if name != "name"}
        found[json.dumps([one["name"], params], sort_keys=True)] = Obligation(one["name"], params)
    return tuple(found[key] for key in sorted(found))


def _texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_REASONS:
        return None
    if not all(isinstance(one, str) for one in value):
        return None
    return tuple(sorted({visible(one, limit=300) for one in value}))
