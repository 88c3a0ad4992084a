"""The cockpit's own client of the cluster, over stand-in and real API server, with the cockpit's rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

from cockpit.backends.cluster import (
    CONFIGMAP,
    DEPLOYMENT,
    HTTPROUTE,
    LEASE,
    POD,
    SERVICE,
    Kind,
    KubernetesCluster,
)
from cockpit.backends.drills import NamespaceDrills, PodSeen
from cockpit.backends.flags import FENCE, ConfigMapFlags
from cockpit.base.errors import BackendRefused, BackendUnreachable, Conflict, EffectRefused
from cockpit.rehearsal.kube import KubeServer, matching
from cockpit.rehearsal.real import pki
from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.contract.kube_fixtures import (
    CONFIG_MAPS,
    DEADLINE,
    DEPLOYMENTS,
    PODS,
    ROUTES,
    Answer,
    KubeCluster,
    Obj,
    config_map,
    deployment,
    real,
    route,
    until,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract

FLOWS = "apis/flowcontrol.apiserver.k8s.io/v1"
POLICIES = "apis/admissionregistration.k8s.io/v1"


@asynccontextmanager
async def connected(
    cluster: KubeCluster, token: str = "", *, url: str = "", deadline: float = DEADLINE
) -> AsyncIterator[KubernetesCluster]:
    """Yield a connected client, the conductor's unless `token` says otherwise."""
    made = client(cluster, token, url=url, deadline=deadline)
    try:
        await made.connect()
        yield made
    finally:
        await made.close()


def client(
    cluster: KubeCluster, token: str = "", *, url: str = "", ca: Path | str = "", deadline: float = DEADLINE
) -> KubernetesCluster:
    return KubernetesCluster(
        url or cluster.url,
        token or cluster.conductor,
        cluster.namespace,
        ca_file=str(ca or cluster.ca_file),
        deadline=deadline,
    )


def version_of(obj: Obj) -> str:
    return str(obj["metadata"]["resourceVersion"])


def weights(obj: Obj) -> list[int]:
    return [one["weight"] for one in obj["spec"]["rules"][0]["backendRefs"]]


async def test_it_says_which_server_answers(cluster: KubeCluster) -> None:
    async with connected(cluster) as kube:
        found = await kube.version()
        assert found.version.startswith("v")
        assert found.date
        assert "httproutes" in await kube.served("gateway.networking.k8s.io", "v1")
        assert await kube.served("example.org", "v1") == frozenset()


async def test_what_is_read_is_what_is_there(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    async with connected(cluster) as kube:
        assert (await kube.get(DEPLOYMENT, "web"))["spec"]["replicas"] == 0
        assert [one["metadata"]["name"] for one in await kube.list(DEPLOYMENT)] == ["web"]
        assert await kube.list(POD, selector="app=web") == []
        with pytest.raises(BackendRefused) as refused:
            await kube.get(DEPLOYMENT, "none")
    assert refused.value.status == 404


async def settled(kube: KubernetesCluster) -> Obj:
    """Return the Deployment `web` once its controller has said all it has to say of it."""
    read: Obj = {}

    async def still() -> bool:
        before = read.get("metadata", {}).get("resourceVersion")
        await asyncio.sleep(0.2)
        read.update(await kube.get(DEPLOYMENT, "web"))
        told = (read.get("status") or {}).get("observedGeneration") == read["metadata"]["generation"]
        return bool(told and version_of(read) == before)

    await until(still)
    return read


async def test_replicas_change_only_from_the_version_read(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    async with connected(cluster) as kube:
        read = await settled(kube)
        body = {"spec": {"replicas": 2}}
        scaled = await kube.patch(DEPLOYMENT, "web", body, resource_version=version_of(read))
        assert (scaled["spec"]["replicas"], scaled["metadata"]["generation"]) == (2, 2)
        with pytest.raises(Conflict):
            await kube.patch(DEPLOYMENT, "web", {"spec": {"replicas": 5}}, resource_version=version_of(read))

        async def ready() -> bool:
            found = await kube.get(DEPLOYMENT, "web")
            return bool((found.get("status") or {}).get("readyReplicas") == 2)

        await until(ready)
        assert len(await kube.list(POD, selector="app=web")) == 2


async def test_weights_change_only_from_the_version_read(cluster: KubeCluster) -> None:
    (await cluster.call("POST", ROUTES, route("web", 100, 0))).ok()
    async with connected(cluster) as kube:
        read = await kube.get(HTTPROUTE, "web")
        body = {"spec": route("web", 90, 10)["spec"]}
        moved = await kube.patch(HTTPROUTE, "web", body, resource_version=version_of(read))
        assert weights(moved) == [90, 10]
        with pytest.raises(Conflict):
            await kube.patch(
                HTTPROUTE, "web", {"spec": route("web", 0, 100)["spec"]}, resource_version=version_of(read)
            )
        with pytest.raises(BackendRefused) as refused:
            wrong = {"spec": route("web", 100, -1)["spec"]}
            await kube.patch(HTTPROUTE, "web", wrong, resource_version=version_of(moved))
        assert refused.value.status == 422
        assert weights(await kube.get(HTTPROUTE, "web")) == [90, 10]


async def test_one_of_two_takes_a_lease(cluster: KubeCluster) -> None:
    async with connected(cluster) as one, connected(cluster) as other:
        body = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": "release"},
            "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15, "leaseTransitions": 1},
        }
        made = await one.create(LEASE, body)
        with pytest.raises(Conflict):
            await other.create(LEASE, body)
        renewed = {**made["spec"], "renewTime": "2025-09-23T08:00:00.000000Z"}
        await one.replace(LEASE, "release", {**made, "spec": renewed})
        with pytest.raises(Conflict):
            await other.replace(
                LEASE, "release", {**made, "spec": {**made["spec"], "holderIdentity": "other"}}
            )
        assert (await other.get(LEASE, "release"))["spec"]["holderIdentity"] == "one"


@pytest.mark.parametrize(
    ("kind", "verb"),
    [(POD, "delete"), (CONFIGMAP, "list"), (SERVICE, "create"), (LEASE, "delete")],
    ids=lambda value: value.plural if isinstance(value, Kind) else value,
)
async def test_what_it_may_not_is_refused_with_a_hint(cluster: KubeCluster, kind: Kind, verb: str) -> None:
    async with connected(cluster) as kube:
        calls: dict[str, Callable[[], Any]] = {
            "delete": lambda: kube.delete(kind, "one", uid="any"),
            "list": lambda: kube.list(kind),
            "create": lambda: kube.create(kind, {"metadata": {"name": "one"}}),
        }
        with pytest.raises(BackendRefused) as refused:
            await calls[verb]()
        group, resource = kind.group, kind.plural
        assert not await kube.may(verb, group, resource, namespace=cluster.namespace)
        assert await kube.may("get", "apps", "deployments", namespace=cluster.namespace)
        assert not await kube.may("get", "apps", "deployments", namespace="default")
    assert (refused.value.status, "architecture.md" in refused.value.hint) == (403, True)
    assert cluster.user in refused.value.what


async def test_an_unknown_token_is_refused_at_once(cluster: KubeCluster) -> None:
    made = client(cluster, "nobody")
    with pytest.raises(BackendRefused) as refused:
        await made.connect()
    await made.close()
    assert (refused.value.status, refused.value.hint) == (401, "check the token")


@pytest.mark.real
async def test_an_expired_token_is_refused_at_once(plane: ControlPlane, tmp_path: Path) -> None:
    async with real(plane, tmp_path) as cluster:
        claims = jwt.decode(cluster.conductor, options={"verify_signature": False})
        key, headers = plane.issuer_key.read_bytes(), jwt.get_unverified_header(cluster.conductor)
        # The same token signed again is a good one; it is its time that is refused.
        good = jwt.encode(claims, key, "ES256", {"kid": headers["kid"]})
        async with connected(cluster, good) as kube:
            assert await kube.list(POD) == []
        claims |= {"exp": claims["iat"] - 600, "iat": claims["iat"] - 3610, "nbf": claims["iat"] - 3610}
        made = client(cluster, jwt.encode(claims, key, "ES256", {"kid": headers["kid"]}))
        with pytest.raises(BackendRefused) as refused:
            await made.connect()
        await made.close()
    assert refused.value.status == 401


@pytest.mark.real
async def test_a_server_of_another_ca_is_unreachable_and_tls_is_named(
    plane: ControlPlane, tmp_path: Path
) -> None:
    other = pki.serving(tmp_path / "pki", "other").ca
    nothing, text = tmp_path / "none.crt", tmp_path / "text.crt"
    text.write_text("no certificate", encoding="utf-8")
    async with real(plane, tmp_path) as cluster:
        for ca, named in ((other, "TLS"), (nothing, "CA file"), (text, "CA file")):
            made = client(cluster, ca=ca)
            with pytest.raises(BackendUnreachable) as unreachable:
                await made.connect()
            await made.close()
            assert named in unreachable.value.what
            assert "ca_file" in unreachable.value.hint
        plain = client(cluster, url=cluster.url.replace("https", "http"))
        with pytest.raises(BackendRefused) as refused:  # the server says that it speaks HTTPS here
            await plain.connect()
        await plain.close()
        assert refused.value.status == 400


async def test_https_at_a_server_without_tls_is_unreachable(seam: KubeCluster) -> None:
    made = client(seam, url=seam.url.replace("http", "https"))
    with pytest.raises(BackendUnreachable, match="TLS"):
        await made.connect()
    await made.close()


async def test_silence_is_unreachable_within_the_deadline(cluster: KubeCluster) -> None:
    async with cluster.relay() as relay, connected(cluster, url=relay.url, deadline=3.0) as kube:
        relay.hold()
        with pytest.raises(BackendUnreachable):
            await kube.list(POD)
        relay.cut()
        async with asyncio.timeout(DEADLINE):
            assert await kube.list(POD) == []  # over a connection of its own


async def test_a_cancelled_call_leaves_nothing_behind(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    async with cluster.relay() as relay, connected(cluster, url=relay.url) as kube:
        read = await kube.get(CONFIGMAP, "settings")
        relay.hold()
        around = asyncio.all_tasks()
        late = asyncio.create_task(
            kube.patch(CONFIGMAP, "settings", {"data": {"a": "late"}}, resource_version=version_of(read))
        )

        async def sent() -> bool:
            return relay.held > 0

        await until(sent)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert asyncio.all_tasks() <= around
        relay.cut()
        written = await kube.patch(
            CONFIGMAP, "settings", {"data": {"a": "2"}}, resource_version=version_of(read)
        )
        assert written["data"] == {"a": "2"}


async def test_who_is_told_to_come_again_does(seam: KubeCluster, server: KubeServer) -> None:
    (await seam.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    async with connected(seam) as kube:
        read = await kube.get(CONFIGMAP, "settings")
        fault = server.faults.fail(matching("patch", "configmaps"), 429, retry_after=1)
        body = {"data": {"a": "2"}}
        written = await kube.patch(CONFIGMAP, "settings", body, resource_version=version_of(read))
        assert (fault.seen, written["data"]) == (1, body["data"])


async def test_who_is_told_to_come_again_too_late_gives_up_at_once(
    seam: KubeCluster, server: KubeServer
) -> None:
    async with connected(seam, deadline=5.0) as kube:
        fault = server.faults.fail(matching("list", "pods"), 429, times=None, retry_after=60)
        with pytest.raises(BackendUnreachable, match="429"):
            await kube.list(POD)
        assert fault.seen == 1


@pytest.mark.real
async def test_a_server_under_load_is_asked_again(plane: ControlPlane, tmp_path: Path) -> None:
    async with real(plane, tmp_path) as cluster, connected(cluster) as kube:
        level, flow = flow_control(cluster)
        name = level["metadata"]["name"]
        (await cluster.everywhere("POST", f"{FLOWS}/prioritylevelconfigurations", level)).ok()
        (await cluster.everywhere("POST", f"{FLOWS}/flowschemas", flow)).ok()

        async def turned_away() -> list[Answer]:
            asked = (cluster.call("GET", PODS, token=cluster.conductor) for _ in range(20))
            return [answer for answer in await asyncio.gather(*asked) if answer.status == 429]

        away = await until(turned_away)
        assert {answer.headers["Retry-After"] for answer in away} == {"1"}
        # The level lets one request in at a time; of ten at once most come again, and all come through.
        assert await asyncio.gather(*(kube.list(POD) for _ in range(10))) == [[]] * 10
        (await cluster.everywhere("DELETE", f"{FLOWS}/flowschemas/{name}")).ok()


def flow_control(cluster: KubeCluster) -> tuple[Obj, Obj]:
    """A priority level that takes next to nothing, and what puts this account's requests into it."""
    version, name = "flowcontrol.apiserver.k8s.io/v1", cluster.namespace
    limited = {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}, "lendablePercent": 0}
    level = {
        "apiVersion": version,
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": {**limited, "borrowingLimitPercent": 0}},
    }
    account = {"namespace": cluster.namespace, "name": "conductor"}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    rule = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
        "resourceRules": [everything],
    }
    flow = {
        "apiVersion": version,
        "kind": "FlowSchema",
        "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": name},
            "matchingPrecedence": 2,
            "rules": [rule],
        },
    }
    return level, flow


async def test_what_admission_denies_is_refused_in_its_words(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    words = "no more than five at once"
    if cluster.server is not None:
        cluster.server.faults.deny(matching("patch", "deployments"), words)
    else:
        await forbid_more_than_five(cluster, words)
    async with connected(cluster) as kube:
        read = await settled(kube)
        with pytest.raises(BackendRefused, match=words) as refused:
            await kube.patch(DEPLOYMENT, "web", {"spec": {"replicas": 6}}, resource_version=version_of(read))
        assert refused.value.status == 422
        assert (await kube.get(DEPLOYMENT, "web"))["spec"]["replicas"] == 0


async def forbid_more_than_five(cluster: KubeCluster, words: str) -> None:
    """Bind a policy to this namespace, and wait until the server holds to it."""
    version, name = "admissionregistration.k8s.io/v1", cluster.namespace
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["deployments"],
    }
    policy = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "object.spec.replicas <= 5", "message": words}],
        },
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}
    binding = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        },
    }
    (await cluster.everywhere("POST", f"{POLICIES}/validatingadmissionpolicies", policy)).ok()
    (await cluster.everywhere("POST", f"{POLICIES}/validatingadmissionpolicybindings", binding)).ok()

    async def holds() -> bool:
        answer = await cluster.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 6}}, dryRun="All")
        return answer.status == 422

    await until(holds)


async def test_flags_are_written_under_the_fence(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map("flags", **{"flags.json": "{}"}))).ok()

    def flags() -> ConfigMapFlags:
        return ConfigMapFlags(
            client(cluster), configmap="flags", key="flags.json", evaluate_url="http://none"
        )

    one, other = flags(), flags()
    try:
        await one.stamp(fence=3)
        # Many at once: each reads again what somebody else wrote in between, and none is lost.
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                writer = (one, other)[number % 2]
                tasks.create_task(writer.change(partial(added, number=number), fence=3))
        found = await other.read()
        assert (set(json.loads(found.text)), found.fence) == ({"f0", "f1", "f2", "f3"}, 3)
        with pytest.raises(EffectRefused):
            await other.change(partial(added, number=9), fence=2)
        stored = (await cluster.call("GET", f"{CONFIG_MAPS}/flags")).ok()
        assert stored["metadata"]["annotations"][FENCE] == "3"
    finally:
        await one.close()
        await other.close()


def added(text: str, number: int) -> str:
    return json.dumps({**json.loads(text), f"f{number}": True})


async def test_a_drill_kills_exactly_the_pod_it_saw(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2))).ok()
    drills = NamespaceDrills(client(cluster, await cluster.driller()), cluster.namespace)
    try:

        async def both() -> tuple[PodSeen, ...]:
            seen = (await drills.workload("web")).ready
            return seen if len(seen) == 2 else ()

        first, second = await until(both)
        with pytest.raises(Conflict):
            await drills.kill(PodSeen(first.name, second.uid, True, False, ()))
        await drills.kill(first)

        async def replaced() -> bool:
            seen = (await drills.workload("web")).ready
            return len(seen) == 2 and first.uid not in {pod.uid for pod in seen}

        await until(replaced)
        assert second.uid in {pod.uid for pod in (await drills.workload("web")).ready}
    finally:
        await drills.close()


async def test_after_close_nothing_is_connected(cluster: KubeCluster) -> None:
    async with cluster.relay() as relay:
        made = client(cluster, url=relay.url)
        await made.connect()
        assert await made.list(POD) == []
        await made.close()
        with pytest.raises(BackendUnreachable):
            await made.list(POD)
        async with asyncio.timeout(DEADLINE):
            while relay.connections:  # noqa: ASYNC110 - the other end tells nobody
                await asyncio.sleep(0.01)
    assert urlsplit(relay.url).hostname == "127.0.0.1"
