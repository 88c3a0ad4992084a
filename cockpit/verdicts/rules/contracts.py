"""Data contracts of two revisions: compatible for those who read and those who write (gate `migrations`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, never_raises, raw_of
from cockpit.verdicts.rules.schema_compat import Unknown, breaks, check_known

MODES = ("backward", "forward", "full")
MODE_KEYWORD = "x-compatibility"


@never_raises
def contracts_compatible(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every contract of `params["contracts"]`: `name`, `schemas`, `samples` (names of answers).

    `schemas` maps `producer`, `consumer` or `shared` to `{"from": …, "to": …}`, empty where a revision has
    none. What is written now must be read by consumers of before and of now, what was written before by
    consumers of now. A `shared` schema may say `x-compatibility`: `backward` (the default: what was valid
    stays valid), `forward` or `full`. Samples must be valid for who reads them now.
    """
    contracts = params["contracts"]
    thresholds = ("contracts_broken==0", "samples_invalid==0")
    if not contracts:
        return Judgement("no_data", "no contract was found in the repository", {}, thresholds)
    broken: list[str] = []
    invalid: list[str] = []
    for contract in contracts:
        broken += [f"{contract['name']}: {text}" for text in _broken(answers, contract)]
        invalid += _invalid(answers, contract)
    metrics: Metrics = {
        "contracts": len(contracts),
        "samples": sum(len(contract["samples"]) for contract in contracts),
        "contracts_broken": len(broken),
        "samples_invalid": len(invalid),
    }
    if broken or invalid:
        return Judgement("fail", visible("; ".join(broken + invalid), limit=1000), metrics, thresholds)
    return Judgement("pass", f"{len(contracts)} contracts are compatible", metrics, thresholds)


def _broken(answers: Mapping[str, bytes], contract: Mapping[str, Any]) -> Iterator[str]:
    before, now, mode = {}, {}, "backward"
    for role, files in contract["schemas"].items():
        if files["from"]:
            before[role], _ = _schema(answers, files["from"])
        if files["to"]:
            now[role], mode = _schema(answers, files["to"])
    if "shared" in before or "shared" in now:
        yield from _shared(before, now, mode)
        return
    if "producer" in before and "producer" not in now and "consumer" in now:
        yield "the producer was removed and is still read"
    written_now = _as_written(now["producer"]) if "producer" in now else None
    written_before = _as_written(before["producer"]) if "producer" in before else None
    if written_now is not None:
        readers = {"before": before.get("consumer"), "now": now.get("consumer")}
        for when, reader in readers.items():
            if reader is not None:
                for text in _judged(written_now, reader):
                    yield f"what is written now cannot be read by the consumer of {when}: {text}"
        if not any(reader is not None for reader in readers.values()) and "producer" in before:
            for text in _judged(written_now, before["producer"]):
                yield f"readers of before cannot read what is written now: {text}"
    if "consumer" in now:
        if written_before is not None:
            for text in _judged(written_before, now["consumer"]):
                yield f"what was written before cannot be read now: {text}"
        elif "consumer" in before:
            for text in _judged(before["consumer"], now["consumer"]):
                yield f"less is read than before: {text}"
    for schema in (*before.values(), *now.values()):
        _known(schema)


def _shared(before: Mapping[str, Any], now: Mapping[str, Any], mode: str) -> Iterator[str]:
    if "shared" not in now:
        yield "the contract was removed"
        return
    _known(now["shared"])
    if "shared" not in before:
        return
    if mode in ("backward", "full"):
        for text in _judged(before["shared"], now["shared"]):
            yield f"what was valid is not any more: {text}"
    if mode in ("forward", "full"):
        for text in _judged(now["shared"], before["shared"]):
            yield f"what is valid now was not before: {text}"


def _as_written(schema: Any) -> Any:
    """Return a producer's schema as what it writes: members it does not declare, it does not send."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if isinstance(schema.get("properties"), dict):
        closed["properties"] = {name: _as_written(inner) for name, inner in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    if "items" in schema:
        closed["items"] = _as_written(schema["items"])
    return closed


def _judged(narrower: Any, wider: Any) -> list[str]:
    try:
        return breaks(narrower, wider)
    except Unknown as unknown:
        raise Trouble("provider_error", str(unknown)) from None


def _known(schema: Any) -> None:
    try:
        check_known(schema)
    except Unknown as unknown:
        raise Trouble("provider_error", str(unknown)) from None


def _invalid(answers: Mapping[str, bytes], contract: Mapping[str, Any]) -> list[str]:
    from jsonschema import Draft202012Validator

    schemas = contract["schemas"]
    roles = [role for role in ("consumer", "shared", "producer") if schemas.get(role, {}).get("to")]
    if not roles:
        return []
    schema, _ = _schema(answers, schemas[roles[0]]["to"])
    _known(schema)
    validator = Draft202012Validator(schema)
    found = []
    for sample in contract["samples"]:
        problem = next(iter(validator.iter_errors(_json(answers, sample))), None)
        if problem is not None:
            found.append(f"{sample}: {visible(problem.message, limit=200)}")
    return found


def _schema(answers: Mapping[str, bytes], answer: str) -> tuple[Any, str]:
    schema = _json(answers, answer)
    mode = "backward"
    if isinstance(schema, dict) and MODE_KEYWORD in schema:
        mode = schema[MODE_KEYWORD]
        schema = {keyword: value for keyword, value in schema.items() if keyword != MODE_KEYWORD}
    if mode not in MODES:
        raise Trouble("provider_error", f"{answer}: the compatibility {str(mode)[:40]!r} is not understood")
    return schema, mode


def _json(answers: Mapping[str, bytes], answer: str) -> Any:
    try:
        return json.loads(raw_of(answers, answer))
    except (ValueError, RecursionError):
        raise Trouble("provider_error", f"{answer} is not JSON") from None
