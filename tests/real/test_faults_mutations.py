"""What changes the world, behind a toxiproxy: an answer that is lost leaves an unknown, and nothing twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.cluster import CONFIGMAP, KubernetesCluster, Object
from cockpit.backends.flags import ConfigMapFlags
from cockpit.backends.issues import GitHubIssues
from cockpit.backends.notify import Webhook
from cockpit.backends.policy_opa import OpaHttp, OpaPolicyStore
from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendRefused, BackendUnreachable, Conflict, EffectRefused
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import EffectDone, EffectFailed, EffectIntended, EffectUnknown
from cockpit.rehearsal.real.toxiproxy import Proxy, Toxiproxy
from tests.conductor.support import events, gate_of, recording
from tests.real.faults_servers import POLICY, SPACE
from tests.real.faults_support import (
    BOUND,
    FLAGS,
    HANGS,
    SECRET,
    SOON,
    Inflict,
    World,
    ended,
    proxies,
    servers,
)

__all__ = ["proxies", "servers"]
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
_numbers = itertools.count()

LOST: dict[str, Inflict] = {
    "half-open": HANGS["half-open, no answer"],
    "closed": lambda proxy: proxy.limit(0),
    "cut in the answer": lambda proxy: proxy.limit(40),
}
"""What loses an answer once the request has arrived."""


@dataclass
class Change:
    """A change of the world and what became of it.

    `done` says how often the world has seen it. `again` does it a second time as the cockpit would when it is
    asked to: by then it must be as if it had been done once.
    """

    act: Callable[[], Awaitable[object]]
    done: Callable[[], Awaitable[int]]
    again: Callable[[], Awaitable[object]]
    close: Callable[[], Awaitable[None]]


Make = Callable[[World, Callable[[str], str], float], Awaitable[Change]]


async def nothing() -> None:
    """Close what needs no closing."""


async def fresh(w: World) -> tuple[KubernetesCluster, Object]:
    """Return a client of the cluster that goes no way round, and an object nobody else changes."""
    client = KubernetesCluster(w.kube.url, "root", SPACE, deadline=BOUND)
    await client.connect()
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"m{next(_numbers)}"},
        "data": {"a": "1"},
    }
    return client, await client.create(CONFIGMAP, body)


def cluster(verb: str) -> Make:
    """Change an object of the cluster."""

    async def make(w: World, via: Callable[[str], str], deadline: float) -> Change:
        straight, found = await fresh(w)
        client = KubernetesCluster(via(w.kube.url), "root", SPACE, deadline=deadline)
        await connected(client)
        name, read = found["metadata"]["name"], found["metadata"]["resourceVersion"]
        other = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-new"},
            "data": {"a": "2"},
        }

        def act(by: KubernetesCluster) -> Awaitable[object]:
            if verb == "patch":
                return by.patch(CONFIGMAP, name, {"data": {"a": "2"}}, resource_version=read)
            if verb == "replace":
                return by.replace(CONFIGMAP, name, {**found, "data": {"a": "2"}})
            if verb == "create":
                return by.create(CONFIGMAP, other)
            return by.delete(CONFIGMAP, name, uid=found["metadata"]["uid"])

        async def done() -> int:
            objects = {one["metadata"]["name"]: one for one in await straight.list(CONFIGMAP)}
            if verb == "create":
                return int(f"{name}-new" in objects)
            if verb == "delete":
                return int(name not in objects)
            version = objects[name]["metadata"]["resourceVersion"]
            assert (version == read) == (objects[name]["data"]["a"] == "1")
            return int(version != read)

        async def again() -> object:
            # On the version read before: the API server itself does not do it twice.
            with pytest.raises((Conflict, BackendRefused)):
                await act(straight)
            return None

        async def close() -> None:
            await client.close()
            await straight.close()

        return Change(lambda: act(client), done, again, close)

    return make


async def flags(w: World, via: Callable[[str], str], deadline: float) -> Change:
    """Change a flag's definition."""
    straight = KubernetesCluster(w.kube.url, "root", SPACE, deadline=BOUND)
    await straight.connect()
    before = await straight.get(CONFIGMAP, FLAGS)
    mark = f'"mark": {next(_numbers)}'

    def client(url: str, seconds: float) -> ConfigMapFlags:
        return ConfigMapFlags(
            KubernetesCluster(url, "root", SPACE, deadline=seconds),
            configmap=FLAGS,
            key="flags.json",
            evaluate_url=w.flags.url,
            deadline=seconds,
        )

    def edit(text: str) -> str:
        return text if mark in text else text[: text.rindex("}")] + f", {mark}}}"

    through, direct = client(via(w.kube.url), deadline), client(w.kube.url, BOUND)
    versions = {before["metadata"]["resourceVersion"]}

    async def done() -> int:
        found = await straight.get(CONFIGMAP, FLAGS)
        versions.add(found["metadata"]["resourceVersion"])
        assert (mark in found["data"]["flags.json"]) == (len(versions) == 2)
        return len(versions) - 1

    async def close() -> None:
        await through.close()
        await direct.close()
        await straight.close()

    async with asyncio.timeout(BOUND):
        while True:
            try:
                await through.read()
                break
            except BackendUnreachable:
                await asyncio.sleep(0.05)
    return Change(lambda: through.change(edit, fence=1), done, lambda: direct.change(edit, fence=1), close)


async def issue(w: World, via: Callable[[str], str], deadline: float) -> Change:
    """File an issue."""
    key = f"mutation:{next(_numbers)}"

    def client(url: str, seconds: float) -> GitHubIssues:
        return GitHubIssues(url, w.issues.repository, w.issues.token, clock=SystemClock(), deadline=seconds)

    def file(by: GitHubIssues) -> Awaitable[object]:
        return by.create(key, f"<!-- {key} -->", ("cockpit",))

    async def done() -> int:
        return sum(one["title"] == key for one in w.issues.all())

    through, direct = client(via(w.issues.url), deadline), client(w.issues.url, BOUND)

    async def again() -> object:
        # Looked up by what is in the world, as `file_once` does by its key.
        known = [one for one in await direct.issues(labels=("cockpit",)) if one.title == key]
        return known or await file(direct)

    return Change(lambda: file(through), done, again, nothing)


async def keyed_issue(w: World, via: Callable[[str], str], deadline: float) -> Change:
    """File an issue once, by its key."""
    key = f"keyed:{next(_numbers)}"

    def client(url: str, seconds: float) -> GitHubIssues:
        return GitHubIssues(url, w.issues.repository, w.issues.token, clock=SystemClock(), deadline=seconds)

    async def done() -> int:
        return sum(one["title"] == key for one in w.issues.all())

    through, direct = client(via(w.issues.url), deadline), client(w.issues.url, BOUND)
    return Change(
        lambda: through.file_once("incident", key, key, "text"),
        done,
        lambda: direct.file_once("incident", key, key, "text"),
        nothing,
    )


async def message(w: World, via: Callable[[str], str], deadline: float) -> Change:
    """Post a message."""
    key = f"message-{next(_numbers)}"
    url = via(w.webhook.url)
    through, direct = (
        Webhook({url: SECRET}, deadline=deadline),
        Webhook({w.webhook.url: SECRET}, deadline=BOUND),
    )

    async def done() -> int:
        # What the receiver has taken; one it has seen before it does not take again.
        return sum(one["outcome"] == "taken" and key in repr(one) for one in w.webhook.received())

    return Change(
        lambda: through.post(url, "step", {"weight": 10}, key=key),
        done,
        lambda: direct.post(w.webhook.url, "step", {"weight": 10}, key=key),
        nothing,
    )


async def policy(w: World, via: Callable[[str], str], deadline: float) -> Change:
    """Put a policy."""
    name = f"m{next(_numbers)}"
    text = POLICY.replace("package p", f"package {name}")

    async def done() -> int:
        return int(w.opa.policies.get(name) == text)

    return Change(
        lambda: OpaPolicyStore(OpaHttp(via(w.opa.url), deadline=deadline)).put(name, text),
        done,
        lambda: OpaPolicyStore(OpaHttp(w.opa.url, deadline=BOUND)).put(name, text),
        nothing,
    )


CHANGES: dict[str, tuple[Callable[[World], str], Make]] = {
    "cluster, patch": (lambda w: w.kube.url, cluster("patch")),
    "cluster, replace": (lambda w: w.kube.url, cluster("replace")),
    "cluster, create": (lambda w: w.kube.url, cluster("create")),
    "cluster, delete": (lambda w: w.kube.url, cluster("delete")),
    "flags": (lambda w: w.kube.url, flags),
    "issue": (lambda w: w.issues.url, issue),
    "issue, by key": (lambda w: w.issues.url, keyed_issue),
    "message": (lambda w: w.webhook.url, message),
    "policy": (lambda w: w.opa.url, policy),
}


async def connected(client: KubernetesCluster) -> None:
    """Connect with a short deadline on a busy machine."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                return await client.connect()
            except BackendUnreachable:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def changing(
    toxiproxy: Toxiproxy, w: World, name: str, *, deadline: float = SOON
) -> AsyncIterator[tuple[Proxy, Change]]:
    """Put a proxy before what is to be changed."""
    upstream, make = CHANGES[name]
    proxy = await toxiproxy.proxy(upstream(w))
    change = await make(w, proxy.url_of, deadline)
    try:
        yield proxy, change
    finally:
        async with asyncio.timeout(BOUND):
            await toxiproxy.remove(proxy)
            await change.close()


async def forward(recorder: Recorder, change: Change) -> object:
    """Make the change through an effects gate."""
    return await gate_of(recorder).forward("stamp", "test", change.act, env="stage", by="A1")


async def outcomes(recorder: Recorder) -> list[str]:
    """Return how the intended effects ended."""
    found: list[str] = []
    for kind in (EffectIntended, EffectDone, EffectFailed, EffectUnknown):
        found += [kind.__name__] * len(await events(recorder, kind))
    return found


async def becomes(done: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Wait until the world has taken a change whose answer nobody waits for any more."""
    async with asyncio.timeout(BOUND):
        while await done() != wanted:  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("name", CHANGES)
async def test_a_lost_answer_is_an_unknown_outcome_and_the_change_is_made_once(
    proxies: Toxiproxy, servers: World, tmp_path: Path, name: str, fault: str
) -> None:
    async with recording(tmp_path) as recorder, changing(proxies, servers, name) as (proxy, change):
        toxic = await LOST[fault](proxy)
        found = await ended(lambda: forward(recorder, change))
        assert isinstance(found, BackendUnreachable), repr(found)
        assert await outcomes(recorder) == ["EffectIntended", "EffectUnknown"]
        assert toxic is not None
        await toxic.remove()
        if name == "flags":
            # Read before it is written: the read was what got no answer.
            assert await change.done() == 0
        elif name == "issue, by key":
            assert await change.done() == 0  # so too here: the forge is asked first whether it is there
        else:
            await becomes(change.done, 1)
        await change.again()
        assert await change.done() == 1


@pytest.mark.parametrize("name", CHANGES)
async def test_what_never_arrived_is_unknown_too_and_can_be_done(
    proxies: Toxiproxy, servers: World, tmp_path: Path, name: str
) -> None:
    async with recording(tmp_path) as recorder, changing(proxies, servers, name) as (proxy, change):
        await proxy.cut()
        found = await ended(lambda: forward(recorder, change))
        assert isinstance(found, BackendUnreachable), repr(found)
        assert await outcomes(recorder) == ["EffectIntended", "EffectUnknown"]
        assert await change.done() == 0
        await proxy.mend()
        await ended_well(recorder, change)
        assert await change.done() == 1
        await change.again()
        assert await change.done() == 1


async def ended_well(recorder: Recorder, change: Change) -> None:
    async with asyncio.timeout(BOUND):
        while True:
            try:
                await forward(recorder, change)
                return
            except BackendUnreachable:  # a short deadline on a busy machine
                assert await change.done() == 0
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", CHANGES)
async def test_a_halt_cuts_off_a_change_in_a_half_open_connection(
    proxies: Toxiproxy, servers: World, tmp_path: Path, name: str
) -> None:
    async with (
        recording(tmp_path) as recorder,
        changing(proxies, servers, name, deadline=600.0) as (proxy, change),
    ):
        gate = gate_of(recorder)
        await proxy.half_open("upstream")
        going: asyncio.Future[Any] = asyncio.ensure_future(
            gate.forward("stamp", "test", change.act, env="stage", by="A1")
        )
        while not await events(recorder, EffectIntended):
            assert not going.done()
        gate.halt()
        found = await ended(lambda: going)
        assert isinstance(found, EffectRefused) and found.reason == "halt", repr(found)
        unknown = await events(recorder, EffectUnknown)
        failed = await events(recorder, EffectFailed)
        # Cut off after the intent: unknown, unless it had not been sent yet.
        assert len(unknown) + len(failed) == 1 and not any(one.sent for one in failed)
        assert await events(recorder, EffectDone) == []
