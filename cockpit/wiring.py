"""Puts a run together: journal, back ends, agents, conductor. The conductor process starts here."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cockpit.agentkit.context import Handles
from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER
from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.forge import GitRepo
from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.load import OpenLoopGenerator
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy import EmbeddedRego
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.clock import Clock, SystemClock, iso
from cockpit.base.errors import CockpitError, UsageError
from cockpit.base.files import write_private
from cockpit.base.ids import new_run_id
from cockpit.base.redact import Redactor
from cockpit.base.tasks import alongside
from cockpit.conductor.analyst import PrometheusAnalyst
from cockpit.conductor.calls import ARTIFACTS, AgentCalls
from cockpit.conductor.control import ControlServer
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.ending import Ending, cause_text, write_results
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.people import People, Stop
from cockpit.conductor.phases import Phases
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.release import Parts, Release, reduced_reasons
from cockpit.conductor.targets import Targets
from cockpit.control.client import operator
from cockpit.dispatch import LocalDispatch
from cockpit.journal.base import Event
from cockpit.journal.events import RosterEntry, RunClosed, RunOpened, ServiceImage
from cockpit.journal.heads import RunKey, write_public_key
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.writer import JournalWriter
from cockpit.plan.load import LoadedPlan, load_plan
from cockpit.plan.model import Plan
from cockpit.plan.values import SecretRef
from cockpit.rpc.messages import AgentResponse
from cockpit.sealing import PackSealer
from cockpit.supervisor import EXIT, HEARTBEAT
from cockpit.telemetry import Telemetry, observed
from cockpit.verdicts.gates import PHASE_GATES, owing_of

_BEAT = 0.5
_RUN_KEY = "run.key"
RELEASE_NOTES = "release_notes.md"
_STOPPED_HARD = 75


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
        await self.cluster.connect()
        await self.abort_cluster.connect()

    async def close(self) -> None:
        """Close every connection."""
        for closing in (self.cluster.close(), self.abort_cluster.close(), self.metrics.close()):
            await closing
        await self.registry.close()


async def conduct(plan_path: Path, run_dir: Path, *, unattended: bool, resume: bool) -> int:
    """Run (or, with `resume`, take up and abort) a release; return its exit code."""
    os.umask(0o077)
    clock = SystemClock()
    loaded = load_plan(plan_path)
    redactor = Redactor()
    key = RunKey.load(run_dir / _RUN_KEY) if resume else RunKey.generate()
    if not resume:
        key.save(run_dir / _RUN_KEY)
        write_public_key(run_dir / "heads", key)
    begun = resume and (run_dir / JOURNAL_NAME).exists()
    writer = JournalWriter.open(run_dir, clock=clock, redactor=redactor)
    run_id = _run_id(run_dir, clock)
    recorder = Recorder(writer, run_dir, run_id, key)
    watched = AsyncExitStack()
    try:
        await watched.enter_async_context(_observed(loaded, run_dir, clock, redactor, writer))
        await recorder.settle_gaps()
        closed = recorder.state().closed if begun else None
        if closed is not None:
            # It died between its terminal record and its files: only those are left to write.
            ending = Ending(closed.exit, closed.cause)
        else:
            if not (begun and recorder.state().run is not None):
                await recorder.record(_opened(loaded, run_id, key, clock, recorder))
            ending = await _conduct(loaded, run_dir, recorder, key, clock, redactor, unattended, resume)
            await recorder.settle_gaps()
            await recorder.record_abort(
                RunClosed(exit=ending.exit, outcome=ending.outcome, cause=ending.cause)
            )
        recorder.final_head("closed")
        _keep_notes(run_dir, ending)
        write_results(run_dir, recorder.state(), ending)
        (run_dir / _RUN_KEY).unlink(missing_ok=True)
        write_private(run_dir / EXIT, str(ending.exit).encode())
        return ending.exit
    finally:
        await watched.aclose()
        await recorder.close()


def _observed(
    loaded: LoadedPlan, run_dir: Path, clock: Clock, redactor: Redactor, writer: JournalWriter
) -> AbstractAsyncContextManager[Telemetry]:
    plan, repository = loaded.plan, loaded.plan.targets.repository
    return observed(
        run_dir,
        clock,
        redactor,
        {"release": plan.target_version, "env": plan.environment},
        commit=lambda: GitRepo(loaded.base / repository.path).resolve(repository.to_ref),
        since=writer.last_seq + 1,
    )


async def _conduct(
    loaded: LoadedPlan,
    run_dir: Path,
    recorder: Recorder,
    key: RunKey,
    clock: Clock,
    redactor: Redactor,
    unattended: bool,
    resume: bool,
) -> Ending:
    try:
        backends = _backends(loaded, clock, redactor)
    except CockpitError as error:
        return Ending(64, cause_text(error))
    try:
        async with _release(loaded, run_dir, recorder, key, clock, backends, unattended) as (release, gates):
            if resume:
                await backends.connect()
                ending = await release.abort_only("the conductor ended before the release did")
            else:
                ending = await release.run()
            await gates.record_gates()
            return ending
    except CockpitError as error:
        return Ending(50 if resume else 70, cause_text(error))
    finally:
        await backends.close()


@asynccontextmanager
async def _release(
    loaded: LoadedPlan,
    run_dir: Path,
    recorder: Recorder,
    key: RunKey,
    clock: Clock,
    backends: Backends,
    unattended: bool,
) -> AsyncIterator[tuple[Release, ReleaseGatekeeper]]:
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
        )
    )
    control = ControlServer(run_dir, people)
    await control.start()
    try:
        with _signals(people):
            async with alongside(_beat(run_dir, control, clock)):
                yield release, gatekeeper
    finally:
        await control.stop()


async def _beat(run_dir: Path, control: ControlServer, clock: Clock) -> None:
    """Show the supervisor that we live, and take a HALT left as a file."""
    path = run_dir / HEARTBEAT
    while True:
        path.touch(mode=0o600)
        os.utime(path)
        control.take_halt_request()
        await clock.sleep(_BEAT)


class _signals:
    """SIGTERM, SIGINT and SIGHUP abort within a grace period; a second one stops at once."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._count = 0

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # what is left is closing the journal

    def _signalled(self, number: int) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(_STOPPED_HARD)  # resume finishes what is open
        name = signal.Signals(number).name
        self._people.halt(name, "signal", f"{name}: abort")
        self._people.stop(Stop("signal", f"{name} received: abort", name))


def _keep_notes(run_dir: Path, ending: Ending) -> None:
    """Put the release notes beside the summary; where none were made, say so."""
    made = run_dir / ARTIFACTS / RELEASE_NOTES
    try:
        text = made.read_bytes()
    except OSError:
        text = f"# Release notes\n\nNone were made: {ending.outcome}.\n".encode()
    write_private(run_dir / RELEASE_NOTES, text)


def _abort_mark(recorder: Recorder) -> str:
    """Return a mark no earlier conductor of this run has used."""
    return f"{recorder.run_id}/{os.getpid()}"


def _run_id(run_dir: Path, clock: Clock) -> str:
    path = run_dir / "run.id"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        run_id = new_run_id(clock.now())
        write_private(path, run_id.encode())
        return run_id


def _opened(loaded: LoadedPlan, run_id: str, key: RunKey, clock: Clock, recorder: Recorder) -> RunOpened:
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


def _backends(loaded: LoadedPlan, clock: Clock, redactor: Redactor) -> Backends:
    plan, base = loaded.plan, loaded.base
    targets = plan.targets

    def secret(reference: SecretRef) -> str:
        try:
            value = reference.read(base)
        except LookupError as error:
            raise UsageError(str(error), where=reference.ref, hint="the plan refers to this secret") from None
        redactor.add(value)
        return value

    def kubernetes() -> KubernetesCluster:
        target = targets.kubernetes
        ca_file = str(base / target.ca_file) if target.ca_file else ""
        return KubernetesCluster(
            target.url, secret(target.token), target.namespace, ca_file=ca_file, deadline=target.deadline
        )

    trust_config = base / targets.signing.trust_config
    try:
        trust = trust_config.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the trust configuration cannot be read: {error.strerror}", where=str(trust_config)
        ) from None
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
    )
    return Backends(handles, cluster, abort_cluster, metrics, registry, signing, forge, redactor)
