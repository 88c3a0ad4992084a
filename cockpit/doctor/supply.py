"""Registry and repository: what is released, and where it comes from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from cockpit.backends.forge import GitRepo
from cockpit.backends.registry import OciRegistry
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendRefused
from cockpit.connecting import Clients
from cockpit.doctor.checks import Fact, Finding, Probe, fail, ok
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.load import LoadedPlan


class SupplyPart:
    """The probes of registry and repository, and their connections, which the caller closes."""

    def __init__(self, loaded: LoadedPlan, clients: Clients, clock: Clock) -> None:
        self._loaded = loaded
        self._plan = loaded.plan
        self._clients = clients
        self._clock = clock
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
