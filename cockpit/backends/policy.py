"""Policy decisions: Rego bundles, decided by an embedded engine in a process of its own.

Deny is the default of everything: only a literal `true` for `allow`, with no denial, is an allow.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from cockpit.base.child import in_child
from cockpit.base.errors import BackendGarbage, BackendRefused
from cockpit.base.text import visible
from cockpit.verdicts.rules.decision import Decision, read_decision

MAX_INPUT_BYTES = 4 << 20
"""Largest input of a decision, as JSON."""

MAX_TEXT_CHARS = 64 * 1024
"""Longest string within an input; the engine's own `count` counts escapes, so lengths are checked here."""

_MAX_DEPTH = 60
_MAX_INT = 2**53
_RULES = ("allow", "deny", "obligations")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class PolicyBackend(Protocol):
    """Decides over an input with a named bundle."""

    async def decide(self, bundle_name: str, input: Mapping[str, Any]) -> Decision:
        """Decide; raises BackendUnreachable, BackendRefused (no such bundle) or BackendGarbage."""
        ...


def default_bundles() -> Path:
    """Return the folder of the bundles that come with the cockpit."""
    return Path(__file__).resolve().parents[1] / "agents" / "policy"


class EmbeddedRego:
    """Rego through regopy. A bundle is a folder `<bundles>/<name>/` of `.rego` files of package `name`.

    The package gives `allow` (boolean), `deny` (set of texts) and, if it has any, `obligations` (set of
    texts). Each decision gets a new process with an empty environment, killed after `deadline` seconds.
    """

    def __init__(self, bundles: Path | None = None, *, deadline: float = 20.0) -> None:
        self._bundles = bundles or default_bundles()
        self._deadline = deadline

    async def decide(self, bundle_name: str, input: Mapping[str, Any]) -> Decision:
        """Decide; see PolicyBackend."""
        modules = self._modules(bundle_name)
        digest = bundle_digest(modules)
        unfit = next(problems(input), "")
        if unfit:
            # The engine is known to misread such input: that is a deny, not a question to it.
            return _decision({"unfit": unfit}, digest, b"")
        data = encode_input(input)
        if len(data) > MAX_INPUT_BYTES:
            return _decision(
                {"unfit": f"an input of {len(data)} bytes; at most {MAX_INPUT_BYTES}"}, digest, b""
            )
        request = json.dumps(
            {"modules": modules, "package": bundle_name, "rules": _RULES, "input": input}, ensure_ascii=False
        ).encode()
        answer = await self._ask(request)
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            raise BackendGarbage("the policy engine's answer is not JSON") from None
        if not isinstance(document, dict):
            raise BackendGarbage("the policy engine's answer is not an object")
        if isinstance(document.get("error"), str):
            raise BackendGarbage(f"the policy engine failed: {visible(document['error'], limit=300)}")
        return _decision(document, digest, data)

    def _modules(self, name: str) -> list[tuple[str, str]]:
        folder = self._bundles / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            raise BackendRefused(f"there is no policy bundle {visible(name, limit=80)!r}")
        try:
            modules = [
                (path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.rego"))
            ]
        except (OSError, UnicodeError):
            raise BackendRefused(f"the policy bundle {name!r} cannot be read") from None
        if not modules:
            raise BackendRefused(f"the policy bundle {name!r} holds no policy")
        return modules

    async def _ask(self, request: bytes) -> bytes:
        return await in_child(
            "cockpit.backends.policy_child", request, what="the policy engine", deadline=self._deadline
        )


def encode_input(value: Mapping[str, Any]) -> bytes:
    """Return an input as the bytes whose digest a decision carries; raises ValueError for what is no JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()


def bundle_digest(modules: list[tuple[str, str]]) -> str:
    """Return the SHA-256 that names a bundle: over the JSON of its (name, content) pairs in order."""
    return hashlib.sha256(json.dumps(modules, ensure_ascii=False).encode()).hexdigest()


def problems(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield why the engine could misread this input: what it is known to get wrong is never put to it."""
    if depth > _MAX_DEPTH:
        yield "the input is nested too deeply"
    elif isinstance(value, str):
        if "\x00" in value:
            yield "a text holds NUL"
        elif len(value) > MAX_TEXT_CHARS:
            yield f"a text of {len(value)} characters; at most {MAX_TEXT_CHARS}"
        elif not value.isprintable() and any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            yield "a text is not Unicode"
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > _MAX_INT:
            yield "an integer beyond 2^53"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield "a number that is not finite"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield "a member name that is no text"
                continue
            yield from problems(key, depth + 1)
            yield from problems(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from problems(inner, depth + 1)
    else:
        yield f"a value of type {type(value).__name__}"


def _decision(engine: dict[str, Any], bundle: str, data: bytes) -> Decision:
    raw = json.dumps(
        {"bundle_sha256": bundle, "input_sha256": hashlib.sha256(data).hexdigest(), "engine": engine},
        ensure_ascii=False,
        sort_keys=True,
    ).encode("utf-8", "backslashreplace")
    return read_decision(raw)
