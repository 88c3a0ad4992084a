"""A preview of a whole run: what every agent of a plan would do, and what is in the release.

It asks PLAN of each agent, which never changes anything, and reads repository and cluster. It takes no lock
and leaves nothing behind: its journal is in a temporary folder, and its effects gate refuses everything.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from cockpit.agentkit.external import IMPLEMENTATION, roster_with
from cockpit.agentkit.info import AgentInfo
from cockpit.agents import release_notes
from cockpit.agents.roster import ROSTER
from cockpit.backends.cluster import DEPLOYMENT, KubernetesCluster
from cockpit.backends.forge import GitRepo
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import BackendError, CockpitError
from cockpit.base.ids import new_run_id
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.dag import DEPENDS
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.connecting import Backends, backends_of, external_of
from cockpit.dispatch import LocalDispatch
from cockpit.journal.heads import RunKey
from cockpit.journal.writer import JournalWriter
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.rpc.messages import Phase
from cockpit.wiring import opened

_AT_ONCE = 4
_MOST_COMMITS = 500
_CHANGING = ("PLAN", "APPLY", "VERIFY", "EVIDENCE")
_MEASURING = ("PLAN", "VERIFY", "EVIDENCE")


class RunRow(msgspec.Struct, frozen=True, tag_field="preview", tag="run"):
    """The run as a whole; `steps` are weights in percent, `bake_s` seconds a step."""

    version: str
    environment: str
    plan_sha256: str
    window_start: str
    window_end: str
    phases: list[str]
    required_gates: list[str]
    reduced: list[str]
    stages: list[str]
    steps: list[int]
    bake_s: float
    promote_on: str
    approvals: list[str]
    waivers: list[str]


class ImageRow(msgspec.Struct, frozen=True):
    """A service's image: what stable runs now (empty with a `problem` when unknown) and is to run then."""

    service: str
    now: str
    then: str
    problem: str = ""


class CommitRow(msgspec.Struct, frozen=True):
    """A commit of the release; `pull_request` is the number it names."""

    sha: str
    kind: str
    text: str
    breaking: bool
    pull_request: str


class ContentsRow(msgspec.Struct, frozen=True, tag_field="preview", tag="contents"):
    """What is in the release; `problems` says what could not be read."""

    commits: list[CommitRow]
    left_out: int
    pull_requests: list[str]
    images: list[ImageRow]
    flags: list[str]
    migrations: list[str]
    problems: list[str]


class AgentRow(msgspec.Struct, frozen=True, tag_field="preview", tag="agent"):
    """One agent in one phase: its operations there, and what its PLAN answered.

    `answered` is the result on the wire or how the call failed; `changes`: APPLY is among the operations.
    """

    phase: str
    agent: str
    name: str
    ops: list[str]
    changes: bool
    external: bool
    answered: str
    notes: str
    next: str

    @property
    def ok(self) -> bool:
        """Whether nothing stands in this agent's way."""
        return self.answered == "ok"


Row: TypeAlias = RunRow | ContentsRow | AgentRow


class _NeverHeld:
    """No lock is held, so that the effects gate lets nothing pass."""

    held = False
    fenced_out = True


async def preview(loaded: LoadedPlan, clock: Clock, *, scratch: Path | None = None) -> AsyncIterator[Row]:
    """Yield the run, its contents, then each agent's row in the order of the phases.

    `scratch`: where its temporary folder is made; the system's place for such by default.

    Raises UsageError for what the plan refers to and is not there; whatever cannot be reached is in the rows.
    """
    redactor = Redactor()
    backends = backends_of(loaded, clock, redactor, aborting=False)
    try:
        async with _dispatch(loaded, clock, redactor, backends, scratch) as calls:
            yield _run_row(loaded)
            trouble = await _connect(backends)
            yield await _contents(loaded.plan, backends.forge, backends.cluster, trouble)
            roster = roster_with(ROSTER, loaded.plan.external)
            for phase in (phase for phase in DEPENDS if phase in loaded.plan.phases):
                for row in await _phase(phase, roster, loaded.plan, calls):
                    yield row
    finally:
        await backends.close()


@asynccontextmanager
async def _dispatch(
    loaded: LoadedPlan, clock: Clock, redactor: Redactor, backends: Backends, scratch: Path | None
) -> AsyncIterator[AgentCalls]:
    with tempfile.TemporaryDirectory(prefix="cockpit-preview-", dir=scratch) as name:
        folder = Path(name)
        key = RunKey.generate()
        run_id = new_run_id(clock.now())
        recorder = Recorder(JournalWriter.open(folder, clock=clock, redactor=redactor), folder, run_id, key)
        try:
            # Agents read the run they are part of from the journal's state.
            await recorder.record(opened(loaded, run_id, key, clock, recorder))
            gate = EffectsGate(recorder, _NeverHeld(), clock, loaded.plan.window_utc, frozenset())
            external = external_of(loaded, folder, recorder, backends)
            dispatch = LocalDispatch(loaded, folder, clock, recorder, backends.handles, gate, external)
            yield AgentCalls(dispatch, recorder, clock, deadline=loaded.plan.agent_deadline)
        finally:
            await recorder.close()


async def _connect(backends: Backends) -> str:
    try:
        await backends.cluster.connect()
    except BackendError as error:
        return str(error)
    return ""


def _run_row(loaded: LoadedPlan) -> RunRow:
    from cockpit.wiring import reduced

    plan = loaded.plan
    return RunRow(
        version=plan.target_version,
        environment=plan.environment,
        plan_sha256=loaded.sha256,
        window_start=iso(plan.window_utc.start),
        window_end=iso(plan.window_utc.end),
        phases=list(plan.phases),
        required_gates=list(plan.required_gates),
        reduced=reduced(plan),
        stages=[stage.environment for stage in plan.stages],
        steps=list(plan.canary.steps),
        bake_s=plan.canary.bake,
        promote_on=plan.promote_on,
        approvals=[f"{rule.threshold} for {rule.asked}" for rule in plan.approvals.rules]
        if plan.approvals is not None
        else [],
        waivers=[f"{waiver.what}: {waiver.reason} ({waiver.owner})" for waiver in plan.waivers],
    )


async def _contents(plan: Plan, forge: GitRepo, cluster: KubernetesCluster, trouble: str) -> ContentsRow:
    problems: list[str] = []
    changes: list[release_notes.Change] = []
    migrations: list[str] = []
    source = plan.targets.repository
    try:
        changes = [release_notes.read(one) for one in await forge.commits(source.from_ref, source.to_ref)]
        before, after = [await forge.list_at(ref) for ref in (source.from_ref, source.to_ref)]
        migrations = release_notes.new_migrations(before, after)
    except CockpitError as error:
        problems.append(f"the repository cannot be read: {error}")
    if trouble:
        problems.append(f"the cluster cannot be reached: {trouble}")
    images = [
        await _image(cluster, service.name, service.stable_deployment, service.container, service.image.text)
        if not trouble
        else ImageRow(service.name, "", service.image.text, "the cluster cannot be reached")
        for service in plan.services
    ]
    return ContentsRow(
        commits=[_commit(change) for change in changes[:_MOST_COMMITS]],
        left_out=max(0, len(changes) - _MOST_COMMITS),
        pull_requests=[f"#{change.pull_request}" for change in changes if change.pull_request],
        images=images,
        flags=_flags(plan),
        migrations=migrations,
        problems=problems,
    )


def _commit(change: release_notes.Change) -> CommitRow:
    text = f"{change.scope}: {change.text}" if change.scope else change.text
    return CommitRow(
        change.sha, change.kind, visible(text, limit=300), bool(change.breaking), change.pull_request
    )


async def _image(
    cluster: KubernetesCluster, service: str, deployment: str, container: str, then: str
) -> ImageRow:
    try:
        found = await cluster.get(DEPLOYMENT, deployment)
    except BackendError as error:
        return ImageRow(service, "", then, visible(str(error), limit=300))
    spec = found.get("spec", {}).get("template", {}).get("spec", {})
    for one in spec.get("containers") or []:
        if isinstance(one, Mapping) and one.get("name") == container:
            return ImageRow(service, visible(str(one.get("image", "")), limit=300), then)
    return ImageRow(service, "", then, f"{deployment} has no container {container}")


def _flags(plan: Plan) -> list[str]:
    if not plan.ga_flags:
        return []
    flips = "flipped on in P8" if "P8" in plan.phases else "left as they are: P8 is not in the plan"
    ramp = "ramped with the steps for the pilot tenants, " if plan.auto_ramp_flags else ""
    return [f"{flag}: {ramp}{flips}" for flag in plan.ga_flags]


async def _phase(phase: str, roster: tuple[AgentInfo, ...], plan: Plan, calls: AgentCalls) -> list[AgentRow]:
    slots = asyncio.Semaphore(_AT_ONCE)
    listed = set(plan.agents)

    async def one(info: AgentInfo) -> AgentRow:
        async with slots:
            return await _agent(phase, info, calls)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one(info)) for info in roster if info.id in listed and phase in info.phases
        ]
    return [task.result() for task in tasks]


async def _agent(phase: str, info: AgentInfo, calls: AgentCalls) -> AgentRow:
    name: Phase = phase  # type: ignore[assignment]
    result = await calls.call(info.id, info.name, name, "PLAN", capabilities=info.capabilities)
    response = result.response
    return AgentRow(
        phase=phase,
        agent=info.id,
        name=info.name,
        ops=list(_CHANGING if info.mutates else _MEASURING),
        changes=info.mutates,
        external=info.implementation == IMPLEMENTATION,
        answered=result.status,
        notes=visible(response.notes if response is not None else result.reason, newlines=True),
        next=visible(response.next) if response is not None else "",
    )
