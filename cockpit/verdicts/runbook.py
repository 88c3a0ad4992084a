"""Runbooks: Markdown with front matter that says owner, trigger, steps, rollback, last drill and goals."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Any

from cockpit.base.text import visible

MAX_RUNBOOK_BYTES = 256 * 1024
FIELDS = ("owner", "trigger", "steps", "rollback", "last_drill", "mtta", "mttr")
"""What the front matter has to say. `steps` counts the numbered steps of the body, or lists them; `mtta` and
`mttr` are the goals for the mean times to acknowledge and to repair, e.g. `5m`."""
_MAX_FRONT = 16 * 1024
_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STEP = re.compile(r"^(\d{1,3})\. \S", re.MULTILINE)
_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([A-Za-z0-9._-]+\.md)(?:#[^)\s]*)?\)")


@dataclass(frozen=True, slots=True)
class Runbook:
    """What a runbook says, as far as it can be read; `problems` is empty when it is complete.

    `last_drill` is None where it was never drilled; `mtta_s` and `mttr_s` are goals in seconds.
    """

    name: str
    owner: str
    steps: int
    last_drill: date | None
    mtta_s: float | None
    mttr_s: float | None
    problems: tuple[str, ...]


def lint(name: str, raw: bytes, *, known: Collection[str], today: date) -> Runbook:
    """Read a runbook and say what is wrong with it; `known` are the file names beside it. Never raises."""
    problems: list[str] = []
    front, body = _split(raw, problems)
    missing = [field for field in FIELDS if field not in front]
    if missing:
        problems.append(f"the front matter has no {', '.join(missing)}")
    owner = _words(front, "owner", problems)
    if owner and not owner.startswith("@"):
        problems.append(f"the owner {owner!r} is nobody who can be told (`@name`)")
    _words(front, "trigger", problems)
    _words(front, "rollback", problems)
    steps = _steps(front.get("steps"), body, problems) if "steps" in front else 0
    drilled = _drill(front["last_drill"], today, problems) if "last_drill" in front else None
    mtta, mttr = _goal(front, "mtta", problems), _goal(front, "mttr", problems)
    if not re.search(r"^# \S", body, re.MULTILINE):
        problems.append("it has no title")
    gone = sorted({target for target in _LINK.findall(body) if target not in known})
    if gone:
        problems.append(f"it links to {', '.join(gone)}, which is not there")
    shown = tuple(visible(problem, limit=300) for problem in problems)
    return Runbook(name, visible(owner, limit=100), steps, drilled, mtta, mttr, shown)


def _split(raw: bytes, problems: list[str]) -> tuple[dict[str, Any], str]:
    if len(raw) > MAX_RUNBOOK_BYTES:
        problems.append(f"it has more than {MAX_RUNBOOK_BYTES} bytes")
        return {}, ""
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        problems.append("it is not UTF-8")
        return {}, ""
    if not text.startswith("---\n") or "\n---\n" not in text[3:]:
        problems.append("it has no front matter")
        return {}, text
    front, _, body = text[4:].partition("\n---\n")
    if len(front) > _MAX_FRONT:
        problems.append("its front matter is too long")
        return {}, body
    try:
        from ruamel.yaml import YAML

        found = YAML(typ="safe", pure=True).load(io.StringIO(front))
    except Exception as error:  # noqa: BLE001 - anybody's text; YAML's errors are many
        problems.append(f"its front matter is not YAML ({type(error).__name__})")
        return {}, body
    if not isinstance(found, dict):
        problems.append("its front matter is no mapping")
        return {}, body
    return {str(key): value for key, value in found.items()}, body


def _words(front: dict[str, Any], field: str, problems: list[str]) -> str:
    if field not in front:
        return ""
    value = front[field]
    if not isinstance(value, str) or not value.strip():
        problems.append(f"{field} says nothing")
        return ""
    return value.strip()


def _steps(given: Any, body: str, problems: list[str]) -> int:
    if isinstance(given, list):
        if not given or not all(isinstance(one, str) and one.strip() for one in given):
            problems.append("steps lists nothing to do")
        return len(given)
    found = [int(number) for number in _STEP.findall(_FENCE.sub("", body))]
    if type(given) is not int or given < 1:
        problems.append("steps is neither a number nor a list of steps")
        return 0
    if found != list(range(1, given + 1)):
        problems.append(f"{given} steps are announced, those of the text are numbered {found or 'not'}")
    return given


def _drill(given: Any, today: date, problems: list[str]) -> date | None:
    if given == "none":
        return None
    try:
        when = given if type(given) is date else date.fromisoformat(str(given)[:10])
    except ValueError:
        problems.append("last_drill is neither a date nor `none`")
        return None
    if when > today:
        problems.append(f"it was drilled on {when}, which is still to come")
    return when


def _goal(front: dict[str, Any], field: str, problems: list[str]) -> float | None:
    if field not in front:
        return None
    found = _DURATION.fullmatch(str(front[field]))
    if found is None:
        problems.append(f"{field} is no time such as 5m")
        return None
    return int(found[1]) * _SECONDS[found[2]]
