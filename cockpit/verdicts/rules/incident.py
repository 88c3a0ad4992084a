"""The incident drill: an issue that was opened, acknowledged and resolved, as the forge tells it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cockpit.base.clock import parse_iso
from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, never_raises, raw_of


@never_raises
def incident_drill(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge the answers `issue`, `comments` (as the forge gave them) and `record` (of the run folder).

    `params`: `key` in the issue's body, `labels` it must have, `comments` (keys, in their order), `roles`
    (names that must stand in the body or, made inert, with a break behind the @).
    """
    thresholds = ("checks_failed==0",)
    issue, comments = _json(answers, "issue"), _json(answers, "comments")
    if issue is None:
        return Judgement("fail", "the forge has no issue of the drill", {"checks_failed": None}, thresholds)
    if not isinstance(issue, dict) or not isinstance(comments, list):
        raise Trouble("provider_error", "the forge's answer is no issue")
    body = str(issue.get("body", ""))
    labels = {str(row.get("name")) if isinstance(row, dict) else str(row) for row in issue.get("labels", [])}
    opened, closed = _time(issue.get("created_at")), _time(issue.get("closed_at"))
    said = [_comment(row) for row in comments]
    times = [
        next((at for text, at in said if text.startswith(_marker(key))), None) for key in params["comments"]
    ]
    checks: dict[str, bool] = {
        "filed under its key": body.startswith(_marker(params["key"])),
        "labelled": set(params["labels"]) <= labels,
        "roles named": bool(params["roles"]) and all(_named(name, body) for name in params["roles"]),
        "every update is there": bool(times) and None not in times,
        "resolved": issue.get("state") == "closed" and closed is not None,
        "in order": _in_order([opened, *times, closed]),
        "kept in the run folder": document(answers, "record").get("state") == "resolved",
    }
    failed = [name for name, held in checks.items() if not held]
    metrics: Metrics = {"checks": len(checks), "checks_failed": len(failed)}
    if opened is not None and closed is not None:
        metrics["drill_s"] = (closed - opened).total_seconds()
    if failed:
        return Judgement("fail", visible(f"not {', not '.join(failed)}", limit=1000), metrics, thresholds)
    return Judgement(
        "pass", f"the drill was opened, acknowledged and resolved: {len(checks)} checks", metrics, thresholds
    )


def _json(answers: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(raw_of(answers, name))
    except (ValueError, RecursionError):
        raise Trouble("provider_error", f"{name}: not JSON") from None


def _marker(key: str) -> str:
    return f"<!-- cockpit:key={key} -->"


def _comment(row: Any) -> tuple[str, datetime | None]:
    if not isinstance(row, dict):
        raise Trouble("provider_error", "comments: not what a forge answers")
    return str(row.get("body", "")), _time(row.get("created_at"))


def _time(text: object) -> datetime | None:
    try:
        return parse_iso(str(text))
    except ValueError:
        return None


def _named(name: str, body: str) -> bool:
    # Inert text has backslashes before markup and a space of no width behind each @.
    plain = html.unescape(body.replace("\\", "").replace("\u200b", ""))
    return name.replace("\\", "") in plain


def _in_order(times: list[datetime | None]) -> bool:
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known == sorted(known)
