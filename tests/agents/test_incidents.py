"""The Incident Commander and the Forensic Scribe: drills, incidents of a stop, what is frozen and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from cockpit.agents.forensics import INDEX
from cockpit.agents.incident_story import read_story
from cockpit.backends.cluster import POD, KubernetesCluster
from cockpit.backends.issues import GitHubIssues
from cockpit.base.redact import Redactor
from cockpit.conductor.calls import CallResult
from cockpit.journal import events as ev
from cockpit.journal.events_people import HardStopStage
from cockpit.journal.events_work import IncidentChanged, IssueFiled
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rehearsal.kube import KubeServer, conductor
from cockpit.rehearsal.manifests import deployment
from cockpit.rpc.messages import Op
from tests.agents.support import World, recomputed

RUN = "20250923T080000Z-1a2b3c"
STOP: dict[str, Any] = {
    "stop": 1,
    "severity": "sev1",
    "reason": "slo_breach",
    "cause": "error_rate 0.4 <!-- x --> @everyone",
    "gate": "slo",
    "step": 2,
    "weight": 50,
    "by": "A1",
}


@pytest_asyncio.fixture
async def forge(world: World) -> AsyncIterator[IssuesServer]:
    """Give the world a forge."""
    async with IssuesServer() as server:
        (world.folder / "issues-token").write_text(server.token)
        world.data["targets"]["issues"] = {
            "url": server.url,
            "repository": server.repository,
            "token": "file:issues-token",
            "deadline": "1s",
        }
        client = GitHubIssues(
            server.url, server.repository, server.token, clock=world.clock, deadline=5.0, max_wait=0.1
        )
        world.handles = replace(world.handles, issues=client)
        yield server


async def incident(world: World, op: Op = "APPLY", **fields: Any) -> CallResult:
    return await world.call("A37", op, "P6", incident={**STOP, **fields}, hard_stop=True)


def events(world: World, kind: Any) -> list[Any]:
    world.recorder.state()
    return [event for event in world.recorder.events() if isinstance(event, kind)]


async def a_stop(world: World) -> None:
    """Journal a breach at step 2, with its rollback."""
    record = world.recorder.record
    await record(ev.StepStarted(step=1, weight=10))
    await record(ev.StepDecided(step=1, weight=10, decision="advance", reason="3 passes"))
    await record(ev.StepStarted(step=2, weight=50))
    await record(ev.StepStage(step=2, stage="observe"))
    for number, outcome in enumerate(("pass", "no_data", "fail"), 1):
        look = ev.LookTaken(
            step=2, look=number, outcome=outcome, critical=outcome == "fail", reason=f"error_rate {number}",
            requests=400.0, metrics={"error_rate": 0.1 * number}, burn={}, passes=1, required=3,
            failures=number, answers="",
        )  # fmt: skip
        await record(look)
    await record(ev.HaltBegan(by="A1", trigger="critical", reason="error_rate 3", epoch=1))
    await record(ev.RollbackStarted(reason="slo_breach", cause="error_rate 3", by="A1"))
    await record(ev.WeightSeen(desired=0, source="httproute"))
    await record(ev.RollbackVerified(proof={"route": "read back as 0"}))


# -- the drill of P5 -------------------------------------------------------------------------------------


async def test_a_drill_goes_through_its_whole_course(world: World, forge: IssuesServer) -> None:
    assert (await world.call("A37", "PLAN")).status == "ok"
    assert (await world.call("A37", "APPLY")).status == "ok"
    verdict = await world.verdict("A37")
    assert (verdict.verdict, verdict.gate, verdict.details.phase_gate) == ("pass", "dr", "dr")
    recomputed(world)
    assert (await world.call("A37", "EVIDENCE")).status == "ok"
    [issue] = forge.all()
    assert issue["state"] == "closed" and len(issue["notes"]) == 2
    assert {row["name"] for row in issue["labels"]} >= {"cockpit", "drill", "type:ops"}
    assert "This is a drill" in issue["body"] and "Rehearsal" in issue["body"]
    # In a rehearsal nobody is called by their handle.
    assert not any(f"{name} " in issue["body"] or f"{name}\n" in issue["body"] for name in world.plan.oncall)
    assert [event.state for event in events(world, IncidentChanged)] == ["resolved"]


async def test_a_drill_is_held_once(world: World, forge: IssuesServer) -> None:
    for _ in range(2):
        assert (await world.call("A37", "APPLY")).status == "ok"
    assert len(forge.all()) == 1 and len(forge.all()[0]["notes"]) == 2


async def test_only_apply_changes_anything(world: World, forge: IssuesServer) -> None:
    ops: tuple[Op, ...] = ("PLAN", "VERIFY", "EVIDENCE")
    for op in ops:
        await world.call("A37", op)
        await incident(world, op)
    assert forge.all() == []


async def test_without_a_forge_the_drill_is_blocked(world: World) -> None:
    world.data["targets"].pop("issues", None)
    ops: tuple[Op, ...] = ("PLAN", "APPLY", "VERIFY")
    for op in ops:
        result = await world.call("A37", op)
        assert result.status == "blocked", op
        assert not (result.response and result.response.verdicts)


async def test_a_drill_that_was_tampered_with_fails(world: World, forge: IssuesServer) -> None:
    await world.call("A37", "APPLY")
    forge.change(1, state="open", closed_at=None)
    verdict = await world.verdict("A37")
    assert verdict.verdict == "fail" and "not resolved" in verdict.details.reason
    forge.change(1, labels=[])
    verdict = await world.verdict("A37")
    assert verdict.verdict == "fail" and "no issue of the drill" in verdict.details.reason
    recomputed(world)


async def test_a_forge_that_is_down_is_no_failed_drill_and_no_pass(world: World, forge: IssuesServer) -> None:
    await world.call("A37", "APPLY")
    await forge.fault("error")
    verdict = await world.verdict("A37")
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "provider_error")
    recomputed(world)


async def test_a_drill_broken_off_is_closed_by_rollback(world: World, forge: IssuesServer) -> None:
    forge.answer_next(500, method="PATCH")
    assert (await world.call("A37", "APPLY")).status == "blocked"
    assert forge.all()[0]["state"] == "open"
    assert (await world.call("A37", "ROLLBACK")).status == "ok"
    assert forge.all()[0]["state"] == "closed"


# -- the incident of a stop ------------------------------------------------------------------------------


async def test_an_incident_is_opened_once_a_stop(world: World, forge: IssuesServer) -> None:
    for _ in range(2):
        result = await incident(world)
        assert result.status == "ok", result.reason
    [issue] = forge.all()
    assert "SEV1" in issue["title"] and "50 %" in issue["title"]
    assert {row["name"] for row in issue["labels"]} >= {"cockpit", "incident", "type:ops", "risk:high"}
    assert "@everyone" not in issue["body"] and issue["body"].count("<!--") == 1
    assert [event.key for event in events(world, IssueFiled)] == [f"incident:{RUN}:1"]
    assert [event.state for event in events(world, IncidentChanged)] == ["open"]
    assert (await incident(world, stop=2)).status == "ok"
    assert len(forge.all()) == 2


async def test_a_crash_between_filing_and_recording_files_nothing_twice(
    world: World, forge: IssuesServer
) -> None:
    await incident(world)
    (world.run_dir / "artifacts" / "incidents" / f"INC-{RUN}-1.json").unlink()
    assert (await incident(world)).status == "ok"
    assert len(forge.all()) == 1
    assert [event.known for event in events(world, IssueFiled)] == [False, True]


async def test_a_forge_that_is_down_leaves_the_document(world: World, forge: IssuesServer) -> None:
    await forge.fault("refuse")
    result = await incident(world)
    assert result.status == "blocked"
    assert world.read(f"incidents/INC-{RUN}-1.json")["issue"] is None
    await forge.fault(None)
    assert (await incident(world)).status == "ok"
    assert len(forge.all()) == 1


async def test_without_a_forge_there_is_a_document_that_says_so(world: World) -> None:
    world.data["targets"].pop("issues", None)
    result = await incident(world)
    assert result.status == "ok" and "a document only" in result.reason
    text = (world.run_dir / "artifacts" / "incidents" / f"INC-{RUN}-1.md").read_text()
    assert "No issue was filed: no forge is configured" in text


async def test_evidence_is_attached_and_a_postmortem_drafted(world: World, forge: IssuesServer) -> None:
    await a_stop(world)
    await incident(world)
    await world.call("A38", "EVIDENCE", "P6", incident=STOP, hard_stop=True)
    for _ in range(2):
        assert (await incident(world, action="update", verified=True)).status == "ok"
    [issue] = forge.all()
    [note] = issue["notes"]
    assert "The rollback is verified" in note["body"] and "sha256" in note["body"]
    assert issue["state"] == "open"
    assert world.read(f"incidents/INC-{RUN}-1.json")["state"] == "mitigated"
    await world.recorder.record(HardStopStage(stage="notify", ok=False, detail="nobody there"))
    assert (await incident(world, "EVIDENCE")).status == "ok"
    folder = world.run_dir / "artifacts" / "incidents"
    draft = (folder / f"INC-{RUN}-1-postmortem.md").read_text()
    for said in (
        "Postmortem (draft)",
        "look 3 of step 2",
        "HALT by critical",
        "Time to restore, MTTR",
        "notify: **not done**",
        "incidents/forensics/",
        "not for anybody's fault",
        issue["html_url"].replace("://", ":\u200b//"),
    ):
        assert said in draft, said
    assert "not known" not in draft.split("## What the last looks said")[0].split("| figure |")[1]
    assert "rollback verified" in (folder / f"INC-{RUN}-1.md").read_text()


async def test_an_incident_is_resolved_by_whoever_asks(world: World, forge: IssuesServer) -> None:
    await incident(world)
    assert (await incident(world, action="resolve", text="the fix is out")).status == "ok"
    [issue] = forge.all()
    assert issue["state"] == "closed" and "the fix is out" in issue["notes"][0]["body"]
    assert [event.state for event in events(world, IncidentChanged)] == ["open", "resolved"]


@pytest.mark.parametrize("wrong", [{"stop": 0}, {"severity": "sev9"}, {"who": "me"}, {"cause": "x" * 5000}])
async def test_parameters_that_are_none_are_refused(
    world: World, forge: IssuesServer, wrong: dict[str, Any]
) -> None:
    calls: tuple[tuple[str, Op], ...] = (("A37", "APPLY"), ("A37", "EVIDENCE"), ("A38", "EVIDENCE"))
    for agent, op in calls:
        result = await world.call(agent, op, "P6", incident={**STOP, **wrong})
        assert result.status == "fail", (agent, op)
    assert forge.all() == []


async def test_the_story_has_the_times_of_the_journal(world: World) -> None:
    await a_stop(world)
    story = read_story(world.run_dir)
    order = [story.exposed, story.detected, story.halted, story.began, story.traffic_off, story.verified]
    assert all(order) and order == sorted(order)
    assert (story.number, story.step, story.weight) == (1, 2, 50)
    # That nothing could be told is no sign of a breach.
    assert story.detected_by == "look 3 of step 2"
    assert [look.outcome for look in story.looks] == ["pass", "no_data", "fail"]
    assert all(value is not None and value >= 0 for value in story.figures().values())
    await world.recorder.record(ev.RollbackStarted(reason="crash", cause="again", by="supervisor"))
    assert read_story(world.run_dir).began == story.began  # a resumed abort is the same stop
    assert read_story(world.folder / "run").number == 1


async def test_a_run_without_a_stop_has_no_story(world: World) -> None:
    story = read_story(world.run_dir)
    assert (story.number, story.began, story.timeline) == (0, "", [])
    assert set(story.figures().values()) == {None}


# -- forensics -------------------------------------------------------------------------------------------


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[KubernetesCluster, KubeServer]]:
    """Run an API server with one Deployment of two pods; give a conductor's client of it."""
    kube = KubeServer({"token": conductor(["intelgraph"])}, start_delay=0.01, stop_delay=0.01)
    url = await kube.start()
    client = KubernetesCluster(url, "token", "intelgraph", deadline=5.0)
    try:
        await client.connect()
        await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "intelgraph"}})
        body = deployment("intelgraph", "web", "canary", f"registry.example/web@sha256:{'1' * 64}", 2)
        body["spec"]["template"]["spec"].pop("readinessGates")
        await kube.apply(body)
        async with asyncio.timeout(30):
            while len(await client.list(POD)) < 2:  # noqa: ASYNC110 - the cluster tells nobody
                await asyncio.sleep(0.01)
        yield client, kube
    finally:
        await client.close()
        await kube.stop()


async def annotate(kube: KubeServer, pod: str, note: str) -> None:
    """Annotate a pod as somebody else would."""
    metadata = {"name": pod, "namespace": "intelgraph", "annotations": {"note": note}}
    await kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})


def sources(world: World, moment: str) -> dict[str, dict[str, Any]]:
    captures = world.read(INDEX)["captures"]
    [capture] = [one for one in captures if one["moment"] == moment]
    return {row["name"]: row for row in capture["sources"]}


async def test_what_is_frozen_is_hashed_and_what_is_not_is_said(world: World) -> None:
    async with cluster() as (client, kube):
        [name, *_] = [pod["metadata"]["name"] for pod in await client.list(POD)]
        await annotate(kube, name, "password=hunter22 by-value-1")
        world.handles = replace(world.handles, cluster=client, redactor=Redactor(("by-value-1",)))
        result = await world.call("A38", "EVIDENCE", "P6", incident=STOP, moment="stop")
        assert result.status == "ok", result.reason
        rows = sources(world, "stop")
        for kind in ("deployments", "replicasets", "pods", "httproutes", "services", "events"):
            assert rows[kind]["status"] == "captured", rows[kind]
        pods = world.read(rows["pods"]["path"])["items"]
        assert name in {pod["metadata"]["name"] for pod in pods}
        text = json.dumps(pods)
        assert "hunter22" not in text and "by-value-1" not in text and "[redacted]" in text
        head = world.read(rows["journal head"]["path"])
        assert head["records"] > 0 and len(head["root"]) == 64
        assert world.read(rows["metric requests"]["path"])["answer"]["status"] == "success"
        logs = [row for row in rows.values() if row["name"].startswith("log ")]
        assert logs and all(row["status"] == "absent" and row["reason"] for row in logs)

        before = rows["pods"]["sha256"]
        await annotate(kube, name, "changed since")
        assert (await world.call("A38", "EVIDENCE", "P6", incident=STOP, moment="stop")).status == "ok"
        assert sources(world, "stop")["pods"]["sha256"] == before, "a capture is of its moment"
        assert (await world.call("A38", "EVIDENCE", "P6", incident=STOP)).status == "ok"
        assert sources(world, "after")["pods"]["sha256"] != before
    assert (await world.call("A38", "VERIFY", "P6", incident=STOP)).status == "ok"
    (world.run_dir / "artifacts" / rows["pods"]["path"]).write_text("{}")
    assert (await world.call("A38", "VERIFY", "P6", incident=STOP)).status == "fail"


async def test_the_drill_of_freezing_is_judged(world: World) -> None:
    async with cluster() as (client, _):
        world.handles = replace(world.handles, cluster=client)
        verdict = await world.verdict("A38")
        assert verdict.verdict == "pass", verdict.details.reason
        assert (await world.call("A38", "EVIDENCE")).status == "ok"
    await world.handles.metrics.close()  # type: ignore[union-attr]
    verdict = await world.verdict("A38")
    assert verdict.verdict == "fail" and "metric" in verdict.details.reason
    recomputed(world)


async def test_back_ends_that_are_gone_do_not_hold_it_up(world: World) -> None:
    world.kubernetes.mode = world.prometheus.mode = "hang"
    result = await world.call("A38", "EVIDENCE", "P6", incident=STOP)
    assert result.status == "ok", result.reason  # the journal's head is still there
    rows = sources(world, "after")
    assert [name for name, row in rows.items() if row["status"] == "captured"] == ["journal head"]
    assert all(row["reason"] for row in rows.values() if row["status"] == "absent")


async def test_environment_secrets_are_masked_by_their_names(world: World) -> None:
    pod = {
        "metadata": {"name": "web-1"},
        "spec": {"containers": [{"name": "app", "env": [{"name": "DB_PASSWORD", "value": "zzz9-zzz9"}]}]},
    }
    world.facts.deployments.append({**pod, "kind": "Deployment"})
    await world.call("A38", "EVIDENCE", "P6", incident=STOP)
    path = world.run_dir / "artifacts" / sources(world, "after")["deployments"]["path"]
    assert "zzz9" not in path.read_text() and "DB_PASSWORD" in path.read_text()
