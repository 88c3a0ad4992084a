"""The verdict of an agent that is not ours: what it said, held against the numbers it gave.

Its measurements cannot be made again from here; the judgement can. Every threshold it names must be met by a
metric it gives, and a pass without any threshold is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics, Outcome
from cockpit.verdicts.rules.reading import Trouble, document, never_raises
from cockpit.verdicts.thresholds import number, parse

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@never_raises
def external_statement(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge verdict number `params["index"]` of the answer `response`, an Agent RPC v2 response."""
    verdicts, index = document(answers, "response").get("verdicts"), params["index"]
    if not isinstance(verdicts, list) or not isinstance(index, int) or not 0 <= index < len(verdicts):
        raise Trouble("provider_error", "the response has no such verdict")
    said = verdicts[index]
    details = said["details"]
    metrics: Metrics = dict(said.get("metrics") or {})
    thresholds = tuple(said.get("thresholds") or ())
    reason = visible(str(details.get("reason") or "no reason was given"), limit=1000)
    outcome: Outcome = details["outcome"] if details["outcome"] in _OUTCOMES else "fail"
    if said["verdict"] != "pass" or outcome != "pass":
        return Judgement("fail" if outcome == "pass" else outcome, reason, metrics, thresholds)
    if not thresholds:
        return Judgement("fail", f"it names no threshold, so nothing was judged: {reason}", metrics)
    for text in thresholds:
        threshold = parse(text)
        if not threshold.holds(number(metrics.get(threshold.metric))):
            given = visible(str(metrics.get(threshold.metric, "missing")), limit=80)
            return Judgement(
                "fail", f"it says pass, but {threshold.metric} is {given}: {threshold}", metrics, thresholds
            )
    return Judgement("pass", reason, metrics, thresholds)
