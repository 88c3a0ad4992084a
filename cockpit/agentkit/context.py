"""What an agent gets to work with: the request, the plan, read handles by capability, and for APPLY and
ROLLBACK the effects. An operation that must not change anything has no handle that could."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cockpit.agentkit.artifacts import Artifacts
from cockpit.agentkit.info import AgentInfo
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import EffectRefused
from cockpit.base.redact import Redactor
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan
from cockpit.rpc.messages import AgentRequest, GateVerdict, Judged, Query, VerdictDetails, WireGate
from cockpit.verdicts.rule import Judgement, Rule

if TYPE_CHECKING:  # the clients' libraries are heavy; only those used are loaded, by wiring
    from cockpit.backends.cluster import ClusterReader
    from cockpit.backends.drills import DrillGround, DrillReader
    from cockpit.backends.flags import FlagsReader, FlagsWriter
    from cockpit.backends.forge import GitRepo
    from cockpit.backends.gittags import TagReader, TagWriter
    from cockpit.backends.http import HttpReader
    from cockpit.backends.issues import IssueReader, IssueTracker
    from cockpit.backends.load import LoadGenerator
    from cockpit.backends.metrics import MetricsBackend
    from cockpit.backends.notify import WebhookSender
    from cockpit.backends.policy import PolicyBackend
    from cockpit.backends.policy_engine import DecisionEngine
    from cockpit.backends.policy_opa import PolicyReader, PolicyStore
    from cockpit.backends.registry import RegistryBackend
    from cockpit.backends.signing import SigningBackend

H = TypeVar("H")


class Effects(Protocol):
    """The one gate every mutation passes (design decision 4)."""

    async def forward(
        self, verb: str, target: str, act: Callable[[], Awaitable[H]], *, env: str, by: str, detail: str = ""
    ) -> H:
        """Record the intent, do the act unless halted, fenced or outside the window, record the result."""
        ...


class Blobs(Protocol):
    """Where raw answers are kept by digest."""

    def keep(self, data: bytes) -> str:
        """Store `data`; return `sha256:…`."""
        ...


class BackendMissing(Exception):
    """The plan does not configure this back end: the agent answers `blocked` and says what to configure."""


@dataclass(frozen=True)
class Handles:
    """The back ends of a run; `None` where the plan configures none."""

    metrics: MetricsBackend | None = None
    cluster: ClusterReader | None = None
    registry: RegistryBackend | None = None
    forge: GitRepo | None = None
    policy: PolicyBackend | None = None
    decisions: DecisionEngine | None = None
    policies: PolicyReader | None = None
    policy_store: PolicyStore | None = None
    load: LoadGenerator | None = None
    http: HttpReader | None = None
    signing: SigningBackend | None = None
    webhooks: WebhookSender | None = None
    issues: IssueTracker | None = None
    flags: FlagsWriter | None = None
    drills: DrillGround | None = None
    tags: TagWriter | None = None
    redactor: Redactor = field(default_factory=Redactor)
    """Knows the run's secrets: what an agent keeps of the world goes through it."""


@dataclass(frozen=True)
class Context:
    """One call of one agent. `base` is the folder of the plan; `run_dir` that of the run."""

    info: AgentInfo
    request: AgentRequest
    plan: Plan
    plan_sha256: str
    base: Path
    run_dir: Path
    clock: Clock
    state: Callable[[], ReleaseState]
    artifacts: Artifacts
    blobs: Blobs
    handles: Handles
    effects: Effects | None
    valid_s: Mapping[str, float]
    """Validity of verdicts in seconds by wire gate (gates.md, reading 4)."""

    def _handle(self, capability: str, found: H | None) -> H:
        # Raises EffectRefused for a capability the roster does not declare, BackendMissing for one that the
        # plan does not configure.
        if capability not in self.info.capabilities:
            raise EffectRefused(
                f"{self.info.id} does not declare the capability {capability!r}", reason="capability"
            )
        if found is None:
            raise BackendMissing(f"no back end for {capability!r} is configured in the plan's targets")
        return found

    @property
    def metrics(self) -> MetricsBackend:
        """Return the metrics back end (capability `prometheus`)."""
        return self._handle("prometheus", self.handles.metrics)

    @property
    def cluster(self) -> ClusterReader:
        """Return the cluster, read-only (capability `kubernetes`)."""
        return self._handle("kubernetes", self.handles.cluster)

    @property
    def registry(self) -> RegistryBackend:
        """Return the image registry (capability `registry`)."""
        return self._handle("registry", self.handles.registry)

    @property
    def forge(self) -> GitRepo:
        """Return the git repository (capability `git`)."""
        return self._handle("git", self.handles.forge)

    @property
    def policy(self) -> PolicyBackend:
        """Return the policy engine (capability `rego`)."""
        return self._handle("rego", self.handles.policy)

    @property
    def decisions(self) -> DecisionEngine:
        """Return the engine of the release policy (capability `opa`)."""
        return self._handle("opa", self.handles.decisions)

    @property
    def policies(self) -> PolicyReader | None:
        """Return the policies OPA holds, read-only (capability `opa`); None with the embedded engine."""
        self._handle("opa", self.handles.decisions)
        return self.handles.policies

    @property
    def policy_store(self) -> PolicyStore:
        """Return the policies OPA holds, to be changed through `effects` (capability `opa`)."""
        if self.effects is None:
            raise EffectRefused(f"{self.request.op} changes no policy", reason="capability")
        return self._handle("opa", self.handles.policy_store)

    @property
    def load(self) -> LoadGenerator:
        """Return the load generator (capability `k6`)."""
        return self._handle("k6", self.handles.load)

    @property
    def http(self) -> HttpReader:
        """Return the bounded HTTP reader (capability `http`)."""
        return self._handle("http", self.handles.http)

    @property
    def signing(self) -> SigningBackend:
        """Return the signer (capability `cosign`)."""
        return self._handle("cosign", self.handles.signing)

    @property
    def webhooks(self) -> WebhookSender:
        """Return the webhooks' sender (capability `webhook`)."""
        return self._handle("webhook", self.handles.webhooks)

    @property
    def issues(self) -> IssueReader:
        """Return the forge's issues, read-only (capability `issues`)."""
        return self._handle("issues", self.handles.issues)

    @property
    def issue_tracker(self) -> IssueTracker:
        """Return the forge's issues to write to, through the effects (APPLY and ROLLBACK only)."""
        tracker = self._handle("issues", self.handles.issues)
        if self.effects is None:
            raise EffectRefused(f"{self.request.op} must not change an issue", reason="capability")
        return tracker

    @property
    def flags(self) -> FlagsReader:
        """Return the feature flags, read-only (capability `flags`)."""
        return self._handle("flags", self.handles.flags)

    @property
    def flag_writer(self) -> FlagsWriter:
        """Return the feature flags to change, through the effects (APPLY and ROLLBACK only)."""
        writer = self._handle("flags", self.handles.flags)
        if self.effects is None:
            raise EffectRefused(f"{self.request.op} must not change a flag", reason="capability")
        return writer

    @property
    def tags(self) -> TagReader:
        """Return the repository's tags, read-only (capability `git`)."""
        return self._handle("git", self.handles.tags)

    @property
    def tag_writer(self) -> TagWriter:
        """Return the repository's tags to cut, through the effects (APPLY only)."""
        writer = self._handle("git", self.handles.tags)
        if self.effects is None:
            raise EffectRefused(f"{self.request.op} must not cut a tag", reason="capability")
        return writer

    @property
    def drills(self) -> DrillReader:
        """Return the pods drills are held with, read-only (capability `kubernetes`)."""
        return self._handle("kubernetes", self.handles.drills)

    @property
    def drill_ground(self) -> DrillGround:
        """Return the pods drills are held with, through the effects (APPLY only)."""
        ground = self._handle("kubernetes", self.handles.drills)
        if self.effects is None:
            raise EffectRefused(f"{self.request.op} must not kill a pod", reason="capability")
        return ground

    @property
    def step(self) -> int:
        """Return the canary step the request is about; 0 outside the canary."""
        step = self.request.inputs.params.get("step", 0)
        return step if isinstance(step, int) else 0

    def now(self) -> str:
        """Return the present time as RFC 3339 UTC."""
        return iso(self.clock.now())

    def judge(
        self,
        gate: WireGate,
        phase_gate: str,
        rule_name: str,
        rule: Rule,
        answers: Mapping[str, bytes],
        params: Mapping[str, Any],
        *,
        queries: Mapping[str, Query],
        env: str | None = None,
    ) -> GateVerdict:
        """Keep the raw answers, apply the rule to them and return the verdict that can be recomputed.

        `queries` describes each answer by the same name; their `answer` digests are filled in here.
        """
        judgement = rule(answers, params)
        digests = {name: self.blobs.keep(raw) for name, raw in answers.items()}
        return self.verdict(
            gate,
            phase_gate,
            judgement,
            queries=[
                query.model_copy(update={"answer": digests.get(name, "")}) for name, query in queries.items()
            ],
            rule={"name": rule_name, "params": dict(params), "answers": digests},
            env=env,
        )

    def verdict(
        self,
        gate: WireGate,
        phase_gate: str,
        judgement: Judgement,
        *,
        queries: list[Query],
        rule: dict[str, Any],
        env: str | None = None,
    ) -> GateVerdict:
        """Return a verdict about the plan's images; only `pass` is a pass on the wire."""
        where: Any = env or self.request.scope.env
        metrics = {
            name: None if isinstance(value, float) and value != value else value
            for name, value in judgement.metrics.items()
        }
        return GateVerdict(
            gate=gate,
            env=where,
            verdict="pass" if judgement.passed else "fail",
            metrics=metrics,
            thresholds=list(judgement.thresholds),
            details=VerdictDetails(
                phase_gate=phase_gate,
                outcome=judgement.outcome,
                reason=judgement.reason[:2000],
                judged=Judged(
                    images={s.name: s.image.digest for s in self.plan.services if s.image.digest},
                    env=where,
                    plan_sha256=self.plan_sha256,
                    valid_s=self.valid_s[gate],
                ),
                queries=queries,
                rule=rule,
            ),
        )
