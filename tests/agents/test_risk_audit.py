"""The risk register measured, and the auditor who sees what was changed."""

from __future__ import annotations

import copy
import json

import pytest

from cockpit.base.errors import CockpitError
from cockpit.evidence.recompute import verdict_problem
from cockpit.journal.events import GateJudged
from tests.agents.support import World, recomputed

# -- A4 ------------------------------------------------------------------------------------------------


async def test_risks_are_measured(world: World) -> None:
    result = await world.call("A4", phase="P6")
    assert result.status == "ok", result.reason
    rows = {row["id"]: row for row in world.read("risk/register.json")["risks"]}
    assert rows["R-REALTIME-LAG"]["state"] == "mitigated"
    assert rows["R-SCHEMA-CUTOVER"]["triggers"][0]["fired"] is False


async def test_a_trigger_opens_a_high_risk_only_after_its_time(world: World) -> None:
    world.facts.risk = [20.0, 900.0]  # beyond the limit now, and not all the time before
    assert (await world.call("A4", phase="P6")).status == "ok"
    world.facts.risk = [900.0]
    result = await world.call("A4", phase="P6")
    assert result.status == "fail" and "R-SCHEMA-CUTOVER" in result.reason


async def test_a_risk_without_a_rating_counts_as_high(world: World) -> None:
    risk = {"id": "R-NEW", "owner": "@sre", "state": "open"}
    world.data["risks"] = [risk]
    result = await world.call("A4", phase="P6")
    assert result.status == "fail" and "R-NEW" in result.reason
    world.data["risks"] = [{**risk, "likelihood": "low", "impact": "medium"}]
    assert (await world.call("A4", phase="P6")).status == "ok"


async def test_a_trigger_without_data_leaves_the_risk_open(world: World) -> None:
    world.facts.risk = [float("nan")]
    result = await world.call("A4", phase="P6")
    assert result.status == "fail" and "no data" in result.reason


@pytest.mark.parametrize(
    "change",
    [{"approved_by": ""}, {"approved_by": "@sre"}, {"expires": "2020-01-01T00:00:00Z"}],
    ids=["unapproved", "by its owner", "expired"],
)
async def test_exceptions_stop_the_release(world: World, change: dict[str, str]) -> None:
    good = {
        "id": "E-1",
        "owner": "@sre",
        "reason": "because",
        "approved_by": "@security",
        "expires": "2099-01-01T00:00:00Z",
    }
    world.data["exceptions"] = [good]
    assert (await world.call("A4", phase="P6")).status == "ok"
    world.data["exceptions"] = [{**good, **change}]
    assert (await world.call("A4", phase="P6")).status == "fail"


# -- A20 -----------------------------------------------------------------------------------------------


async def test_audit_passes(world: World) -> None:
    await world.call("A43")
    verdict = await world.verdict("A20")
    assert verdict.verdict == "pass", verdict.details.reason
    assert world.read("audit/proof.json")["records"] > 3
    recomputed(world)


async def test_audit_sees_a_changed_artifact(world: World) -> None:
    await world.call("A43")
    (world.run_dir / "artifacts" / "quality" / "acceptance.xml").write_text("<testsuite/>")
    verdict = await world.verdict("A20")
    assert (
        verdict.details.outcome == "fail" and "quality/acceptance.xml was changed" in verdict.details.reason
    )


async def test_audit_sees_a_changed_record(world: World) -> None:
    await world.call("A43")
    world.recorder.state()
    journal = world.run_dir / "journal.jsonl"
    with journal.open("r+b") as file:
        raw = file.read()
        at = raw.index(b'"operator":"tests"')
        file.seek(at)
        file.write(b'"operator":"tesTs"')
    verdict = await world.verdict("A20")
    assert verdict.details.outcome == "fail" and "chain" in verdict.details.reason


async def test_a_verdict_changed_afterwards_does_not_recompute(world: World) -> None:
    world.facts.stable["errors"] = 20.0
    await world.call("A11")
    events = list(world.recorder.events())
    [judged] = [event for event in events if isinstance(event, GateJudged)]
    raw = json.loads(world.recorder.blob(judged.verdict_blob))
    forged = copy.deepcopy(raw)
    forged["verdict"], forged["details"]["outcome"] = "pass", "pass"
    forged["metrics"]["error_rate"] = 0.0
    blob = world.recorder.keep(json.dumps(forged).encode())
    lie = GateJudged(
        **{name: getattr(judged, name) for name in judged.__struct_fields__ if name not in ("seq", "at")}
        | {"verdict": "pass", "outcome": "pass", "verdict_blob": blob, "metrics": forged["metrics"]}
    )
    try:
        assert verdict_problem(lie, world.recorder.blob)
    except CockpitError:
        pass  # told in the other way a broken verdict is told
