"""Puts a release together: back ends, agents, conductor."""

from __future__ import annotations

import base64
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cockpit.agentkit.context import Handles
from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER
from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.forge import GitRepo
from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.load import OpenLoopGenerator
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy import EmbeddedRego
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import UsageError
from cockpit.base.redact import Redactor
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.people import People
from cockpit.conductor.phases import Phases
from cockpit.conductor.promotion_requests import PromotionRequests
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.release import Parts, Release, reduced_reasons
from cockpit.conductor.targets import Targets
from cockpit.control.client import operator
from cockpit.dispatch import LocalDispatch
from cockpit.journal.base import Event
from cockpit.journal.events import RosterEntry, RunOpened, ServiceImage
from cockpit.journal.heads import RunKey
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.plan.values import SecretRef
from cockpit.rpc.messages import AgentResponse
from cockpit.sealing import PackSealer
from cockpit.verdicts.gates import PHASE_GATES, owing_of


@dataclass(frozen=True)
class Backends:
    """The back ends of a run, and the clusters the conductor itself uses."""

    handles: Handles
    cluster: KubernetesCluster
    abort_cluster: KubernetesCluster
    """A client of its own for aborts, connected before anything begins."""
    metrics: PrometheusMetrics
    registry: OciRegistry
    signing: SigstoreSigning
    forge: GitRepo
    redactor: Redactor

    async def connect(self) -> None:
        """Connect what must be connected beforehand; raises BackendError."""
        try:
            await self.cluster.connect()
        finally:
            await self.abort_cluster.connect()  # whatever became of the other: this one aborts

    async def close(self) -> None:
        """Close every connection."""
        for closing in (self.cluster.close(), self.abort_cluster.close(), self.metrics.close()):
            await closing
        await self.registry.close()


@dataclass(frozen=True)
class Wired:
    """A release with all its parts, and whom people speak to."""

    release: Release
    gatekeeper: ReleaseGatekeeper
    people: People
    promotions: PromotionRequests


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
) -> Wired:
    """Put a release together; nothing is connected yet."""
    plan = loaded.plan
    holder = f"{operator()}@{socket.gethostname()}/{recorder.run_id}"
    lease = ReleaseLease(backends.cluster, plan.targets.kubernetes, holder, recorder, clock)
    effects = EffectsGate(recorder, lease, clock, plan.window_utc, frozenset({"prod", "stage", "all"}))
    people = People(
        effects=effects,
        recorder=recorder,
        clock=clock,
        on_halt=plan.on_halt,
        bound=plan.halt_bound,
        unattended=unattended,
    )
    dispatch = LocalDispatch(loaded, run_dir, clock, recorder, backends.handles, effects)

    def consequences(agent: str, response: AgentResponse) -> list[Event]:
        return events_of(agent, response, run_dir, recorder.state())

    calls = AgentCalls(dispatch, recorder, clock, deadline=plan.agent_deadline, consequences=consequences)
    phases = Phases(ROSTER, plan.agents, calls, recorder, people)
    gatekeeper = ReleaseGatekeeper(plan, loaded.sha256, ROSTER, phases, recorder, clock)
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
            takeover=takeover,
        )
    )
    return Wired(release, gatekeeper, people, PromotionRequests(plan, recorder, clock))


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
            for info in ROSTER
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


def backends_of(loaded: LoadedPlan, clock: Clock, redactor: Redactor, *, aborting: bool) -> Backends:
    """Return the back ends of a plan, not yet connected; raises UsageError for a secret that is not there.

    `aborting`: only what an abort cannot do without must be there, which is the cluster's token.
    """
    plan, base = loaded.plan, loaded.base
    targets = plan.targets

    def secret(reference: SecretRef) -> str:
        try:
            value = reference.read(base)
        except LookupError as error:
            if aborting and reference is not targets.kubernetes.token:
                return ""
            raise UsageError(str(error), where=reference.ref, hint="the plan refers to this secret") from None
        redactor.add(value)
        return value

    def kubernetes() -> KubernetesCluster:
        target = targets.kubernetes
        ca_file = str(base / target.ca_file) if target.ca_file else ""
        return KubernetesCluster(
            target.url, secret(target.token), target.namespace, ca_file=ca_file, deadline=target.deadline
        )

    def issues() -> GitHubIssues | None:
        target = targets.issues
        if target is None:
            return None
        token = secret(target.token)
        return GitHubIssues(target.url, target.repository, token, clock=clock, deadline=target.deadline)

    def issues() -> GitHubIssues | None:
        target = targets.issues
        if target is None:
            return None
        token = secret(target.token)
        return GitHubIssues(target.url, target.repository, token, clock=clock, deadline=target.deadline)

    trust_config = base / targets.signing.trust_config
    try:
        trust = trust_config.read_text(encoding="utf-8")
    except OSError as error:
        if not aborting:
            raise UsageError(
                f"the trust configuration cannot be read: {error.strerror}", where=str(trust_config)
            ) from None
        trust = ""  # signing will fail and say so; the abort does not wait for it
    secret(targets.signing.token_secret)
    signing = SigstoreSigning(
        trust,
        token=HttpToken(
            targets.signing.token_url,
            secret=lambda: secret(targets.signing.token_secret),
            subject=targets.signing.identity,
        ),
        identity=targets.signing.identity,
        issuer=targets.signing.issuer,
    )
    cluster, abort_cluster = kubernetes(), kubernetes()
    metrics = PrometheusMetrics(targets.prometheus.url, clock=clock, deadline=targets.prometheus.deadline)
    registry = OciRegistry(
        targets.registry.url, token=secret(targets.registry.token) if targets.registry.token else None
    )
    forge = GitRepo(base / targets.repository.path)
    handles = Handles(
        metrics=metrics,
        cluster=cluster,
        registry=registry,
        forge=forge,
        policy=EmbeddedRego(),
        load=OpenLoopGenerator(targets.load.url, targets.load.environment) if targets.load else None,
        http=BoundedHttpReader(),
        signing=signing,
        webhooks=Webhook({hook.url: secret(hook.secret) for hook in targets.webhooks if hook.secret}),
        issues=issues(),
        redactor=redactor,
        issues=issues(),
        redactor=redactor,
    )
    return Backends(handles, cluster, abort_cluster, metrics, registry, signing, forge, redactor)
