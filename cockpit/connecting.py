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
from cockpit.backends.k6 import generator_for
from cockpit.backends.load import LoadGenerator
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy import EmbeddedRego
from cockpit.backends.policy_opa import ReleasePolicy, release_policy
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.backends.tls import USUAL, Tls, read_authorities
from cockpit.base.clock import Clock
from cockpit.base.errors import UsageError
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import Noted
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
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
    tls: Tls = USUAL
    """Whom clients trust that are made later."""

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


def tls_of(plan: Plan, base: Path) -> Tls:
    """Return whom a plan's clients trust over TLS; raises UsageError for a CA file that cannot be used."""
    name = plan.targets.ca_file
    return read_authorities(base / name) if name else USUAL


class Clients:
    """Makes each client of a plan, none of them connected; a release and the doctor use the same.

    Each method raises UsageError for a secret or a file that is not there. `aborting`: only what an abort
    cannot do without must be there, which is the cluster's token.
    """

    def __init__(
        self, loaded: LoadedPlan, clock: Clock, redactor: Redactor, *, aborting: bool = False
    ) -> None:
        self._plan = loaded.plan
        self._base = loaded.base
        self._clock = clock
        self._redactor = redactor
        self._aborting = aborting
        self._tls: Tls | None = None

    def secret(self, reference: SecretRef) -> str:
        """Return a secret, known to the redactor from then on."""
        try:
            value = reference.read(self._base)
        except LookupError as error:
            if self._aborting and reference is not self._plan.targets.kubernetes.token:
                return ""
            raise UsageError(
                str(error), where=reference.ref, hint="put the secret there: the plan refers to it"
            ) from None
        self._redactor.add(value)
        return value

    def tls(self) -> Tls:
        """Return whom clients trust over TLS."""
        if self._tls is None:
            try:
                self._tls = tls_of(self._plan, self._base)
            except UsageError:
                if not self._aborting:
                    raise
                self._tls = USUAL  # who needs more than the usual ones will say so; the abort goes on
        return self._tls

    def kubernetes(self, namespace: str = "") -> KubernetesCluster:
        """Return the cluster, in the release's namespace or another."""
        target = self._plan.targets.kubernetes
        return KubernetesCluster(
            target.url,
            self.secret(target.token),
            namespace or target.namespace,
            ca_file=str(self._base / target.ca_file) if target.ca_file else "",
            deadline=target.deadline,
            tls=self.tls(),
        )

    def flags(self) -> ConfigMapFlags | None:
        """Return the feature flags."""
        target = self._plan.targets.flags
        if target is None:
            return None
        # A client of its own: the namespace may be another, and an abort sets flags back through it as well.
        return ConfigMapFlags(
            self.kubernetes(target.namespace),
            configmap=target.configmap,
            key=target.key,
            evaluate_url=target.evaluate_url,
            tls=self.tls(),
        )

    def drills(self) -> NamespaceDrills | None:
        """Return where drills are held."""
        chaos = self._plan.chaos
        return None if chaos is None else NamespaceDrills(self.kubernetes(chaos.namespace), chaos.namespace)

    def metrics(self) -> PrometheusMetrics:
        """Return Prometheus."""
        target = self._plan.targets.prometheus
        return PrometheusMetrics(target.url, clock=self._clock, deadline=target.deadline, tls=self.tls())

    def registry(self) -> OciRegistry:
        """Return the registry."""
        target = self._plan.targets.registry
        token = self.secret(target.token) if target.token else None
        return OciRegistry(target.url, token=token, tls=self.tls())

    def forge(self) -> GitRepo:
        """Return the repository."""
        return GitRepo(self._base / self._plan.targets.repository.path)

    def issues(self) -> GitHubIssues | None:
        """Return the issues."""
        target = self._plan.targets.issues
        if target is None:
            return None
        token = self.secret(target.token)
        return GitHubIssues(
            target.url,
            target.repository,
            token,
            clock=self._clock,
            deadline=target.deadline,
            tls=self.tls(),
        )

    def policy(self) -> ReleasePolicy:
        """Return the engine of the release policy."""
        target = self._plan.targets.policy
        token = self.secret(target.token) if target.token else ""
        return release_policy(target, self._base, token, tls=self.tls())

    def trust(self) -> str:
        """Return the trust configuration's text."""
        path = self._base / self._plan.targets.signing.trust_config
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            if self._aborting:
                return ""  # signing will fail and say so; the abort does not wait for it
            what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"the trust configuration cannot be read: {what}", where=str(path)) from None

    def token(self) -> HttpToken:
        """Return where the release's identity token is asked for."""
        target = self._plan.targets.signing
        return HttpToken(
            target.token_url,
            secret=lambda: self.secret(target.token_secret),
            subject=target.identity,
            tls=self.tls(),
        )

    def load(self) -> LoadGenerator | None:
        """Return what sends load; None where the plan names no place for it."""
        target = self._plan.targets.load
        if target is None:
            return None
        return generator_for(target.generator, target.url, target.environment, tls=self.tls())

    def signing(self) -> SigstoreSigning:
        """Return the signer."""
        target = self._plan.targets.signing
        return SigstoreSigning(
            self.trust(),
            token=self.token(),
            identity=target.identity,
            issuer=target.issuer,
            tls=self.tls(),
        )


def backends_of(loaded: LoadedPlan, clock: Clock, redactor: Redactor, *, aborting: bool) -> Backends:
    """Return the back ends of a plan, not yet connected; raises UsageError for a secret that is not there.

    `aborting`: only what an abort cannot do without must be there, which is the cluster's token.
    """
    plan, targets = loaded.plan, loaded.plan.targets
    clients = Clients(loaded, clock, redactor, aborting=aborting)
    signing = clients.signing()
    clients.secret(targets.signing.token_secret)
    for external in plan.external.values():
        if external.token is not None:
            clients.secret(
                external.token
            )  # one that is missing is said now, not in the middle of the release
    cluster, abort_cluster = clients.kubernetes(), clients.kubernetes()
    metrics, registry, forge = clients.metrics(), clients.registry(), clients.forge()
    deciding = clients.policy()
    handles = Handles(
        metrics=metrics,
        cluster=cluster,
        registry=registry,
        forge=forge,
        policy=EmbeddedRego(),
        decisions=deciding.engine,
        policies=deciding.reader,
        policy_store=deciding.store,
        load=clients.load(),
        http=BoundedHttpReader(tls=clients.tls()),
        signing=signing,
        webhooks=Webhook(
            {hook.name: clients.secret(hook.secret) for hook in targets.webhooks if hook.secret},
            tls=clients.tls(),
        ),
        issues=clients.issues(),
        flags=clients.flags(),
        drills=clients.drills(),
        redactor=redactor,
    )
    stages: dict[str, KubernetesCluster] = {
        stage.environment: clients.kubernetes(stage.namespace) for stage in plan.stages
    }
    return Backends(
        handles,
        cluster,
        abort_cluster,
        metrics,
        registry,
        signing,
        forge,
        redactor,
        stages,
        clients.tls(),
    )


def external_of(loaded: LoadedPlan, run_dir: Path, recorder: Recorder, backends: Backends) -> ExternalAgents:
    """Return the plan's agents that are not ours."""

    def secret(external: External) -> str:
        if external.token is None:
            return ""
        try:
            value = external.token.read(loaded.base)
        except LookupError as error:
            raise UsageError(str(error), where=external.token.ref) from None
        backends.redactor.add(value)
        return value

    return ExternalAgents(
        loaded,
        run_dir,
        recorder,
        secret=secret,
        note=lambda text: _noted(recorder, text),
        tls=backends.tls,
    )


def _noted(recorder: Recorder, text: str) -> None:
    recorder.note(Noted(level="info", text=visible(text)))
