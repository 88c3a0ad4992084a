"""What a user of the stand-in may do, as the Roles and RoleBindings a real API server understands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from cockpit.rehearsal.kube.access import Rule, User

Obj: TypeAlias = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"


def role_rule(rule: Rule) -> Obj:
    """Return a rule as RBAC writes it."""
    return {"apiGroups": [rule.group], "resources": sorted(rule.resources), "verbs": sorted(rule.verbs)}


def manifests(user: User, home: str) -> list[Obj]:
    """Return the ServiceAccount of `user` in namespace `home`, and what binds it to exactly its rules."""
    subject = {"kind": "ServiceAccount", "name": user.name, "namespace": home}
    made: list[Obj] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": user.name, "namespace": home},
            # Nothing runs with it: its token is asked for and carried away.
            "automountServiceAccountToken": False,
        }
    ]
    spaces: set[str] = set().union(*(rule.namespaces or () for rule in user.rules))
    for space in sorted(spaces):
        inside = [rule for rule in user.rules if rule.namespaces is not None and space in rule.namespaces]
        made += _bound("Role", f"{home}-{user.name}", space, inside, subject)
    if everywhere := [rule for rule in user.rules if rule.namespaces is None]:
        made += _bound("ClusterRole", f"{home}-{user.name}", "", everywhere, subject)
    return made


def _bound(kind: str, name: str, namespace: str, rules: Iterable[Rule], subject: Obj) -> list[Obj]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": kind,
            "metadata": metadata,
            "rules": [role_rule(rule) for rule in rules],
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]


def reviews(user: User) -> list[Obj]:
    """Return the attributes of one access review a role: once they hold, `manifests` is in force.

    A role and its binding come into force as a whole.
    """
    firsts: dict[str, Rule] = {}
    for rule in user.rules:
        for space in rule.namespaces if rule.namespaces is not None else ("",):
            firsts.setdefault(space, rule)
    return [
        {
            "verb": min(rule.verbs),
            "group": rule.group,
            "resource": min(rule.resources).partition("/")[0],
            "subresource": min(rule.resources).partition("/")[2],
            "namespace": space,
        }
        for space, rule in sorted(firsts.items())
    ]
