"""Both sides of every call check every message against its JSON Schema; invalid means fail (seed 3)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from cockpit.base.errors import MessageInvalid
from cockpit.base.limits import MAX_ARTIFACTS, MAX_MESSAGE_BYTES
from cockpit.base.text import visible
from cockpit.rpc import approval, manifest, messages

M = TypeVar("M", bound=BaseModel)

MODELS: dict[str, type[BaseModel]] = {
    "agent_request": messages.AgentRequest,
    "agent_response": messages.AgentResponse,
    "gate_verdict": messages.GateVerdict,
    "promote": messages.Promote,
    "rollback": messages.Rollback,
    "go_no_go": messages.GoNoGo,
    "manifest": manifest.Manifest,
    "approval_request": approval.ApprovalRequest,
    "approval_statement": approval.ApprovalStatement,
    "break_glass_statement": approval.GlassStatement,
}
"""Every message with a schema of its own in `schemas/`, by file name."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a message."""
    schema = model.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def validator_of(model: type[BaseModel]) -> Draft202012Validator:
    """Return the validator of a message's JSON Schema; it is made once a process."""
    return Draft202012Validator(schema_of(model))


def check(model: type[M], raw: bytes) -> M:
    """Parse and validate a message from outside.

    Raises MessageInvalid when it is too large, not JSON, or not what the schema says.
    """
    _bounded(model, raw)
    try:
        document = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise MessageInvalid(f"{model.__name__} is not JSON: {visible(str(error), limit=200)}") from None
    return _validated(model, document)


def encode(message: BaseModel) -> bytes:
    """Return a message as compact JSON, having checked it against its own schema.

    Raises MessageInvalid: what we send is held to the same rule as what we receive.
    """
    model = type(message)
    try:
        document = message.model_dump(mode="json", by_alias=True)
        raw = _ENCODER.encode(document).encode()
    except (ValueError, RecursionError) as error:  # a UnicodeEncodeError is a ValueError
        raise MessageInvalid(f"{model.__name__} cannot be written as JSON: {error}") from None
    _bounded(model, raw)
    _validated(model, document)  # the very document that was written: parsing it again would show no more
    return raw


def _bounded(model: type[BaseModel], raw: bytes) -> None:
    if len(raw) > MAX_MESSAGE_BYTES:
        raise MessageInvalid(
            f"{model.__name__} of {len(raw)} bytes; at most {MAX_MESSAGE_BYTES} are accepted"
        )


def _validated(model: type[M], document: Any) -> M:
    artifacts = document.get("artifacts") if isinstance(document, dict) else None
    if isinstance(artifacts, list) and len(artifacts) > MAX_ARTIFACTS:
        raise MessageInvalid(f"{model.__name__} names {len(artifacts)} artifacts; at most {MAX_ARTIFACTS}")
    try:
        problem = next(iter(validator_of(model).iter_errors(document)), None)
    except RecursionError:
        raise MessageInvalid(f"{model.__name__} is nested too deeply") from None
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "the message itself"
        raise MessageInvalid(
            f"{model.__name__}: {visible(problem.message, limit=300)}", where=visible(where, limit=200)
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise MessageInvalid(f"{model.__name__}: {visible(first['msg'], limit=300)}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member name stands twice")
    return members


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
