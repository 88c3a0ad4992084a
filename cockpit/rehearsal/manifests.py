"""The Kubernetes objects of the demo platform, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cockpit.rehearsal.topology import (
    APPLICATION,
    CONTAINER,
    DEV,
    DRILLED,
    FLAGS,
    GA_FLAGS,
    LOADED,
    NAMESPACES,
    PERF,
    PROD,
    ROUTE,
    SERVICES,
    SERVING,
    STABLE_REPLICAS,
    STAGE,
    Track,
)

Manifest = dict[str, Any]

GATEWAY_CLASS = "rehearsal"

_FLAGS_LAST = timedelta(days=90)
_PLACES: tuple[tuple[str, Track, int], ...] = (
    (PROD, "stable", STABLE_REPLICAS),
    (PROD, "canary", 0),
    (STAGE, "stable", 1),
    (STAGE, "canary", 0),
    (DEV, "stable", 1),
)
"""Where each service has a Deployment of the stable image, of which track, with how many replicas."""


def platform(
    stable: Mapping[str, str], candidate: Mapping[str, str], *, lax_service: str = ""
) -> Iterator[Manifest]:
    """Yield every object, in an order in which they can be created.

    `stable` and `candidate` map each service to an image reference. Prod runs stable with two replicas, stage
    and dev with one; the canary Deployments of prod and stage wait with none. The services under load stand
    with the candidate in a namespace of their own. The canary in prod of `lax_service` breaks the policy.
    """
    for namespace in NAMESPACES:
        yield _namespace(namespace)
        yield _gateway(namespace)
    yield _flags()
    for service in SERVICES:
        for namespace, track, usual in _PLACES:
            replicas = 2 if (namespace, track, service) == (STAGE, "stable", DRILLED) else usual
            lax = (namespace, track, service) == (PROD, "canary", lax_service)
            yield deployment(namespace, service, track, stable[service], replicas, lax=lax)
            yield _service(namespace, service, track)
    for service in LOADED:
        yield deployment(PERF, service, "stable", candidate[service], 1)
        yield _service(PERF, service, "stable")
    yield _route(PROD, SERVICES, {"stable": 100, "canary": 0})
    yield _route(STAGE, SERVICES, {"stable": 100, "canary": 0})
    yield _route(DEV, SERVICES, {"stable": 100})
    yield _route(PERF, LOADED, {"stable": 100})


def deployment(
    namespace: str, service: str, track: Track, image: str, replicas: int, *, lax: bool = False
) -> Manifest:
    """Return the Deployment of one track of a service.

    It is hardened as the platform's policy asks; a `lax` one lets its container escalate privileges.
    """
    labels = _labels(service, track)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{service}-{track}", "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": _selector(service, track)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "readinessGates": [{"conditionType": SERVING}],
                    "terminationGracePeriodSeconds": 5,
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container(service, image, lax=lax)],
                },
            },
        },
    }


def _container(service: str, image: str, *, lax: bool) -> Manifest:
    probe = {"httpGet": {"path": f"/{service}/healthz", "port": "http"}}
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": lax,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
    }


def _namespace(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": APPLICATION}},
    }


def _flags() -> Manifest:
    """Return the flag definitions (flagd's format): all off, each with an owner and a day it ends."""
    ends = (datetime.now(UTC) + _FLAGS_LAST).strftime("%Y-%m-%d")
    flags = {
        name: {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "metadata": {"owner": "@product", "expires": ends},
        }
        for name in GA_FLAGS
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": FLAGS,
            "namespace": PROD,
            "labels": {"app.kubernetes.io/part-of": APPLICATION},
        },
        "data": {"flags.json": json.dumps({"flags": flags}, indent=2) + "\n"},
    }


def _gateway(namespace: str) -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "public", "namespace": namespace},
        "spec": {
            "gatewayClassName": GATEWAY_CLASS,
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    }


def _service(namespace: str, service: str, track: Track) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"{service}-{track}",
            "namespace": namespace,
            "labels": _labels(service, track),
        },
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(service, track),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _route(namespace: str, services: tuple[str, ...], weights: Mapping[Track, int]) -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": ROUTE,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": APPLICATION},
        },
        "spec": {
            "parentRefs": [{"name": "public"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": f"/{service}"}}],
                    "backendRefs": [
                        {"name": f"{service}-{track}", "port": 80, "weight": weight}
                        for track, weight in weights.items()
                    ],
                }
                for service in services
            ],
        },
    }


def _selector(service: str, track: Track) -> dict[str, str]:
    return {"app.kubernetes.io/name": service, "track": track}


def _labels(service: str, track: Track) -> dict[str, str]:
    return {**_selector(service, track), "app.kubernetes.io/part-of": APPLICATION}
