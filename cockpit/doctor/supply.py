"""Registry, repository, policy: what is released, where it comes from, and who decides on it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cockpit.backends.forge import GitRepo
from cockpit.backends.http import HttpAnswer, HttpReader
from cockpit.backends.policy_engine import EmbeddedEngine, builtin_policy, read_policy
from cockpit.backends.policy_opa import OpaEngine
from cockpit.backends.registry import OciRegistry
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.connecting import Clients
from cockpit.doctor.checks import Fact, Finding, Probe, fail, ok, unused
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.load import LoadedPlan
from cockpit.verdicts.policy_decision import Decision

_POLICY_AGENT = "A19"
_UNDEFINED = "it holds no such package: the decision is undefined"


class SupplyPart:
    """The probes of registry, repository and policy, and their connections, which the caller closes."""

    def __init__(self, loaded: LoadedPlan, clients: Clients, clock: Clock, reader: HttpReader) -> None:
        self._loaded = loaded
        self._plan = loaded.plan
        self._clients = clients
        self._clock = clock
        self._reader = reader
        self._registry: OciRegistry | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._registry is not None:
            await self._registry.close()

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        targets = self._plan.targets
        url = targets.registry.url
        todo = "check `targets.registry.url`, and that the registry runs"
        refused = "check `targets.registry.token`"
        reach = Probe("registry", "reachable", url, self._reach_registry, todo, refused=refused)
        yield reach
        yield clock_probe("registry", url, self._registry_date, self._clock, reach)
        todo = "push the image, or correct its reference under `services`"
        yield Probe("registry", "images", url, self._images, todo, reach, refused=refused)

        where = targets.repository.path
        todo = "check `targets.repository`: a git repository that holds both refs (fetch first)"
        there = Probe("repository", "refs", where, self._refs, todo)
        yield there
        todo = "give this user the right to write there: the release's tags are put into it"
        yield Probe("repository", "takes tags", where, self._writable, todo, there)

        yield from self._policy()

    # -- registry -------------------------------------------------------------------------------------

    async def _reach_registry(self) -> Finding:
        registry = self._registry = self._clients.registry()
        headers = await registry.ping()
        version = headers.get("docker-distribution-api-version") or "distribution API v2"
        return ok(version, version=version)

    async def _registry_date(self) -> str:
        assert self._registry is not None  # needs `reachable`
        return (await self._registry.ping()).get("date", "")

    async def _images(self) -> Finding:
        registry = self._registry
        assert registry is not None  # needs `reachable`

        async def one(repository: str, reference: str) -> str:
            try:
                await registry.resolve(repository, reference)
            except BackendRefused as error:
                if error.status in (401, 403):
                    raise
                return "not there" if error.status == 404 else error.what
            except BackendGarbage as error:
                return error.what
            return ""

        services = self._plan.services
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(one(service.image.repository, service.image.reference))
                for service in services
            ]
        found = [(service.name, task.result()) for service, task in zip(services, asked, strict=True)]
        if problems := [f"{name} ({said})" for name, said in found if said]:
            todo = "push the image, or correct its reference under `services`"
            return fail(f"{len(problems)} of {len(services)}: {'; '.join(problems)}", todo)
        if tagged := [service.name for service in services if not service.image.digest]:
            todo = "name it as NAME@sha256:…: policy refuses an image that can change"
            return fail(f"named by a tag, which can change: {', '.join(tagged)}", todo)
        return ok(f"all {len(services)} there by digest", images=len(services))

    # -- repository -----------------------------------------------------------------------------------

    async def _refs(self) -> Finding:
        repository, forge = self._plan.targets.repository, self._clients.forge()
        first, last = [await self._ref(forge, ref) for ref in (repository.from_ref, repository.to_ref)]
        commits = len(await forge.commits(repository.from_ref, repository.to_ref))
        facts: dict[str, Fact] = {"from": first, "to": last, "commits": commits}
        named = f"{repository.from_ref}..{repository.to_ref}"
        if not commits:
            return Finding("fail", f"{named} holds no commit", "correct `from_ref` and `to_ref`", facts)
        return Finding("ok", f"{named}: {commits} commits, to {last[:12]}", facts=facts)

    @staticmethod
    async def _ref(forge: GitRepo, ref: str) -> str:
        try:
            return await forge.resolve(ref)
        except BackendRefused as error:
            if error.status == 404:
                raise BackendRefused(f"there is no {ref}", status=404) from None
            raise

    async def _writable(self) -> Finding:
        base: Path = self._loaded.base / self._plan.targets.repository.path
        git = base / ".git" if (base / ".git").is_dir() else base
        places = [one for one in (git, git / "objects", git / "refs" / "tags", git / "refs") if one.is_dir()]
        refused = [one.name for one in places if not os.access(one, os.W_OK | os.X_OK)]
        if refused or not places:
            todo = "give this user the right to write there: the release's tags are put into it"
            return fail(f"not writable: {', '.join(refused) or 'no git folder'}", todo)
        return ok("writable by this user")

    # -- policy ---------------------------------------------------------------------------------------

    def _policy(self) -> Iterator[Probe]:
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
