"""The release policy: it loads, it can say no, and the OPA that decides by it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cockpit.backends.http import HttpAnswer, HttpReader
from cockpit.backends.policy_engine import EmbeddedEngine, builtin_policy, read_policy
from cockpit.backends.policy_opa import OpaEngine
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendUnreachable
from cockpit.connecting import Clients
from cockpit.doctor.checks import Fact, Finding, Probe, ok, unused
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.load import LoadedPlan
from cockpit.verdicts.policy_decision import Decision

_POLICY_AGENT = "A19"
_UNDEFINED = "it holds no such package: the decision is undefined"


class PolicyPart:
    """The probes of the policy."""

    def __init__(self, loaded: LoadedPlan, clients: Clients, clock: Clock, reader: HttpReader) -> None:
        self._loaded = loaded
        self._plan = loaded.plan
        self._clients = clients
        self._clock = clock
        self._reader = reader

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        target = self._plan.targets.policy
        folder = target.bundle or "the built-in policy"
        todo = "correct the Rego files of `targets.policy.bundle`, or its `package`"
        loads = Probe("policy", "policy loads", folder, self._loads, todo)
        yield loads
        if target.url is None:
            return
        todo = "check `targets.policy.url`, and that OPA runs and says it is healthy"
        refused = "check `targets.policy.token`"
        reach = Probe("policy", "reachable", target.url, self._reach_opa, todo, refused=refused)
        yield reach
        yield clock_probe("policy", target.url, self._opa_date, self._clock, reach)
        todo = "put the policy into OPA, or let A19 do it: have it among the plan's agents"
        yield Probe("policy", "OPA decides", target.url, self._opa_decides, todo, reach, refused=refused)

    async def _loads(self) -> Finding:
        target = self._plan.targets.policy
        source = read_policy(self._loaded.base / target.bundle if target.bundle else builtin_policy())
        engine = EmbeddedEngine(source, package=target.package, deadline=target.deadline)
        try:
            decision = await engine.decide({})
        except BackendUnreachable as error:
            # A child of this process: it is slow or broken, and no back end is away.
            raise BackendGarbage(error.what) from None
        return _denies(decision, f"{len(source.modules)} modules", source.sha256)

    async def _reach_opa(self) -> Finding:
        answer = await self._health()
        if answer.status != 200:
            raise BackendUnreachable(f"its health check answered {answer.status}", where=answer.url)
        engine = self._clients.policy().engine
        version = await engine.version() if isinstance(engine, OpaEngine) else ""
        return ok(version or "it does not say its version", version=version)

    async def _opa_date(self) -> str:
        return (await self._health()).headers.get("date", "")

    async def _health(self) -> HttpAnswer:
        return await self._reader.get(f"{str(self._plan.targets.policy.url).rstrip('/')}/health")

    async def _opa_decides(self) -> Finding:
        try:
            decision = await self._clients.policy().engine.decide({})
            problem = "" if _defined(decision) else _UNDEFINED
        except BackendGarbage as error:
            problem = error.what
        if problem and _POLICY_AGENT in self._plan.agents:
            # The release puts its own policy there; what is there now will be gone by then.
            return unused(f"{_POLICY_AGENT} puts the policy there in the release; now: {problem}")
        if problem:
            raise BackendGarbage(problem)
        return _denies(decision, "it decides", "")


def _defined(decision: Decision) -> bool:
    """Return whether the engine knew the package it was asked about."""
    return "result" in json.loads(json.loads(decision.raw).get("answer", "{}"))


def _denies(decision: Decision, said: str, digest: str) -> Finding:
    """Return whether a decision on nothing at all is a deny: what cannot say no is no policy."""
    if not _defined(decision):
        raise BackendGarbage(_UNDEFINED)
    facts: dict[str, Fact] = {"sha256": digest} if digest else {}
    if decision.allow:
        todo = "correct the policy: by default it must deny"
        return Finding("fail", "it allows an action that nothing is known of", todo, facts)
    return Finding("ok", f"{said}; it denies what nothing is known of", facts=facts)
