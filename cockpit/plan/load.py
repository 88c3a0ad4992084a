"""Loading a release plan: every problem at once, each with file, line and what would be right."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cockpit.base.errors import PlanError, UsageError
from cockpit.base.text import visible
from cockpit.plan.model import Plan
from cockpit.plan.refuse import unfailable

MAX_PLAN_BYTES = 1 << 20


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
        size = path.stat().st_size
        if size > MAX_PLAN_BYTES:
            raise UsageError(f"a plan of {size} bytes; at most {MAX_PLAN_BYTES}", where=str(path))
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the plan: {error.strerror}", where=str(path), hint="give the path of a release.yaml"
        ) from None
    return parse_plan(raw, str(path), base=path.resolve().parent)


def parse_plan(raw: bytes, name: str, *, base: Path) -> LoadedPlan:
    """Check the text of a plan; `name` stands for the file in error messages."""
    document = _read_yaml(raw, name)
    try:
        plan = Plan.model_validate(_plain(document))
    except ValidationError as error:
        problems = tuple(_problem(name, document, detail) for detail in error.errors(include_url=False))
        raise _plan_error(name, problems) from None
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
        raise PlanError("not UTF-8 text", where=name, hint=f"byte {error.start} is not UTF-8") from None
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        what = visible(str(error.problem or error), limit=300)
        raise _plan_error(name, (f"{name}:{line}: not YAML: {what}",)) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise _plan_error(name, (f"{name}:1: not YAML: {visible(str(error), limit=300)}",)) from None
    if not isinstance(document, CommentedMap):
        raise _plan_error(name, (f"{name}:1: a plan is a mapping of fields; start with `format: 1`",))
    return document


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
    where = ".".join(str(part) for part in loc) or "the plan"
    return f"{name}:{_line(document, loc)}: {where}: {_wrong(detail, loc)}"


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
    shown = visible(repr(detail["input"]), limit=80)
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
