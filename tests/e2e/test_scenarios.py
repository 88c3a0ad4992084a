"""Each scenario of the rehearsal: exit code, final state, and what the world saw."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from xml.etree import ElementTree

import pytest

from cockpit.journal import events as ev
from cockpit.journal.events_people import (
    ApprovalSettled,
    BreakGlassUsed,
    HardStopStage,
    OperatorLost,
)
from cockpit.journal.events_work import (
    FixTrainScheduled,
    FlagChanged,
    IssueFiled,
    KpiMeasured,
    StageEnded,
)
from cockpit.journal.fold import Fold
from tests.e2e.invariants import (
    assert_canary_reached_in_time_only,
    assert_no_traceback,
    assert_promoted_past_gates,
    assert_replays,
)
from tests.e2e.rehearsals import Rehearsed, cockpit

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
Get = Callable[[str], Rehearsed]

EACH_TIME = ("green", "unsigned-image", "signing-outage", "critical-breach")
"""The scenarios of `make test`; the others take `make test-long`.

Each time, too: a rejection given by keys, and slo-breach-50 on real servers.
"""

EXITS = {
    "green": 0,
    "slo-breach-10": 20,
    "slo-breach-50": 20,
    "unsigned-image": 10,
    "mutable-tag": 10,
    "low-headroom": 10,
    "no-traffic": 20,
    "metrics-outage": 20,
    "policy-deny": 10,
    "signing-outage": 50,
    "slow-canary": 20,
    "stable-sick": 10,
    "approval-rejected": 10,
    "break-glass": 0,
    "critical-breach": 20,
    "window-closes": 20,
    "kpi-regression": 0,
    "operator-lost": 0,
}
UNSIGNED = "signing-outage"
BEFORE_TRAFFIC = [name for name, code in EXITS.items() if code in (10, 50)]
ROLLED_BACK = [name for name, code in EXITS.items() if code == 20]


def _each(scenarios: Iterable[str]) -> list[object]:
    """Return scenarios as parameters, each marked `long` that is not rehearsed each time."""
    return [_of(name) for name in scenarios]


def _of(scenario: str, *more: object) -> object:
    marks = () if scenario in EACH_TIME else (pytest.mark.long,)
    return pytest.param(scenario, *more, marks=marks, id=scenario)


WRITTEN = (
    "journal.jsonl",
    "heads",
    "blobs",
    "state.json",
    "summary.json",
    "junit.xml",
    "release_notes.md",
    "evidence.zip",
    "evidence.zip.sigstore.json",
    "trusted_root.json",
    "world/requests.jsonl",
)


@pytest.mark.parametrize("scenario", _each(EXITS))
def test_exit_code(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    assert run.code == EXITS[scenario], run.out[-3000:] + run.err
    assert run.summary["exit"] == EXITS[scenario]
    assert_no_traceback(run)


@pytest.mark.parametrize("scenario", _each(name for name in EXITS if name != UNSIGNED))
def test_everything_is_written_and_verifies(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    assert [name for name in WRITTEN if not (run.folder / name).exists()] == []
    verified = cockpit("evidence", "verify", str(run.folder / "evidence.zip"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "UNANCHORED" in verified.stdout
    journal = cockpit("journal", "verify", str(run.folder))
    assert journal.returncode == 0, journal.stdout


@pytest.mark.parametrize("scenario", _each(EXITS))
def test_replay_reaches_the_final_state_with_nothing_left_open(rehearsed: Get, scenario: str) -> None:
    assert_replays(rehearsed(scenario))


@pytest.mark.parametrize("scenario", _each(EXITS))
def test_nothing_is_promoted_past_a_gate_and_nobody_meets_the_canary_but_then(
    rehearsed: Get, scenario: str
) -> None:
    run = rehearsed(scenario)
    assert_promoted_past_gates(run.events)
    assert_canary_reached_in_time_only(run)


@pytest.mark.parametrize("scenario", _each(EXITS))
def test_junit_has_a_case_for_each_required_gate(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    root = ElementTree.parse(run.folder / "junit.xml").getroot()
    cases = {case.get("name"): case for case in root.findall("./testsuite[@name='required gates']/testcase")}
    assert set(cases) == set(run.summary["gates"])
    failed = {name for name, case in cases.items() if len(case)}
    assert failed == {gate for gate, result in run.summary["gates"].items() if result != "pass"}


def test_green_judges_enough_requests_at_every_step(rehearsed: Get) -> None:
    run = rehearsed("green")
    last = {look.step: look for look in run.of(ev.LookTaken) if look.outcome == "pass"}
    assert set(last) == {1, 2, 3}
    assert all(look.requests >= 50 for look in last.values())
    decided = [(d.weight, d.decision) for d in run.of(ev.StepDecided)]
    assert decided == [(10, "advance"), (50, "advance"), (100, "advance")]


def test_green_ends_with_the_new_version_everywhere(rehearsed: Get) -> None:
    run = rehearsed("green")
    assert run.of(ev.Released)
    # What was on its way to the canary when stable took over is served by it still.
    drained = next(
        e.at for e in run.of(ev.EffectIntended) if e.lane == "abort" and e.verb == "scale" and e.env == "prod"
    )
    after = [r for r in run.requests if r["env"] == "prod" and r["at"] > drained]
    assert after
    assert {r["track"] for r in after} == {"stable"}
    assert len({r["version"] for r in after}) == 1
    assert after[0]["version"] != run.requests[0]["version"]
    weights = run.summary["weights"]
    assert weights["desired"] == 0
    canary = {n: c for n, c in run.summary["replicas"].items() if n.endswith("-canary")}
    assert canary and all(count == {"wanted": 0, "ready": 0} for count in canary.values())


def test_green_says_that_it_is_reduced(rehearsed: Get) -> None:
    run = rehearsed("green")
    assert any("dr" in reason for reason in run.summary["reduced"])
    assert run.summary["rehearsal"] is True


def test_the_promotion_pack_is_sealed_before_the_first_step(rehearsed: Get) -> None:
    run = rehearsed("green")
    sealed = next(e for e in run.of(ev.EvidenceSealed) if e.kind == "promotion")
    shift = next(e for e in run.of(ev.EffectIntended) if e.verb == "shift" and e.env == "prod")
    assert sealed.seq < shift.seq


@pytest.mark.parametrize("scenario", _each(ROLLED_BACK))
def test_no_request_reaches_the_canary_after_the_rollback_was_verified(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    assert_canary_reached_in_time_only(run)
    verified = run.of(ev.RollbackVerified)[0].at
    prod = [r for r in run.requests if r["env"] == "prod"]
    if scenario != "no-traffic":
        assert [r for r in prod if r["track"] == "canary"], "the canary was never reached at all"
        assert [r for r in prod if r["track"] == "stable" and r["at"] > verified], "stable serves on"


@pytest.mark.parametrize("scenario", _each(ROLLED_BACK))
def test_a_rollback_leaves_stable_as_it_was(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    stable = run.of(ev.StableRecorded)[0]
    changed = [
        e
        for e in run.of(ev.EffectIntended)
        if e.env == "prod" and e.verb != "stamp" and any(n in e.target for n in stable.replicas)
    ]
    assert changed == []
    last = run.of(ev.ReplicasSeen)[-1].deployments
    assert {name: [count, count] for name, count in stable.replicas.items()} == {
        name: last[name] for name in stable.replicas
    }


@pytest.mark.parametrize("scenario", _each(BEFORE_TRAFFIC))
def test_no_traffic_moves_when_a_gate_failed_before(rehearsed: Get, scenario: str) -> None:
    run = rehearsed(scenario)
    assert run.summary["traffic_moved"] is False
    promoting = ("shift", "scale", "promote")
    assert not [e for e in run.of(ev.EffectIntended) if e.env == "prod" and e.verb in promoting]
    assert not [r for r in run.requests if r["env"] == "prod" and r["track"] == "canary"]


@pytest.mark.parametrize(
    ("scenario", "phase_gate", "agent"),
    [
        _of("unsigned-image", "supply_chain", "A15"),
        _of("mutable-tag", "policy_ci", "A9"),
        _of("low-headroom", "perf", "A27"),
        _of("policy-deny", "policy_ci", "A9"),
    ],
)
def test_the_right_gate_fails(rehearsed: Get, scenario: str, phase_gate: str, agent: str) -> None:
    run = rehearsed(scenario)
    failed = {(v.phase_gate, v.agent) for v in run.of(ev.GateJudged) if v.verdict == "fail"}
    assert (phase_gate, agent) in failed


@pytest.mark.parametrize(("scenario", "weight"), [_of("slo-breach-10", 10), _of("slo-breach-50", 50)])
def test_a_breach_rolls_back_from_its_step(rehearsed: Get, scenario: str, weight: int) -> None:
    run = rehearsed(scenario)
    assert run.of(ev.StepStarted)[-1].weight == weight
    assert run.of(ev.RollbackStarted)[0].reason == "slo_breach"
    assert any(look.outcome == "fail" for look in run.of(ev.LookTaken))


@pytest.mark.long
def test_an_outage_of_the_metrics_is_no_breach_and_no_pass(rehearsed: Get) -> None:
    run = rehearsed("metrics-outage")
    assert run.of(ev.RollbackStarted)[0].reason == "inconclusive"
    assert not [look for look in run.of(ev.LookTaken) if look.outcome in ("pass", "fail")]


def test_without_a_signature_nothing_is_promoted_and_the_pack_says_so(rehearsed: Get) -> None:
    run = rehearsed(UNSIGNED)
    assert not [e for e in run.of(ev.EvidenceSealed) if e.kind == "promotion"]
    assert run.of(ev.EvidencePending)
    assert run.summary["pending"]
    assert cockpit("evidence", "verify", str(run.folder / "evidence.zip")).returncode != 0
    assert cockpit("journal", "verify", str(run.folder)).returncode == 0


def test_dev_and_stage_take_the_same_digests_first(rehearsed: Get) -> None:
    run = rehearsed("green")
    ended = run.of(StageEnded)
    assert [(e.env, e.result) for e in ended] == [("dev", "pass"), ("stage", "pass")]
    assert all(e.running == run.summary["digests"] for e in ended)
    shift = next(e for e in run.of(ev.EffectIntended) if e.verb == "shift" and e.env == "prod")
    assert all(e.seq < shift.seq for e in ended)


def test_a_critical_breach_is_a_hard_stop_to_its_end(rehearsed: Get) -> None:
    run = rehearsed("critical-breach")
    assert run.of(ev.HaltBegan)[0].trigger == "critical"
    stages = {e.stage: e.ok for e in run.of(HardStopStage)}
    assert stages == {"incident": True, "evidence": True, "notify": True, "fix_train": True}
    assert {e.kind for e in run.of(IssueFiled)} >= {"incident", "fix_train"}
    assert run.of(FixTrainScheduled)
    order = [type(e) for e in run.events if isinstance(e, (ev.RollbackVerified, HardStopStage))]
    assert order[0] is ev.RollbackVerified
    posted = [(e.macro, e.webhook) for e in run.of(ev.MessagePosted) if e.ok]
    assert len(posted) == len(set(posted))
    assert any(macro.startswith("hard_stop") for macro, _ in posted)


@pytest.mark.long
def test_a_window_that_closes_in_mid_canary_rolls_back(rehearsed: Get) -> None:
    run = rehearsed("window-closes")
    assert "window" in run.of(ev.RollbackStarted)[0].cause


@pytest.mark.long
def test_a_slow_canary_is_rolled_back_for_its_latency(rehearsed: Get) -> None:
    run = rehearsed("slow-canary")
    assert run.of(ev.RollbackStarted)[0].reason == "slo_breach"
    failed = [look for look in run.of(ev.LookTaken) if look.outcome == "fail"]
    assert any("p95_ms" in look.reason or "latency" in look.reason for look in failed)


@pytest.mark.long
def test_a_sick_stable_takes_no_canary_beside_it(rehearsed: Get) -> None:
    run = rehearsed("stable-sick")
    assert "stable" in run.summary["cause"] or "slo" in run.summary["cause"]


@pytest.mark.long
def test_a_rejection_binds(rehearsed: Get) -> None:
    run = rehearsed("approval-rejected")
    (settled,) = run.of(ApprovalSettled)
    assert settled.result == "rejected"
    assert settled.by[0] in run.summary["cause"]


@pytest.mark.long
def test_break_glass_leaves_the_verdict_it_overrides(rehearsed: Get) -> None:
    run = rehearsed("break-glass")
    (used,) = run.of(BreakGlassUsed)
    assert used.second and used.second != used.by and used.reason
    state = Fold().apply_all(run.events).snapshot()
    assert any(g.phase_gate == used.gate and g.verdict == "fail" for g in state.gates)
    assert run.of(ev.Released)
    assert "break-glass" in str(run.summary["gate_reasons"])


@pytest.mark.long
def test_a_regressed_kpi_is_filed_once(rehearsed: Get) -> None:
    run = rehearsed("kpi-regression")
    assert any(e.regressed for e in run.of(KpiMeasured))
    filed = [e for e in run.of(IssueFiled) if e.kind == "regression" and not e.known]
    assert len(filed) == len({e.key for e in filed}) >= 1


@pytest.mark.long
def test_a_lost_operator_is_noticed_and_the_release_goes_on(rehearsed: Get) -> None:
    run = rehearsed("operator-lost")
    (lost,) = run.of(OperatorLost)
    assert lost.then == "continue"
    released = run.of(ev.Released)[0]
    assert lost.seq < released.seq


def test_the_flags_flip_when_the_release_is_out(rehearsed: Get) -> None:
    run = rehearsed("green")
    released = run.of(ev.Released)[0].seq
    flipped = {e.flag: e.scope for e in run.of(FlagChanged) if e.seq > released}
    assert {flipped.get(flag) for flag in ("search", "realtime", "reports")} == {"all"}


def test_a_changed_pack_or_bundle_does_not_verify(rehearsed: Get) -> None:
    run = rehearsed("green")
    pack, bundle = run.folder / "evidence.zip", run.folder / "evidence.zip.sigstore.json"
    for file in (pack, bundle):
        raw = file.read_bytes()
        for at in (0, len(raw) // 3, len(raw) // 2, len(raw) - 1):
            changed = run.folder / "tampered.zip"
            changed.write_bytes(raw if file is bundle else _flipped(raw, at))
            other = run.folder / "tampered.json"
            other.write_bytes(_flipped(raw, at) if file is bundle else bundle.read_bytes())
            if file is bundle:
                changed.write_bytes(pack.read_bytes())
            verified = cockpit("evidence", "verify", str(changed), "--bundle", str(other))
            assert verified.returncode != 0, (file.name, at)
            assert "Traceback" not in verified.stderr


def _flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]


def test_json_lines_are_the_journal(start: Callable[..., object]) -> None:
    running = start("unsigned-image", "--format", "jsonl")
    ended: Rehearsed = running.end()  # type: ignore[attr-defined]
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(len(ended.events)))
    assert lines[-1]["type"] == "run.closed.v1"
