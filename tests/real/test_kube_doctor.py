"""`cockpit doctor` at a real API server, with the account of its own `--rbac` manifest and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from ruamel.yaml import YAML

from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.rights import ACCOUNT, manifest
from cockpit.base.clock import SystemClock
from cockpit.base.files import write_private
from cockpit.base.redact import Redactor
from cockpit.connecting import Clients
from cockpit.doctor.checks import Check, examine
from cockpit.doctor.cluster import ClusterPart
from cockpit.plan.load import LoadedPlan, load_plan
from cockpit.rehearsal.real.control_plane import ControlPlane
from cockpit.rehearsal.release_plan import dump
from cockpit.rehearsal.topology import PROD, STAGE, STAGES
from tests.contract.world_support import plan_data

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

GATEWAY = "gateway.networking.k8s.io"
_DEADLINE = 60.0


@dataclass(frozen=True)
class Applied:
    """A plan whose manifest has been applied, and the token of the account in it."""

    plane: ControlPlane
    loaded: LoadedPlan
    documents: list[dict[str, Any]]
    token: str

    async def checks(self) -> dict[str, Check]:
        """Return what the doctor says of the cluster: by check, and by namespace where there are several."""
        clock = SystemClock()
        part = ClusterPart(self.loaded.plan, Clients(self.loaded, clock, Redactor()), clock)
        try:
            found = await examine(list(part.probes()), deadline=_DEADLINE)
        finally:
            await part.close()
        return {f"{one.check} {one.target}" if one.check == "rights" else one.check: one for one in found}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def applied(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    folder = tmp_path_factory.mktemp("doctor")
    data = plan_data()
    data["targets"]["kubernetes"] |= {"url": plane.url, "ca_file": str(plane.ca_file), "token": "file:token"}
    (folder / "release.yaml").write_text(dump(data), encoding="utf-8")
    write_private(folder / "token", b"none yet")
    loaded = load_plan(folder / "release.yaml")
    for name in (PROD, *STAGES):
        await plane.namespace(name)
    documents = list(YAML(typ="safe").load_all(manifest(loaded.plan)))
    for one in documents:
        await plane.admin.make(one)
    path = f"api/v1/namespaces/{PROD}/serviceaccounts/{ACCOUNT}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    status, answer = await plane.admin.request("POST", path, asked)
    assert status == 201, answer
    token = str(answer["status"]["token"])
    write_private(folder / "token", token.encode())
    return Applied(plane, loaded, documents, token)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll: rights come into force some time after they were given."""
    async with asyncio.timeout(_DEADLINE):
        while not await holds():  # noqa: ASYNC110 - the server is asked, there is no event
            await asyncio.sleep(0.1)


async def granted(applied: Applied) -> bool:
    found = await applied.checks()
    return all(one.status == "ok" for name, one in found.items() if name.startswith("rights"))


async def test_the_manifest_is_taken_and_enough(applied: Applied) -> None:
    await until(lambda: granted(applied))
    found = await applied.checks()
    assert {name for name in found if name.startswith("rights")} == {
        f"rights {space}" for space in (PROD, *STAGES)
    }
    assert str(found["reachable"].facts["version"]).startswith("v1.")
    assert found["clock"].status == "ok", found["clock"]
    assert found["Gateway API"].status == "ok"
    assert found["lock"].found == "nobody has held it yet"
    # It may look for what the plan names, and nothing of that is there.
    assert found["objects"].status == "fail" and "no HTTPRoute" in found["objects"].found


async def test_a_right_that_was_taken_away_is_named(applied: Applied) -> None:
    await until(lambda: granted(applied))
    [role] = [
        one for one in applied.documents if one["kind"] == "Role" and one["metadata"]["namespace"] == PROD
    ]
    less = [rule for rule in role["rules"] if rule["resources"] != ["httproutes"]]
    await applied.plane.admin.make({**role, "rules": less})

    async def noticed() -> bool:
        return (await applied.checks())[f"rights {PROD}"].status == "fail"

    try:
        await until(noticed)
        lacking = (await applied.checks())[f"rights {PROD}"]
        assert lacking.facts["lacking"] == f"get httproutes.{GATEWAY}; list httproutes.{GATEWAY}; " + (
            f"patch httproutes.{GATEWAY}"
        )
        assert "--rbac" in lacking.todo
    finally:
        await applied.plane.admin.make(role)


async def test_it_grants_nothing_beyond(applied: Applied) -> None:
    await until(lambda: granted(applied))
    kube = KubernetesCluster(
        applied.plane.url, applied.token, PROD, ca_file=str(applied.plane.ca_file), deadline=_DEADLINE
    )
    try:
        await kube.connect()
        for verb, group, resource, namespace, name in (
            ("patch", "apps", "deployments", PROD, "somebody-elses"),
            ("delete", "apps", "deployments", PROD, ""),
            ("create", "apps", "deployments", PROD, ""),
            ("patch", GATEWAY, "httproutes", PROD, "somebody-elses"),
            ("update", "coordination.k8s.io", "leases", PROD, "somebody-elses"),
            ("patch", "", "configmaps", PROD, "somebody-elses"),
            ("delete", "", "pods", PROD, ""),
            ("get", "", "secrets", PROD, ""),
            ("create", "", "pods/exec", PROD, ""),
            ("create", "", "serviceaccounts/token", PROD, ""),
            ("patch", "rbac.authorization.k8s.io", "roles", PROD, ""),
            ("list", "", "pods", "default", ""),
            ("list", "", "pods", "", ""),
            ("get", "", "nodes", "", ""),
        ):
            asked = (verb, resource, namespace, name)
            assert not await kube.may(verb, group, resource, namespace=namespace, name=name), asked
        # Where drills are held, and only there.
        assert await kube.may("delete", "", "pods", namespace=STAGE)
    finally:
        await kube.close()
