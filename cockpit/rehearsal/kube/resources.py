"""The resources served and the discovery documents that name them."""

from __future__ import annotations

from dataclasses import dataclass

from cockpit.rehearsal.kube.values import ApiError, Obj, timestamp

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
STAND_IN_VERSION = "v1.37.0-rehearsal-standin"
VERSION = "v1"
"""Every resource here is served in version v1 of its group."""


@dataclass(frozen=True)
class Resource:
    """One kind of object and how the API treats it.

    `custom` kinds know no strategic merge; `generation` counts changes of the spec;
    `unconditional` replaces may leave the resourceVersion out; `graceful` ones are deleted in two steps.
    """

    group: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    custom: bool = False
    generation: bool = False
    unconditional: bool = True
    graceful: bool = False
    stored: bool = True

    @property
    def group_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/{VERSION}" if self.group else VERSION

    @property
    def qualified(self) -> str:
        """The name used in messages, e.g. `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """The kind as used in messages, e.g. `Deployment.apps`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self, name: str) -> Obj:
        """Return the part of a `Status` that names an object."""
        return {"name": name, "kind": self.plural, **({"group": self.group} if self.group else {})}

    def not_found(self, name: str) -> ApiError:
        """Return the 404 for one of its objects."""
        return ApiError(404, "NotFound", f'{self.qualified} "{name}" not found', details=self.details(name))

    def already_exists(self, name: str) -> ApiError:
        """Return the 409 for a name that is taken."""
        return ApiError(
            409, "AlreadyExists", f'{self.qualified} "{name}" already exists', details=self.details(name)
        )

    def conflict(self, name: str, why: str = "") -> ApiError:
        """Return the 409 for a write based on an older version of the object."""
        why = why or (
            "the object has been modified; please apply your changes to the latest version and try again"
        )
        return ApiError(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {self.qualified} "{name}": {why}',
            details=self.details(name),
        )


_STATUS = ("status",)
_SCALED = ("status", "scale")
GATEWAY_GROUP = "gateway.networking.k8s.io"

NAMESPACES = Resource("", "namespaces", "Namespace", namespaced=False, subresources=_STATUS, short=("ns",))
PODS = Resource("", "pods", "Pod", subresources=_STATUS, short=("po",), generation=True, graceful=True)
SERVICES = Resource("", "services", "Service", subresources=_STATUS, short=("svc",))
CONFIG_MAPS = Resource("", "configmaps", "ConfigMap", short=("cm",))
SECRETS = Resource("", "secrets", "Secret")
EVENTS = Resource("", "events", "Event", short=("ev",))
DEPLOYMENTS = Resource(
    "apps", "deployments", "Deployment", subresources=_SCALED, short=("deploy",), generation=True
)
REPLICA_SETS = Resource(
    "apps", "replicasets", "ReplicaSet", subresources=_SCALED, short=("rs",), generation=True
)
JOBS = Resource("batch", "jobs", "Job", subresources=_STATUS, generation=True)
LEASES = Resource("coordination.k8s.io", "leases", "Lease", unconditional=False)
DISRUPTION_BUDGETS = Resource(
    "policy",
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    subresources=_STATUS,
    short=("pdb",),
    generation=True,
    unconditional=False,
)
GATEWAYS = Resource(
    GATEWAY_GROUP,
    "gateways",
    "Gateway",
    subresources=_STATUS,
    short=("gtw",),
    custom=True,
    generation=True,
    unconditional=False,
)
HTTP_ROUTES = Resource(
    GATEWAY_GROUP,
    "httproutes",
    "HTTPRoute",
    subresources=_STATUS,
    custom=True,
    generation=True,
    unconditional=False,
)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
    stored=False,
)

ALL = (
    NAMESPACES,
    PODS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    EVENTS,
    DEPLOYMENTS,
    REPLICA_SETS,
    JOBS,
    LEASES,
    DISRUPTION_BUDGETS,
    GATEWAYS,
    HTTP_ROUTES,
    ACCESS_REVIEWS,
)
BY_PATH = {(resource.group, resource.plural): resource for resource in ALL}
BY_KIND = {(resource.group_version, resource.kind): resource for resource in ALL}


def _listed(resource: Resource) -> list[Obj]:
    entries: list[Obj] = [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(VERBS) if resource.stored else ["create"],
            **({"shortNames": list(resource.short)} if resource.short else {}),
        }
    ]
    for sub in resource.subresources:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        entries.append(
            {
                "name": f"{resource.plural}/{sub}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "verbs": ["get", "patch", "update"],
                **(scale if sub == "scale" else {"kind": resource.kind}),
            }
        )
    return entries


def discovery(parts: tuple[str, ...]) -> Obj | None:
    """Return the discovery document at the path's `parts`, or None when the path is no discovery path."""
    groups = sorted({resource.group for resource in ALL if resource.group})
    match parts:
        case ("version",):
            return {
                "major": "1",
                "minor": "37",
                "gitVersion": STAND_IN_VERSION,
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": timestamp(),
                "goVersion": "none",
                "compiler": "none",
                "platform": "rehearsal",
            }
        case ("api",):
            return {"kind": "APIVersions", "versions": [VERSION], "serverAddressByClientCIDRs": []}
        case ("apis",):
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups]}
        case ("apis", group) if group in groups:
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        case ("api", "v1"):
            return _resource_list("")
        case ("apis", group, "v1") if group in groups:
            return _resource_list(group)
    return None


def _group(name: str) -> Obj:
    version = {"groupVersion": f"{name}/{VERSION}", "version": VERSION}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource_list(group: str) -> Obj:
    members = [resource for resource in ALL if resource.group == group]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": members[0].group_version,
        "resources": [entry for resource in members for entry in _listed(resource)],
    }
