"""Which fields each kind has, and what strict decoding says of a body that has others, or one of them twice.

`fields.json` is what an API server publishes of its own schemas (OpenAPI v3): a type a line, and for each of
its fields the type of what it holds. `[T` is a list of them, `{T` a map; with none, anything may be in there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["Ignore", "Warn", "Strict"]
MODES: tuple[str, ...] = ("", "Ignore", "Strict", "Warn")
"""What `fieldValidation` may be; nothing means Warn."""

_Table: TypeAlias = dict[str, dict[str, str]]
OPERATIONS = "[JsonPatch"
"""What a JSON patch (RFC 6902) is."""
_MOST = 100
"""Problems that are told of one body."""


class _Pairs(list[tuple[str, Any]]):
    """An object of a JSON text, with the fields it has twice."""


def known(kind: str, body: Any) -> Any:
    """Return a body without the fields its kind does not have: nothing else would be stored of it."""
    return _known(body, kind if kind in _types() else "")


def unknown(kind: str, body: Any) -> list[str]:
    """Return what strict decoding says of an object, e.g. `unknown field "spec.replica"`."""
    return _first(_problems(_as_pairs(body), kind if kind in _types() else "", ""))


def problems(kind: str, raw: bytes, *, custom: bool) -> list[str]:
    """Return what strict decoding says of a JSON text, twice given fields too, in the order of the text.

    `custom`: of a custom resource, twice given ones first and each sort by path. Nothing for other than JSON.
    """
    try:
        body = json.loads(raw, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    found = _first(_problems(body, kind if kind.lstrip("[") in _types() else "", ""))
    return sorted(found) if custom else found


def _first(found: Iterator[str]) -> list[str]:
    return [text for text, _ in zip(found, range(_MOST), strict=False)]


def _known(value: Any, kind: str) -> Any:
    if not kind:
        return value
    if kind[0] == "[":
        return [_known(item, kind[1:]) for item in value] if isinstance(value, list) else value
    if not isinstance(value, dict):
        return value
    if kind[0] == "{":
        return {name: _known(item, kind[1:]) for name, item in value.items()}
    fields = _types()[kind]
    return {name: _known(item, fields[name]) for name, item in value.items() if name in fields}


def _problems(value: Any, kind: str, where: str) -> Iterator[str]:
    """Yield problems; an object is its pairs, and of no type (`kind` empty) only twice given fields count."""
    if isinstance(value, _Pairs):
        fields = None if kind[:1] in ("", "{", "[") else _types()[kind]
        seen: set[str] = set()
        for name, item in value:
            path = f"{where}.{name}" if where else name
            if name in seen:
                yield f'duplicate field "{path}"'
            seen.add(name)
            if fields is not None and name not in fields:
                yield f'unknown field "{path}"'
                continue
            inner = kind[1:] if kind[:1] == "{" else "" if fields is None else fields[name]
            yield from _problems(item, inner, path)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _problems(item, kind[1:] if kind[:1] == "[" else "", f"{where}[{number}]")


def _as_pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return _Pairs((name, _as_pairs(item)) for name, item in value.items())
    if isinstance(value, list):
        return [_as_pairs(item) for item in value]
    return value


@cache
def _types() -> _Table:
    table: _Table = json.loads(Path(__file__).with_suffix(".json").read_bytes())
    return {**table, OPERATIONS[1:]: dict.fromkeys(("op", "path", "from", "value"), "")}
