"""The board's record: who approved what, which exceptions there are, and whether any of it stands in the way.

Judged before the promotion, so what is not asked yet is no problem and what was refused is one:

1. Approvals are configured, or waived by an owner with a reason that is in the journal.
2. Every exception has an owner and a reason, has not expired, and was approved by somebody else; where the
   plan has a rule for exceptions, by a signed grant about exactly this exception that still counts.
3. The last request for the promotion or the GA flip was neither rejected nor left to expire, and its grant
   still counts.
4. Every grant is what its counted statements come to, and nobody granted their own request.
5. Every break-glass has a second person other than the first, or a review that is not overdue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from cockpit.base.clock import parse_iso
from cockpit.base.text import visible
from cockpit.verdicts.approvals import glass_facts, settled
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import document, never_raises

_BINDING = ("promote", "flip")
"""What a release cannot do without; a refused break-glass or purge only means that it was not done."""


@never_raises
def cab_record(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge the answer `record` (`record_document` of A46) at `params["now"]`."""
    record, now = document(answers, "record"), parse_iso(params["now"])
    requests = record["requests"]
    waivers = list(_waivers(record))
    exceptions = {one["id"]: exception_problem(one, record, now) for one in record["exceptions"]}
    refused = list(_refused(record, now))
    grants = list(_grants(requests))
    glasses = list(_glasses(record["glasses"], now))
    unapproved = [f"exception {name} {problem}" for name, problem in exceptions.items() if problem]
    problems = [*waivers, *unapproved, *refused, *grants, *glasses]
    metrics: Metrics = {
        "exceptions": len(exceptions),
        "exceptions_unapproved": len(unapproved),
        "requests": len(requests),
        "cab_problems": len(problems),
    }
    thresholds = ("exceptions_unapproved==0", "cab_problems==0")
    if problems:
        return Judgement("fail", visible("; ".join(problems), limit=1000), metrics, thresholds)
    how = "waived" if record["approvals"] == "waived" else f"{len(record['rules'])} rules"
    said = (
        f"approvals: {how}, {len(requests)} requests; {len(exceptions)} exceptions, all approved and in time"
    )
    return Judgement("pass", said, metrics, thresholds)


def _waivers(record: Mapping[str, Any]) -> Iterator[str]:
    if record["approvals"] not in ("configured", "waived"):
        yield "the plan neither says who approves nor waives approvals"
    for one in record["waivers"]:
        if not one["owner"].strip() or not one["reason"].strip():
            yield f"the waiver of {one['what']} has no owner or no reason"
        if one["recorded"] is not True:
            yield f"the waiver of {one['what']} is not in the journal"


def exception_problem(one: Mapping[str, Any], record: Mapping[str, Any], now: datetime) -> str:
    """Return why an exception does not count now, or nothing."""
    owner, by = one["owner"].strip(), one["approved_by"].strip()
    if not owner or not one["reason"].strip():
        return "has no owner or no reason"
    expires = datetime.fromisoformat(one["expires"].replace("Z", "+00:00"))
    if expires.tzinfo is None or expires <= now:
        return "has expired"
    if not by:
        return "is not approved"
    if by == owner:
        return "was approved by its own owner"
    if not any(rule["asked"] == "exception" for rule in record["rules"]):
        return ""
    found = [r for r in record["requests"] if r["asked"] == "exception" and r["subject"] == one["subject"]]
    if not found:
        return "needs a signed approval, and none was asked for"
    problem = _standing(found[-1], now)
    if problem or found[-1]["result"] != "granted":
        return problem or "waits for its signed approval"
    return "was granted by its own owner alone" if set(found[-1]["result_by"]) <= {owner} else ""


def _standing(request: Mapping[str, Any], now: datetime) -> str:
    """Return why a request stands in the way; one that waits or counts does not."""
    result = request["result"]
    if result == "rejected":
        return f"was rejected by {', '.join(request['result_by'])}: {request['result_reason']}"
    if result == "expired" or (not result and parse_iso(request["expires"]) <= now):
        return "was asked for and nobody answered in time"
    if result == "granted" and parse_iso(request["valid_until"]) <= now:
        return f"was granted until {request['valid_until']}, which is over"
    return "" if result in ("", "granted") else "ended in no way there is"


def _refused(record: Mapping[str, Any], now: datetime) -> Iterator[str]:
    rules = {rule["asked"] for rule in record["rules"]}
    for asked in _BINDING:
        found = [one for one in record["requests"] if one["asked"] == asked]
        if found and asked not in rules:
            yield f"{asked} was asked for and the plan has no rule for it"
        if found and (problem := _standing(found[-1], now)):
            yield f"{asked} {problem}"


def _grants(requests: list[dict[str, Any]]) -> Iterator[str]:
    for one in requests:
        if one["result"] != "granted":
            continue
        statements = [SimpleNamespace(**statement) for statement in one["statements"]]
        if settled(SimpleNamespace(**one), statements) != "granted":
            yield f"{one['request']} says granted, and its statements do not come to that"
        if any(each.counted and each.by == one["requester"] for each in statements):
            yield f"{one['request']} counts its own requester"


def _glasses(glasses: list[dict[str, Any]], now: datetime) -> Iterator[str]:
    for one in glasses:
        if one["second"] and one["second"] == one["by"]:
            yield f"break-glass {one['glass']} has one person twice"
        if not one["second"] and not one["review_by"]:
            yield f"break-glass {one['glass']} has neither a second person nor a review"
        if one["reviewed_by"] and one["reviewed_by"] == one["by"]:
            yield f"break-glass {one['glass']} was reviewed by who used it"
    yield from glass_facts([SimpleNamespace(**one) for one in glasses], now).problems
