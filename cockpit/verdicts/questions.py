"""What one look at the canary asks, under stable names, and the document that keeps it for judging again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from cockpit.base.promql import window_text as window_text

RULE_LOOK = "canary_look"
"""The name under which a look's rule is recorded."""


class Section(Protocol):
    """The plan's canary section (or anything that gives it as plain values)."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the section as JSON values."""
        ...


def plain(canary: Section | Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan's canary section as JSON values, durations in seconds."""
    return dict(canary) if isinstance(canary, Mapping) else canary.model_dump(mode="json")


def stable_names(canary: Section | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the answers about stable: they are carried over when stable has no traffic."""
    names: list[str] = []
    for check in plain(canary)["baseline"]:
        names.append(f"baseline.{check['metric']}.stable")
        if check["kind"] == "proportion":
            names.append(f"baseline.{check['metric']}.stable_total")
    return tuple(names)


def queries_for(canary: Section | Mapping[str, Any], window_s: float, *, weight: int = 0) -> dict[str, str]:
    """Return every query of a look by its name, `{window}` filled in.

    Names: `requests`, `share`, `check.<metric>`, `baseline.<metric>.canary|canary_total|stable|stable_total`,
    `burn.long|short.<i>.errors|total` (burn windows are the plan's own). At a `weight` of 100 % stable serves
    nobody, so it is not asked about: give the answers named by `stable_names` from the last look before.
    """
    section = plain(canary)
    window = window_text(window_s)
    found = {"requests": section["requests"], "share": section["share"]}
    for check in section["checks"]:
        found[f"check.{check['metric']}"] = check["query"]
    for check in section["baseline"]:
        name = f"baseline.{check['metric']}"
        found[f"{name}.canary"] = check["canary"]
        found[f"{name}.stable"] = check["stable"]
        if check["kind"] == "proportion":
            found[f"{name}.canary_total"] = check["canary_total"]
            found[f"{name}.stable_total"] = check["stable_total"]
    if weight >= 100:
        for name in stable_names(section):
            del found[name]
    filled = {name: text.replace("{window}", window) for name, text in found.items()}
    for index, pair in enumerate(section["burn"]["windows"]):
        for length in ("long", "short"):
            for part in ("errors", "total"):
                text = section["burn"][part].replace("{window}", window_text(pair[length]))
                filled[f"burn.{length}.{index}.{part}"] = text
    return filled


def look_params(
    canary: Section | Mapping[str, Any],
    *,
    window_s: float,
    weight: int,
    now: float,
    seen_before: Collection[str] = (),
    carried: Collection[str] = (),
) -> dict[str, Any]:
    """Return the parameters of `rule_look` as JSON values.

    `now`: when the look was taken, Unix seconds by the back end's clock (ours plus the measured offset).
    `seen_before`: names whose series had samples before the step. `carried`: names of `stable_names` whose
    answers come from the last look before the step to 100 %.
    """
    return {
        "canary": plain(canary),
        "window_s": window_s,
        "weight": weight,
        "now": now,
        "seen_before": sorted(seen_before),
        "carried": sorted(carried),
    }


def look_document(params: Mapping[str, Any], answers: Mapping[str, str], queries: Mapping[str, Any]) -> bytes:
    """Return the stored form of a look: `answers` are digests by name, `queries` say how each was asked."""
    document = {
        "format": 1,
        "rule": {"name": RULE_LOOK, "params": dict(params), "answers": dict(answers)},
        "queries": dict(queries),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def error_answer(kind: str, text: str) -> bytes:
    """Return what is stored for an answer that did not come: `kind` is timeout, http, cut or garbage."""
    return json.dumps({"error": kind, "text": text[:400]}, sort_keys=True).encode()


def error_of(raw: bytes) -> str | None:
    """Return what went wrong when `raw` is an error kept by `error_answer`, else None."""
    if not raw.startswith(b'{"error"') or len(raw) > 8192:
        return None
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(document, dict) or "status" in document:
        return None
    return f"{document.get('error')}: {document.get('text', '')}"
