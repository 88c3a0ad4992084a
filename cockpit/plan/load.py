"""Loading a release plan: every problem at once, each with file, line and what would be right."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from cockpit.base.errors import PlanError, UsageError
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.plan.model import Plan
from cockpit.plan.refuse import unfailable
from cockpit.plan.yaml import NotYaml, read

MAX_PLAN_BYTES = 1 << 20
_SECRETS = frozenset({"token", "secret", "token_secret", "otlp_token", "scim_token", "totp"})
_REFERENCE = "a secret is referenced as env:NAME or file:PATH, never written into the plan"
_LARGEST = 1e15
_MOST_TOLD = 100
_ENDLESS = re.compile(
    r"(\d+(\.\d+)?(ms|s|m|h|d) *)*\d{12,}(\.\d+)?(ms|s|m|h|d) *(\d+(\.\d+)?(ms|s|m|h|d) *)*"
)
_REDACTOR = Redactor()


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan, the bytes it was read from and their SHA-256 (64 hexadecimal digits); `base` is its folder."""

    plan: Plan
    raw: bytes
    sha256: str
    base: Path


def load_plan(path: Path) -> LoadedPlan:
    """Read and check a plan. Raises UsageError when it cannot be read, PlanError when it is wrong."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PLAN_BYTES + 1)
        base = path.resolve().parent
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        what = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise UsageError(
            f"cannot read the plan: {what}", where=str(path), hint="give the path of a release.yaml"
        ) from None
    if len(raw) > MAX_PLAN_BYTES:
        raise UsageError(f"a plan of more than {MAX_PLAN_BYTES} bytes", where=str(path))
    return parse_plan(raw, str(path), base=base)


def parse_plan(raw: bytes, name: str, *, base: Path) -> LoadedPlan:
    """Check the text of a plan; `name` stands for the file in error messages."""
    document = _read_yaml(raw, name)
    early = [f"{name}:{_line(document, loc)}: {_dotted(loc)}: {what}" for loc, what in _unfit(document, ())]
    try:
        plan = Plan.model_validate(_plain(document))
    except ValidationError as error:
        details = [d for d in error.errors(include_url=False) if not _SECRETS & set(map(str, d["loc"]))]
        problems = [_problem(name, document, detail) for detail in details[:_MOST_TOLD]]
        if len(details) > _MOST_TOLD:
            problems.append(f"{name}:{len(raw.splitlines())}: and {len(details) - _MOST_TOLD} more")
        raise _plan_error(name, (*early[:_MOST_TOLD], *problems)) from None
    except OverflowError:
        # Numbers are bounded above; what is left to overflow is the calendar.
        raise _plan_error(name, (*early, _calendar(name, document))) from None
    if plan.window_utc.start.year < 1970 or plan.window_utc.end.year > 9000:
        early.append(_calendar(name, document))
    if early:
        raise _plan_error(name, tuple(early[:_MOST_TOLD]))
    refused = tuple(
        f"{name}:{_line(document, _parts(where))}: {where}: {what}; {right}"
        for where, what, right in unfailable(plan)
    )
    if refused:
        raise _plan_error(name, refused)
    return LoadedPlan(plan, raw, hashlib.sha256(raw).hexdigest(), base)


def _plan_error(name: str, problems: tuple[str, ...]) -> PlanError:
    ordered = tuple(sorted(problems, key=_line_of))
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return PlanError(f"{count} in the plan", where=name, problems=ordered)


def _line_of(problem: str) -> int:
    parts = problem.split(":")
    return next((int(part) for part in parts[1:] if part.isdigit()), 0)


def _read_yaml(raw: bytes, name: str) -> CommentedMap:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _plan_error(name, (f"{name}:{line}: byte {error.start} is not UTF-8 text",)) from None
    try:
        return read(text)
    except NotYaml as error:
        raise _plan_error(name, (f"{name}:{error.line}: {error.what}",)) from None


def _calendar(name: str, document: CommentedMap) -> str:
    line = _line(document, ("window_utc",))
    return f"{name}:{line}: window_utc: a time beyond the calendar; write it like 2025-09-23 08:00"


def _unfit(node: object, loc: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield what no field may hold: secrets written out, and numbers no clock or counter can take."""
    if isinstance(node, CommentedMap):
        for key, value in node.items():
            if key in _SECRETS and value is not None and not _is_reference(value):
                yield (*loc, key), _REFERENCE
            else:
                yield from _unfit(value, (*loc, key))
    elif isinstance(node, CommentedSeq):
        for index, value in enumerate(node):
            yield from _unfit(value, (*loc, index))
    elif isinstance(node, str):
        if _REDACTOR.text(node) != node:
            yield loc, f"this looks like a secret: {_REFERENCE}"
        elif _ENDLESS.fullmatch(node.strip()):
            yield loc, "longer than any clock can wait; write it like 30s, 5m or 1h30m"
    elif isinstance(node, (int, float)) and not abs(node) <= _LARGEST:
        yield loc, "not a number a plan can hold"


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(env|file):\S.*", value) is not None


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "the plan"


def _plain(node: object) -> Any:
    """Return ruamel's tree as plain values (a timestamp becomes a datetime, which the model reads)."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        return float(node)
    if isinstance(node, str):
        return str(node)
    return node


def _line(document: CommentedMap, loc: tuple[int | str, ...]) -> int:
    """Return the line (from 1) of the deepest part of `loc` that stands in the document."""
    node: object = document
    line = 1
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            line = cast(int, node.lc.key(part)[0]) + 1
            node = node[part]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = cast(int, node.lc.item(part)[0]) + 1
            node = node[part]
        else:
            break
    return line


def _parts(where: str) -> tuple[int | str, ...]:
    """Return `canary.checks[0].threshold` as its parts."""
    return tuple(int(n) if n else word for word, n in re.findall(r"([^.\[\]]+(?![^\[]*\]))|\[(\d+)\]", where))


def _problem(name: str, document: CommentedMap, detail: ErrorDetails) -> str:
    loc = tuple(part for part in detail["loc"] if part != "__root__")
    return f"{name}:{_line(document, loc)}: {visible(_dotted(loc), limit=200)}: {_wrong(detail, loc)}"


def _wrong(detail: ErrorDetails, loc: tuple[int | str, ...]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing; add it"
    if kind == "extra_forbidden":
        field = str(loc[-1])
        near = difflib.get_close_matches(field, _fields_at(loc[:-1]), n=1)
        return (
            f"is not a field of the plan; did you mean `{near[0]}`?" if near else "is not a field; remove it"
        )
    shown = visible(_REDACTOR.text(repr(detail["input"])), limit=80)
    if kind == "literal_error":
        return f"{shown} is not possible; it must be one of {context.get('expected', '')}"
    if kind == "string_pattern_mismatch":
        return f"{shown} does not have the form {context.get('pattern', '')}"
    message = visible(detail["msg"].removeprefix("Value error, "), limit=300)
    return f"{message} (found {shown})" if kind != "value_error" else message


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Plan
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field is not None else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
