"""Feature flags as flagd definitions: who is to see one, read from a definition and written into it.

The format is flagd's (https://flagd.dev/schema/v0/flags.json). Of its targeting only what is written here is
read back; a rule made by somebody else is `None`, and is never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Literal, TypeAlias

from cockpit.base.limits import MAX_BLOB_BYTES

Definition: TypeAlias = dict[str, Any]
"""A flag as flagd has it."""

TENANT = "tenant"
"""The member of the evaluation context that names the tenant; `targetingKey` carries it as well."""

_BUCKET: dict[str, Any] = {"cat": [{"var": "$flagd.flagKey"}, {"var": TENANT}]}
_MOST_TENANTS = 1000


@dataclass(frozen=True, slots=True)
class Scope:
    """Who sees a flag: nobody, `tenants` alone, `tenants` and `percent` of all others, or everybody."""

    kind: Literal["off", "pilot", "share", "all"]
    tenants: tuple[str, ...] = ()
    percent: int = 0

    def __post_init__(self) -> None:
        if self.kind == "pilot" and not self.tenants:
            raise ValueError("a scope of pilot tenants names at least one")
        if (self.kind == "share") != (0 < self.percent < 100):
            raise ValueError("a share is 1 to 99 percent, and nothing else has one")
        if self.kind in ("off", "all") and self.tenants:
            raise ValueError(f"{self.kind} names no tenants")

    def __str__(self) -> str:
        named = ",".join(self.tenants)
        if self.kind == "share":
            return f"{self.percent}%" + (f" and {named}" if named else "")
        return f"pilot {named}" if self.kind == "pilot" else self.kind

    @property
    def short(self) -> str:
        """Return the kind, or the share in percent."""
        return f"{self.percent}%" if self.kind == "share" else self.kind

    def document(self) -> dict[str, Any]:
        """Return the scope as JSON values."""
        return {"kind": self.kind, "tenants": list(self.tenants), "percent": self.percent}

    @staticmethod
    def of(document: Mapping[str, Any]) -> Scope:
        """Read what `document` gave; raises ValueError or KeyError for anything else."""
        kind, tenants, percent = document["kind"], document["tenants"], document["percent"]
        if kind not in ("off", "pilot", "share", "all") or not isinstance(percent, int):
            raise ValueError("no scope of a flag")
        return Scope(kind, tuple(str(one) for one in tenants), percent)


OFF, ALL = Scope("off"), Scope("all")


def read_catalogue(text: str) -> dict[str, Any]:
    """Return a file of flag definitions as a document; raises ValueError when it is none."""
    if len(text) > MAX_BLOB_BYTES:
        raise ValueError("the flag definitions are too large")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the flag definitions are not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("flags"), dict):
        raise ValueError("the flag definitions have no object `flags`")
    return document


def write_catalogue(document: Mapping[str, Any]) -> str:
    """Return the document as text; members keep their order."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def definition_of(document: Mapping[str, Any], flag: str) -> Definition:
    """Return a flag that is on or off: boolean, with one variant for each; raises ValueError else."""
    found = document["flags"].get(flag)
    if found is None:
        raise ValueError(f"{flag}: there is no such flag")
    if not isinstance(found, dict):
        raise ValueError(f"{flag}: its definition is no object")
    variants = found.get("variants")
    variants = variants if isinstance(variants, dict) else {}
    values = list(variants.values())
    if len(values) != 2 or not any(one is True for one in values) or not any(one is False for one in values):
        raise ValueError(f"{flag}: it needs one variant that is true and one that is false")
    if found.get("state") not in ("ENABLED", "DISABLED"):
        raise ValueError(f"{flag}: its state is neither ENABLED nor DISABLED")
    if found.get("defaultVariant") not in variants:
        raise ValueError(f"{flag}: its defaultVariant is none of its variants")
    return found


def scope_of(definition: Definition) -> Scope | None:
    """Return who sees a flag, None where its targeting was made by somebody else (or it is DISABLED)."""
    if definition["state"] != "ENABLED":
        return None
    on, off = _variants(definition)
    targeting, default = definition.get("targeting"), definition["defaultVariant"]
    if not targeting:
        return ALL if default == on else OFF
    tenants, percent = _tenants(targeting), _percent(targeting)
    for kind in ("pilot", "share"):
        try:
            scope = Scope(kind, tenants, percent if kind == "share" else 0)
        except ValueError:
            continue
        if targeting == _targeting(scope, on, off) and default == off:
            return scope
    return None


def with_scope(definition: Definition, scope: Scope) -> Definition:
    """Return the definition with another scope; everything else in it stays."""
    if len(scope.tenants) > _MOST_TENANTS:
        raise ValueError(f"at most {_MOST_TENANTS} tenants can be named")
    on, off = _variants(definition)
    changed = {**definition, "state": "ENABLED", "defaultVariant": on if scope == ALL else off}
    changed.pop("targeting", None)
    targeting = _targeting(scope, on, off)
    if targeting is not None:
        changed["targeting"] = targeting
    return changed


def hygiene(document: Mapping[str, Any], flags: Sequence[str], now: datetime) -> list[str]:
    """Return what is wrong with the catalogue entries of `flags` at a time: owner and expiry are a must."""
    problems: list[str] = []
    for flag in flags:
        try:
            definition = definition_of(document, flag)
        except ValueError as error:
            problems.append(str(error))
            continue
        if definition["state"] == "DISABLED":
            problems.append(f"{flag}: it is DISABLED, so each caller's own default decides")
        elif scope_of(definition) is None:
            problems.append(f"{flag}: its targeting is not the cockpit's and would be lost")
        metadata = definition.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        owner = metadata.get("owner")
        if not isinstance(owner, str) or not owner.strip():
            problems.append(f"{flag}: its metadata name no owner")
        expires = _moment(metadata.get("expires"))
        if expires is None:
            problems.append(f"{flag}: its metadata give no date in `expires`")
        elif expires <= now:
            problems.append(f"{flag}: it expired on {metadata['expires']}")
    return problems


def expired(document: Mapping[str, Any], now: datetime) -> list[str]:
    """Return all flags of the catalogue whose `expires` has passed."""
    found = []
    for flag, definition in document["flags"].items():
        metadata = definition.get("metadata") if isinstance(definition, dict) else None
        moment = _moment(metadata.get("expires")) if isinstance(metadata, dict) else None
        if moment is not None and moment <= now:
            found.append(flag)
    return sorted(found)


def _variants(definition: Definition) -> tuple[str, str]:
    names = {value: name for name, value in definition["variants"].items()}
    return names[True], names[False]


def _targeting(scope: Scope, on: str, off: str) -> Any:
    if scope.kind in ("off", "all"):
        return None
    rest: Any = off
    if scope.kind == "share":
        # Stable: the same tenant falls on the same side for as long as the flag and the share are the same,
        # and who is in a share stays in every larger one.
        rest = {"fractional": [_BUCKET, [on, scope.percent], [off, 100 - scope.percent]]}
        if not scope.tenants:
            return rest
    return {"if": [{"in": [{"var": TENANT}, list(scope.tenants)]}, on, rest]}


def _tenants(targeting: Any) -> tuple[str, ...]:
    try:
        named = targeting["if"][0]["in"][1]
    except (TypeError, KeyError, IndexError):
        return ()
    return tuple(named) if isinstance(named, list) and all(isinstance(one, str) for one in named) else ()


def _percent(targeting: Any) -> int:
    try:
        inner = targeting["if"][2] if "if" in targeting else targeting
        percent = inner["fractional"][1][1]
    except (TypeError, KeyError, IndexError):
        return 0
    return percent if isinstance(percent, int) and not isinstance(percent, bool) else 0


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time.min, UTC)
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
