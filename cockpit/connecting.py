"""The back ends of a plan: its clients and their secrets, how all are connected and closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cockpit.agentkit.context import Handles
from cockpit.agentkit.external import ExternalAgents
from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.drills import NamespaceDrills
from cockpit.backends.flags import ConfigMapFlags
from cockpit.backends.forge import GitRepo
from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.load import OpenLoopGenerator
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy import EmbeddedRego
from cockpit.backends.policy_opa import release_policy
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.clock import Clock
from cockpit.base.errors import UsageError
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import Noted
from cockpit.plan.load import LoadedPlan
from cockpit.plan.operations import External
from cockpit.plan.values import SecretRef


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
    stages: Mapping[str, KubernetesCluster]
    """The environments before prod, connected when the release gets there."""

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
        for cluster in self.stages.values():
            await cluster.close()
        if isinstance(self.handles.flags, ConfigMapFlags):
            await self.handles.flags.close()
        if isinstance(self.handles.drills, NamespaceDrills):
            await self.handles.drills.close()


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

    def kubernetes(namespace: str = "") -> KubernetesCluster:
        target = targets.kubernetes
        ca_file = str(base / target.ca_file) if target.ca_file else ""
        return KubernetesCluster(
            target.url,
            secret(target.token),
            namespace or target.namespace,
            ca_file=ca_file,
            deadline=target.deadline,
        )

    def flags() -> ConfigMapFlags | None:
        target, kube = targets.flags, targets.kubernetes
        if target is None:
            return None
        ca_file = str(base / kube.ca_file) if kube.ca_file else ""
        # A client of its own: the namespace may be another, and an abort sets flags back through it as well.
        return ConfigMapFlags(
            KubernetesCluster(
                kube.url, secret(kube.token), target.namespace, ca_file=ca_file, deadline=kube.deadline
            ),
            configmap=target.configmap,
            key=target.key,
            evaluate_url=target.evaluate_url,
        )

    def drills() -> NamespaceDrills | None:
        chaos = plan.chaos
        return None if chaos is None else NamespaceDrills(kubernetes(chaos.namespace), chaos.namespace)

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
    for external in plan.external.values():
        if external.token is not None:
            secret(external.token)  # one that is missing is said now, not in the middle of the release
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
    policy_token = secret(targets.policy.token) if targets.policy.token is not None else ""
    deciding = release_policy(targets.policy, base, policy_token)
    handles = Handles(
        metrics=metrics,
        cluster=cluster,
        registry=registry,
        forge=forge,
        policy=EmbeddedRego(),
        decisions=deciding.engine,
        policies=deciding.reader,
        policy_store=deciding.store,
        load=OpenLoopGenerator(targets.load.url, targets.load.environment) if targets.load else None,
        http=BoundedHttpReader(),
        signing=signing,
        webhooks=Webhook({hook.name: secret(hook.secret) for hook in targets.webhooks if hook.secret}),
        issues=issues(),
        flags=flags(),
        drills=drills(),
        redactor=redactor,
    )
    stages: dict[str, KubernetesCluster] = {s.environment: kubernetes(s.namespace) for s in plan.stages}
    return Backends(handles, cluster, abort_cluster, metrics, registry, signing, forge, redactor, stages)


def external_of(loaded: LoadedPlan, run_dir: Path, recorder: Recorder, redactor: Redactor) -> ExternalAgents:
    """Return the plan's agents that are not ours."""

    def secret(external: External) -> str:
        if external.token is None:
            return ""
        try:
            value = external.token.read(loaded.base)
        except LookupError as error:
            raise UsageError(str(error), where=external.token.ref) from None
        redactor.add(value)
        return value

    return ExternalAgents(
        loaded,
        run_dir,
        recorder,
        secret=secret,
        note=lambda text: _noted(recorder, text),
    )


def _noted(recorder: Recorder, text: str) -> None:
    recorder.note(Noted(level="info", text=visible(text)))
