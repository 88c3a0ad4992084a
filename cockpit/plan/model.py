"""The release plan: all run inputs of seed section 1, the targets, and how the canary is judged."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cockpit.plan.calendar import Calendar
from cockpit.plan.checks import MetricCheck
from cockpit.plan.operations import (
    Attention,
    Chaos,
    External,
    Flags,
    Issues,
    Kpis,
    PolicyEngine,
    Stage,
    TelemetryOut,
)
from cockpit.plan.people import Approvals
from cockpit.plan.values import ImageRef, PositiveSeconds, Seconds, SecretRef, Strict, Window

Phase = Literal["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"]
RequiredGate = Literal["slo", "perf", "supply_chain", "migrations", "policy", "dr"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Percent = Annotated[int, Field(ge=1, le=100)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=500)]


class Service(Strict):
    """One service: its Deployments (stable and canary), its container and the image to release."""

    name: Name
    image: ImageRef
    stable: str = ""
    canary: str = ""
    container: str = "app"
    canary_replicas: Annotated[int, Field(ge=1, le=1000)] = 1

    @property
    def stable_deployment(self) -> str:
        """Return the name of the stable Deployment."""
        return self.stable or f"{self.name}-stable"

    @property
    def canary_deployment(self) -> str:
        """Return the name of the canary Deployment."""
        return self.canary or f"{self.name}-canary"


class BaselineCheck(Strict):
    """The canary against stable over the same window, by the metric's kind.

    `proportion`: `canary`/`stable` give (events, trials) by the queries `*_events` and `*_total`.
    `quantile`: `canary`/`stable` give cumulative histogram buckets with an `le` label.
    """

    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: Literal["proportion", "histogram"]
    canary: Annotated[str, Field(min_length=1, max_length=4000)]
    stable: Annotated[str, Field(min_length=1, max_length=4000)]
    canary_total: str = ""
    stable_total: str = ""
    min_effect: Annotated[float, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    critical: bool = True


class BurnWindow(Strict):
    """One pair of the multi-window burn-rate alert: fires when both windows burn faster than `factor`."""

    long: PositiveSeconds
    short: PositiveSeconds
    factor: Annotated[float, Field(gt=0)]


class BurnRate(Strict):
    """Burn rate on canary-labelled series only: `errors` and `total` are rates with `{window}`."""

    objective: Annotated[float, Field(gt=0.5, lt=1)]
    errors: Annotated[str, Field(min_length=1)]
    total: Annotated[str, Field(min_length=1)]
    windows: Annotated[tuple[BurnWindow, ...], Field(min_length=1)]


class Canary(Strict):
    """The canary's steps and how each is judged (gates.md)."""

    steps: Annotated[tuple[Percent, ...], Field(min_length=1)] = (10, 50, 100)
    bake: PositiveSeconds
    interval: PositiveSeconds
    required_passes: Annotated[int, Field(ge=1)]
    failure_limit: Annotated[int, Field(ge=1)]
    min_requests: Annotated[int, Field(ge=1)] = 50
    requests: Annotated[str, Field(min_length=1)]
    """Query of the canary's request count over `{window}`."""
    share: Annotated[str, Field(min_length=1)]
    """Query of the canary's share of all requests (0..1) over `{window}`: the observed weight."""
    weight_tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    weight_deadline: PositiveSeconds = 60.0
    low_traffic_deadline: PositiveSeconds
    provider_grace: PositiveSeconds
    query_deadline: PositiveSeconds = 5.0
    max_sample_age: PositiveSeconds = 60.0
    checks: Annotated[tuple[MetricCheck, ...], Field(min_length=1)]
    baseline: Annotated[tuple[BaselineCheck, ...], Field(min_length=1)]
    burn: BurnRate
    rollout_deadline: PositiveSeconds = 300.0
    abort_scale_bound: PositiveSeconds = 60.0
    drain: Seconds = 5.0
    drain_deadline: PositiveSeconds = 120.0


class Kubernetes(Strict):
    """The API server and the objects the canary moves."""

    url: Url
    token: SecretRef
    ca_file: str = ""
    """PEM file with the one CA of the API server, relative to the plan; empty: trusted as the others are."""
    namespace: Name
    route: Name
    lease: Name = "release-cockpit"
    lease_seconds: Annotated[int, Field(ge=2, le=3600)] = 15
    deadline: PositiveSeconds = 10.0


class Prometheus(Strict):
    """The metrics back end."""

    url: Url
    deadline: PositiveSeconds = 5.0


class Registry(Strict):
    """The OCI registry that holds the images and what refers to them."""

    url: Url
    token: SecretRef | None = None


class Signing(Strict):
    """How packs are signed, and who must have signed the images."""

    profile: Literal["embedded", "private", "public-good"]
    trust_config: str
    """File with a Sigstore ClientTrustConfig, relative to the plan."""
    token_url: Url
    token_secret: SecretRef
    identity: Text
    issuer: Text
    image_identity: Text
    image_issuer: Text
    builder: Text
    source: Text
    deadline: PositiveSeconds = 20.0


class Repository(Strict):
    """The git repository and the commit range of the release."""

    path: str
    from_ref: str
    to_ref: str


class Webhook(Strict):
    """Where messages are posted, in which shape, and to whom: ONCALL, CAB, or the release's own channel.

    `secret` is, by kind: generic: the key of the signature; slack: the end of the address, put behind `url`;
    alertmanager and cdevents: a bearer token; pager: the routing key, without which there is no pager.
    """

    name: Name
    url: Url
    secret: SecretRef | None = None
    kind: Literal["generic", "slack", "alertmanager", "cdevents", "pager"] = "generic"
    audience: tuple[Literal["release", "oncall", "cab"], ...] = ("release", "oncall", "cab")

    @model_validator(mode="after")
    def _can_page(self) -> Webhook:
        if self.kind == "pager" and self.secret is None:
            raise ValueError("a pager needs `secret`: its routing key")
        return self


class Load(Strict):
    """Where the load generator may send traffic: never prod."""

    url: Url
    environment: Literal["dev", "stage"] = "stage"
    baseline_rps: Annotated[float, Field(gt=0, le=5000)]
    spike_rps: Annotated[float, Field(gt=0, le=5000)]
    seconds: PositiveSeconds = 5.0
    services: Annotated[tuple[Name, ...], Field(min_length=1)]
    threshold: str = "p95_ms<=150"
    generator: Literal["auto", "builtin", "k6"] = "auto"
    """What sends it: `auto` is k6 where it is installed, else the built-in one; `k6` never falls back."""


class Smoke(Strict):
    """One smoke path of the acceptance suite (seed section 17)."""

    name: Name
    path: Annotated[str, Field(pattern=r"^/")]
    status: int = 200
    contains: str = ""


class Targets(Strict):
    """The back ends of the release."""

    ca_file: str = ""
    """PEM file with authorities of your own, relative to the plan; clients trust them besides the usual."""
    kubernetes: Kubernetes
    prometheus: Prometheus
    registry: Registry
    signing: Signing
    repository: Repository
    webhooks: tuple[Webhook, ...] = ()
    load: Load | None = None
    entry_url: Url | None = None
    """Where users enter prod; smoke paths are read there."""
    smoke: tuple[Smoke, ...] = ()
    issues: Issues | None = None
    policy: PolicyEngine = PolicyEngine()
    flags: Flags | None = None


class Budgets(Strict):
    """Seed section 1: preview cost a day and image sizes by name or glob, in MB."""

    preview_day_usd: Annotated[float, Field(ge=0)]
    max_image_mb: dict[str, Annotated[float, Field(gt=0)]]
    vulnerabilities_added: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {"critical": 0, "high": 0}
    )


class Waiver(Strict):
    """Something the release goes without, said outright, with an owner and a reason."""

    what: Literal["approvals", "standby", "flag-proof"]
    """`flag-proof`: flags are ramped without dashboards and alerts of their own having been verified."""
    owner: Text
    reason: Text


class RiskTrigger(Strict):
    """A trigger of a risk: `metric op value` held for `for`, measured by `query`."""

    threshold: str
    query: Annotated[str, Field(min_length=1, max_length=4000)]
    unit: str = ""
    lasts: Annotated[Seconds, Field(alias="for")] = 0.0


class Risk(Strict):
    """An entry of the risk register (seed section 12); a missing rating counts as high."""

    id: Annotated[str, Field(pattern=r"^R-[A-Z0-9-]+$")]
    owner: Text
    likelihood: Literal["low", "medium", "high"] = "high"
    impact: Literal["low", "medium", "high"] = "high"
    mitigations: tuple[str, ...] = ()
    triggers: tuple[RiskTrigger, ...] = ()
    rollback: str = ""
    state: Literal["open", "mitigated", "closed"] = "open"


class ExceptionEntry(Strict):
    """An exception to a rule, with owner and expiry; unapproved or expired is a no-go."""

    id: Text
    owner: Text
    reason: Text
    expires: datetime
    approved_by: str = ""


class Plan(Strict):
    """A release plan, as read from `release.yaml`."""

    format: Literal[1] = 1
    rehearsal: bool = False
    real_servers: dict[str, Text] = Field(default_factory=dict)
    """In a rehearsal: the targets that are real servers, with versions; what is not named is a stand-in."""
    repo: Text
    target_version: Annotated[str, Field(pattern=r"^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$")]
    environment: Literal["prod"] = "prod"
    window_utc: Window
    oncall: Annotated[tuple[Text, ...], Field(min_length=1)]
    pilot_tenants: tuple[Text, ...]
    ga_flags: tuple[Text, ...]
    auto_ramp_flags: bool = False
    budgets: Budgets
    oidc_issuer: Url
    scim_baseurl: Url
    scim_token: SecretRef | None = None
    """Bearer token of the directory, where it lets nobody read without one."""
    rto: PositiveSeconds
    rpo: PositiveSeconds
    headroom_target: Annotated[float, Field(gt=0, lt=1)]
    services: Annotated[tuple[Service, ...], Field(min_length=1)]
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    agents: Annotated[tuple[str, ...], Field(min_length=1)]
    required_gates: Annotated[tuple[RequiredGate, ...], Field(min_length=1)]
    canary: Canary
    targets: Targets
    agent_deadline: PositiveSeconds = 120.0
    on_halt: Literal["ask", "rollback"] = "ask"
    halt_bound: PositiveSeconds = 300.0
    """How long a HALT without a front end waits before it rolls back."""
    on_crash: Literal["abort", "continue"] = "abort"
    """What a conductor that takes up a killed run does in mid-canary."""
    on_window_end: Literal["abort", "finish"] = "abort"
    """When the window ends in mid-canary: roll back, or finish what the last step decides."""
    on_operator_lost: Literal["continue", "halt", "abort"] = "continue"
    operator_lost_after: PositiveSeconds = 60.0
    """Seconds without any front end that had control before `on_operator_lost` applies."""
    promote_on: Literal["gates", "request"] = "gates"
    """What begins the promotion: the gates alone, or a Promote v2 agreeing with the plan (seed section 7)."""
    attention: Attention = Attention()
    approvals: Approvals | None = None
    calendar: Calendar | None = None
    stages: tuple[Stage, ...] = ()
    kpis: Kpis | None = None
    chaos: Chaos | None = None
    external: dict[str, External] = Field(default_factory=dict)
    """Roster id → the agent that answers in its stead."""
    telemetry: TelemetryOut = TelemetryOut()
    cab: tuple[Text, ...] = ()
    """Whom the change advisory board is told through, e.g. `@cab`."""
    waivers: tuple[Waiver, ...] = ()
    risks: tuple[Risk, ...] = ()
    exceptions: tuple[ExceptionEntry, ...] = ()
