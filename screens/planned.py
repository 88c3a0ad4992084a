"""What the plan of a run says, as far as a screen shows or asks it: read as plain data, never trusted.

The plan's model belongs to the conductor and costs a screen its start; what is malformed here is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cockpit.base.text import visible

Data: TypeAlias = dict[str, object]

_MAX_PLAN = 1 << 20
_MOST = 60


@dataclass(frozen=True, slots=True)
class Signatory:
    """Someone the plan lists: who may be asked, and the groups they are of."""

    id: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan's facts; all of it empty when it cannot be read. `lines` are (label, text) for the preview."""

    factors: tuple[float, ...] = ()
    """Burn rates at which the alert fires."""
    overridable: tuple[str, ...] = ()
    second_person: bool = True
    glass_lasts: str = ""
    people: tuple[Signatory, ...] = ()
    flags: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    known: bool = False


def planned(raw: bytes) -> Planned:
    """Return the facts of a stored plan."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(raw) > _MAX_PLAN:
        return Planned()
    try:
        found: object = YAML(typ="safe", pure=True).load(raw.decode())
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return Planned()
    if not isinstance(found, dict):
        return Planned()
    plan: Data = {str(name): value for name, value in found.items()}
    approvals = _map(plan.get("approvals"))
    glass = _map(approvals.get("break_glass"))
    return Planned(
        factors=_factors(plan),
        overridable=_texts(glass.get("overridable")),
        second_person=glass.get("second_person", True) is not False,
        glass_lasts=_text(glass.get("expires", "1h")),
        people=tuple(
            Signatory(_text(one.get("id")), _texts(one.get("groups")))
            for one in _maps(approvals.get("people"))
            if one.get("id")
        ),
        flags=_texts(plan.get("ga_flags")),
        images=tuple(
            (_text(one.get("name")), _text(one.get("image"))) for one in _maps(plan.get("services"))
        ),
        lines=tuple(_lines(plan, approvals, glass)),
        known=True,
    )


def _factors(plan: Data) -> tuple[float, ...]:
    windows = _maps(_map(_map(plan.get("canary")).get("burn")).get("windows"))
    factors = (window.get("factor") for window in windows)
    return tuple(sorted({float(one) for one in factors if isinstance(one, (int, float)) and one > 0}))


def _lines(plan: Data, approvals: Data, glass: Data) -> list[tuple[str, str]]:
    canary = _map(plan.get("canary"))
    steps = canary.get("steps")
    weights = ", ".join(f"{_text(one)} %" for one in steps[:_MOST]) if isinstance(steps, list) else ""
    begun = _text(plan.get("promote_on")) or "gates"
    lines = [
        ("window", _text(plan.get("window_utc"))),
        ("phases", " ".join(_texts(plan.get("phases"))) or "all"),
        ("gates", ", ".join(_texts(plan.get("required_gates"))) or "all six"),
        ("stages", ", ".join(_stage(one) for one in _maps(plan.get("stages")))),
        ("promotion", f"{weights}, begun by the {begun}" if weights else ""),
        ("each step", _step(canary)),
        *(("look", _text(one.get("threshold"))) for one in _maps(canary.get("checks"))),
        ("flags", ", ".join(_texts(plan.get("ga_flags")))),
    ]
    for rule in _maps(approvals.get("rules")):
        of = ", ".join(_texts(rule.get("groups"))) or "everybody listed"
        lines.append(("approval", f"{_text(rule.get('asked'))}: {_text(rule.get('threshold', 1))} of {of}"))
    if glass:
        lines.append(("break-glass", f"may override {', '.join(_texts(glass.get('overridable')))}"))
    lines += [("KPI", _text(one.get("name"))) for one in _maps(_map(plan.get("kpis")).get("items"))]
    lines.append(("on HALT", _text(plan.get("on_halt"))))
    for waiver in _maps(plan.get("waivers")):
        lines.append(("waived", f"{_text(waiver.get('what'))}: {_text(waiver.get('reason'))}"))
    return [line for line in lines if line[1]]


def _stage(stage: Data) -> str:
    steps = stage.get("steps")
    weights = f" ({', '.join(f'{_text(one)} %' for one in steps[:9])})" if isinstance(steps, list) else ""
    return f"{_text(stage.get('environment'))}{weights}"


def _step(canary: Data) -> str:
    bake, passes = _text(canary.get("bake")), _text(canary.get("required_passes"))
    limit, interval = _text(canary.get("failure_limit")), _text(canary.get("interval"))
    words = [
        f"baked {bake}" if bake else "",
        f"a look each {interval}" if interval else "",
        f"{passes} passes needed" if passes else "",
        f"rolled back after {limit} failures in a row, at once when critical" if limit else "",
    ]
    return ", ".join(word for word in words if word)


def _map(value: object) -> Data:
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def _maps(value: object) -> list[Data]:
    return [_map(one) for one in value[:_MOST] if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(one) for one in value[:_MOST]) if isinstance(value, list) else ()


def _text(value: object) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else visible(str(value), limit=300)
