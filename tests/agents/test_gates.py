"""Changing one fact of the world flips a gate's verdict, and what was judged can be judged again offline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cockpit.backends.k6 import K6Generator
from cockpit.rehearsal.forge.files import contracts_after, contracts_before
from cockpit.rehearsal.forge.objects import Author, ObjectStore
from cockpit.rehearsal.registry import attach, predicates
from cockpit.rehearsal.registry.predicates import Vulnerability
from cockpit.rehearsal.sigstore import BuildSigning
from cockpit.rpc.messages import GateVerdict
from tests.agents.support import BUILD, BUILDER, SOURCE, World, recomputed

Change = Callable[[World], Any]


def pod(world: World) -> dict[str, Any]:
    spec: dict[str, Any] = world.facts.deployments[0]["spec"]["template"]["spec"]
    return spec


# -- A9 ------------------------------------------------------------------------------------------------


def tag_in_plan(world: World) -> None:
    world.data["services"][0]["image"] = "registry.invalid/intelgraph/gateway:v3.0.0"


POLICY: dict[str, Change] = {
    "image by tag in the plan": tag_in_plan,
    "image by tag in the cluster": lambda w: pod(w)["containers"][0].update(
        image="registry.invalid/x:latest"
    ),
    "label missing": lambda w: w.facts.deployments[1]["metadata"]["labels"].pop("track"),
    "pods may run as root": lambda w: pod(w)["securityContext"].update(runAsNonRoot=False),
    "sidecar by tag, without a name": lambda w: pod(w)["containers"].append({"image": "x:1"}),
    "canary missing": lambda w: w.facts.deployments.pop(1),
    "nothing there": lambda w: w.facts.deployments.clear(),
    "obligation nobody meets": lambda w: w.data["agents"].remove("A15"),
}


async def test_policy_passes_and_is_recomputed(world: World) -> None:
    verdict = await world.verdict("A9")
    assert (verdict.verdict, verdict.details.phase_gate) == ("pass", "policy_ci"), verdict.details.reason
    assert world.read("policy/admission.json")["denials"] == []
    recomputed(world)


@pytest.mark.parametrize("change", POLICY.values(), ids=POLICY.keys())
async def test_policy_flips(world: World, change: Change) -> None:
    change(world)
    verdict = await world.verdict("A9")
    assert verdict.verdict == "fail" and verdict.details.outcome == "fail"
    assert verdict.details.reason
    recomputed(world)


# -- A11 -----------------------------------------------------------------------------------------------

SLO: dict[str, tuple[Change, str]] = {
    "errors": (lambda w: w.facts.stable.update(errors=20.0), "fail"),
    "latency": (lambda w: w.facts.buckets.update({"0.05": 1.0, "0.1": 2.0}), "fail"),
    "few requests": (lambda w: w.facts.stable.update(requests=10.0), "low_traffic"),
    "no series": (lambda w: w.facts.stable.clear(), "no_data"),
    "not a number": (lambda w: w.facts.stable.update(errors=float("nan")), "no_data"),
    "no buckets": (lambda w: w.facts.buckets.clear(), "no_data"),
    "partial answer": (lambda w: w.facts.warnings.append("a store did not answer"), "provider_error"),
}


async def test_slo_passes_with_rules_to_load(world: World) -> None:
    verdict = await world.verdict("A11")
    assert verdict.verdict == "pass", verdict.details.reason
    assert verdict.metrics["error_rate"] == 0 and verdict.metrics["burn"] == 0
    assert {query.backend for query in verdict.details.queries} == {"prometheus"}
    assert all(query.answer and query.samples for query in verdict.details.queries)
    rules = (world.run_dir / "artifacts" / "slo" / "rules.yaml").read_text()
    assert "CanaryErrorBudgetBurn" in rules and "canary:p95_ms:8s" in rules
    recomputed(world)


@pytest.mark.parametrize(("change", "outcome"), SLO.values(), ids=SLO.keys())
async def test_slo_flips(world: World, change: Change, outcome: str) -> None:
    change(world)
    verdict = await world.verdict("A11")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", outcome), verdict.details.reason
    recomputed(world)


async def test_slo_of_the_canary_is_its_own(world: World) -> None:
    world.facts.stable["errors"] = 400.0
    good = await world.verdict("A11", step=1)
    assert good.verdict == "pass", good.details.reason
    world.facts.canary["p95"] = 400.0
    bad = await world.verdict("A11", step=2)
    assert bad.details.outcome == "fail" and "p95_ms" in bad.details.reason
    recomputed(world)


async def test_slo_of_a_canary_that_shows_a_tenant_what_is_another_s(world: World) -> None:
    world.facts.violations = 1.0
    bad = await world.verdict("A11", step=1)
    assert bad.details.outcome == "fail" and "isolation_violations" in bad.details.reason
    recomputed(world)


# -- A15 -----------------------------------------------------------------------------------------------


async def test_supply_chain_passes(world: World) -> None:
    await world.supply()
    verdict = await world.verdict("A15")
    assert verdict.verdict == "pass", verdict.details.reason
    assert world.read("sbom/web.spdx.json")["spdxVersion"] == "SPDX-2.3"
    assert world.read("supply_chain/verify_at_deploy.json")["images"]["web"]["verified"] is True
    recomputed(world)


async def test_supply_chain_without_a_signature(world: World) -> None:
    await world.supply(unsigned="web")
    verdict = await world.verdict("A15")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "fail")
    assert "web: no valid signature" in verdict.details.reason
    recomputed(world)


async def test_supply_chain_of_an_image_nobody_attested(world: World) -> None:
    assert (await world.verdict("A15")).verdict == "fail"


SUPPLY: dict[str, Change] = {
    "another identity": lambda w: w.data["targets"]["signing"].update(image_identity="who@else.invalid"),
    "another issuer": lambda w: w.data["targets"]["signing"].update(image_issuer="http://else.invalid"),
    "another builder": lambda w: w.data["targets"]["signing"].update(builder="https://else.invalid/builder"),
    "another source": lambda w: w.data["targets"]["signing"].update(source="https://else.invalid/source"),
    "by tag": tag_in_plan,
}


@pytest.mark.parametrize("change", SUPPLY.values(), ids=SUPPLY.keys())
async def test_supply_chain_flips(world: World, change: Change) -> None:
    await world.supply()
    change(world)
    verdict = await world.verdict("A15")
    assert verdict.verdict == "fail" and verdict.details.outcome in ("fail", "provider_error")
    recomputed(world)


async def test_a_new_high_vulnerability_is_over_budget(world: World) -> None:
    worse = replace(
        predicates.CANDIDATE,
        vulnerabilities=(
            *predicates.CANDIDATE.vulnerabilities,
            Vulnerability("REHEARSAL-2025-0999", "demo-graph", "high"),
        ),
    )
    await world.supply(contents=worse)
    verdict = await world.verdict("A15")
    assert verdict.verdict == "fail" and "high vulnerabilities were added" in verdict.details.reason
    world.data["budgets"]["vulnerabilities_added"] = {"critical": 0, "high": 2}
    assert (await world.verdict("A15")).verdict == "pass"


async def test_bundles_of_another_sigstore_do_not_count(world: World) -> None:
    await world.supply(unsigned="web")
    _, candidate = world.images["web"]
    # Signed by somebody who can get a certificate, and not by the build.
    signer = BuildSigning(world.sigstore, "intruder@else.invalid")
    await attach(
        world.registry.repository(candidate.repository),
        candidate,
        signer,
        contents=predicates.CANDIDATE,
        builder=BUILDER,
        source=SOURCE,
        commit="c0ffee" * 6 + "c0ff",
        ref="refs/tags/v3.0.0",
    )
    assert BUILD != "intruder@else.invalid"
    verdict = await world.verdict("A15")
    assert verdict.verdict == "fail" and "web: no valid signature" in verdict.details.reason


# -- A23 -----------------------------------------------------------------------------------------------


async def test_contracts_of_the_repository_pass(world: World) -> None:
    verdict = await world.verdict("A23")
    assert verdict.verdict == "pass", verdict.details.reason
    assert verdict.metrics["contracts"] == 2 and verdict.metrics["samples"] == 3
    recomputed(world)


async def test_a_consumer_that_asks_for_more_breaks_the_contract(world: World) -> None:
    path = world.folder / "repository"
    consumer = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["id", "seq", "colour"],
        "properties": {"id": {"type": "string"}, "seq": {"type": "integer"}, "colour": {"type": "string"}},
    }
    changed = {
        **contracts_before(),
        **contracts_after(),
        "contracts/item-created/consumer.schema.json": json.dumps(consumer).encode(),
    }
    store = ObjectStore(path)
    moment = datetime(2025, 9, 22, 12, 0, tzinfo=UTC)
    author = Author("Anna", "anna@rehearsal.invalid")
    store.ref("refs/tags/v3.0.1", store.commit(store.tree(changed), [], author, moment, "feat: ask for more"))
    world.data["targets"]["repository"]["to_ref"] = "v3.0.1"
    verdict = await world.verdict("A23")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "fail")
    assert "colour" in verdict.details.reason
    recomputed(world)


async def test_an_unknown_revision_is_no_pass(world: World) -> None:
    world.data["targets"]["repository"]["to_ref"] = "v9.9.9"
    verdict = await world.verdict("A23")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "provider_error")
    recomputed(world)


# -- A26, A27 ------------------------------------------------------------------------------------------


async def measured(world: World, agent: str) -> GateVerdict:
    """Ask until the machine let the generator keep its schedule; a run in which it could not is no pass."""
    for _ in range(6):
        verdict = await world.verdict(agent)
        if verdict.details.outcome != "provider_error" or "generator was" not in verdict.details.reason:
            break
        assert verdict.verdict == "fail"
    return verdict


async def test_load_passes_and_leaves_figures(world: World) -> None:
    verdict = await measured(world, "A26")
    assert verdict.verdict == "pass", verdict.details.reason
    assert verdict.env == "stage"
    assert set(world.read("perf/baseline.json")["services"]) == {"gateway", "web"}
    assert world.read("perf/spike.json")["rps_per_service"] == 120
    recomputed(world)


PERF: dict[str, Change] = {
    "slow": lambda w: setattr(w.facts, "stage_delay_s", 0.3),
    "failing": lambda w: setattr(w.facts, "stage_status", 503),
}


@pytest.mark.parametrize("change", PERF.values(), ids=PERF.keys())
async def test_load_flips(world: World, change: Change) -> None:
    change(world)
    verdict = await measured(world, "A26")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "fail"), verdict.details.reason
    recomputed(world)


async def test_load_is_never_sent_to_prod(world: World) -> None:
    world.data["targets"]["load"]["url"] = world.data["targets"]["entry_url"] = world.stage.url
    for agent in ("A26", "A27"):
        for op in ("PLAN", "VERIFY"):
            result = await world.call(agent, op)
            assert result.status == "blocked", result
    assert world.stage.requests == 0


async def test_a_k6_that_is_not_there_blocks_what_needs_it(world: World) -> None:
    world.handles = replace(world.handles, load=K6Generator(world.stage.url, "stage", None))
    for agent in ("A26", "A27"):
        for op in ("PLAN", "VERIFY"):
            result = await world.call(agent, op)
            assert result.status == "blocked" and result.response is not None, result
            assert "k6" in result.response.notes and "targets.load.generator" in result.response.notes
    assert world.stage.requests == 0
    assert (await world.verdict("A26", step=1)).verdict == "pass"  # no load is needed there


async def test_the_evidence_names_the_generator(world: World) -> None:
    verdict = await measured(world, "A26")
    assert world.read("perf/spike.json")["generator"] == "the built-in generator"
    assert all("the built-in generator" in one.text for one in verdict.details.queries)


async def test_headroom_passes_with_a_curve(world: World) -> None:
    verdict = await measured(world, "A27")
    assert verdict.verdict == "pass", verdict.details.reason
    assert isinstance(verdict.metrics["headroom_web"], float)
    png = (world.run_dir / "artifacts" / "perf" / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    recomputed(world)


async def test_headroom_of_a_service_that_saturates(world: World) -> None:
    # One slot of 30 ms for both services: about 33 a second where twice 104 are to be carried.
    world.facts.stage_delay_s, world.facts.stage_slots = 0.03, asyncio.Semaphore(1)
    verdict = await measured(world, "A27")
    assert verdict.details.outcome == "fail" and "headroom" in verdict.details.reason
    recomputed(world)


async def test_headroom_under_a_step_comes_from_utilisation(world: World) -> None:
    good = await world.verdict("A27", step=1)
    assert good.verdict == "pass" and good.metrics["headroom_web"] == 0.6
    world.facts.busy = 0.9
    bad = await world.verdict("A27", step=2)
    assert bad.details.outcome == "fail"
    assert world.stage.requests == 0
    recomputed(world)


async def test_no_load_while_users_are_on_the_canary(world: World) -> None:
    good = await world.verdict("A26", step=1)
    assert good.verdict == "pass" and good.metrics["p95_ms"] == 80
    world.facts.canary["p95"] = 400.0
    assert (await world.verdict("A26", step=2)).details.outcome == "fail"
    world.facts.canary["requests"] = 10.0
    assert (await world.verdict("A26", step=3)).details.outcome == "low_traffic"
    assert world.stage.requests == 0
    recomputed(world)


# -- A43 -----------------------------------------------------------------------------------------------

SMOKE: dict[str, Change] = {
    "status": lambda w: w.facts.pages.update({"/web/healthz": (503, '{"status": "ok"}')}),
    "content": lambda w: w.facts.pages.update({"/web/healthz": (200, '{"status": "poor"}')}),
    "found where nothing is": lambda w: w.facts.pages.update({"/nowhere": (200, "{}")}),
}


async def test_smoke_passes(world: World) -> None:
    verdict = await world.verdict("A43")
    assert verdict.verdict == "pass", verdict.details.reason
    report = (world.run_dir / "artifacts" / "quality" / "acceptance.xml").read_text()
    assert 'tests="3"' in report and 'failures="0"' in report
    recomputed(world)


@pytest.mark.parametrize("change", SMOKE.values(), ids=SMOKE.keys())
async def test_smoke_flips(world: World, change: Change) -> None:
    change(world)
    verdict = await world.verdict("A43", step=2)
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "fail")
    report = (world.run_dir / "artifacts" / "quality" / "acceptance_step_2.xml").read_text()
    assert 'failures="1"' in report
    recomputed(world)
