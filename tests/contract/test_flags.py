"""The flag client against the stand-ins: definitions under the fence, and what each tenant then sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from cockpit.backends.cluster import CONFIGMAP, KubernetesCluster
from cockpit.backends.flags import FENCE, ConfigMapFlags
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, EffectRefused
from cockpit.rehearsal.flags import FlagsServer, evaluate, murmur3, serving_flags
from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.verdicts.flag_definitions import (
    ALL,
    OFF,
    Scope,
    definition_of,
    read_catalogue,
    scope_of,
    with_scope,
    write_catalogue,
)

pytestmark = pytest.mark.contract
SPACE, NAME = "intelgraph", "flags"
OUTSIDERS = tuple(f"tenant-{number}" for number in range(100))
PILOTS = Scope("pilot", ("t1", "t2"))


def definition(**more: Any) -> dict[str, Any]:
    return {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "metadata": {"owner": "@product", "expires": "2099-12-31"},
        **more,
    }


@dataclass
class Flags:
    kube: KubeServer
    server: FlagsServer
    client: ConfigMapFlags

    async def put(self, flags: dict[str, Any] | str) -> None:
        text = flags if isinstance(flags, str) else json.dumps({"flags": flags})
        metadata = {"name": NAME, "namespace": SPACE}
        await self.kube.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"flags.json": text}}
        )

    async def scope(self, scope: Scope, *, fence: int = 1) -> None:
        await self.client.change(partial(edited, scope=scope), fence=fence)

    async def seen(self, tenants: tuple[str, ...], flag: str = "search") -> dict[str, Any]:
        answers = await self.client.evaluate(flag, tenants)
        return {one.tenant: json.loads(one.body).get("value") for one in answers}


def edited(text: str, *, scope: Scope) -> str:
    document = read_catalogue(text)
    document["flags"]["search"] = with_scope(definition_of(document, "search"), scope)
    return write_catalogue(document)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the service tells nobody
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def flags() -> AsyncIterator[Flags]:
    kube = KubeServer({"world": admin(), "conductor": conductor([SPACE])})
    await kube.start()
    try:
        await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        async with serving_flags(kube.url, "world", namespace=SPACE, configmap=NAME) as server:
            client = client_of(kube, server.url)
            made = Flags(kube, server, client)
            await made.put({"search": definition()})
            await until(lambda: knows(made))
            try:
                yield made
            finally:
                await client.close()
    finally:
        await kube.stop()


def client_of(kube: KubeServer, url: str, *, deadline: float = 5.0) -> ConfigMapFlags:
    return ConfigMapFlags(
        KubernetesCluster(kube.url, "conductor", SPACE, deadline=deadline),
        configmap=NAME,
        key="flags.json",
        evaluate_url=url,
        deadline=deadline,
    )


async def knows(flags: Flags) -> bool:
    [answer] = await flags.client.evaluate("search", ["t1"])
    return answer.status == 200


@pytest.mark.parametrize(
    "scope", [OFF, PILOTS, Scope("share", ("t1",), 25), Scope("share", (), 25), ALL], ids=str
)
async def test_a_scope_is_written_read_back_and_seen(flags: Flags, scope: Scope) -> None:
    await flags.scope(scope)
    text = (await flags.client.read()).text
    found = definition_of(read_catalogue(text), "search")
    assert scope_of(found) == scope
    assert found["metadata"] == definition()["metadata"]
    inside = scope.tenants or (OUTSIDERS[:3] if scope == ALL else ())
    await until(lambda: holds(flags, inside, True))
    seen = list((await flags.seen(OUTSIDERS)).values())
    assert set(seen) <= {True, False}
    share = {"off": 0, "pilot": 0, "share": 25, "all": 100}[scope.kind]
    assert abs(seen.count(True) - share) <= (20 if scope.kind == "share" else 0)


async def holds(flags: Flags, tenants: tuple[str, ...], value: bool) -> bool:
    return set((await flags.seen(tenants)).values()) <= {value}


async def test_who_is_in_a_share_stays_in_a_larger_one(flags: Flags) -> None:
    inside: list[set[str]] = []
    for percent in (10, 50, 90):
        await flags.scope(Scope("share", ("t1",), percent))
        version = (await flags.client.read()).version
        await until(lambda v=version: followed(flags, v))  # type: ignore[misc]
        inside.append({tenant for tenant, value in (await flags.seen(OUTSIDERS)).items() if value})
    assert inside[0] < inside[1] < inside[2]


async def followed(flags: Flags, version: str) -> bool:
    mirror = flags.server._mirror
    assert mirror is not None
    return bool(mirror.objects[NAME]["metadata"]["resourceVersion"] == version)


async def test_what_is_not_ours_in_the_file_stays(flags: Flags) -> None:
    other = {"state": "ENABLED", "variants": {"a": 1, "b": 2}, "defaultVariant": "a"}
    text = json.dumps({"$schema": "x", "flags": {"other": other, "search": definition()}, "$evaluators": {}})
    await flags.put(text)
    await flags.scope(PILOTS)
    document = read_catalogue((await flags.client.read()).text)
    assert (document["$schema"], document["$evaluators"]) == ("x", {})
    assert document["flags"]["other"] == other
    assert list(document["flags"]) == ["other", "search"]


# -- the fence ----------------------------------------------------------------------------------------


async def test_a_write_carries_the_fence_and_an_older_holder_is_refused(flags: Flags) -> None:
    await flags.scope(PILOTS, fence=7)
    assert (await flags.client.read()).fence == 7
    with pytest.raises(EffectRefused) as refused:
        await flags.scope(ALL, fence=6)
    assert refused.value.reason == "fence"
    await flags.client.stamp(fence=9)
    assert (await flags.client.read()).fence == 9


async def test_a_late_write_sees_the_newer_fence(flags: Flags) -> None:
    # The newer holder comes between the reading and the writing of the older one: 409, and then the fence.
    newer = KubernetesCluster(flags.kube.url, "conductor", SPACE)
    await newer.connect()
    late = asyncio.Event()

    class Slow(KubernetesCluster):
        async def patch(self, *given: Any, **more: Any) -> Any:
            if not late.is_set():
                late.set()
                current = await newer.get(CONFIGMAP, NAME)
                await newer.patch(
                    CONFIGMAP,
                    NAME,
                    {"metadata": {"annotations": {FENCE: "5"}}},
                    resource_version=current["metadata"]["resourceVersion"],
                )
            return await super().patch(*given, **more)

    older = ConfigMapFlags(
        Slow(flags.kube.url, "conductor", SPACE), configmap=NAME, key="flags.json", evaluate_url="http://x"
    )
    try:
        with pytest.raises(EffectRefused):
            await older.change(partial(edited, scope=ALL), fence=4)
        assert scope_of(definition_of(read_catalogue((await older.read()).text), "search")) == OFF
    finally:
        await older.close()
        await newer.close()


async def test_somebody_else_s_change_in_between_is_kept(flags: Flags) -> None:
    async def rival() -> None:
        for number in range(5):
            await flags.client.change(partial(noted, number=number), fence=1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rival())
        tasks.create_task(flags.scope(PILOTS))
    document = read_catalogue((await flags.client.read()).text)
    assert document["noted"] == 4
    assert scope_of(definition_of(document, "search")) == PILOTS


def noted(text: str, *, number: int) -> str:
    return write_catalogue({**read_catalogue(text), "noted": number})


async def test_an_edit_that_changes_nothing_writes_nothing(flags: Flags) -> None:
    before = await flags.client.read()
    await flags.client.change(lambda text: text, fence=3)
    assert await flags.client.read() == before


async def test_no_file_is_said(flags: Flags) -> None:
    client = ConfigMapFlags(
        KubernetesCluster(flags.kube.url, "conductor", SPACE),
        configmap="nothing",
        key="flags.json",
        evaluate_url=flags.server.url,
    )
    with pytest.raises(BackendRefused, match="not found"):
        await client.read()
    await client.close()
    await flags.put("{}")
    other = ConfigMapFlags(
        KubernetesCluster(flags.kube.url, "conductor", SPACE),
        configmap=NAME,
        key="other.json",
        evaluate_url=flags.server.url,
    )
    with pytest.raises(BackendGarbage, match=r"has no other\.json"):
        await other.read()
    await other.close()


# -- the service --------------------------------------------------------------------------------------


UNKNOWN: dict[str, Any] = {
    "operation": {"sem_ver": [{"var": "v"}, ">=", "1.0.0"]},
    "two operations": {"if": [True, "on", "off"], "in": ["a", ["a"]]},
    "variant": {"if": [True, "maybe", "off"]},
    "weights": {"fractional": [{"var": "tenant"}, ["on", 0.5], ["off", 0.5]]},
    "no weight": {"fractional": [{"var": "tenant"}, ["on", 0], ["off", 0]]},
    "if": {"if": "on"},
}


@pytest.mark.parametrize("targeting", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_a_rule_it_does_not_know_is_an_error_as_the_protocol_has_it(
    flags: Flags, targeting: Any
) -> None:
    await flags.put({"search": definition(targeting=targeting), "after": definition()})
    await until(lambda: answers(flags, "after", 200))
    [answer] = await flags.client.evaluate("search", ["t1"])
    said = json.loads(answer.body)
    assert (answer.status, said["key"], said["errorCode"]) == (400, "search", "PARSE_ERROR")
    assert "value" not in said and said["errorDetails"]


async def answers(flags: Flags, flag: str, status: int) -> bool:
    [answer] = await flags.client.evaluate(flag, ["t1"])
    return answer.status == status


async def test_a_flag_that_is_not_there_or_disabled_is_not_found(flags: Flags) -> None:
    await flags.put({"search": definition(state="DISABLED")})
    await until(lambda: answers(flags, "search", 404))
    for flag in ("search", "nothing/else?"):
        [answer] = await flags.client.evaluate(flag, ["t1"])
        assert (answer.status, json.loads(answer.body)["errorCode"]) == (404, "FLAG_NOT_FOUND")
        assert json.loads(answer.body)["key"] == flag


async def test_definitions_that_cannot_be_read_leave_the_last_ones_in_force(flags: Flags) -> None:
    await flags.put("no definitions")
    version = (await flags.client.read()).version
    await until(lambda: followed(flags, version))
    assert await flags.seen(("t1",)) == {"t1": False}


async def test_a_share_without_its_own_bucket_needs_a_targeting_key(flags: Flags) -> None:
    rule = {"fractional": [["on", 50], ["off", 50]]}
    await flags.put({"search": definition(targeting=rule)})
    url = f"{flags.server.url}/ofrep/v1/evaluate/flags/search"

    async def missing() -> bool:
        async with aiohttp.ClientSession() as session, session.post(url, json={"context": {}}) as answer:
            return answer.status == 400 and (await answer.json())["errorCode"] == "TARGETING_KEY_MISSING"

    await until(missing)
    async with aiohttp.ClientSession() as session, session.post(url, json={"context": []}) as answer:
        assert (await answer.json())["errorCode"] == "INVALID_CONTEXT"


async def test_failures_of_the_service_are_told_apart(flags: Flags) -> None:
    await flags.server.fault("error")
    with pytest.raises(BackendUnreachable, match="500"):
        await flags.client.evaluate("search", ["t1", "t2"])
    await flags.server.fault("refuse")
    with pytest.raises(BackendUnreachable):
        await flags.client.evaluate("search", ["t1"])
    await flags.server.fault("hang")
    impatient = client_of(flags.kube, flags.server.url, deadline=0.2)
    with pytest.raises(BackendUnreachable, match=r"within 0\.2 s"):
        await impatient.evaluate("search", ["t1"])
    await impatient.close()
    await flags.server.fault(None)
    assert await flags.seen(("t1",)) == {"t1": False}


HASHES = {
    "": 0,
    "hello": 0x248BFA47,
    "hello, world": 0x149BBB7F,
    "The quick brown fox jumps over the lazy dog": 0x2E4FF723,
}


def test_the_hash_is_murmur3() -> None:
    assert {text: murmur3(text.encode()) for text in HASHES} == HASHES


# What flagd's own evaluator (core v0.16.1) gave for the flag `search` and tenants `tenant-0` to `tenant-59`.
FLAGD = {
    10: {2, 21, 42, 43, 53},
    25: {2, 4, 21, 23, 30, 42, 43, 45, 48, 50, 53, 59},
    50: {2, 4, 11, 16, 18, 21, 22, 23, 25, 29, 30, 31, 35, 36, 37, 40, 42, 43, 45, 48, 49, 50, 53, 54, 55,
         59},
}  # fmt: skip


@pytest.mark.parametrize(("percent", "inside"), FLAGD.items())
def test_a_share_falls_on_the_tenants_flagd_gives_it_to(percent: int, inside: set[int]) -> None:
    found = with_scope(definition(), Scope("share", ("t1",), percent))
    contexts = [{"targetingKey": f"tenant-{number}", "tenant": f"tenant-{number}"} for number in range(60)]
    given = [evaluate("search", found, context) for context in contexts]
    assert {reason for _, reason in given} == {"TARGETING_MATCH"}
    assert {number for number, (variant, _) in enumerate(given) if variant == "on"} == inside
    assert evaluate("search", found, {"targetingKey": "t1", "tenant": "t1"}) == ("on", "TARGETING_MATCH")
