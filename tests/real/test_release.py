"""Whole releases on real servers: judged, promoted or rolled back, signed and decided by them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.policy_engine import EmbeddedEngine, builtin_policy
from cockpit.journal import events as ev
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events_people import PolicyDecided
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.provided import NEEDED
from cockpit.verdicts.policy_decision import Decision, input_of, read_decision
from tests.e2e.invariants import Held, assert_no_traceback, held_by
from tests.e2e.rehearsals import Again, EndedByLoad, Rehearsed, Running, cockpit, ended_by_load
from tests.real.fixtures import need
from tests.real.js_verify import js_verify, need_js

pytestmark = [pytest.mark.real, pytest.mark.e2e, pytest.mark.timeout(400)]

EXITS = {
    "green": 0,
    "slo-breach-10": 20,
    "slo-breach-50": 20,
    "slow-canary": 20,
    "critical-breach": 20,
    "no-traffic": 20,
    "metrics-outage": 20,
    "unsigned-image": 10,
    "signing-outage": 50,
}
EACH_TIME = ("green", "slo-breach-50", "unsigned-image")
UNSIGNED = "signing-outage"
_KEEP = "180"


def _each(*without: str) -> list[object]:
    """Return the scenarios as parameters, each marked `long` that is not rehearsed each time."""
    names = [name for name in EXITS if name not in without]
    return [pytest.param(name, marks=() if name in EACH_TIME else (pytest.mark.long,)) for name in names]


EVERY = _each()
SIGNED = _each(UNSIGNED)
MOVED = _each("unsigned-image", UNSIGNED)
SEEN = _each("unsigned-image", UNSIGNED, "no-traffic")


@dataclass(frozen=True)
class Released(Held):
    """A rehearsal that has ended, and what the real API server held when it had."""

    run: Rehearsed
    doctor: dict[str, Any]
    """What `cockpit doctor` says of the plan while its world still lives."""


Get = Callable[[str], Released]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, again: Again) -> Iterator[Get]:
    """Return the ended rehearsal of a scenario; each is held once, or twice where a busy machine ended it."""
    need(*NEEDED)
    done: dict[str, Released] = {}

    def get(scenario: str) -> Released:
        def attempt(number: int) -> Released:
            made = _hold(tmp_path_factory.mktemp(scenario) / "run", scenario)
            if number == 0 and (why := ended_by_load(made.run.events)):
                raise EndedByLoad(why)
            return made

        if scenario not in done:
            done[scenario] = again.once(f"{scenario} on real servers", attempt)
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
    doctor = cockpit("doctor", str(folder / "release.yaml"), "--json", timeout=180)
    return Released(**vars(held_by(folder)), run=run, doctor=json.loads(doctor.stdout))


@pytest.mark.parametrize("scenario", EVERY)
def test_exit_code(released: Get, scenario: str) -> None:
    run = released(scenario).run
    assert run.code == EXITS[scenario], run.out[-3000:] + run.err
    assert run.summary["exit"] == EXITS[scenario]
    assert_no_traceback(run)


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


@pytest.mark.parametrize("scenario", SIGNED)
def test_the_evidence_verifies(released: Get, scenario: str) -> None:
    folder = released(scenario).run.folder
    verified = cockpit("evidence", "verify", str(folder / "evidence.zip"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "UNANCHORED" in verified.stdout
    journal = cockpit("journal", "verify", str(folder))
    assert journal.returncode == 0, journal.stdout


@pytest.mark.long
def test_a_pack_nobody_could_sign_does_not_verify_and_the_recording_does(released: Get) -> None:
    folder = released(UNSIGNED).run.folder
    verified = cockpit("evidence", "verify", str(folder / "evidence.zip"))
    assert verified.returncode == 1 and "not signed" in verified.stdout, verified.stdout + verified.stderr
    journal = cockpit("journal", "verify", str(folder))
    assert journal.returncode == 0, journal.stdout


@pytest.mark.parametrize("scenario", EVERY)
def test_what_the_real_api_server_holds_is_what_the_run_says(released: Get, scenario: str) -> None:
    made = released(scenario)
    assert made.weights() == {0}
    for service in made.plan.services:
        stable = made.deployments[service.stable_deployment]
        new = made.image(service.stable_deployment) == service.image.text
        assert new is (scenario == "green")
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


@pytest.mark.parametrize("scenario", SEEN)
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


def test_the_doctor_finds_every_real_server_well(released: Get) -> None:
    made = released("green")
    report, real = made.doctor, made.plan.real_servers
    found = {f"{one['part']} {one['check']}": one for one in report["checks"]}
    assert [one for one in report["checks"] if one["status"] == "fail"] == []
    assert report["exit"] == 0
    for part, name in (("kubernetes", "kubernetes"), ("prometheus", "prometheus"), ("policy", "opa")):
        version = found[f"{part} reachable"]["facts"]["version"]
        assert version.removeprefix("v") == real[name].removeprefix("v")
    for check in (
        "kubernetes Gateway API",
        "kubernetes rights",
        "kubernetes objects",
        "prometheus queries",
        "prometheus stable has data",
        "policy policy loads",
        "policy OPA decides",
        "registry images",
        "signing certificate authority",
        "signing time-stamps",
        "signing identity",
    ):
        assert found[check]["status"] == "ok", found[check]
    clocks = [one for one in report["checks"] if one["check"].startswith("clock")]
    assert len(clocks) >= 8 and all("offset_ms" in one["facts"] for one in clocks)
    # A rehearsal has no standby, and says so.
    assert found["plan standby"]["status"] == "warn"


@pytest.mark.parametrize("scenario", SIGNED)
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


@pytest.mark.long
def test_cosign_accepts_the_packs_bundle(released: Get, tmp_path: Path) -> None:
    need("cosign")
    made = released("critical-breach")
    folder, signing = made.run.folder, made.plan.targets.signing

    def accepted(pack: Path) -> bool:
        done = subprocess.run(
            [
                *(str(binary("cosign")), "verify-blob"),
                f"--bundle={folder / 'evidence.zip.sigstore.json'}",
                f"--trusted-root={folder / 'trusted_root.json'}",
                f"--certificate-identity={signing.identity}",
                f"--certificate-oidc-issuer={signing.issuer}",
                str(pack),
            ],
            env={"HOME": str(tmp_path), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode == 0) == ("Verified OK" in done.stderr + done.stdout), done
        return done.returncode == 0

    assert accepted(folder / "evidence.zip")
    other = tmp_path / "other.zip"
    other.write_bytes((folder / "evidence.zip").read_bytes() + b"\0")
    assert not accepted(other)
