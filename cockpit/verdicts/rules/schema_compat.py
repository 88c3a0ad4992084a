"""Is a changed JSON Schema still compatible? For the subset of 2020-12 whose meaning is known here.

A schema is read as the set of documents it accepts. `breaks(a, b)` shows that everything `a` accepts `b`
accepts too, or says where that could not be shown. It is sound, not complete: what cannot be shown counts as
broken, and a keyword that is not known here raises `Unknown`: it could change the meaning of all the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any] | bool

_ANNOTATIONS = {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
_TYPES = {"null", "boolean", "object", "array", "number", "integer", "string"}
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_KNOWN = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "pattern",
    "uniqueItems", *_NUMBERS, *_COUNTS,
}  # fmt: skip
_LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_MAX_DEPTH = 40


class Unknown(ValueError):
    """A keyword or a form whose meaning is not known here: nothing can be said about the schema."""


def check_known(schema: Any, where: str = "#", depth: int = 0) -> None:
    """Raise Unknown unless every part of the schema has a meaning known here."""
    if depth > _MAX_DEPTH:
        raise Unknown(f"{where}: nested too deeply")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise Unknown(f"{where}: not a schema")
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword not in _KNOWN:
            raise Unknown(f"{where}: the keyword {keyword!r} is not understood")
        if not _well_formed(keyword, value):
            raise Unknown(f"{where}: the value of {keyword!r} is not understood")
    for name, inner in schema.get("properties", {}).items():
        check_known(inner, f"{where}/properties/{name}", depth + 1)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            check_known(schema[keyword], f"{where}/{keyword}", depth + 1)


def _well_formed(keyword: str, value: Any) -> bool:
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
    if keyword == "enum":
        return isinstance(value, list) and bool(value)
    if keyword == "required":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if keyword == "properties":
        return isinstance(value, dict)
    if keyword == "pattern":
        return isinstance(value, str)
    if keyword == "uniqueItems":
        return isinstance(value, bool)
    if keyword in _NUMBERS:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return number and (keyword != "multipleOf" or value > 0)
    if keyword in _COUNTS:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return True


def breaks(narrower: Schema, wider: Schema) -> list[str]:
    """Return every place where a document accepted by `narrower` might be refused by `wider`.

    Both are checked first; raises Unknown.
    """
    check_known(narrower)
    check_known(wider)
    return list(_breaks(narrower, wider, "#", 0))


def _types(schema: Mapping[str, Any]) -> set[str]:
    """Return the primitive types a schema may accept, with `integer` beside `number` where number is."""
    if "const" in schema:
        return {_type_of(schema["const"])}
    if "enum" in schema:
        return {_type_of(value) for value in schema["enum"]}
    named = schema.get("type")
    if named is None:
        return set(_TYPES)
    types = {named} if isinstance(named, str) else set(named)
    return types | {"integer"} if "number" in types else types


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found: list[Any] | None = schema.get("enum")
    return found


def _breaks(a: Schema, b: Schema, where: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        yield f"{where}: nested too deeply"
        return
    if b is True or a is False or b == {}:
        return
    if b is False:
        yield f"{where}: nothing is accepted any more"
        return
    left: Mapping[str, Any] = {} if a is True else a
    listed = _values(left)
    if listed is not None:
        # A finite set: each value is tried, which is exact; those the left itself refuses are skipped.
        yield from _tried(listed, left, b, where)
        return
    allowed = _values(b)
    if allowed is not None:
        yield f"{where}: only listed values are accepted now"
        return
    lost = _types(left) - _types(b)
    if lost:
        yield f"{where}: type {', '.join(sorted(lost))} is no longer accepted"
    shared = _types(left) & _types(b)
    yield from _bounds(left, b, shared, where)
    if "object" in shared:
        yield from _objects(left, b, where, depth)
    if "array" in shared:
        if "items" in b:
            yield from _breaks(left.get("items", True), b["items"], f"{where}/items", depth + 1)
        if b.get("uniqueItems") and not left.get("uniqueItems"):
            yield f"{where}: items must be unique now"
    if "string" in shared and "pattern" in b and left.get("pattern") != b["pattern"]:
        yield f"{where}: the pattern is another now"


def _tried(listed: list[Any], left: Mapping[str, Any], right: Mapping[str, Any], where: str) -> Iterator[str]:
    from jsonschema import Draft202012Validator

    own, other = Draft202012Validator(left), Draft202012Validator(right)
    for value in listed:
        if own.is_valid(value) and not other.is_valid(value):
            yield f"{where}: the value {str(value)[:60]!r} is no longer accepted"


def _bounds(a: Mapping[str, Any], b: Mapping[str, Any], shared: set[str], where: str) -> Iterator[str]:
    about = {
        "minLength": "string", "maxLength": "string", "minItems": "array", "maxItems": "array",
        "minProperties": "object", "maxProperties": "object",
    }  # fmt: skip
    for keyword in (*_COUNTS, *_NUMBERS):
        if keyword not in b:
            continue
        concerned = about.get(keyword)
        if not (shared & {"number", "integer"} if concerned is None else concerned in shared):
            continue
        if keyword == "multipleOf":
            # Division of floats is not exact, so only the same divisor is taken as the same.
            if a.get(keyword) != b[keyword]:
                yield f"{where}: numbers must be multiples of {b[keyword]} now"
        elif not _as_tight(a, keyword, b[keyword]):
            yield f"{where}: {keyword} is {b[keyword]} now"


def _as_tight(a: Mapping[str, Any], keyword: str, limit: float) -> bool:
    if keyword in _LOWER and keyword not in ("minimum", "exclusiveMinimum") and limit == 0:
        return True
    pairs = {
        "minimum": ("minimum", "exclusiveMinimum"),
        "maximum": ("maximum", "exclusiveMaximum"),
        "exclusiveMinimum": ("exclusiveMinimum",),
        "exclusiveMaximum": ("exclusiveMaximum",),
    }
    for own in pairs.get(keyword, (keyword,)):
        if own in a and (a[own] >= limit if keyword in _LOWER else a[own] <= limit):
            return True
    # A strict bound of the right is also kept by a bound of the left that lies beyond it.
    plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
    if plain is not None and plain in a:
        return bool(a[plain] > limit if keyword in _LOWER else a[plain] < limit)
    return False


def _objects(a: Mapping[str, Any], b: Mapping[str, Any], where: str, depth: int) -> Iterator[str]:
    for name in b.get("required", []):
        if name not in a.get("required", []):
            yield f"{where}: {name!r} is required now"
    left, right = a.get("properties", {}), b.get("properties", {})
    rest_left, rest_right = a.get("additionalProperties", True), b.get("additionalProperties", True)
    for name in sorted({*left, *right}):
        yield from _breaks(
            left.get(name, rest_left), right.get(name, rest_right), f"{where}/properties/{name}", depth + 1
        )
    yield from _breaks(rest_left, rest_right, f"{where}/additionalProperties", depth + 1)
