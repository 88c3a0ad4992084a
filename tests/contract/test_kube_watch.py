"""Watches of the Kubernetes API: nothing missed, nothing invented, and a clear word when history is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.watch import Watch

from cockpit.rehearsal.kube import KubeServer
from tests.contract.kube_fixtures import CONFIG_MAPS, DEADLINE, EVENTS, KubeCluster, Obj, config_map, event
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract


async def events(cluster: KubeCluster, path: str = CONFIG_MAPS, **query: str) -> AsyncGenerator[Obj, None]:
    """Yield the events of a raw watch until the server ends it."""
    url = f"{cluster.url}/{path.format(ns=cluster.namespace)}"
    headers = {"Authorization": f"Bearer {cluster.admin}"}
    async with cluster.http.get(url, params={"watch": "true", **query}, headers=headers) as answer:
        assert answer.status == 200
        try:
            async for line in answer.content:
                yield json.loads(line)
        finally:
            # A watch that is left early: without this its TLS connection outlives the test.
            if answer.connection is not None and answer.connection.transport is not None:
                answer.connection.transport.abort()


def told(event: Obj) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")


async def version(cluster: KubeCluster, path: str = CONFIG_MAPS) -> str:
    listed = (await cluster.call("GET", path)).ok()
    return str(listed["metadata"]["resourceVersion"])


def watching() -> Any:
    """Return a watcher to be closed here: one the library makes by itself stays open when left early."""
    return Watch()  # type: ignore[no-untyped-call]


async def test_a_watch_continues_where_a_list_ended(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map("before"))).ok()
    since = await version(cluster)
    (await cluster.call("POST", CONFIG_MAPS, config_map("a"))).ok()
    (await cluster.patch(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})).ok()
    (await cluster.call("DELETE", f"{CONFIG_MAPS}/a")).ok()
    seen = [told(event) async for event in events(cluster, resourceVersion=since, timeoutSeconds="1")]
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_watch_without_a_version_begins_with_what_is_there(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map("a"))).ok()
    async with aclosing(events(cluster, timeoutSeconds="20")) as stream:
        async with asyncio.timeout(DEADLINE):
            assert told(await anext(stream)) == ("ADDED", "a")
            (await cluster.call("POST", CONFIG_MAPS, config_map("b"))).ok()
            assert told(await anext(stream)) == ("ADDED", "b")


async def test_a_reconnected_watch_misses_nothing_and_repeats_nothing(cluster: KubeCluster) -> None:
    since, seen = await version(cluster), []
    for number in range(6):
        (await cluster.call("POST", CONFIG_MAPS, config_map(f"item-{number}"))).ok()
        async with aclosing(events(cluster, resourceVersion=since, timeoutSeconds="20")) as stream:
            async with asyncio.timeout(DEADLINE):
                event = await anext(stream)
        seen.append(event["object"]["metadata"]["name"])
        since = event["object"]["metadata"]["resourceVersion"]
    assert seen == [f"item-{number}" for number in range(6)]


async def test_compaction_expires_old_watches_but_not_new_ones(cluster: KubeCluster) -> None:
    (await cluster.call("POST", EVENTS, event("a", cluster.namespace))).ok()
    since = await version(cluster, EVENTS)
    (await cluster.call("POST", EVENTS, event("b", cluster.namespace))).ok()
    await cluster.forget()
    (told,) = [one async for one in events(cluster, EVENTS, resourceVersion=since, timeoutSeconds="5")]
    assert told["type"] == "ERROR"
    assert (told["object"]["code"], told["object"]["reason"]) == (410, "Expired")
    fresh = await version(cluster, EVENTS)
    assert [one async for one in events(cluster, EVENTS, resourceVersion=fresh, timeoutSeconds="1")] == []


async def test_the_next_page_of_a_forgotten_list_is_expired(cluster: KubeCluster) -> None:
    for name in "abc":
        (await cluster.call("POST", EVENTS, event(name, cluster.namespace))).ok()
    page = (await cluster.call("GET", EVENTS, limit="1")).ok()
    (await cluster.call("POST", EVENTS, event("d", cluster.namespace))).ok()
    await cluster.forget()
    rest = await cluster.call("GET", EVENTS, limit="1", **{"continue": page["metadata"]["continue"]})
    rest.refused(410, "Expired")


async def test_an_object_that_stops_matching_is_deleted_for_the_watcher(cluster: KubeCluster) -> None:
    since = await version(cluster)
    body = config_map("a")
    body["metadata"]["labels"] = {"track": "canary"}
    (await cluster.call("POST", CONFIG_MAPS, body)).ok()
    for track in ("stable", "canary"):
        (await cluster.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"track": track}}})).ok()
    query = {"resourceVersion": since, "timeoutSeconds": "1", "labelSelector": "track=canary"}
    seen = [told(event) async for event in events(cluster, **query)]
    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]


async def test_bookmarks_carry_a_version_to_go_on_from(seam: KubeCluster) -> None:
    """On the stand-in alone: a real server leaves a whole minute between two bookmarks."""
    since = await version(seam)
    # Of what happens elsewhere only a bookmark tells this watcher.
    elsewhere = {"metadata": {"generateName": "bookmark-"}}
    (await seam.everywhere("POST", "api/v1/namespaces/default/configmaps", elsewhere)).ok()
    query = {"resourceVersion": since, "allowWatchBookmarks": "true", "timeoutSeconds": "1"}
    seen = [event async for event in events(seam, **query)]
    assert {event["type"] for event in seen} == {"BOOKMARK"}
    assert int(seen[-1]["object"]["metadata"]["resourceVersion"]) > int(since)


async def test_a_streaming_list_marks_its_end(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map("a"))).ok()
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with aclosing(events(cluster, timeoutSeconds="20", **query)) as stream:
        async with asyncio.timeout(DEADLINE):
            event = await anext(stream)
            while event["type"] != "BOOKMARK":
                assert event["type"] == "ADDED"
                event = await anext(stream)
    assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_cut_watch_is_an_error_and_goes_on_from_what_was_seen(cluster: KubeCluster) -> None:
    async with cluster.relay() as relay, cluster.dynamic(url=relay.url) as kube, watching() as watcher:
        maps = await kube.resources.get(api_version="v1", kind="ConfigMap")
        since = await version(cluster)
        (await cluster.call("POST", CONFIG_MAPS, config_map("a"))).ok()
        async with asyncio.timeout(DEADLINE):
            stream: Any = maps.watch(namespace=cluster.namespace, resource_version=since, watcher=watcher)
            first = (await anext(stream))["object"].metadata
            relay.cut()
            (await cluster.call("POST", CONFIG_MAPS, config_map("b"))).ok()
            with pytest.raises(aiohttp.ClientError):
                await anext(stream)
            again: Any = maps.watch(
                namespace=cluster.namespace, resource_version=first.resourceVersion, watcher=watcher
            )
            assert (first.name, (await anext(again))["object"].metadata.name) == ("a", "b")


async def test_the_library_watches_across_an_ended_watch(seam: KubeCluster, server: KubeServer) -> None:
    seen: list[str] = []
    async with seam.dynamic() as kube:
        maps = await kube.resources.get(api_version="v1", kind="ConfigMap")
        since = await version(seam)
        (await seam.call("POST", CONFIG_MAPS, config_map("a"))).ok()
        async with watching() as watcher, asyncio.timeout(DEADLINE):
            stream: Any = maps.watch(namespace=seam.namespace, resource_version=since, watcher=watcher)
            seen.append((await anext(stream))["object"].metadata.name)
            server.drop_watches()
            (await seam.call("POST", CONFIG_MAPS, config_map("b"))).ok()
            seen.append((await anext(stream))["object"].metadata.name)
    assert seen == ["a", "b"]


async def test_the_library_reports_expired_history(cluster: KubeCluster) -> None:
    (await cluster.call("POST", EVENTS, event("a", cluster.namespace))).ok()
    since = await version(cluster, EVENTS)
    (await cluster.call("POST", EVENTS, event("b", cluster.namespace))).ok()
    await cluster.forget()
    async with cluster.dynamic() as kube:
        found = await kube.resources.get(api_version="v1", kind="Event")
        async with watching() as watcher:
            stream: Any = found.watch(
                namespace=cluster.namespace, resource_version=since, timeout=5, watcher=watcher
            )
            with pytest.raises(ApiException) as refused:
                await anext(stream)
    assert refused.value.status == 410


async def test_a_version_from_the_future_is_refused_or_waited_for(cluster: KubeCluster) -> None:
    future = str(int(await version(cluster)) + 1_000_000)
    (await cluster.call("GET", CONFIG_MAPS, resourceVersion=future)).refused(504, "Timeout")
    (await cluster.call("POST", CONFIG_MAPS, config_map("a"))).ok()
    assert [one async for one in events(cluster, resourceVersion=future, timeoutSeconds="1")] == []
