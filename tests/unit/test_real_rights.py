"""The account a real API server is given for the tests has the documented rights, and no others."""

from __future__ import annotations

from collections.abc import Iterable

from cockpit.backends.rights import RIGHTS, Place, Right
from cockpit.rehearsal.kube import Rule, User, conductor
from cockpit.rehearsal.real.rights import Obj, manifests, reviews

Grant = tuple[str, str, str, str]


def granted(objects: Iterable[Obj]) -> set[Grant]:
    """Return namespace, group, resource and verb of all that the roles grant."""
    return {
        (one["metadata"].get("namespace", ""), group, resource, verb)
        for one in objects
        if one["kind"] in ("Role", "ClusterRole")
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def documented(namespace: str, *places: Place) -> set[Grant]:
    rights: list[Right] = [right for place in places for right in RIGHTS[place]]
    return {(namespace, one.group, one.resource, verb) for one in rights for verb in one.verbs}


def test_the_roles_grant_what_is_documented() -> None:
    made = manifests(conductor(["prod", "dev", "stage"], drills=["stage"]), "prod")
    assert granted(made) == (
        documented("prod", "release", "flags")
        | documented("dev", "stages")
        | documented("stage", "stages", "drills")
    )
    assert not [one for one in made if one["kind"].startswith("Cluster")]


def test_each_role_is_bound_to_the_account_alone() -> None:
    made = manifests(conductor(["prod", "stage"], "cockpit", drills=["stage"]), "prod")
    account, *others = made
    assert (account["kind"], account["metadata"]) == (
        "ServiceAccount",
        {"name": "cockpit", "namespace": "prod"},
    )
    roles = {
        (one["metadata"]["namespace"], one["metadata"]["name"]) for one in others if one["kind"] == "Role"
    }
    bindings = [one for one in others if one["kind"] == "RoleBinding"]
    assert {(one["metadata"]["namespace"], one["roleRef"]["name"]) for one in bindings} == roles
    assert all(
        one["subjects"] == [{"kind": "ServiceAccount", "name": "cockpit", "namespace": "prod"}]
        for one in bindings
    )


def test_a_right_everywhere_is_a_role_of_the_cluster() -> None:
    everywhere = User("reader", (Rule(frozenset({"get"}), "", frozenset({"nodes"})),))
    made = manifests(everywhere, "prod")
    assert granted(made) == {("", "", "nodes", "get")}
    assert {one["kind"] for one in made} == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    assert reviews(everywhere) == [
        {"verb": "get", "group": "", "resource": "nodes", "subresource": "", "namespace": ""}
    ]
