"""What people made of a bake, and what they granted a flip for, held against what was done."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cockpit.base.clock import iso
from cockpit.base.errors import EvidenceError
from cockpit.evidence.bake_check import BAKES, bakes_kept
from cockpit.evidence.flip_check import FLIPS, flips_granted
from cockpit.evidence.verify import verify_pack
from cockpit.journal import events as ev
from cockpit.journal.events_people import (
    ApprovalRequested,
    ApprovalSettled,
    BakeExtended,
    BakePaused,
    PolicyDecided,
)
from cockpit.plan.model import Plan
from cockpit.rpc.approval import digest_of, request_bytes
from tests.contract.approval_support import approvals, request
from tests.unit.evidence.conftest import Factory
from tests.unit.evidence.promotion import before
from tests.unit.evidence.runs import Change
from tests.unit.plan.test_refuse import data
from tests.unit.verdicts.samples import canary

START = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
PACK = "cd" * 32


class Told:
    """A journal of events at seconds, and the blobs they refer to."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.events: list[Any] = []

    def blob(self, digest: str) -> bytes:
        """Return a blob."""
        if digest not in self.blobs:
            raise EvidenceError(f"{digest} is not there")
        return self.blobs[digest]

    def keep(self, raw: bytes) -> str:
        """Keep a blob."""
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.blobs[digest] = raw
        return digest

    def at(self, seconds: float, *events: Any) -> Told:
        """Tell events."""
        for event in events:
            at = iso(START + timedelta(seconds=seconds))
            self.events.append(replace(event, seq=len(self.events) + 1, at=at))
        return self

    def look(self, seconds: float, window: float, *, outcome: str = "pass", watch: bool = False) -> Told:
        """Tell a look."""
        stored = json.dumps({"rule": {"params": {"window_s": window}}, "nth": len(self.events)}).encode()
        return self.at(
            seconds,
            ev.LookTaken(
                step=1, look=len(self.events), outcome=outcome, critical=False, reason="", requests=500,
                metrics={}, burn={}, passes=1, required=1, failures=0, answers=self.keep(stored), watch=watch,
            ),
        )  # fmt: skip


# -- bakes: of 8 s by the plan ------------------------------------------------------------------------

PLAN = Plan.model_validate({**data(), "canary": canary().model_dump(mode="json")})
STEP = (ev.StepStarted(step=1, weight=10), ev.StepStage(step=1, stage="bake"))
ADVANCE = ev.StepDecided(step=1, weight=10, decision="advance", reason="it passed")
PAUSE, GO_ON = (BakePaused(paused=paused, by="ann", reason="a look at it") for paused in (True, False))
LONGER = BakeExtended(seconds=20, by="ann", reason="it looks odd")


def bake(told: Told) -> tuple[bool, str]:
    check = bakes_kept(told.events, PLAN, told.blob)
    assert check.name == BAKES
    return check.ok, check.detail


def test_a_bake_nobody_touched_is_as_the_plan_says() -> None:
    assert bake(Told().at(0, *STEP).look(8, 8).at(9, ADVANCE)) == (True, "none was paused or extended")


def test_a_pause_and_an_extension_that_were_kept_to() -> None:
    paused = Told().at(0, *STEP).at(4, PAUSE).look(8, 4).at(104, GO_ON).look(108, 8).at(109, ADVANCE)
    assert bake(paused) == (True, "1 paused or longer ones, each to its end")
    longer = Told().at(0, *STEP).at(4, LONGER).look(10, 10).look(28, 28).at(29, ADVANCE)
    assert bake(longer)[0]
    late = Told().at(0, *STEP).look(8, 8).at(9, LONGER).look(29, 28).at(30, ADVANCE)
    assert bake(late)[0]


def test_the_next_step_has_its_own_length() -> None:
    told = Told().at(0, *STEP).at(4, LONGER, PAUSE).at(5, GO_ON).look(30, 28).at(31, ADVANCE)
    told.at(32, ev.StepStarted(step=2, weight=50), ev.StepStage(step=2, stage="bake")).look(40, 8)
    assert bake(told.at(41, replace(ADVANCE, step=2, weight=50)))[0]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Told().at(0, *STEP).look(8, 8).at(9, PAUSE, ADVANCE), "its bake is paused"),
        (Told().at(0, *STEP).at(4, PAUSE).look(9, 8).at(10, GO_ON, ADVANCE), "no look passed"),
        (
            Told().at(0, *STEP).at(4, LONGER).look(12, 8).at(13, ADVANCE),
            "8 s of a bake that people made 28 s",
        ),
        (Told().at(0, *STEP).look(8, 8).at(9, LONGER, ADVANCE), "no look passed since"),
        (Told().at(0, *STEP).look(8, 28).at(9, LONGER, ADVANCE), "no look passed since"),
        (Told().at(0, *STEP).at(4, LONGER).look(12, 28).at(13, ADVANCE), "baked for 12 s of 28 s"),
        (Told().at(0, *STEP).at(1, PAUSE).at(7, GO_ON).look(8, 8).at(9, ADVANCE), "baked for 2 s of 8 s"),
        (Told().at(0, *STEP).at(4, LONGER).look(28, 28, watch=True).at(29, ADVANCE), "no look passed since"),
        (Told().at(0, *STEP).at(4, LONGER).look(28, 28, outcome="fail").at(29, ADVANCE), "no look passed"),
    ],
)
def test_a_bake_that_was_not_kept_to(told: Told, said: str) -> None:
    ok, detail = bake(told)
    assert not ok
    assert said in detail


def test_a_look_that_is_not_to_be_had_shows_nothing() -> None:
    told = Told().at(0, *STEP).at(4, LONGER).look(28, 28).at(29, ADVANCE)
    told.blobs.clear()
    assert "is not known" in bake(told)[1]


# -- flips --------------------------------------------------------------------------------------------

ALLOWED = PolicyDecided(
    decision="d-1", action="flip", allow=True, obligations=[], unmet=[], reasons=[], engine="e", blob=""
)
SEALED = ev.EvidenceSealed(kind="promotion", path="promotion.zip", sha256=PACK, log_index=1, entry_id="e")
OUT = ev.Released(version="v3.0.0")
FLIP = ev.EffectIntended(
    effect="e1", lane="forward", verb="flip", target="flag search: pilots → everyone", env="prod", by="A55"
)
RULES = [{"asked": "promote"}, {"asked": "flip"}]


def flipped(rules: list[dict[str, Any]]) -> Plan:
    changes = {"approvals": approvals(rules=rules).model_dump(mode="json"), "waivers": []}
    return Plan.model_validate({**data(), **changes})


def grant(told: Told, *, asked: str = "flip", pack: str = PACK, lasts: float = 3600) -> tuple[Any, Any]:
    plan = flipped(RULES)
    images = {f"image {service.name}": service.image.text for service in plan.services}
    about = {"promotion pack": f"sha256:{pack}", **images}
    made = request(now=START, request=f"{asked}-1", asked=asked, about=about, subject=digest_of(about))
    requested = ApprovalRequested(
        request=made.request, asked=asked, subject=made.subject, text=made.text, requester="@dee",
        threshold=1, groups=[], from_each=False, step_up="none", expires=made.expires,
        blob=told.keep(request_bytes(made)),
    )  # fmt: skip
    until = iso(START + timedelta(seconds=lasts))
    settled = ApprovalSettled(
        request=made.request, result="granted", by=["@ann"], reason="", valid_until=until
    )
    return requested, settled


def flips(told: Told, rules: list[dict[str, Any]] = RULES) -> tuple[bool, str]:
    check = flips_granted(told.events, flipped(rules), told.blob)
    assert check.name == FLIPS
    return check.ok, check.detail


def test_a_flip_under_its_own_grant() -> None:
    told = Told()
    told.at(0, SEALED, OUT, *grant(told), ALLOWED).at(60, FLIP)
    assert flips(told) == (True, "1 flips")
    assert flips(Told().at(0, SEALED)) == (True, "no GA flag was flipped")


def test_where_nobody_is_asked_policy_is_enough_and_needed() -> None:
    assert flips(Told().at(0, OUT, ALLOWED, FLIP), RULES[:1])[0]
    assert flips(Told().at(0, OUT, FLIP), RULES[:1]) == (
        False,
        "record 2, flag search: pilots → everyone: policy had not allowed it",
    )


def test_a_ramp_with_a_step_and_a_flag_set_back_are_no_flips() -> None:
    back = replace(FLIP, lane="abort")
    assert flips(Told().at(0, SEALED, FLIP, OUT, back)) == (True, "no GA flag was flipped")


@pytest.mark.parametrize(
    ("options", "order", "said"),
    [
        ({}, "gaf", ""),
        ({}, "af", "nobody had approved the flip"),
        ({}, "afg", "nobody had approved the flip"),
        ({}, "gf", "policy had not allowed it"),
        ({}, "gdf", "policy had not allowed it"),
        ({}, "guf", "policy had not allowed it"),
        ({"asked": "promote"}, "gaf", "nobody had approved the flip"),
        ({"pack": "ef" * 32}, "gaf", "nobody had approved the flip"),
        ({"lasts": -120}, "gaf", "nobody had approved the flip"),
    ],
)
def test_a_flip_needs_its_grant_and_policy(options: dict[str, Any], order: str, said: str) -> None:
    told = Told()
    told.at(0, SEALED, OUT)
    parts = {
        "g": grant(told, **options),
        "a": (ALLOWED,),
        "d": (ALLOWED, replace(ALLOWED, allow=False)),
        "u": (replace(ALLOWED, unmet=["require_mfa"]),),
        "f": (FLIP,),
    }
    for one in order:
        told.at(1, *parts[one])
    ok, detail = flips(told)
    assert ok is not bool(said)
    assert said in detail


# -- in a pack ----------------------------------------------------------------------------------------


def test_verifying_a_pack_asks_both(factory: Factory, tmp_path: Path) -> None:
    def tell(events: list[Any], _: Any) -> list[Any]:
        return [
            *before(events, [LONGER], ev.StepDecided, step=2),
            FLIP,
            ev.EffectDone(effect="e1", took_ms=1),
        ]

    report = verify_pack(factory.make(Change(promoted=True, tell=tell)).pack.path, config=tmp_path)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert set(failed) == {BAKES, FLIPS}
    assert "step 2 advances: no look passed since" in failed[BAKES]
