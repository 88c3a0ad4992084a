"""A run that recorded something else than what its answers say, signed by the right identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from cockpit.base.files import sha256_hex
from cockpit.evidence.verify import verify_pack
from cockpit.journal import events as ev
from tests.unit.evidence.conftest import Factory
from tests.unit.evidence.promotion import but, without
from tests.unit.evidence.runs import ARTIFACTS, PLAN, Change, plan_text

VERDICTS, LOOKS, DECISIONS, PLANS = (
    "verdicts recomputed",
    "canary looks recomputed",
    "go/no-go follows from the verdicts",
    "plan",
)
OTHER = sha256_hex(PLAN.replace(b"v3.0.0", b"v3.0.1"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (Change(verdict={"metrics": {"checks": 7}}), VERDICTS),
        (Change(verdict={"thresholds": ["checks_failed==1"]}), VERDICTS),
        (Change(verdict={"reason": "all good"}), VERDICTS),
        (Change(verdict={"valid_s": 9e9}), VERDICTS),
        (Change(verdict={"images": {}}), VERDICTS),
        (Change(verdict={"verdict_blob": "sha256:" + "0" * 64}), VERDICTS),
        (Change(rule="no_such_rule"), VERDICTS),
        (Change(look={"step": 2}), LOOKS),
        (Change(look={"step": 0}), LOOKS),
        (Change(plan=plan_text({})), LOOKS),
        (Change(plan=PLAN + b"# kinder"), PLANS),
        (Change(plan=PLAN.replace(b"v3.0.0", b"v3.0.1"), opened={"plan_sha256": OTHER}), PLANS),
        (Change(opened={"steps": [10, 100]}), PLANS),
        (Change(opened={"required_gates": []}), PLANS),
        (Change(opened={"plan_blob": ""}), PLANS),
        (Change(look={"outcome": "fail"}), LOOKS),
        (Change(look={"requests": 4000.0}), LOOKS),
        (Change(look={"metrics": {"p95_ms": 1.0}}), LOOKS),
        (Change(look={"burn": {}}), LOOKS),
        (Change(look={"critical": True}), LOOKS),
        (Change(look={"answers": ""}), LOOKS),
        (Change(verdict={"verdict": "fail"}), DECISIONS),
        (Change(verdict={"phase_gate": "chaos"}), DECISIONS),
        (Change(required={"policy": "fail"}), DECISIONS),
        (Change(gonogo={"evidence_signed": False}), DECISIONS),
        (Change(gonogo={"reasons": ["something"]}), DECISIONS),
        (Change(gonogo={"version": "v2.9.9"}), DECISIONS),
    ],
)  # fmt: skip
def test_what_the_answers_do_not_say_is_found(
    factory: Factory, tmp_path: Path, change: Change, name: str
) -> None:
    report = verify_pack(factory.make(change).pack.path, config=tmp_path)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert name in failed
    assert failed[name]
    assert report.exit_code == 1


def test_without_recomputing_it_says_less(factory: Factory, tmp_path: Path) -> None:
    made = factory.make(Change(look={"outcome": "fail"}))
    report = verify_pack(made.pack.path, config=tmp_path, recompute=False)
    assert report.ok
    assert LOOKS not in {check.name for check in report.checks}


def test_an_artifact_that_is_gone(factory: Factory, tmp_path: Path) -> None:
    report = verify_pack(factory.make(Change(drop_artifact="perf/headroom.json")).pack.path, config=tmp_path)
    assert {check.name for check in report.checks if not check.ok} == {"artifacts"}


BASELINE = "perf/baseline.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change(tell=lambda e, p: without(e, ev.ArtifactSigned, path=BASELINE)),
         f"the journal does not tell of the signature of {BASELINE}"),
        (Change(tell=lambda e, p: but(e, ev.ArtifactSigned, {"log_index": 99}, path=BASELINE)),
         f"the journal's signature of {BASELINE} is not in signatures/index.json"),
        (Change(tell=lambda e, p: but(e, ev.ArtifactSigned, {"bundle": "x.sig"}, path=BASELINE)),
         f"the signature of {BASELINE} is missing"),
    ],
)  # fmt: skip
def test_journal_and_index_tell_of_the_same_signatures(
    factory: Factory, tmp_path: Path, change: Change, said: str
) -> None:
    report = verify_pack(factory.make(change).pack.path, config=tmp_path)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert set(failed) == {"artifact signatures"}
    assert said in failed["artifact signatures"]


def test_a_file_written_again_just_as_it_was_is_still_signed(factory: Factory, tmp_path: Path) -> None:
    again = ev.ArtifactWritten(
        agent="A15", path=BASELINE, sha256=sha256_hex(ARTIFACTS[BASELINE]), kind="report"
    )
    report = verify_pack(factory.make(Change(tell=lambda e, p: [*e, again])).pack.path, config=tmp_path)
    assert [check for check in report.checks if not check.ok] == []
