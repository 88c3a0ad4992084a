"""Runbooks and the alerts that lead to them (gate `doc_lint`, seed section 5, P7)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlsplit

from cockpit.base.clock import parse_iso
from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, finite, never_raises, raw_of
from cockpit.verdicts.runbook import Runbook, lint

_LINKS = ("runbook_url", "runbook")
_MOST_SAID = 20


@never_raises
def runbook_lint(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every runbook, every alert's link, and the times incidents took.

    `params["sets"]` gives, for `own` (the cockpit's) and `release` (the repository's), the file names of
    `<set>.<name>`. `params["rules"]` names the answers with alerts: a rules file (`form` file) or what
    Prometheus said (`form` api). `params["links"]` maps a URL that is no runbook here to the answer that says
    which status it has. `params["incidents"]` names the incidents of this run. No drill may be later than
    `today`, nor more than `drilled_within` days before `as_of`; of the cockpit's own an old one, or none, is
    counted and no problem.
    """
    thresholds = ["problems==0", "unresolved==0"]
    books = linted(answers, params)
    problems = [f"{where}/{book.name}: {text}" for where, book in books for text in book.problems]
    if not any(where == "own" for where, _ in books):
        problems.append("the cockpit's own runbooks are not there")
    limit = date.fromisoformat(params["as_of"]) - timedelta(days=float(params["drilled_within"]))
    never = [(where, book) for where, book in books if book.last_drill is None]
    stale = [(where, book) for where, book in books if book.last_drill and book.last_drill < limit]
    problems += [f"release/{book.name}: it was never drilled" for where, book in never if where != "own"]
    problems += [
        f"release/{book.name}: last drilled on {book.last_drill}" for where, book in stale if where != "own"
    ]
    alerts = alerts_of(answers, params["rules"])
    if not alerts:
        problems.append("no alert is known: there is nothing that could lead to a runbook")
    lost = [said for said in (_lost(answers, alert, link, params) for alert, link in alerts) if said]
    metrics: Metrics = {
        "runbooks": len(books),
        "problems": len(problems),
        "alerts": len(alerts),
        "unresolved": len(lost),
        "undrilled": len(never),
        "stale": len(stale),
    }
    slow = _times(answers, params["incidents"], books, metrics, thresholds)
    said = [*problems, *lost, *slow]
    if said:
        more = f"; and {len(said) - _MOST_SAID} more" if len(said) > _MOST_SAID else ""
        text = "; ".join(said[:_MOST_SAID]) + more
        return Judgement("fail", visible(text, limit=1000), metrics, tuple(thresholds))
    text = f"{len(books)} runbooks are complete, {len(alerts)} alerts lead to one"
    if never:
        text += f"; never drilled: {', '.join(book.name for _, book in never)}"
    return Judgement("pass", visible(text, limit=1000), metrics, tuple(thresholds))


def linted(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> list[tuple[str, Runbook]]:
    """Return every runbook with the set it belongs to; see `runbook_lint`."""
    today = date.fromisoformat(params["today"])
    return [
        (where, lint(name, raw_of(answers, f"{where}.{name}"), known=names, today=today))
        for where, names in params["sets"].items()
        for name in names
    ]


def alerts_of(answers: Mapping[str, bytes], rules: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (alert, link) of every alert, once each; an empty link where it has none."""
    found: dict[tuple[str, str], None] = {}
    for one in rules:
        if one["form"] == "api":
            data = document(answers, one["answer"]).get("data")
        else:
            data = _yaml(raw_of(answers, one["answer"]), one["answer"])
        groups = data.get("groups") if isinstance(data, dict) else None
        if not isinstance(groups, list):
            raise Trouble("provider_error", f"{one['answer']}: no groups of rules")
        for group in groups:
            for rule in (group.get("rules") if isinstance(group, dict) else None) or []:
                name = rule.get("alert") or (rule.get("name") if rule.get("type") == "alerting" else None)
                if name:
                    found[(str(name), _link(rule))] = None
    return list(found)


def known_runbook(link: str, sets: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether a link ends at a runbook that is here: `runbooks/<file>` alone or behind any host."""
    folder, _, file = urlsplit(link).path.rpartition("/")
    in_folder = folder == "runbooks" or folder.endswith("/runbooks")
    return in_folder and any(file in names for names in sets.values())


def _link(rule: Mapping[str, Any]) -> str:
    notes = rule.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    return next((str(notes[key]) for key in _LINKS if notes.get(key)), "")


def _lost(answers: Mapping[str, bytes], alert: str, link: str, params: Mapping[str, Any]) -> str:
    """Return why an alert leads to no runbook, nothing when it does."""
    if not link:
        return f"alert {alert} names no runbook"
    if known_runbook(link, params["sets"]):
        return ""
    asked = params["links"].get(link)
    if asked is None:
        return f"alert {alert} leads to {link}, which is no runbook known here"
    status = document(answers, asked).get("status")
    return "" if status == 200 else f"alert {alert} leads to {link}, which answered {status}"


def _times(
    answers: Mapping[str, bytes],
    incidents: Sequence[str],
    books: Sequence[tuple[str, Runbook]],
    metrics: Metrics,
    thresholds: list[str],
) -> list[str]:
    """Measure the mean times of incidents and drills, and hold them to the strictest goals of our own."""
    taken: dict[str, list[float]] = {"mtta": [], "mttr": []}
    for name in incidents:
        one = document(answers, name)
        opened = parse_iso(str(one["opened_at"]))
        moments = {str(update["name"]): str(update["at"]) for update in one.get("updates") or []}
        for what, moment in (("mtta", moments.get("acknowledged")), ("mttr", one.get("resolved_at"))):
            if moment:
                taken[what].append((parse_iso(str(moment)) - opened).total_seconds())
    said = []
    for what, values in taken.items():
        goals = [getattr(book, f"{what}_s") for where, book in books if where == "own"]
        goal = min((one for one in goals if one is not None), default=None)
        metrics[f"{what}_s"] = finite(sum(values) / len(values)) if values else None
        if not values or goal is None:
            continue
        thresholds.append(f"{what}_s<={goal:.12g}")
        mean = sum(values) / len(values)
        if not mean <= goal:
            said.append(f"{what} is {mean:.1f} s, the goal is {goal:g} s")
    return said


def _yaml(raw: bytes, name: str) -> Any:
    try:
        from ruamel.yaml import YAML

        return YAML(typ="safe", pure=True).load(io.BytesIO(raw))
    except Exception:  # noqa: BLE001 - anybody's text; YAML's errors are many
        raise Trouble("provider_error", f"{name}: not YAML") from None


def status_answer(url: str, status: int) -> bytes:
    """Return what is kept of a page a link led to: that it was there, and no more."""
    return json.dumps({"url": visible(url, limit=500), "status": status}, sort_keys=True).encode()
