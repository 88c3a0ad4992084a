"""Whole releases on real servers: judged, promoted or rolled back, signed and decided by them."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.policy_engine import EmbeddedEngine, builtin_policy
from cockpit.journal import events as ev
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events_people import PolicyDecided
from cockpit.plan.load import load_plan
from cockpit.plan.model import Plan
from cockpit.rehearsal.real.provided import NEEDED
from cockpit.verdicts.policy_decision import Decision, input_of, read_decision
from tests.e2e.rehearsals import Rehearsed, Running, cockpit
from tests.real.fixtures import need
from tests.real.js_verify import js_verify, need_js

pytestmark = [pytest.mark.real, pytest.mark.e2e, pytest.mark.timeout(400)]

EXITS = {"green": 0, "slo-breach-50": 20, "critical-breach": 20, "unsigned-image": 10}
EVERY = [pytest.param(name, marks=pytest.mark.long if name == "critical-breach" else ()) for name in EXITS]
MOVED = [one for one in EVERY if one.values != ("unsigned-image",)]
_KEEP = "180"
_GATEWAYS = "apis/gateway.networking.k8s.io/v1"


@dataclass(frozen=True)
class Released:
    """A rehearsal that has ended, and what the real API server held when it had."""

    run: Rehearsed
    plan: Plan
    route: dict[str, Any]
    deployments: dict[str, dict[str, Any]]
    pods: list[dict[str, Any]]

    def weights(self) -> set[int]:
        """The canary's weights in all rules of prod's route."""
        return {
            int(backend["weight"])
            for rule in self.route["spec"]["rules"]
            for backend in rule["backendRefs"]
            if backend["name"].endswith("-canary")
        }


Get = Callable[[str], Released]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Return the ended rehearsal of a scenario; each is held once."""
    need(*NEEDED)
    done: dict[str, Released] = {}

    def get(scenario: str) -> Released:
        if scenario not in done:
            done[scenario] = _hold(tmp_path_factory.mktemp(scenario) / "run", scenario)
        return done[scenario]

    yield get


def _hold(folder: Path, scenario: str) -> Released:
    # We are in a network namespace already, and the world lives on in it until we have looked.
    running = Running(folder, scenario, "--real", "--keep", _KEEP)
    try:
        run = running.end(300)
        found = _look(folder, run)
    finally:
        if running.process.poll() is None:
            running.stop()
        if (folder / "world" / "world.json").exists():
            running.end_world()
            _wait_gone(json.loads((folder / "world" / "world.json").read_bytes())["pids"]["world"])
    return found


def _wait_gone(pid: int) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the world did not end")


def _look(folder: Path, run: Rehearsed) -> Released:
    assert (folder / "release.yaml").exists(), run.out + run.err + (folder / "world.log").read_text()
    plan = load_plan(folder / "release.yaml").plan
    kube = plan.targets.kubernetes
    context = ssl.create_default_context(cafile=str(folder / kube.ca_file))
    headers = {"Authorization": f"Bearer {kube.token.read(folder)}"}

    def get(path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{kube.url}/{path}", headers=headers)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document

    space = f"namespaces/{kube.namespace}"
    deployments = get(f"apis/apps/v1/{space}/deployments")["items"]
    return Released(
        run=run,
        plan=plan,
        route=get(f"{_GATEWAYS}/{space}/httproutes/{kube.route}"),
        deployments={one["metadata"]["name"]: one for one in deployments},
        pods=get(f"api/v1/{space}/pods")["items"],
    )


@pytest.mark.parametrize("scenario", EVERY)
def test_exit_code(released: Get, scenario: str) -> None:
    run = released(scenario).run
    assert run.code == EXITS[scenario], run.out[-3000:] + run.err
    assert run.summary["exit"] == EXITS[scenario]
    assert "Traceback" not in run.out + run.err + (run.folder / "conductor.log").read_text()


@pytest.mark.parametrize("scenario", EVERY)
def test_the_recording_and_the_pack_say_which_servers_were_real(released: Get, scenario: str) -> None:
    made = released(scenario)
    opened = made.run.of(ev.RunOpened)[0]
    assert opened.rehearsal
    assert opened.real == dict(made.plan.real_servers) == made.run.summary["real_servers"]
    assert set(opened.real) >= {"kubernetes", "prometheus", "fulcio", "rekor", "timestamp authority", "opa"}
    said = cockpit("evidence", "show", str(made.run.folder / "evidence.zip")).stdout
    assert f"REHEARSAL: made on real kubernetes {opened.real['kubernetes']}" in said
    assert "stand-ins for all else" in said


@pytest.mark.parametrize("scenario", EVERY)
def test_the_evidence_verifies(released: Get, scenario: str) -> None:
    folder = released(scenario).run.folder
    verified = cockpit("evidence", "verify", str(folder / "evidence.zip"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "UNANCHORED" in verified.stdout
    journal = cockpit("journal", "verify", str(folder))
    assert journal.returncode == 0, journal.stdout


@pytest.mark.parametrize("scenario", EVERY)
def test_what_the_real_api_server_holds_is_what_the_run_says(released: Get, scenario: str) -> None:
    made = released(scenario)
    assert made.weights() == {0}
    candidate = {service.name: service.image.text for service in made.plan.services}
    for service in made.plan.services:
        stable = made.deployments[service.stable_deployment]
        [container] = stable["spec"]["template"]["spec"]["containers"]
        assert (container["image"] == candidate[service.name]) is (scenario == "green")
        status = stable["status"]
        assert status["readyReplicas"] == status["replicas"] == stable["spec"]["replicas"] == 2
        canary = made.deployments[service.canary_deployment]
        assert canary["spec"]["replicas"] == 0
        assert canary["status"].get("readyReplicas", 0) == 0
    parents = made.route["status"]["parents"]
    accepted = [one for parent in parents for one in parent["conditions"] if one["type"] == "Accepted"]
    assert [one["status"] for one in accepted] == ["True"]
    assert accepted[0]["observedGeneration"] == made.route["metadata"]["generation"]


@pytest.mark.parametrize("scenario", EVERY)
def test_pods_went_through_scheduler_and_nodes(released: Get, scenario: str) -> None:
    pods = [pod for pod in released(scenario).pods if "deletionTimestamp" not in pod["metadata"]]
    assert {pod["spec"]["nodeName"] for pod in pods} <= {"node-0", "node-1", "node-2"}
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}


@pytest.mark.parametrize("scenario", MOVED)
def test_users_saw_the_weights_of_the_route(released: Get, scenario: str) -> None:
    made = released(scenario)
    served = [one for one in made.run.requests if one["env"] == "prod" and one["tenant"] != "none"]
    assert {one["track"] for one in served} == {"stable", "canary"}
    undone = [
        effect.at
        for effect in made.run.of(ev.EffectIntended)
        if effect.lane == "abort" and effect.verb == "scale" and effect.env == "prod"
    ]
    if scenario == "green":
        assert [(one.weight, one.decision) for one in made.run.of(ev.StepDecided)] == [
            (10, "advance"),
            (50, "advance"),
            (100, "advance"),
        ]
        assert made.run.of(ev.Released)
    else:
        assert made.run.summary["rollback"]["status"] == "verified"
    assert {one["track"] for one in served if one["at"] > min(undone)} <= {"stable"}


def test_nobody_saw_what_was_not_signed(released: Get) -> None:
    made = released("unsigned-image")
    assert made.run.summary["gates"]["supply_chain"] == "fail"
    prod = [one for one in made.run.requests if one["env"] == "prod"]
    assert prod and {one["track"] for one in prod} == {"stable"}


@pytest.mark.parametrize("scenario", MOVED)
def test_opa_decides_as_the_embedded_engine_does(released: Get, scenario: str) -> None:
    made = released(scenario)
    decided = made.run.of(PolicyDecided)
    assert decided
    assert {event.engine for event in decided} == {"opa"}
    blobs = BlobStore(made.run.folder / "blobs")
    stored = [read_decision(blobs.get(event.blob)) for event in decided]
    inputs = [input_of(one.raw) for one in stored]
    asked = [one for one in inputs if one is not None]
    assert len(asked) == len(stored)
    engine = EmbeddedEngine(builtin_policy(), deadline=20.0)
    again = asyncio.run(engine.decide_all(asked))
    assert [_said(one) for one in again] == [_said(one) for one in stored]


def _said(decision: Decision) -> tuple[object, ...]:
    return decision.allow, decision.obligations, sorted(decision.reasons)


@pytest.mark.parametrize("scenario", EVERY)
def test_sigstore_js_accepts_the_packs_bundle(released: Get, scenario: str, tmp_path: Path) -> None:
    need_js()
    made = released(scenario)
    folder, signing = made.run.folder, made.plan.targets.signing
    pack = (folder / "evidence.zip").read_bytes()

    def refused(data: bytes) -> str:
        return js_verify(
            (folder / "evidence.zip.sigstore.json").read_bytes(),
            data,
            trusted_root=(folder / "trusted_root.json").read_bytes(),
            identity=signing.identity,
            issuer=signing.issuer,
            scratch=tmp_path,
        )

    assert refused(pack) == ""
    assert refused(pack + b"\0")
