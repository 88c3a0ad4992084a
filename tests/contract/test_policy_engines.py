"""One suite over every engine of the release policy: embedded, the stand-in OPA, a real one.

What the embedded engine is known to get wrong is put to all of them, and none may turn it into an allow.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.policy import default_bundles
from cockpit.backends.policy_engine import EmbeddedEngine, PolicySource, builtin_policy, read_policy
from cockpit.backends.policy_opa import OpaEngine, OpaHttp, OpaPolicyStore, release_policy
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.plan.operations import PolicyEngine
from cockpit.rehearsal.opa import OpaServer
from cockpit.verdicts.decision_table import cases_of, read_table
from cockpit.verdicts.obligations import Met, Obligation, unmet
from cockpit.verdicts.policy_decision import Decision, input_of, policy_of, read_decision
from cockpit.verdicts.rules.authz import mismatch
from tests.contract.policy_support import DEADLINE, REASON, SLOW, Make, kind, make, real_opa, subject

__all__ = ["kind", "make", "real_opa"]
pytestmark = pytest.mark.contract


# -- what the embedded engine is known to get wrong -----------------------------------------------------


async def test_a_literal_true_is_an_allow(make: Make) -> None:
    decision = await (await make(REASON)).decide(subject("good"))
    assert decision.allow and decision.reasons == ()
    assert decision.obligations == (Obligation("echo", {"text": "good"}),)
    assert read_decision(decision.raw) == decision
    assert input_of(decision.raw) == subject("good")


async def test_a_quote_does_not_end_a_text(make: Make) -> None:
    engine = await make(REASON)
    for reason in ('bad", "reason": "good', 'bad"}, "number": 0, "x": {"y": "', 'good"', '"good"'):
        decision = await engine.decide(subject(reason))
        assert not decision.allow and decision.reasons == (f"said: {reason}",)


@pytest.mark.parametrize(
    "text",
    ['quote " end', "back \\ slash \\n", "line\nbreak\ttab", "bell \x07", "é 日本 \U0001f600", "%s {} ${x}"],
)
async def test_a_text_comes_back_as_it_went(make: Make, text: str) -> None:
    decision = await (await make(REASON)).decide(subject(text))
    assert decision.obligations == (Obligation("echo", {"text": text}),)


async def test_lengths_are_counted_here_and_not_by_the_engine(make: Make) -> None:
    # `count` of the embedded engine counts escapes: the built-in policy asks for a length and never counts.
    source = read_policy(builtin_policy()).modules[0][1]
    [case] = [one for one in table() if one.name == "fresh factor and reason: sre resume prod"]
    short = '"\n"\t\x01é"'
    asked = {**case.input, "subject": {**case.input["subject"], "reason": short}}
    decision = await (await make(source)).decide(asked)
    assert decision.allow
    left = unmet(decision.obligations, Met("sre@example.test", 60, short))
    assert [one.name for one, _ in left] == ["reason_for_access"]


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "asked",
    [
        subject("good\x00bad"),
        subject("good", x="a\x00b"),
        subject("bad", number=2**80),
        subject("bad", number=-(2**80)),
        subject("good", number=float("nan")),
        subject("good", x=deep(100)),
        subject("good", x=deep(5000)),
        subject("good", x="\ud800"),
        subject("g" * 70_000),
        subject("good", x=["y" * 60_000] * 80),
        subject("good", x=b"bytes"),
        subject("good", x={1: "number for a name"}),
    ],
    ids=[
        "NUL",
        "NUL inside",
        "2**80",
        "-2**80",
        "NaN",
        "deep",
        "very deep",
        "surrogate",
        "long",
        "huge",
        "bytes",
        "key",
    ],
)
async def test_what_could_be_misread_is_denied_unasked(make: Make, asked: dict[str, Any]) -> None:
    decision = await (await make(REASON)).decide(asked)
    assert not decision.allow and decision.obligations == ()
    assert "cannot be decided on" in decision.reasons[0]
    assert read_decision(decision.raw) == decision


async def test_questions_do_not_spill_into_one_another(make: Make) -> None:
    engine = await make(REASON)
    asked = [subject("good"), subject("bad"), {}, subject("x\x00"), subject("good"), {"number": 0}]
    found = await engine.decide_all(asked)
    assert [one.allow for one in found] == [True, False, False, False, True, False]
    # Without a reason the obligation is undefined, and so is the whole decision.
    assert "undefined" in found[2].reasons[0] and "undefined" in found[5].reasons[0]
    assert await engine.decide_all([]) == ()


async def test_a_policy_that_does_not_end_is_ended() -> None:
    engine = EmbeddedEngine(PolicySource((("p.rego", SLOW),)), package="p", deadline=1.5)
    with pytest.raises(BackendUnreachable):
        await engine.decide(subject("good"))


RUNTIME = 'package p\nimport rego.v1\ndecision := {"allow": true, "reasons": [json.marshal(opa.runtime())]}\n'


async def test_a_policy_sees_nothing_of_our_environment() -> None:
    name, value = "POLICY_TEST_VARIABLE", "s3cret-value"
    os.environ[name] = value
    try:
        engine = EmbeddedEngine(PolicySource((("p.rego", RUNTIME),)), package="p", deadline=DEADLINE)
        try:
            decision = await engine.decide(subject("good"))
            assert name not in decision.raw.decode() and value not in decision.raw.decode()
            assert "HOME" not in decision.raw.decode()
        except BackendGarbage:
            pass  # an engine without it cannot show it either
        async with OpaServer({"p": REASON}) as server:
            store = OpaPolicyStore(OpaHttp(server.url, deadline=DEADLINE))
            with pytest.raises(BackendRefused, match=r"opa\.runtime"):
                await store.put("p", RUNTIME)
            await OpaEngine(OpaHttp(server.url, deadline=DEADLINE), package="p").decide(subject("good"))
            [(headers, body)] = server.asked
        assert json.loads(body) == {"input": subject("good")}
        assert value not in repr(headers)
    finally:
        del os.environ[name]


NO_ALLOW = {
    "text": '{"allow": "true"}',
    "number": '{"allow": 1}',
    "list": '{"allow": [true]}',
    "object": '{"allow": {"allow": true}}',
    "null": '{"allow": null}',
    "no allow": '{"reasons": []}',
    "true itself": "true",
    "list of decisions": '[{"allow": true}]',
    "null itself": "null",
    "obligations are a text": '{"allow": true, "obligations": "step_up_mfa"}',
    "obligations are an object": '{"allow": true, "obligations": {"name": "step_up_mfa"}}',
    "obligations are texts": '{"allow": true, "obligations": ["step_up_mfa"]}',
    "obligation without a name": '{"allow": true, "obligations": [{"max_age_s": 900}]}',
    "obligation with an empty name": '{"allow": true, "obligations": [{"name": ""}]}',
    "obligations are null": '{"allow": true, "obligations": null}',
    "reasons are a text": '{"allow": true, "reasons": "because"}',
    "reasons are numbers": '{"allow": true, "reasons": [1]}',
}


@pytest.mark.parametrize("value", NO_ALLOW.values(), ids=NO_ALLOW.keys())
async def test_anything_but_a_literal_true_is_a_deny(make: Make, value: str) -> None:
    decision = await (await make(f"package p\nimport rego.v1\ndecision := {value}\n")).decide({"a": 1})
    assert not decision.allow and decision.reasons


@pytest.mark.parametrize(
    "source",
    [
        "package p\nimport rego.v1\nother := true\n",
        'package p\nimport rego.v1\ndecision := {"allow": true} if input.no\n',
    ],
    ids=["no rule", "undefined rule"],
)
async def test_undefined_is_a_deny_that_says_so(make: Make, source: str) -> None:
    decision = await (await make(source)).decide({"a": 1})
    assert not decision.allow and "undefined" in decision.reasons[0]


@pytest.mark.parametrize(
    "body",
    ['{"allow": true, "x": to_number(input.text)}', '{"allow": true}\ndecision := {"allow": false}'],
    ids=["built-in error", "conflict"],
)
async def test_a_policy_that_fails_gives_no_decision(make: Make, body: str) -> None:
    body = body.replace("\n", " if input.text\n")
    source = f"package p\nimport rego.v1\ndecision := {body}" + (" if input.text\n" if "\n" in body else "\n")
    engine = await make(source)
    with pytest.raises(BackendError):
        await engine.decide({"text": "no number"})


async def test_more_questions_than_anybody_has(make: Make) -> None:
    engine = await make(REASON)
    with pytest.raises(BackendRefused):
        await engine.decide_all([{}] * 2001)


# -- the built-in policy --------------------------------------------------------------------------------


def said(decision: Decision) -> tuple[Any, ...]:
    return decision.allow, decision.obligations, decision.reasons


def table() -> tuple[Any, ...]:
    return cases_of(read_table((default_bundles() / "decision_table.json").read_bytes()))


async def test_the_table_holds_and_every_engine_decides_alike(make: Make) -> None:
    cases = table()
    source = read_policy(builtin_policy())
    engine = await make(source.modules[0][1])
    decisions = await engine.decide_all([one.input for one in cases])
    assert [
        f"{case.name}: {mismatch(case, decision)}"
        for case, decision in zip(cases, decisions, strict=True)
        if mismatch(case, decision)
    ] == []
    embedded = EmbeddedEngine(deadline=DEADLINE)
    again = await embedded.decide_all([one.input for one in cases])
    for case, one, other in zip(cases, decisions, again, strict=True):
        assert said(one) == said(other), case
    assert {policy_of(one.raw) for one in again} == {source.sha256}


async def test_what_is_left_out_of_a_question_is_denied(make: Make) -> None:
    [case] = [one for one in table() if one.name == "no approval asked: sre promote prod"]
    asked = case.input
    less = [{name: value for name, value in asked.items() if name != left} for left in asked]
    less += [
        {**asked, group: {name: value for name, value in asked[group].items() if name != left}}
        for group in ("subject", "release", "approvals")
        for left in asked[group]
        # Asked for where they matter, as obligations.
        if left not in ("mfa_age_s", "reason", "second_person")
    ]
    engine = await make(read_policy(builtin_policy()).modules[0][1])
    whole, *found = await engine.decide_all([asked, *less])
    assert whole.allow and not any(one.allow for one in found)


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2, 0.19, 1e300, 2**53, "", "pass", "overridden", "fail", "sre", "high"),
    *([], {}, ["sre"], [[]], [{}], [None], {"a": 1}, {"": ""}, [{"approved": "true", "expired": 0}]),
    *('é"\\\n\x07', "\u2028", "\U0001d4b3", "promote", "break-glass", "prod", "dev"),
)


def broken(document: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a question with one to three of its parts taken away or changed into something odd."""
    made: dict[str, Any] = json.loads(json.dumps(document))
    for _ in range(chance.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = [made]
        while waiting:
            one = waiting.pop()
            names = list(one) if isinstance(one, dict) else list(range(len(one)))
            places += [(one, name) for name in names]
            waiting += [one[name] for name in names if isinstance(one[name], (dict, list))]
        if places:
            holder, name = chance.choice(places)
            if chance.random() < 0.2:
                del holder[name]
            else:
                holder[name] = chance.choice(ODD)
    return made


async def test_broken_questions_are_decided_alike_and_without_an_error(make: Make) -> None:
    chance = random.Random(7)
    asked = [broken(chance.choice(table()).input, chance) for _ in range(150)]
    engine = await make(read_policy(builtin_policy()).modules[0][1])
    found = await engine.decide_all(asked)
    embedded = await EmbeddedEngine(deadline=DEADLINE).decide_all(asked)
    for question, one, other in zip(asked, found, embedded, strict=True):
        assert said(one) == said(other), question
    assert 0 < sum(one.allow for one in found) < len(found)


# -- the plan's choice --------------------------------------------------------------------------------


async def test_a_plan_chooses_its_engine(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "p.rego").write_text(REASON)
    (folder / "p_test.rego").write_text("package p_test\nthis is no rego, and no part of the policy")
    own = release_policy(PolicyEngine(bundle="policy", package="p", deadline=DEADLINE), tmp_path)
    assert (own.engine.name, own.engine.path, own.store) == ("embedded", "p/decision", None)
    assert (await own.engine.decide(subject("good"))).allow
    builtin = release_policy(PolicyEngine(deadline=DEADLINE), tmp_path)
    assert not (await builtin.engine.decide(subject("good"))).allow


@pytest.mark.parametrize("bundle", ["absent", "empty"])
async def test_a_folder_without_a_policy_is_refused(tmp_path: Path, bundle: str) -> None:
    (tmp_path / "empty").mkdir()
    target = PolicyEngine(bundle=bundle, deadline=DEADLINE)
    with pytest.raises(BackendRefused):
        await release_policy(target, tmp_path).engine.decide({})
