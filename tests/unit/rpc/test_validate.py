"""Messages are held to their schema by whoever sends them and by whoever receives them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import MessageInvalid
from cockpit.base.limits import MAX_ARTIFACTS, MAX_MESSAGE_BYTES
from cockpit.rpc.messages import AgentRequest, AgentResponse, Artifact, Inputs, Scope
from cockpit.rpc.validate import MODELS, check, encode, schema_of, validator_of

TRACE = "a" * 32


def request(**params: Any) -> AgentRequest:
    return AgentRequest(
        phase="P1", op="VERIFY", scope=Scope(env="prod"), inputs=Inputs(params=params), trace_id=TRACE
    )


def response(**changes: Any) -> AgentResponse:
    fields: dict[str, Any] = {"phase": "P1", "agent": "x", "result": "ok", "notes": "", "next": ""}
    return AgentResponse(**{**fields, "trace_id": TRACE, **changes})


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(_json)
def test_what_is_sent_is_what_arrives(value: Any) -> None:
    sent = request(value=value)
    assert check(AgentRequest, encode(sent)) == sent


@pytest.mark.parametrize(
    "message",
    [
        response().model_copy(update={"result": "fine"}),
        response().model_copy(update={"notes": "n" * 4001}),
        response().model_copy(update={"trace_id": "A" * 32}),
        request().model_copy(update={"trace_id": ""}),
        response().model_copy(update={"notes": "half a pair \ud800"}),
        response().model_copy(
            update={"artifacts": [Artifact(path="a", sha256="0" * 64, type="report")] * (MAX_ARTIFACTS + 1)}
        ),
        request(blob="x" * MAX_MESSAGE_BYTES),
        request(number=10**5000),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_sender_is_held_to_the_rule_too(message: AgentRequest | AgentResponse) -> None:
    with pytest.raises(MessageInvalid):
        encode(message)


def test_a_message_nested_too_deeply_is_not_sent() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(5000):
        inner["a"] = {}
        inner = inner["a"]
    with pytest.raises(MessageInvalid):
        encode(request().model_copy(update={"inputs": Inputs.model_construct(params=deep)}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"phase": NaN}',
        b'{"phase": "P1", "phase": "P1"}',
        b"[" * 100_000,
        b" " * (MAX_MESSAGE_BYTES + 1),
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf" + encode(request()),
        encode(request()) + b"{}",
        encode(request()).replace(b'"P1"', b'"P9"'),
        encode(request()).replace(b'"op"', b'"OP"'),
        encode(request()).replace(b'"prod"', b"7"),
    ],
)
def test_what_is_not_a_request_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageInvalid):
        check(AgentRequest, raw)


def test_the_schema_alone_refuses_what_lacks_fields_or_has_more() -> None:
    for model in MODELS.values():
        assert validator_of(model).schema == schema_of(model)
        assert list(validator_of(model).iter_errors({}))
        assert list(validator_of(model).iter_errors(json.loads(encode(request())) | {"more": 1}))
