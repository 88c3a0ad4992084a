"""What stands around a release: users' entry, load, flags, issues, webhooks, issuers, others' agents."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from cockpit.agentkit.external_transport import PATH
from cockpit.backends import k6
from cockpit.backends.flags import ConfigMapFlags
from cockpit.backends.http import HttpAnswer, HttpReader
from cockpit.backends.issues import RepositorySeen
from cockpit.backends.reach import Reached, proxy_for, reach
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.text import visible
from cockpit.connecting import Clients
from cockpit.doctor.checks import Fact, Finding, Probe, fail, ok, unused, warn
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.load import LoadedPlan
from cockpit.plan.operations import External, Flags
from cockpit.verdicts.flag_definitions import definition_of, read_catalogue

_DEADLINE = 10.0
_AT_ONCE = 4
_SOON_DAYS = 14
_SCIM = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"


class AroundPart:
    """The probes of everything else that has an address, and their connections, which the caller closes."""

    def __init__(self, loaded: LoadedPlan, clients: Clients, clock: Clock, reader: HttpReader) -> None:
        self._loaded = loaded
        self._plan = loaded.plan
        self._clients = clients
        self._clock = clock
        self._reader = reader
        self._flags: ConfigMapFlags | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._flags is not None:
            await self._flags.close()

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        plan, targets = self._plan, self._plan.targets
        yield from self._entries()
        if targets.load is not None:
            todo = "check `targets.load.url`: load is sent there, and it must not be prod"
            make = partial(self._answers, targets.load.url)
            yield Probe("load", "reachable", targets.load.url, make, todo)
            if targets.load.generator != "builtin":
                todo = "install k6, or set `targets.load.generator` to `builtin`"
                make = partial(self._sends, targets.load.generator)
                yield Probe("load", "generator", "k6", make, todo)
        yield from self._feature_flags(targets.flags)
        yield from self._issues()
        for hook in targets.webhooks:
            todo = f"check the url of the webhook {hook.name}, and that its receiver runs"
            yield Probe("webhook", hook.name, _host(hook.url), partial(self._listens, hook.url), todo)
        todo = "check `oidc_issuer`: it must serve its discovery document over https"
        yield Probe("issuer", "discovery", plan.oidc_issuer, partial(self._issuer, plan.oidc_issuer), todo)
        if plan.approvals is not None and plan.approvals.login:
            todo = "check `approvals.login`: people log in there, and its keys tell whether they have"
            login = plan.approvals.login
            yield Probe("issuer", "login", login, partial(self._issuer, login), todo)
        if not plan.rehearsal:  # which has no directory
            todo = "check `scim_baseurl`: the directory's SCIM 2.0 address, as it is before `/Users`"
            refused = "check `scim_token`"
            yield Probe("scim", "its configuration", plan.scim_baseurl, self._scim, todo, refused=refused)
        for agent, external in plan.external.items():
            todo = f"check `external.{agent}`: its command must be there, or its url be served"
            target = _host(external.url) if external.url else external.command[0]
            yield Probe("external", agent, target, partial(self._external, external), todo)
        if plan.telemetry.otlp is not None:
            todo = "check `telemetry.otlp`, or leave it out: traces are in the run folder in any case"
            url = plan.telemetry.otlp
            yield Probe("telemetry", "reachable", _host(url), partial(self._listens, url), todo)

    # -- users ----------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[Probe]:
        targets = self._plan.targets
        if targets.entry_url is not None:
            todo = "look at what answers there, and correct `targets.smoke` or the services"
            yield Probe("entry", "smoke paths", targets.entry_url, self._smoke, todo)
        for stage in self._plan.stages:
            if stage.entry_url is not None:
                todo = f"check `entry_url` of the stage {stage.environment}, and that it runs"
                make = partial(self._answers, stage.entry_url)
                yield Probe("entry", stage.environment, stage.entry_url, make, todo)

    async def _smoke(self) -> Finding:
        targets = self._plan.targets
        entry, slots = str(targets.entry_url).rstrip("/"), asyncio.Semaphore(_AT_ONCE)

        async def read(path: str) -> HttpAnswer:
            async with slots:
                return await self._reader.get(entry + path)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(one.path)) for one in targets.smoke]
        wrong = []
        for path, task in zip(targets.smoke, tasks, strict=True):
            answer = task.result()
            if answer.status != path.status:
                wrong.append(f"{path.name}: status {answer.status} instead of {path.status}")
            elif path.contains not in answer.body.decode("utf-8", "backslashreplace"):
                wrong.append(f"{path.name}: not what it must contain")
        if wrong:
            todo = "look at what answers there, and correct `targets.smoke` or the services"
            return fail(f"{len(wrong)} of {len(tasks)}: {'; '.join(wrong)}", todo, paths=len(tasks))
        if not tasks:
            return await self._answers(entry)
        return ok(f"all {len(tasks)} answer as they must", paths=len(tasks))

    async def _answers(self, url: str) -> Finding:
        """Any answer but an error of the server will do: which paths there are, only the plan knows."""
        answer = await self._reader.get(url)
        if answer.status >= 500:
            raise BackendUnreachable(f"it answers {answer.status}", where=url)
        return ok(f"it answers {answer.status}")

    async def _sends(self, choice: str) -> Finding:
        program = k6.installed()
        if program is None and choice == "auto":
            return ok("k6 is not on the PATH: the built-in generator will send")
        if program is None:
            raise BackendGarbage("k6 is not on the PATH, and the plan asks for it")
        version = await k6.version_of(program)
        return ok(f"{program} is k6 {version}", version=version)

    # -- flags ----------------------------------------------------------------------------------------

    def _feature_flags(self, target: Flags | None) -> Iterator[Probe]:
        if target is None:
            return
        todo = f"create the ConfigMap with {target.key} (flagd definitions), or correct `targets.flags`"
        refused = "`cockpit doctor --rbac PLAN` prints a manifest that grants what a release needs"
        where = f"{target.namespace}/{target.configmap}"
        read = Probe("flags", "definitions", where, self._definitions, todo, refused=refused)
        yield read
        todo = "check `targets.flags.evaluate_url`, and that the service reads this ConfigMap"
        yield Probe("flags", "evaluated", target.evaluate_url, self._evaluated, todo, read)

    async def _definitions(self) -> Finding:
        flags = self._flags = self._clients.flags()
        assert flags is not None  # the plan has a target
        try:
            document = read_catalogue((await flags.read()).text)
        except ValueError as error:
            raise BackendGarbage(str(error)) from None
        problems = []
        for flag in self._plan.ga_flags:
            try:
                definition_of(document, flag)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            return fail("; ".join(problems), "define the flag, or correct `ga_flags`")
        return ok(f"all {len(self._plan.ga_flags)} GA flags defined", flags=len(self._plan.ga_flags))

    async def _evaluated(self) -> Finding:
        assert self._flags is not None  # needs the definitions
        flags, tenant = self._plan.ga_flags, (self._plan.pilot_tenants or ("nobody",))[0]
        if not flags:
            return unused("the plan has no GA flags")
        wrong = []
        for flag in flags:
            [answer] = await self._flags.evaluate(flag, [tenant])
            if answer.status != 200:
                wrong.append(f"{flag}: {answer.status}")
        if wrong:
            return fail(
                f"not evaluated: {', '.join(wrong)}", "let the flag service read this plan's definitions"
            )
        return ok(f"all {len(flags)} for {tenant}", flags=len(flags))

    # -- forge ----------------------------------------------------------------------------------------

    def _issues(self) -> Iterator[Probe]:
        target = self._plan.targets.issues
        if target is None:
            return

        async def make() -> Finding:
            seen = await self._repository()
            if not seen.has_issues:
                return fail(f"{seen.name} has no issues", "switch its issues on, or name another")
            if not seen.may:
                todo = "check that the token may file issues and set labels"
                return warn(f"{seen.name}; it does not say what we may there", todo)
            if not (seen.may.get("push") or seen.may.get("triage")):
                todo = "give the token the right to set labels: incidents are found again by theirs"
                return fail(f"{seen.name}: the token may not set labels", todo)
            return ok(seen.name)

        async def date() -> str:
            return (await self._repository()).date

        todo = "check `targets.issues`: url and repository"
        refused = "check `targets.issues.token`"
        probe = Probe("issues", "reachable", target.url, make, todo, refused=refused)
        yield probe
        yield clock_probe("issues", target.url, date, self._clock, probe)

    async def _repository(self) -> RepositorySeen:
        issues = self._clients.issues()
        assert issues is not None  # the plan has a target
        return await issues.repository()

    # -- others ---------------------------------------------------------------------------------------

    async def _listens(self, url: str) -> Finding:
        """Connect and hang up: whatever is posted somewhere is seen by people."""
        if proxy := proxy_for(url):
            return unused(f"it is behind the proxy {_host(proxy)}: nothing shows unless something is posted")
        return connected(await reach(url, deadline=_DEADLINE, tls=self._clients.tls()), self._clock.now())

    async def _issuer(self, issuer: str) -> Finding:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await self._reader.get(url)
        if answer.status != 200 or f'"{issuer}"'.encode() not in answer.body.replace(b"\\/", b"/"):
            raise BackendGarbage(f"it answered {answer.status} and is not this issuer's", where=url)
        return ok("its own")

    async def _scim(self) -> Finding:
        plan = self._plan
        headers = {"Accept": "application/scim+json"}
        if plan.scim_token is not None:
            headers["Authorization"] = f"Bearer {self._clients.secret(plan.scim_token)}"
        url = f"{plan.scim_baseurl.rstrip('/')}/ServiceProviderConfig"  # RFC 7644, section 4
        answer = await self._reader.get(url, headers=headers)
        if answer.status in (401, 403):
            if plan.scim_token is None:
                todo = "give `scim_token`, a reference to a token that may read there"
                return warn(f"it answered {answer.status}: it wants a token, and the plan has none", todo)
            said = f"it answered {answer.status} to the token of the plan"
            raise BackendRefused(said, where=url, status=answer.status)
        if answer.status >= 500 or answer.status == 429:
            raise BackendUnreachable(f"it answered {answer.status}", where=url)
        found = _provider(answer.body) if answer.status == 200 else None
        if found is None:
            raise BackendGarbage(f"it answered {answer.status} and no SCIM configuration", where=url)
        able = [name for name in ("patch", "bulk", "filter", "etag") if _supported(found, name)]
        return ok(f"SCIM 2.0; {', '.join(able) or 'none of its options'}", options=" ".join(able))

    async def _external(self, external: External) -> Finding:
        if external.url:
            return await self._listens(external.url)
        name = external.command[0]
        # As it is started: beside the plan, and with a search path that is ours, not the user's.
        found = shutil.which(str(self._loaded.base / name)) if "/" in name else shutil.which(name, path=PATH)
        if found is None:
            raise BackendGarbage(f"there is no command {visible(name, limit=100)} that could be started")
        return ok(f"{found} is there; it was not started")


def connected(found: Reached, now: datetime) -> Finding:
    """Return what a connection says: that something listens, and whether its certificate ends soon."""
    said = f"it listens{', ' + found.tls if found.tls else ''}"
    facts: dict[str, Fact] = {"tls": found.tls} if found.tls else {}
    if found.expires is not None:
        days = (found.expires - now).days
        facts["certificate_days"] = days
        if days < _SOON_DAYS:
            return warn(f"{said}; its certificate ends in {days} days", "let it be renewed", **facts)
    return ok(said, **facts)


def _provider(body: bytes) -> Mapping[str, Any] | None:
    """Return a SCIM service provider's configuration (RFC 7643, section 5); None for what is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    schemas = found.get("schemas") if isinstance(found, dict) else None
    return found if isinstance(schemas, list) and _SCIM in schemas else None


def _supported(found: Mapping[str, Any], name: str) -> bool:
    option = found.get(name)
    return isinstance(option, dict) and option.get("supported") is True


def _host(url: str) -> str:
    """Leave out what may hold a secret: the path of some receivers is theirs."""
    rest = url.partition("://")[2] or url
    return visible(rest.partition("/")[0].rpartition("@")[2].partition("?")[0], limit=200)
