"""Puts a release together: back ends that are made already, agents, conductor."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cockpit.agentkit.external import roster_with
from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER
from cockpit.backends.gittags import SignedTags
from cockpit.backends.http import BoundedHttpReader
from cockpit.base.clock import Clock, iso
from cockpit.composing import Closed, Core, Surroundings
from cockpit.conductor.acts import ActPolicy
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.attention import Attention
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.control import Act
from cockpit.conductor.desks import Desks
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.gatekeeper import ReleaseGatekeeper, reduced_reasons
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.parts import Parts
from cockpit.conductor.people import People, WireReason
from cockpit.conductor.phases import Phases
from cockpit.conductor.promotion_requests import PromotionRequests
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.release import Release
from cockpit.conductor.resume import Progress, progress_of
from cockpit.conductor.stages import Place, Stages
from cockpit.conductor.targets import Targets
from cockpit.conductor.timetable import Timetable
from cockpit.connecting import Backends, external_of
from cockpit.control.client import operator
from cockpit.dispatch import LocalDispatch
from cockpit.journal.base import Event
from cockpit.journal.events import RosterEntry, RunOpened, ServiceImage
from cockpit.journal.events_people import RunReopened
from cockpit.journal.heads import RunKey
from cockpit.journal.state import ReleaseState
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.rpc.messages import AgentResponse
from cockpit.sealing import PackSealer
from cockpit.verdicts.gates import PHASE_GATES, owing_of


@dataclass(frozen=True)
class Wired:
    """A release with all its parts, and whom people speak to."""

    release: Release
    gatekeeper: ReleaseGatekeeper
    people: People
    promotions: PromotionRequests
    progress: Progress
    """What the journal has behind it already."""
    acts: Mapping[str, Act]
    """What takes commands of front ends, by their kind."""
    desks: Desks | None
    attention: Attention
    policy: ActPolicy
    """Asked before what people do counts."""


def wire(
    loaded: LoadedPlan,
    run_dir: Path,
    recorder: Recorder,
    key: RunKey,
    clock: Clock,
    backends: Backends,
    *,
    unattended: bool,
    takeover: str = "",
    taken_up: bool = False,
) -> Wired:
    """Put a release together; nothing is connected yet.

    `taken_up`: its conductor was killed.
    """
    plan = loaded.plan
    # Signed with the key the run's signature bundle certifies.
    tags = SignedTags(loaded.base / plan.targets.repository.path, key)
    handles = replace(backends.handles, tags=tags)
    holder = f"{operator()}@{socket.gethostname()}/{recorder.run_id}"
    lease = ReleaseLease(backends.cluster, plan.targets.kubernetes, holder, recorder, clock)
    state = recorder.state()
    sitting = state.people.sitting + taken_up
    timetable = Timetable(plan, recorder, clock)
    closed = Closed(plan, timetable)
    effects = EffectsGate(
        recorder,
        lease,
        clock,
        closed,
        frozenset({"prod", "stage", "all", *(stage.environment for stage in plan.stages)}),
        sitting=sitting,
        already=_already(state),
    )
    closed.in_flight = lambda: effects.prod_shifted and not effects.released
    people = People(
        effects=effects,
        recorder=recorder,
        clock=clock,
        on_halt=plan.on_halt,
        bound=plan.halt_bound,
        unattended=unattended,
        sitting=sitting,
    )
    roster = roster_with(ROSTER, plan.external)
    external = external_of(loaded, run_dir, recorder, backends)
    dispatch = LocalDispatch(loaded, run_dir, clock, recorder, handles, effects, external)

    def consequences(agent: str, response: AgentResponse) -> list[Event]:
        return events_of(agent, response, run_dir, recorder.state())

    calls = AgentCalls(
        dispatch,
        recorder,
        clock,
        deadline=plan.agent_deadline,
        consequences=consequences,
        sitting=sitting,
    )
    phases = Phases(roster, plan.agents, calls, recorder, people)
    gatekeeper = ReleaseGatekeeper(plan, loaded.sha256, roster, phases, recorder, clock)
    stages = _stages(plan, backends, lease, effects, recorder, clock, people)
    core = Core(
        loaded=loaded,
        recorder=recorder,
        clock=clock,
        effects=effects,
        people=people,
        phases=phases,
        gatekeeper=gatekeeper,
        timetable=timetable,
        closed=closed,
        handles=handles,
        redactor=backends.redactor,
    )
    around = Surroundings(core, stages, unattended=unattended)
    release = Release(
        Parts(
            plan=plan,
            recorder=recorder,
            clock=clock,
            connect=backends.connect,
            lease=lease,
            effects=effects,
            targets=Targets(backends.cluster, plan, lease),
            abort_targets=Targets(backends.abort_cluster, plan, lease, abort=_abort_mark(recorder)),
            analyst=PrometheusAnalyst(backends.metrics, plan.canary, recorder, clock),
            people=people,
            phases=phases,
            gatekeeper=gatekeeper,
            sealer=PackSealer(plan, run_dir, recorder, key, backends.signing, backends.forge),
            bake=around.bake,
            hooks=around.hooks(),
            takeover=takeover,
        )
    )
    return Wired(
        release=release,
        gatekeeper=gatekeeper,
        people=people,
        promotions=around.promotions,
        progress=progress_of(state, plan, loaded.sha256, roster, clock.now()),
        acts=around.acts(),
        desks=around.desks,
        attention=around.attention,
        policy=around.policy,
    )


def _stages(
    plan: Plan,
    backends: Backends,
    lease: ReleaseLease,
    effects: EffectsGate,
    recorder: Recorder,
    clock: Clock,
    people: People,
) -> Stages:
    places = []
    for stage in plan.stages:
        cluster = backends.stages[stage.environment]
        kubernetes = plan.targets.kubernetes.model_copy(
            update={"namespace": stage.namespace, "route": stage.route or plan.targets.kubernetes.route}
        )
        there = plan.model_copy(
            update={"targets": plan.targets.model_copy(update={"kubernetes": kubernetes})}
        )
        places.append(
            Place(
                stage,
                Targets(cluster, there, lease),
                Targets(cluster, there, lease, abort=_abort_mark(recorder)),
                cluster.connect,
            )
        )
    metrics, http = backends.metrics, BoundedHttpReader(tls=backends.tls)
    return Stages(plan, places, effects, metrics, http, recorder, clock, people.resumed)


def _already(state: ReleaseState) -> frozenset[str]:
    """Return the promotion verbs earlier sittings sent to prod, or may have sent."""
    verbs = {"scale"} if state.canary.stage not in ("", "preflight") else set()
    return frozenset(verbs | ({"shift"} if state.canary.moved else set()))


def undo_reason(reason: str) -> WireReason:
    """Return the reason of Rollback v2 a person's words begin with, else that it was by hand."""
    return "kpi_regression" if reason.startswith("kpi_regression") else "manual"


def reopened(state: ReleaseState, kind: str, why: str) -> RunReopened:
    """Return the record of another sitting."""
    sitting = state.people.sitting + 1
    return RunReopened(sitting=sitting, why=why, operator=operator(), host=socket.gethostname(), kind=kind)


def _abort_mark(recorder: Recorder) -> str:
    """Return a mark no earlier conductor of this run has used."""
    return f"{recorder.run_id}/{os.getpid()}"


def opened(loaded: LoadedPlan, run_id: str, key: RunKey, clock: Clock, recorder: Recorder) -> RunOpened:
    plan = loaded.plan
    return RunOpened(
        run_id=run_id,
        version=plan.target_version,
        repo=plan.repo,
        environment=plan.environment,
        plan_sha256=loaded.sha256,
        plan_blob=recorder.keep(loaded.raw),
        rehearsal=plan.rehearsal,
        real=dict(plan.real_servers),
        reduced=reduced(plan),
        trust_profile=plan.targets.signing.profile,
        operator=operator(),
        host=socket.gethostname(),
        run_key=base64.b64encode(key.public_bytes).decode(),
        steps=list(plan.canary.steps),
        services=[ServiceImage(s.name, s.image.digest or s.image.text) for s in plan.services],
        phases=list(plan.phases),
        required_gates=list(plan.required_gates),
        window_start=iso(plan.window_utc.start),
        window_end=iso(plan.window_utc.end),
        roster=[
            RosterEntry(
                id=info.id,
                name=info.name,
                domain=info.domain,
                phases=list(info.phases),
                built=info.built,
                required=info.id in plan.agents,
            )
            for info in roster_with(ROSTER, plan.external)
        ],
        ga_flags=list(plan.ga_flags),
        headroom_target=plan.headroom_target,
    )


def reduced(plan: Plan) -> list[str]:
    """Return why a plan runs as REDUCED; empty when it is whole."""
    everything = [info.id for info in ROSTER]
    owing = owing_of(ROSTER, listed=everything, due=("P0", "P1", "P2", "P3", "P4", "P5", "P6"))
    required = {gate for parts in PHASE_GATES.values() for gate in parts}
    return reduced_reasons(
        plan, tuple(PHASE_GATES), {gate: agents for gate, agents in owing.items() if gate in required}
    )
