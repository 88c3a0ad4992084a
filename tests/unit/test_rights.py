"""The rights a release needs: one list in code, document, manifest and in the rehearsal's stand-in."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from ruamel.yaml import YAML

from cockpit.backends.rights import ACCOUNT, RIGHTS, Right, manifest, rights_of
from cockpit.plan.load import parse_plan
from cockpit.plan.model import Plan
from cockpit.rehearsal.kube.access import Attributes, conductor
from cockpit.rehearsal.kube.resources import ALL
from cockpit.rehearsal.release_plan import dump
from cockpit.rehearsal.topology import PROD, STAGE, STAGES
from tests.contract.world_support import plan_data

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
PLACES = {
    "the release's namespace": "release",
    "the namespaces of `stages`": "stages",
    "the namespace of feature flags, where the plan names some": "flags",
    "the namespace of drills, never prod's": "drills",
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def rehearsed() -> Plan:
    """Return the plan of a rehearsal: with stages, flags and drills."""
    return parse_plan(dump(plan_data()).encode(), "release.yaml", base=Path()).plan


def test_the_document_has_the_list_of_the_code() -> None:
    below = DOCUMENT.read_text(encoding="utf-8").partition("\n## Rights in the cluster\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table
    found: dict[str, list[Right]] = {}
    place = ""
    for line in table[0].splitlines()[2:]:
        where, what, verbs = [cell.strip() for cell in line.strip("|").split("|")]
        place = PLACES[where] if where else place
        named = re.match(r"`([a-z/]+)`(?: \(([a-z0-9.]+)\))?", what)
        assert named, line
        found.setdefault(place, []).append(Right(named[2] or "", named[1], tuple(verbs.split(", "))))
    assert {name: tuple(rights) for name, rights in found.items()} == dict(RIGHTS)


def test_the_stand_in_grants_exactly_the_list() -> None:
    user = conductor((PROD, *STAGES), drills=(STAGE,))
    needed = {
        (namespace, right.group, right.resource, verb)
        for namespace, rights in rights_of(rehearsed()).items()
        for right in rights
        for verb in right.verbs
    }
    resources = [(one.group, one.plural, "") for one in ALL if one.stored]
    resources += [
        (one.group, one.plural, sub) for one in ALL if one.stored for sub in (*one.subresources, "log")
    ]
    granted = {
        (namespace, group, f"{plural}/{sub}" if sub else plural, verb)
        for namespace, (group, plural, sub), verb in itertools.product(
            (PROD, *STAGES, "default", ""), resources, VERBS
        )
        if user.may(Attributes(verb, group, plural, sub, namespace))
    }
    assert granted == needed


def test_only_the_drills_may_delete_pods_and_never_in_prod() -> None:
    rights = rights_of(rehearsed())
    deleting = [ns for ns, found in rights.items() for one in found if "delete" in one.verbs]
    assert deleting == [STAGE]
    assert next(iter(rights)) == PROD


def test_the_manifest_grants_the_list_and_names_the_objects() -> None:
    plan = rehearsed()
    account, *roles = list(YAML(typ="safe").load_all(manifest(plan)))
    home = plan.targets.kubernetes.namespace
    assert (account["kind"], account["metadata"]) == (
        "ServiceAccount",
        {"name": ACCOUNT, "namespace": home},
    )
    assert {one["kind"] for one in roles} == {"Role", "RoleBinding"}  # nothing cluster-wide
    granted, bound = {}, set()
    for one in roles:
        namespace = one["metadata"]["namespace"]
        if one["kind"] == "RoleBinding":
            assert one["roleRef"]["name"] == ACCOUNT
            assert one["subjects"] == [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}]
            bound.add(namespace)
            continue
        for rule in one["rules"]:
            for verb in rule["verbs"]:
                key = (namespace, *rule["apiGroups"], *rule["resources"], verb)
                assert key not in granted
                granted[key] = tuple(rule.get("resourceNames", ()))
    assert bound == {namespace for namespace, *_ in granted}
    assert granted == {
        (namespace, right.group, right.resource, verb): right.named(verb)
        for namespace, rights in rights_of(plan).items()
        for right in rights
        for verb in right.verbs
    }
    gateway = "gateway.networking.k8s.io"
    assert granted[home, gateway, "httproutes", "patch"] == (plan.targets.kubernetes.route,)
    assert granted[home, "coordination.k8s.io", "leases", "create"] == ()
    assert granted[home, "", "configmaps", "patch"] == (plan.targets.flags.configmap,)  # type: ignore[union-attr]
    assert "web-canary" in granted[home, "apps", "deployments", "patch"]


def test_a_plan_without_stages_flags_and_drills_needs_one_namespace() -> None:
    plan = rehearsed()
    bare = plan.model_copy(
        update={"stages": (), "chaos": None, "targets": plan.targets.model_copy(update={"flags": None})}
    )
    rights = rights_of(bare)
    assert list(rights) == [PROD]
    assert "configmaps" not in {one.resource for one in rights[PROD]}
    assert "delete" not in manifest(bare)
