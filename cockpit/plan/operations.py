"""What a release does besides moving traffic: stages, flags, KPIs, drills, other people's agents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cockpit.plan.checks import MetricCheck
from cockpit.plan.values import PositiveSeconds, Seconds, SecretRef, Strict

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
_Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=500)]
_Query = Annotated[str, Field(min_length=1, max_length=4000)]


class Stage(Strict):
    """An environment before prod that takes the same digests: dev first, then stage (seed section 9).

    `steps`: weights of a canary there, e.g. [50, 100]; empty: the stable Deployments take the images at once.
    """

    environment: Literal["dev", "stage"]
    namespace: _Name
    route: str = ""
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = ()
    bake: Seconds = 0.0
    rollout_deadline: PositiveSeconds = 300.0
    entry_url: _Url | None = None
    """Where the smoke paths of the plan are read; the expected answers are those of prod."""
    checks: tuple[MetricCheck, ...] = ()
    """Looked at after each step's bake; `{window}` is the bake."""

    @model_validator(mode="after")
    def _checked(self) -> Stage:
        if self.entry_url is None and not self.checks:
            raise ValueError("a stage that looks at nothing can never fail: give entry_url or checks")
        if self.steps and (
            not self.route or self.steps[-1] != 100 or sorted(set(self.steps)) != [*self.steps]
        ):
            raise ValueError("a stage's canary needs a route and rising steps that end at 100")
        return self


class Issues(Strict):
    """Where incidents, regressions and fix trains are filed: the REST API of GitHub and what speaks it."""

    url: _Url
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    token: SecretRef
    deadline: PositiveSeconds = 10.0
    close_after_rollback: bool = False
    """Resolve the incident of a stop when its rollback is verified and all its stages are done; else it stays
    open until people close it."""


class PolicyEngine(Strict):
    """Who decides: the embedded Rego engine, or OPA over HTTP; `package` is the data path asked."""

    engine: Literal["embedded", "opa"] = "embedded"
    url: _Url | None = None
    token: SecretRef | None = None
    package: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*(/[a-z_][a-z0-9_]*)*$")] = "cockpit/release"
    bundle: str = ""
    """Folder of Rego files, relative to the plan; empty: the built-in policy. OPA is given the same files."""
    table: str = ""
    """Decision table A19 holds the policy to, a JSON file relative to the plan; empty: the built-in one."""
    deadline: PositiveSeconds = 5.0

    @model_validator(mode="after")
    def _has_url(self) -> PolicyEngine:
        if (self.engine == "opa") != (self.url is not None):
            raise ValueError("`opa` needs a url, and the embedded engine has none")
        return self


class Flags(Strict):
    """Feature flags: flagd definitions in a ConfigMap, evaluated over OFREP (openfeature.dev)."""

    namespace: _Name
    configmap: _Name
    key: str = "flags.json"
    evaluate_url: _Url
    """Base of the OFREP service that evaluates what the ConfigMap holds."""
    settle: PositiveSeconds = 30.0
    """Seconds a change may take to show at the service."""


class Kpi(Strict):
    """One business figure: its value after the release against its baseline, by `query` with `{window}`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    query: _Query
    unit: str = ""
    better: Literal["higher", "lower"]
    max_regression: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest relative loss against the baseline that is still no regression."""


class Kpis(Strict):
    """`cockpit kpi`: when, over which window, and against which baseline (seconds before the promotion).

    Both are durations of the calendar: where its day is compressed, they shrink with it.
    """

    after: PositiveSeconds = 86400.0
    window: PositiveSeconds = 86400.0
    items: Annotated[tuple[Kpi, ...], Field(min_length=1)]


class Experiment(Strict):
    """A chaos experiment (A36): pods of `service` killed in `environment`, never more than `most` at once."""

    name: _Name
    kind: Literal["pod-kill"] = "pod-kill"
    service: _Name
    most: Annotated[int, Field(ge=1, le=10)] = 1
    recovers_within: PositiveSeconds = 300.0


class Chaos(Strict):
    """Drills with rails: where, what must hold before and after, and what is done."""

    environment: Literal["dev", "stage"] = "stage"
    namespace: _Name
    steady: Annotated[tuple[MetricCheck, ...], Field(min_length=1)]
    window: PositiveSeconds = 30.0
    """What `{window}` in the steady checks is. After a kill they are looked at over a whole one."""
    experiments: Annotated[tuple[Experiment, ...], Field(min_length=1)]


class External(Strict):
    """An agent that is not ours: a command (one request line in, one response line out) or a URL (POST)."""

    command: tuple[str, ...] = ()
    url: _Url | None = None
    token: SecretRef | None = None
    deadline: PositiveSeconds = 60.0

    @model_validator(mode="after")
    def _one(self) -> External:
        if bool(self.command) == bool(self.url):
            raise ValueError("give `command` or `url`, one of them")
        return self


class TelemetryOut(Strict):
    """Where the cockpit's own telemetry goes besides the run folder."""

    otlp: _Url | None = None
    """Base of an OTLP/HTTP collector; `/v1/traces` is posted to."""
    otlp_token: SecretRef | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port on loopback for Prometheus to scrape; 0 takes a free one (its address is in the run folder)."""


class Attention(Strict):
    """How a decision that waits makes itself heard: bell and pager, then escalation."""

    page_after: Seconds = 30.0
    escalate_after: PositiveSeconds = 300.0
