"""Data contracts of two revisions: compatible for those who read and those who write (gate `migrations`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, never_raises, raw_of
from cockpit.verdicts.rules.schema_compat import Unknown, breaks, check_known

MODES = ("backward", "forward", "full")


@never_raises
def contracts_compatible(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every contract of `params["contracts"]` (`name`, `from`, `to`, `samples`: names of answers).

    `from` is empty for a new contract, `to` for one that was removed, which fails. The schema itself may say
    `x-compatibility`: `backward` (the default: what was written before can be read now), `forward` (what is
    written now can be read by the release before) or `full`. Samples must be valid by the schema of now.
    """
    contracts = params["contracts"]
    thresholds = ("contracts_broken==0", "samples_invalid==0")
    if not contracts:
        return Judgement("no_data", "no contract was found in the repository", {}, thresholds)
    broken: list[str] = []
    invalid: list[str] = []
    tried = 0
    for contract in contracts:
        found, bad, count = judge(answers, contract)
        broken += found
        invalid += bad
        tried += count
    metrics: Metrics = {
        "contracts": len(contracts),
        "samples": tried,
        "contracts_broken": len(broken),
        "samples_invalid": len(invalid),
    }
    if broken or invalid:
        return Judgement("fail", visible("; ".join(broken + invalid), limit=1000), metrics, thresholds)
    return Judgement("pass", f"{len(contracts)} contracts are compatible", metrics, thresholds)


def judge(answers: Mapping[str, bytes], contract: Mapping[str, Any]) -> tuple[list[str], list[str], int]:
    """Return (what breaks, invalid samples, samples tried) of one contract; raises Trouble."""
    name = contract["name"]
    if not contract["to"]:
        return [f"{name}: the contract was removed"], [], 0
    now, mode = _schema(answers, contract["to"], name)
    broken: list[str] = []
    try:
        check_known(now)
        if contract["from"]:
            before, _ = _schema(answers, contract["from"], name)
            if mode in ("backward", "full"):
                broken += [f"{name} (backward) {text}" for text in breaks(before, now)]
            if mode in ("forward", "full"):
                broken += [f"{name} (forward) {text}" for text in breaks(now, before)]
    except Unknown as unknown:
        raise Trouble("provider_error", f"{name}: {unknown}") from None
    invalid = [
        text for text in (_sample(answers, sample, now, name) for sample in contract["samples"]) if text
    ]
    return broken, invalid, len(contract["samples"])


def _schema(answers: Mapping[str, bytes], answer: str, name: str) -> tuple[Any, str]:
    schema = _json(answers, answer, name)
    mode = "backward"
    if isinstance(schema, dict) and "x-compatibility" in schema:
        mode = schema["x-compatibility"]
        schema = {keyword: value for keyword, value in schema.items() if keyword != "x-compatibility"}
    if mode not in MODES:
        raise Trouble("provider_error", f"{name}: the compatibility {str(mode)[:40]!r} is not understood")
    return schema, mode


def _sample(answers: Mapping[str, bytes], answer: str, schema: Any, name: str) -> str:
    from jsonschema import Draft202012Validator

    sample = _json(answers, answer, name)
    problem = next(iter(Draft202012Validator(schema).iter_errors(sample)), None)
    return "" if problem is None else f"{answer}: {visible(problem.message, limit=200)}"


def _json(answers: Mapping[str, bytes], answer: str, name: str) -> Any:
    try:
        return json.loads(raw_of(answers, answer))
    except (ValueError, RecursionError):
        raise Trouble("provider_error", f"{name}: {answer} is not JSON") from None
