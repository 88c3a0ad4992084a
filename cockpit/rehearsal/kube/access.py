"""Who may do what: bearer tokens, users and their rules, answered to requests and to access reviews alike."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cockpit.rehearsal.kube.resources import GATEWAY_GROUP
from cockpit.rehearsal.kube.values import ApiError

ANY = "*"


@dataclass(frozen=True)
class Attributes:
    """What a request asks to do; an empty namespace means all of them (or a cluster-wide resource)."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """The resource as rules name it, e.g. `deployments/scale`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True)
class Rule:
    """Verbs on resources of one API group; `namespaces` None grants them everywhere."""

    verbs: frozenset[str]
    group: str
    resources: frozenset[str]
    namespaces: frozenset[str] | None = None

    def allows(self, wanted: Attributes) -> bool:
        """Say whether this rule grants what is wanted."""
        return (
            (ANY in self.verbs or wanted.verb in self.verbs)
            and self.group in (ANY, wanted.group)
            and (ANY in self.resources or wanted.target in self.resources)
            and (self.namespaces is None or (wanted.namespace != "" and wanted.namespace in self.namespaces))
        )


@dataclass(frozen=True)
class User:
    """A name and its rules; no rules, no rights beyond discovery and asking about oneself."""

    name: str
    rules: tuple[Rule, ...] = ()

    def may(self, wanted: Attributes) -> bool:
        """Say whether any rule grants what is wanted."""
        # As the `system:basic-user` role does for everyone who is known.
        if wanted.resource == "selfsubjectaccessreviews" and wanted.verb == "create":
            return self is not ANONYMOUS
        return any(rule.allows(wanted) for rule in self.rules)

    def may_read(self, parts: tuple[str, ...]) -> bool:
        """Say whether a path that is no resource may be read: its version by all, discovery by the known."""
        known = self is not ANONYMOUS and parts[:1] in (("api",), ("apis",), ("openapi",))
        return known or parts in PUBLIC or any(ANY in rule.resources for rule in self.rules)


PUBLIC = (("version",), ("healthz",), ("livez",), ("readyz",))
ANONYMOUS = User("system:anonymous")
"""Who sends no token."""


def admin(name: str = "world") -> User:
    """Return the user the world itself works as: everything, everywhere."""
    return User(name, (Rule(frozenset({ANY}), ANY, frozenset({ANY})),))


def conductor(namespaces: Iterable[str], name: str = "conductor", *, drills: Iterable[str] = ()) -> User:
    """Return the user of a release cockpit: what docs/architecture.md lists under its rights, no more.

    The first namespace is prod, where its flags are kept as well, the others are its stages. In `drills`,
    which are never prod's, it may delete pods.
    """
    spaces = tuple(namespaces)
    everywhere, prod, drilled = frozenset(spaces), frozenset(spaces[:1]), frozenset(drills)
    look = frozenset({"get", "list"})

    def rule(verbs: Iterable[str], group: str, resource: str, where: frozenset[str]) -> Rule:
        return Rule(frozenset(verbs), group, frozenset({resource}), where)

    return User(
        name,
        (
            rule(look | {"patch"}, "apps", "deployments", everywhere),
            rule(look, "", "pods", everywhere),
            rule(look | {"patch"}, GATEWAY_GROUP, "httproutes", everywhere),
            rule(look, "apps", "replicasets", prod),
            rule(look, "", "services", prod),
            rule({"list"}, "", "events", prod),
            rule({"get"}, "", "pods/log", prod),
            rule(look | {"create", "update"}, "coordination.k8s.io", "leases", prod),
            rule({"get", "patch"}, "", "configmaps", prod),
            rule({"get"}, "apps", "deployments", drilled),
            rule({"list", "delete"}, "", "pods", drilled),
        ),
    )


class AccessTable:
    """Tokens and the users behind them."""

    def __init__(self, tokens: Mapping[str, User]) -> None:
        self._users = [(token.encode(), user) for token, user in tokens.items() if token]

    def authenticate(self, authorization: str | None) -> User:
        """Return the user of an `Authorization` header, anonymous without one; raises a 401 for any other."""
        scheme, _, token = (authorization or "").partition(" ")
        presented = token.strip().encode()
        if scheme.lower() != "bearer" or not presented:
            return ANONYMOUS
        for known, user in self._users:
            if hmac.compare_digest(known, presented):
                return user
        raise ApiError(401, "Unauthorized", "Unauthorized")

    @staticmethod
    def authorize_path(user: User, method: str, parts: tuple[str, ...]) -> None:
        """Raise the 403 for a path that is no resource when the user may not."""
        if method not in ("GET", "HEAD") or not user.may_read(parts):
            path = "/" + "/".join(parts)
            text = f'forbidden: User "{user.name}" cannot {method.lower()} path "{path}"'
            raise ApiError(403, "Forbidden", text)

    @staticmethod
    def authorize(user: User, wanted: Attributes) -> None:
        """Raise the 403 Kubernetes would give when the user may not."""
        if user.may(wanted):
            return
        qualified = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
        named = f' "{wanted.name}"' if wanted.name else ""
        scope = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
        raise ApiError(
            403,
            "Forbidden",
            f'{qualified}{named} is forbidden: User "{user.name}" cannot {wanted.verb} resource '
            f'"{wanted.target}" in API group "{wanted.group}" {scope}',
            details={"name": wanted.name, "group": wanted.group, "kind": wanted.resource},
        )
