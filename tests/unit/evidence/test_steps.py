"""Promotions told otherwise than they went, signed by the right identity: each is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cockpit.evidence.verify import verify_pack
from cockpit.journal import events as ev
from cockpit.journal.base import Event
from cockpit.journal.events_people import ReverifyAsked
from tests.unit.evidence.conftest import Factory
from tests.unit.evidence.promotion import (
    Promotion,
    before,
    but,
    effect,
    index_of,
    instead,
    without,
)
from tests.unit.evidence.runs import Change
from tests.unit.verdicts.samples import one

EARNED, EFFECTS, ROLLBACKS, DECISIONS, VERDICTS, LOOKS = (
    "steps earned",
    "effects in their place",
    "rollbacks proven",
    "go/no-go follows from the verdicts",
    "verdicts recomputed",
    "canary looks recomputed",
)
Events = list[Event]
Tell = Callable[[Events, Promotion], Events]
HALT = ev.HaltBegan(by="someone", trigger="key", reason="", epoch=1)
BEGUN = ev.RollbackStarted(reason="manual", cause="somebody asked", by="someone")
VERIFIED = ev.RollbackVerified(proof={})
SEALED = ev.EvidenceSealed(
    kind="promotion", path="promotion.zip", sha256="d" * 64, log_index=1, entry_id="e" * 64
)
ASKED = ReverifyAsked(agent="A20", phase="P6", attempt=2, by="someone", reason="its log came late")
# A whole bake of the looks there are; slow is critical, ingestion that lags is not.
SLOW, LAGS, FEW = {"check.p95_ms": one(900)}, {"check.ingest_lag_s": one(90)}, {"requests": one(10)}


def found(factory: Factory, folder: Path, tell: Tell) -> dict[str, str]:
    report = verify_pack(factory.make(Change(promoted=True, tell=tell)).pack.path, config=folder)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert report.ok is not bool(failed)
    return failed


def ended(choice: str) -> ev.HaltEnded:
    return ev.HaltEnded(by="someone", choice=choice, reason="looked at it")


def out_of_order(events: Events, promotion: Promotion) -> Events:
    second, third = (index_of(events, ev.StepStarted, step=step) for step in (2, 3))
    return events[:second] + events[third:]


def twice_the_same(events: Events, promotion: Promotion) -> Events:
    look = events[index_of(events, ev.LookTaken, step=2, look=4)]
    assert isinstance(look, ev.LookTaken)
    return but(events, ev.LookTaken, {"answers": look.answers}, step=2, look=3)


def lagging(events: Events, promotion: Promotion) -> Events:
    bad = [promotion.look(2, number, answers=LAGS) for number in (1, 2)]
    return before(events, [*bad], ev.GateJudged, step=2)


@pytest.mark.parametrize(
    ("tell", "names", "said"),
    [
        (lambda e, p: without(e, ev.LookTaken, step=2), {EARNED}, "0 looks passed in its bake, 4 are"),
        (lambda e, p: without(e, ev.LookTaken, step=2, look=2), {EARNED}, "3 looks passed"),
        (lambda e, p: instead(e, [p.look(2, 4, window_s=4)], ev.LookTaken, step=2, look=4), {EARNED},
         "look 4 covers 4 s of a bake of 8 s"),
        (lambda e, p: instead(e, [p.look(2, 3, answers=FEW)], ev.LookTaken, step=2, look=3), {EARNED},
         "3 looks passed"),
        (twice_the_same, {EARNED}, "the answers of another look again"),
        (lambda e, p: without(e, ev.StepStage, step=2, stage="bake"), {EARNED}, "never baked"),
        (lambda e, p: before(e, [ev.StepStage(step=2, stage="bake")], ev.GateJudged, step=2), {EARNED},
         "0 looks passed"),
        (lambda e, p: before(e, [p.look(2, 1, answers=SLOW)], ev.GateJudged, step=2), {EARNED},
         "after the breach of record"),
        (lagging, {EARNED}, "after the breach of record"),
        (lambda e, p: instead(e, [p.verdict(2, ok=False)], ev.GateJudged, step=2), {EARNED, DECISIONS},
         "A20 judged audit: fail"),
        (lambda e, p: before(e, [p.verdict(2, ok=False)], ev.GateJudged, step=2), {EARNED},
         "A20 judged audit: fail"),
        (lambda e, p: before(e, [p.verdict(2, ok=None)], ev.StepDecided, step=2), {EARNED, DECISIONS},
         "A20 judged audit: provider_error"),
        (lambda e, p: before(e, [ASKED, *[p.verdict(2, ok=False)] * 2], ev.GateJudged, step=2), {EARNED},
         "A20 judged audit: fail"),
        (lambda e, p: instead(e, [ASKED, p.verdict(2, ok=None)], ev.GateJudged, step=2), {EARNED, DECISIONS},
         "A20 did not pass audit under it"),
        (lambda e, p: without(e, ev.GateJudged, step=2), {EARNED}, "A20 gave no verdict on audit under it"),
        (lambda e, p: without(e, ev.AgentAnswered, call="c2"), {EARNED}, "A20 did not verify it"),
        (lambda e, p: but(e, ev.AgentAnswered, {"result": "fail"}, call="c2"), {EARNED}, "A20 did not"),
        (lambda e, p: without(e, ev.EffectDone, effect="e2"), {EARNED}, "no traffic was shifted"),
        (out_of_order, {EARNED}, "it starts after step 1"),
        (lambda e, p: but(e, ev.StepStarted, {"weight": 90}, step=2), {EARNED}, "no such step to 90 %"),
        (lambda e, p: but(e, ev.StepDecided, {"weight": 90}, step=2), {EARNED}, "at 90 %"),
        (lambda e, p: without(e, ev.StepDecided, step=3), {EARNED, EFFECTS}, "released: after 2 of 3 steps"),
        (lambda e, p: but(e, ev.Released, {"version": "v9"}), {EARNED}, "another version"),
        (lambda e, p: before(e, [BEGUN], ev.StepDecided, step=3), {EARNED, EFFECTS}, "after the rollback of"),
        (lambda e, p: but(e, ev.RunOpened, {"roster": []}), {EARNED}, "it leaves out A1, A11"),
    ],
)  # fmt: skip
def test_a_step_that_was_not_earned(
    factory: Factory, tmp_path: Path, tell: Tell, names: set[str], said: str
) -> None:
    failed = found(factory, tmp_path, tell)
    assert set(failed) == names
    assert said in failed[EARNED]


@pytest.mark.parametrize(
    ("tell", "names", "said"),
    [
        (lambda e, p: without(e, ev.GoNoGoComputed, step=2), {EFFECTS}, "there was no go before it"),
        (lambda e, p: but(e, ev.GoNoGoComputed, {"step": 1}, step=2), {EFFECTS}, "there was no go before it"),
        (lambda e, p: instead(e, p.decision(2, go=False), ev.GoNoGoComputed, step=2), {EFFECTS},
         "there was no go before it"),
        (lambda e, p: without(e, ev.GoNoGoComputed, step=4), {EFFECTS}, "web-stable: there was no go"),
        (lambda e, p: before(without(e, ev.EvidenceSealed), [SEALED], ev.Released), {EFFECTS, DECISIONS},
         "the promotion pack was not sealed"),
        (lambda e, p: before(e, [HALT], ev.EffectIntended, effect="e2"), {EFFECTS}, "in the HALT of record"),
        (lambda e, p: before(e, [HALT, ended("rollback")], ev.EffectIntended, effect="e2"), {EFFECTS},
         "in the HALT of record"),
        (lambda e, p: before(e, effect("a1", "abort", "shift", "canary weight 50"), ev.Released), {EFFECTS},
         "no step of an abort"),
        (lambda e, p: but(e, ev.EffectIntended, {"lane": "side"}, effect="e1"), {EFFECTS, EARNED},
         "in no lane there is"),
        (lambda e, p: before(e, effect("e9", "forward", "promote", "x"), ev.StepDecided, step=2), {EFFECTS},
         "stable is replaced after 1 steps"),
        (lambda e, p: [*e, VERIFIED], {ROLLBACKS}, "that never began"),
        (lambda e, p: [*e, BEGUN, VERIFIED], {ROLLBACKS}, "without its shift to 0"),
        (lambda e, p: [*e, *effect("a1", "abort", "shift", "canary weight 0"), BEGUN, VERIFIED], {ROLLBACKS},
         "without its shift to 0"),
    ],
)  # fmt: skip
def test_an_effect_out_of_its_place(
    factory: Factory, tmp_path: Path, tell: Tell, names: set[str], said: str
) -> None:
    failed = found(factory, tmp_path, tell)
    assert set(failed) == names
    assert any(said in detail for detail in failed.values())


def held_back(events: Events, promotion: Promotion) -> Events:
    """A HALT catches an intent before it goes out; the step begins again after it."""
    again = ev.StepStage(step=2, stage="preflight")
    caught: Events = [
        HALT,
        ev.EffectIntended(
            effect="e9", lane="forward", verb="shift", target="canary weight 50", env="prod", by="A1"
        ),
        ev.EffectFailed(effect="e9", reason="HALT is in force", sent=False),
        promotion.look(2, 1, answers=LAGS),  # a watch while it holds
        ended("resume"),
        again,
        *promotion.decision(2),
    ]
    return before(events, caught, ev.EffectIntended, effect="e2")


def watched(events: Events, promotion: Promotion) -> Events:
    """While the agents judge, a watch counts from 1 again and sees what is no breach."""
    return before(events, [promotion.look(2, 1, answers=LAGS), promotion.look(2, 2)], ev.GateJudged, step=2)


def second_try(events: Events, promotion: Promotion) -> Events:
    """A bake that could not be told, put to a person, and done again."""
    tried = index_of(events, ev.StepStage, step=2, stage="preflight")
    decided = index_of(events, ev.StepDecided, step=2)
    first: Events = [
        event for event in events[tried:decided] if not isinstance(event, (ev.GateJudged, ev.AgentAnswered))
    ]
    doubt = ev.StepDecided(step=2, weight=50, decision="inconclusive", reason="too little to judge")
    return [*events[:tried], *first[:-3], doubt, *events[tried:]]


def asked_again(events: Events, promotion: Promotion) -> Events:
    """A person has an agent verify again as it bakes, which fails or cannot tell; then it passes."""
    bad = [promotion.verdict(2, ok=False), promotion.verdict(2, ok=None)]
    return before(events, [ASKED, bad[0], ASKED, bad[1]], ev.GateJudged, step=2)


def asked_of_another(events: Events, promotion: Promotion) -> Events:
    """An agent that judges no step verifies again beside one."""
    asked = ReverifyAsked(agent="A11", phase="P0", attempt=2, by="someone", reason="once more")
    return before(events, [asked, promotion.verdict(2, agent="A11")], ev.GateJudged, step=2)


def not_told_at_first(events: Events, promotion: Promotion) -> Events:
    """What is judged while it bakes cannot be told yet; at the step's end it can."""
    return before(events, [promotion.verdict(2, ok=None)], ev.GateJudged, step=2)


def rolled_back(events: Events, promotion: Promotion) -> Events:
    at = index_of(events, ev.GateJudged, step=2)
    shift = effect("a1", "abort", "shift", "canary weight 0")
    return [*events[:at], promotion.look(2, 5, answers=SLOW), HALT, BEGUN, *shift, VERIFIED]


@pytest.mark.parametrize(
    "tell",
    [
        lambda e, p: e,
        held_back,
        watched,
        second_try,
        asked_again,
        asked_of_another,
        not_told_at_first,
        rolled_back,
    ],
    ids=lambda one: one.__name__,
)
def test_what_went_right_holds(factory: Factory, tmp_path: Path, tell: Tell) -> None:
    assert found(factory, tmp_path, tell) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change(valid_s=1.0), "gate policy passes and comes out as fail: audit: A20's verdict (prod) is"),
        (Change(gonogo={"exceptions": ["E-1"]}), "exceptions is told as ['E-1']"),
        (Change(gonogo={"risk_open": ["R-1"]}), "open risks is told as ['R-1']"),
        (Change(gonogo={"headroom": {"web": 0.9}}), "headroom is told as {'web': 0.9}"),
        (Change(tell=lambda e, p: without(e, ev.EvidenceSealed)), "signed evidence is told as True"),
    ],
)
def test_a_go_that_does_not_come_out_again(
    factory: Factory, tmp_path: Path, change: Change, said: str
) -> None:
    report = verify_pack(factory.make(change).pack.path, config=tmp_path)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert set(failed) == {DECISIONS}
    assert said in failed[DECISIONS]
    detail = next(c.detail for c in verify_pack(factory.make().pack.path).checks if c.name == DECISIONS)
    assert detail == "1 decisions, computed again; who owed a verdict is known from who gave one"


SPOKEN = "token: registry answered 503\nand \x1b[31mpassword=hunter22"


def test_what_the_journal_masks_is_no_forgery(factory: Factory, tmp_path: Path) -> None:
    refused = {"check.p95_ms": b'{"error": "http", "text": "' + SPOKEN[:28].encode() + b'\\n\\u001b[31m"}'}
    reasons = [f"gate policy: fail (audit: A20: fail, {SPOKEN})"]
    change = Change(
        detail=SPOKEN,
        required={"policy": "fail"},
        gonogo={"go": False, "gates": {"policy": "fail"}, "reasons": reasons},
        tell=lambda e, p: [*e, p.look(1, 2, answers=refused)],
    )
    made = factory.make(change)
    assert b"registry" not in (made.folder / "journal.jsonl").read_bytes()
    report = verify_pack(made.pack.path, config=tmp_path)
    assert [check for check in report.checks if not check.ok] == []
    other = Change(
        detail=SPOKEN,
        required=change.required,
        gonogo=change.gonogo,
        verdict={"reason": "chain: token: registry answered 200"},
    )
    report = verify_pack(factory.make(other).pack.path, config=tmp_path)
    assert {check.name for check in report.checks if not check.ok} == {VERDICTS}
