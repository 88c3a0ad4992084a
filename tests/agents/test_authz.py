"""A19: the decision table through both engines, what flips the verdict, and the policy's way to OPA."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from cockpit.agents.authz import BEFORE, LOG, policy_id
from cockpit.backends.policy import default_bundles
from cockpit.backends.policy_engine import builtin_policy, read_policy
from cockpit.backends.policy_opa import release_policy
from cockpit.evidence.recompute import verdict_problem
from cockpit.journal.events import EffectDone, EffectIntended, GateJudged
from cockpit.rehearsal.opa import OpaServer
from tests.agents.support import World, recomputed

ID = policy_id("cockpit/release", "release.rego")
OLD = 'package cockpit.release\nimport rego.v1\ndecision := {"allow": false}\n'


def source() -> str:
    return read_policy(builtin_policy()).modules[0][1]


def use(world: World, **policy: Any) -> None:
    """Have the plan name this policy, and the handles follow the plan as wiring makes them."""
    world.data["targets"]["policy"] = {"deadline": "10s", **policy}
    made = release_policy(world.plan.targets.policy, world.folder)
    world.handles = replace(
        world.handles, decisions=made.engine, policies=made.reader, policy_store=made.store
    )


ENOUGH = {
    "approved",
    "approvals missing",
    "abort",
    "no factor, no reason",
    "fresh factor and reason",
    "no right",
    "promotion",
    "promotion, of no counting group",
    "bare",
    "with a second person",
}
"""Names of cases that cover what a table must cover, so that a test need not wait for all of them."""


def fewer() -> dict[str, Any]:
    """Return the built-in table with one subject a case, of those that are enough."""
    document = table()
    document["cases"] = [one for one in document["cases"] if one["name"] in ENOUGH]
    for one in document["cases"]:
        one["subject"] = one["subject"][-1:] if isinstance(one["subject"], list) else one["subject"]
    return document


@pytest_asyncio.fixture
async def opa(world: World) -> AsyncIterator[OpaServer]:
    """Give a world whose plan has its policy decided by OPA, which holds the policy before."""
    async with OpaServer({ID: OLD, "other": "package other\nimport rego.v1\nx := 1\n"}) as server:
        (world.folder / "fewer.json").write_text(json.dumps(fewer()))
        use(world, engine="opa", url=server.url, table="fewer.json")
        yield server


# -- the embedded engine --------------------------------------------------------------------------------


async def test_the_built_in_policy_meets_its_table(world: World) -> None:
    for op in ("PLAN", "APPLY"):
        result = await world.call("A19", op)
        assert result.ok, result.reason
    assert "nothing to change" in result.reason
    verdict = await world.verdict("A19")
    assert (verdict.verdict, verdict.gate, verdict.details.phase_gate) == ("pass", "policy", "authz")
    assert verdict.metrics["mismatches"] == 0 and verdict.metrics["engine"] == "embedded"
    log = world.read(LOG)
    assert len(log["decisions"]) == verdict.metrics["cases"] and log["policy_sha256"]
    assert all(one["as_expected"] for one in log["decisions"])
    assert {one["allow"] for one in log["decisions"]} == {True, False}
    assert any(one["unmet"] for one in log["decisions"])
    recomputed(world)
    evidence = await world.call("A19", "EVIDENCE")
    assert evidence.ok and evidence.response is not None
    assert [one.path for one in evidence.response.artifacts] == [LOG]


def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((default_bundles() / "decision_table.json").read_bytes())
    return found


def case(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in document["cases"] if one["name"] == name)
    return found


async def judged_with(world: World, document: dict[str, Any]) -> tuple[str, str]:
    (world.folder / "table.json").write_text(json.dumps(document))
    use(world, table="table.json")
    verdict = await world.verdict("A19")
    recomputed(world)
    return verdict.details.outcome, verdict.details.reason


async def test_a_changed_cell_flips_the_verdict(world: World) -> None:
    assert (await judged_with(world, table()))[0] == "pass"
    document = table()
    case(document, "gate slo is fail")["allow"] = True
    outcome, reason = await judged_with(world, document)
    assert outcome == "fail" and "gate slo is fail: sre promote prod: denied" in reason
    document = table()
    case(document, "old factor")["mfa_age_s"] = 899
    outcome, reason = await judged_with(world, document)
    assert outcome == "fail" and "old factor: sre resume prod: leaves nothing unmet" in reason
    document = table()
    case(document, "reason, no factor")["obligations"][0]["max_age_s"] = 60
    outcome, reason = await judged_with(world, document)
    assert outcome == "fail" and "asks for" in reason


async def test_a_policy_that_lets_people_in_is_found_out(world: World) -> None:
    folder = world.folder / "own"
    folder.mkdir()
    weaker = source().replace("mfa_max_age_s := 900", "mfa_max_age_s := 86400")
    weaker = weaker.replace("operators[input.action]\n", 'operators[input.action] | {"product"}\n')
    assert weaker.count("86400") == 1 and '| {"product"}' in weaker
    (folder / "release.rego").write_text(weaker)
    use(world, bundle="own")
    verdict = await world.verdict("A19")
    assert verdict.details.outcome == "fail"
    assert "step_up_mfa(max_age_s=86400)" in verdict.details.reason
    mismatches = verdict.metrics["mismatches"]
    assert isinstance(mismatches, int) and mismatches > 5
    assert any("product resume" in one["case"] for one in world.read(LOG)["decisions"] if one["difference"])
    recomputed(world)


async def test_a_plan_s_own_table_extends_the_built_in_one(world: World) -> None:
    own = {
        "format": 1,
        "extends": "built-in",
        "subjects": {"eve": {"id": "eve", "groups": ["sales"]}},
        "cases": [
            {"name": "sales", "subject": "eve", "action": "resume", "environment": "prod", "allow": False}
        ],
    }
    assert await judged_with(world, own) == ("pass", "all 203 decisions are as the table expects")
    own["cases"][0]["allow"] = True  # type: ignore[index]
    outcome, reason = await judged_with(world, own)
    assert outcome == "fail" and "sales: eve resume prod" in reason


@pytest.mark.parametrize(
    "policy",
    [{"table": "absent.json"}, {"bundle": "absent"}, {"table": "bad.json"}, {"bundle": "bad"}],
    ids=["no table", "no policy", "no JSON", "no Rego"],
)
async def test_what_cannot_be_measured_is_no_pass(world: World, policy: dict[str, Any]) -> None:
    (world.folder / "bad.json").write_text("{")
    (world.folder / "bad").mkdir()
    (world.folder / "bad" / "p.rego").write_text("package cockpit.release\nno rego\n")
    use(world, **policy)
    verdict = await world.verdict("A19")
    assert verdict.verdict == "fail" and verdict.details.outcome == "provider_error"
    recomputed(world)


async def test_without_an_engine_it_is_blocked(world: World) -> None:
    world.handles = replace(world.handles, decisions=None)
    for op in ("PLAN", "VERIFY"):
        assert (await world.call("A19", op)).status == "blocked"


# -- OPA ------------------------------------------------------------------------------------------------


async def test_the_policy_goes_to_opa_and_comes_back(world: World, opa: OpaServer) -> None:
    before = dict(opa.policies)
    planned = await world.call("A19", "PLAN")
    assert planned.ok and ID in planned.reason and "-decision := {" in planned.reason
    assert opa.policies == before
    assert (await world.verdict("A19")).verdict == "fail"  # the old policy does not meet the table
    applied = await world.call("A19", "APPLY")
    assert applied.ok, applied.reason
    assert opa.policies == {**before, ID: source()}
    verdict = await world.verdict("A19")
    assert verdict.verdict == "pass" and verdict.metrics["engine"] == "opa", verdict.details.reason
    assert world.read(BEFORE)["policies"] == [{"id": ID, "before": OLD, "after": source()}]
    again = await world.call("A19", "APPLY")
    assert again.ok and "nothing to change" in again.reason
    back = await world.call("A19", "ROLLBACK")
    assert back.ok, back.reason
    assert opa.policies == before
    assert "nothing to restore" in (await world.call("A19", "ROLLBACK")).reason
    assert (await world.verdict("A19")).verdict == "fail"
    recorded = list(world.recorder.events())
    intended = [one for one in recorded if isinstance(one, EffectIntended)]
    assert [(one.verb, one.target, one.by) for one in intended] == [
        ("upload", f"OPA policy {ID}", "A19"),
        ("restore", f"OPA policy {ID}", "A19"),
    ]
    assert len([one for one in recorded if isinstance(one, EffectDone)]) == 2
    judged = [one for one in recorded if isinstance(one, GateJudged)]
    assert [verdict_problem(one, world.recorder.blob) for one in judged] == [""] * 3


async def test_a_policy_that_was_not_there_is_taken_away_again(world: World, opa: OpaServer) -> None:
    del opa.policies[ID]
    assert (await world.call("A19", "APPLY")).ok and ID in opa.policies
    assert (await world.call("A19", "ROLLBACK")).ok and ID not in opa.policies


async def test_a_second_apply_keeps_what_was_there_first(world: World, opa: OpaServer) -> None:
    assert (await world.call("A19", "APPLY")).ok
    opa.policies[ID] = OLD + "# somebody's hand\n"
    assert (await world.call("A19", "APPLY")).ok
    assert world.read(BEFORE)["policies"][0]["before"] == OLD
    assert (await world.call("A19", "ROLLBACK")).ok and opa.policies[ID] == OLD


async def test_somebody_else_s_change_is_not_overwritten(world: World, opa: OpaServer) -> None:
    assert (await world.call("A19", "APPLY")).ok
    theirs = OLD + "# theirs\n"
    opa.policies[ID] = theirs
    back = await world.call("A19", "ROLLBACK")
    assert back.status == "fail" and "somebody else" in back.reason and opa.policies[ID] == theirs


async def test_a_policy_that_fails_its_table_is_not_uploaded(world: World, opa: OpaServer) -> None:
    (world.folder / "own").mkdir()
    (world.folder / "own" / "release.rego").write_text(source().replace(":= 900", ":= 9"))
    use(world, engine="opa", url=opa.url, bundle="own", table="fewer.json")
    result = await world.call("A19", "APPLY")
    assert result.status == "fail" and "nothing was uploaded" in result.reason
    assert opa.policies[ID] == OLD and not (world.run_dir / "artifacts" / BEFORE).exists()


async def test_what_came_between_and_the_wrong_record(world: World, opa: OpaServer) -> None:
    await opa.fault("error")
    assert (await world.call("A19", "APPLY")).status == "blocked"
    verdict = await world.verdict("A19")
    assert verdict.details.outcome == "provider_error"
    await opa.fault(None)
    assert (await world.call("A19", "APPLY")).ok
    (world.run_dir / "artifacts" / BEFORE).write_text("{")
    assert (await world.call("A19", "ROLLBACK")).status == "blocked" and opa.policies[ID] == source()
    recomputed(world)


async def test_another_package_in_opa_flips_the_verdict(world: World, opa: OpaServer) -> None:
    assert (await world.call("A19", "APPLY")).ok
    # A second module of the same package adds to it: somebody may resume who may not by ours.
    opa.policies["more"] = 'package cockpit.release\nimport rego.v1\nmay if input.subject.id == "ci"\n'
    verdict = await world.verdict("A19")
    assert verdict.details.outcome == "fail" and "ci" not in verdict.details.reason.split(":")[0]
    assert "pipeline resume" in verdict.details.reason
    recomputed(world)
