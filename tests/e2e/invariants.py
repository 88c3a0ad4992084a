"""What holds of every release that has ended, however it was interrupted: of record, world and end."""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cockpit.conductor.ending import OUTCOMES
from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.state import encode
from cockpit.plan.load import load_plan
from cockpit.plan.model import Plan
from tests.e2e.rehearsals import Rehearsed, cockpit

PROMOTING = ("shift", "scale", "promote")
"""The effects that bring a candidate to prod."""
_GATEWAYS = "apis/gateway.networking.k8s.io/v1"
_WEIGHT = re.compile(r"canary weight (\d+)$")
_BEFORE_TRAFFIC = frozenset({10, 11, 30, 40, 50, 60, 70})


@dataclass(frozen=True)
class Held:
    """What the API server of a rehearsal's world holds of prod."""

    plan: Plan
    route: dict[str, Any]
    deployments: dict[str, dict[str, Any]]
    pods: list[dict[str, Any]]

    def weights(self) -> set[int]:
        """Return the canary's weights in all rules of the route."""
        return {
            int(backend["weight"])
            for rule in self.route["spec"]["rules"]
            for backend in rule["backendRefs"]
            if backend["name"].endswith("-canary")
        }

    def image(self, deployment: str) -> str:
        """Return the image a Deployment asks for."""
        [container] = self.deployments[deployment]["spec"]["template"]["spec"]["containers"]
        return str(container["image"])


def held_by(folder: Path) -> Held:
    """Ask the world of a run, which must live still, with the token of the release."""
    plan = load_plan(folder / "release.yaml").plan
    kube = plan.targets.kubernetes
    context = None
    if kube.url.startswith("https"):
        context = ssl.create_default_context(cafile=str(folder / kube.ca_file))
    headers = {"Authorization": f"Bearer {kube.token.read(folder)}"}

    def get(path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{kube.url}/{path}", headers=headers)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document

    space = f"namespaces/{kube.namespace}"
    deployments = get(f"apis/apps/v1/{space}/deployments")["items"]
    return Held(
        plan=plan,
        route=get(f"{_GATEWAYS}/{space}/httproutes/{kube.route}"),
        deployments={one["metadata"]["name"]: one for one in deployments},
        pods=get(f"api/v1/{space}/pods")["items"],
    )


def assert_no_traceback(run: Rehearsed) -> None:
    """Nobody was shown one, and the conductor's log has none."""
    assert "Traceback" not in run.out + run.err + (run.folder / "conductor.log").read_text()


def assert_record_verifies(run: Rehearsed) -> None:
    """The journal is closed and intact; so is the pack, where nothing of it is pending."""
    assert isinstance(run.events[-1], ev.RunClosed)
    journal = cockpit("journal", "verify", str(run.folder))
    assert journal.returncode == 0, journal.stdout + journal.stderr
    pack = cockpit("evidence", "verify", str(run.folder / "evidence.zip"))
    assert (pack.returncode == 0) is (not run.summary["pending"]), pack.stdout + pack.stderr


def assert_replays(run: Rehearsed) -> None:
    """A replay reaches the state on disk, in which the run is closed and no effect is under way."""
    state = Fold().apply_all(run.events).snapshot()
    assert encode(state) == (run.folder / "state.json").read_bytes()
    assert state.effects_open == ()
    assert state.closed is not None and state.closed.exit == run.summary["exit"]


def in_prod(run: Rehearsed, track: str) -> list[dict[str, Any]]:
    """Return the requests a track of prod served."""
    return [one for one in run.requests if one["env"] == "prod" and one["track"] == track]


def assert_canary_reached_in_time_only(run: Rehearsed) -> None:
    """No user meets the canary before traffic is shifted, after a verified rollback or after the close."""
    served = [str(one["at"]) for one in in_prod(run, "canary")]
    shifts = [e.at for e in run.of(ev.EffectIntended) if _forward(e) and e.verb == "shift"]
    assert [at for at in served if not shifts or at < shifts[0]] == []
    over = [*(e.at for e in run.of(ev.RollbackVerified)), run.events[-1].at]
    assert [at for at in served if at > min(over)] == []


def assert_promoted_past_gates(events: list[AnyEvent]) -> None:
    """Nothing forward reached prod without a sealed pack, a GO, the steps before it and their looks.

    Nor under a HALT, nor after a rollback has begun.
    """
    sealed = go = halted = rolled_back = False
    passed: set[int] = set()
    advanced: set[int] = set()
    steps: dict[int, int] = {}
    for event in events:
        match event:
            case ev.EvidenceSealed(kind="promotion"):
                sealed = True
            case ev.GoNoGoComputed(go=said):
                go = said
            case ev.HaltBegan():
                halted = True
            case ev.HaltEnded():
                halted = False
            case ev.RollbackStarted():
                rolled_back = True
            case ev.StepStarted(step=step, weight=weight):
                assert set(range(1, step)) <= advanced, event
                steps[weight] = step
            case ev.LookTaken(step=step, outcome="pass", passes=passes, required=required):
                if passes >= required:
                    passed.add(step)
            case ev.StepDecided(step=step, decision="advance"):
                assert step in passed, event
                advanced.add(step)
            case ev.EffectIntended() if _forward(event) and event.verb in PROMOTING:
                assert sealed and go and not halted and not rolled_back, event
                shifted = _WEIGHT.match(event.target)
                if shifted is not None:
                    assert set(range(1, steps[int(shifted[1])])) <= advanced, event
                if event.verb == "promote":
                    assert advanced == set(steps.values()) == {1, 2, 3}, event
            case ev.Released():
                assert advanced == {1, 2, 3}, event
            case _:
                pass


def _forward(effect: AnyEvent) -> bool:
    return isinstance(effect, ev.EffectIntended) and effect.env == "prod" and effect.lane == "forward"


def assert_ended_as_it_says(run: Rehearsed, held: Held) -> None:
    """The exit code is one of the documented, and record and world are what it stands for."""
    code = run.summary["exit"]
    assert code in OUTCOMES and run.summary["outcome"] == OUTCOMES[code]
    assert held.weights() == {0}
    for service in held.plan.services:
        canary = held.deployments[service.canary_deployment]
        assert canary["spec"]["replicas"] == 0
    if code == 0:
        assert run.of(ev.Released) and run.summary["released"]
    if code == 20:
        assert run.of(ev.RollbackVerified) and run.summary["rollback"]["status"] == "verified"
    if code in _BEFORE_TRAFFIC:
        assert run.summary["traffic_moved"] is False
        assert in_prod(run, "canary") == []
    assert_stable_is(run, held, new=code == 0)


def assert_stable_is(run: Rehearsed, held: Held, *, new: bool) -> None:
    """Stable has its full size; on the candidate's images, or on those it had before the first step."""
    recorded = run.of(ev.StableRecorded)
    for service in held.plan.services:
        name = service.stable_deployment
        stable = held.deployments[name]
        assert (held.image(name) == service.image.text) is new, name
        if recorded:
            assert stable["spec"]["replicas"] >= recorded[0].replicas[name]
            if not new:
                assert held.image(name) == recorded[0].images[name]
        assert stable["status"].get("readyReplicas") == stable["spec"]["replicas"], name
