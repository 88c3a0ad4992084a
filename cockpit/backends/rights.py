"""The rights a release needs in its cluster: one list, for reviews of access and for a ready manifest.

`docs/architecture.md` ("Rights in the cluster") shows the same list; a test holds the two to each other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ruamel.yaml import YAML

from cockpit.plan.model import Plan

ACCOUNT = "release-cockpit"
"""Name of the service account, its roles and their bindings in the manifest."""

Place = Literal["release", "stages", "flags", "drills"]
"""Where a right is needed: the release's namespace, those of its stages, of its flags, of its drills."""

_NAMED = ("get", "patch", "update")
"""Verbs that go to objects whose names the plan knows."""


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource (`pods/log` for a part of it); `names`: on these objects alone, if possible."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """The resource as `kubectl auth can-i` takes it, e.g. `httproutes.gateway.networking.k8s.io`."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def named(self, verb: str) -> tuple[str, ...]:
        """Return the objects a verb is needed on; none: on all."""
        return self.names if verb in _NAMED else ()


_APPS, _GATEWAY, _COORDINATION = "apps", "gateway.networking.k8s.io", "coordination.k8s.io"
_TRAFFIC = (
    Right(_APPS, "deployments", ("get", "list", "patch")),
    Right("", "pods", ("get", "list")),
    Right(_GATEWAY, "httproutes", ("get", "list", "patch")),
)
RIGHTS: Mapping[Place, tuple[Right, ...]] = {
    "release": (
        *_TRAFFIC,
        Right(_APPS, "replicasets", ("get", "list")),
        Right("", "services", ("get", "list")),
        Right("", "events", ("list",)),
        Right("", "pods/log", ("get",)),
        Right(_COORDINATION, "leases", ("get", "list", "create", "update")),
    ),
    "stages": _TRAFFIC,
    "flags": (Right("", "configmaps", ("get", "patch")),),
    "drills": (
        Right(_APPS, "deployments", ("get",)),
        Right("", "pods", ("list", "delete")),
    ),
}
"""The documented list. Nothing is asked for cluster-wide."""


def rights_of(plan: Plan) -> dict[str, tuple[Right, ...]]:
    """Return what a plan's account needs, by namespace, the release's own first."""
    targets = plan.targets
    needed = [("release", targets.kubernetes.namespace, targets.kubernetes.route)]
    needed += [("stages", stage.namespace, stage.route or targets.kubernetes.route) for stage in plan.stages]
    if targets.flags is not None:
        needed.append(("flags", targets.flags.namespace, ""))
    if plan.chaos is not None:
        needed.append(("drills", plan.chaos.namespace, ""))
    deployments = tuple(
        name for one in plan.services for name in (one.stable_deployment, one.canary_deployment)
    )
    found: dict[str, dict[tuple[str, str], Right]] = {}
    for place, namespace, route in needed:
        names = {
            "deployments": deployments,
            "httproutes": (route,),
            "leases": (targets.kubernetes.lease,),
            "configmaps": (targets.flags.configmap,) if targets.flags is not None else (),
        }
        here = found.setdefault(namespace, {})
        for right in RIGHTS[place]:  # type: ignore[index]
            key = (right.group, right.resource)
            old = here.get(key, replace(right, verbs=(), names=()))
            here[key] = replace(
                right,
                verbs=(*old.verbs, *(verb for verb in right.verbs if verb not in old.verbs)),
                names=tuple(dict.fromkeys((*old.names, *names.get(right.resource, ())))),
            )
    return {namespace: tuple(rights.values()) for namespace, rights in found.items()}


def manifest(plan: Plan) -> str:
    """Return service account, roles and bindings for a plan as YAML, ready for `kubectl apply -f`.

    Verbs on objects the plan names are granted on those objects alone.
    """
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.explicit_start = True
    home = plan.targets.kubernetes.namespace
    out = io.StringIO()
    out.write(
        f"# What a release of {plan.repo} by this plan may do in its cluster, and nothing beyond.\n"
        "# Apply it, then make the token the plan refers to (it must outlive the release's window):\n"
        f"#   kubectl -n {home} create token {ACCOUNT} --duration=24h\n"
    )
    for document in _documents(plan, home):
        yaml.dump(document, out)
    return out.getvalue()


def _documents(plan: Plan, home: str) -> Iterator[dict[str, Any]]:
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": home}}
    role_api = "rbac.authorization.k8s.io"
    for namespace, rights in rights_of(plan).items():
        where = {"name": ACCOUNT, "namespace": namespace}
        rules = [rule for right in rights for rule in _rules(right)]
        yield {"apiVersion": f"{role_api}/v1", "kind": "Role", "metadata": dict(where), "rules": rules}
        yield {
            "apiVersion": f"{role_api}/v1",
            "kind": "RoleBinding",
            "metadata": dict(where),
            "roleRef": {"apiGroup": role_api, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}],
        }


def _rules(right: Right) -> Iterator[dict[str, Any]]:
    """Yield a rule for the verbs on named objects and one for the others: a list or create has no name."""
    for names in dict.fromkeys(right.named(verb) for verb in right.verbs):
        verbs = [verb for verb in right.verbs if right.named(verb) == names]
        rule: dict[str, Any] = {"apiGroups": [right.group], "resources": [right.resource], "verbs": verbs}
        yield {**rule, "resourceNames": list(names)} if names else rule
