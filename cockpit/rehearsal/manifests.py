"""The Kubernetes objects of the demo platform, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cockpit.rehearsal.topology import (
    APPLICATION,
    CONTAINER,
    PROD,
    ROUTE,
    SERVICES,
    SERVING,
    STABLE_REPLICAS,
    STAGE,
    TRACKS,
    Track,
)

Manifest = dict[str, Any]


def platform(stable: Mapping[str, str], candidate: Mapping[str, str]) -> Iterator[Manifest]:
    """Yield every object, in an order in which they can be created.

    `stable` and `candidate` map each service to an image reference. In prod stable runs with two replicas
    and the canary Deployments wait with none; in stage one pod of each candidate runs.
    """
    for namespace in (PROD, STAGE):
        yield _namespace(namespace)
        yield _gateway(namespace)
    for service in SERVICES:
        for track in TRACKS:
            replicas = STABLE_REPLICAS if track == "stable" else 0
            yield deployment(PROD, service, track, stable[service], replicas)
            yield _service(PROD, service, track)
        yield deployment(STAGE, service, "stable", candidate[service], 1)
        yield _service(STAGE, service, "stable")
    yield _route(PROD, {"stable": 100, "canary": 0})
    yield _route(STAGE, {"stable": 100})


def deployment(namespace: str, service: str, track: Track, image: str, replicas: int) -> Manifest:
    """Return the Deployment of one track of a service, hardened as the platform's policy asks."""
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
                    "containers": [_container(service, image)],
                },
            },
        },
    }


def _container(service: str, image: str) -> Manifest:
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
            "allowPrivilegeEscalation": False,
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


def _gateway(namespace: str) -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "public", "namespace": namespace},
        "spec": {
            "gatewayClassName": "rehearsal",
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


def _route(namespace: str, weights: Mapping[Track, int]) -> Manifest:
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
                for service in SERVICES
            ],
        },
    }


def _selector(service: str, track: Track) -> dict[str, str]:
    return {"app.kubernetes.io/name": service, "track": track}


def _labels(service: str, track: Track) -> dict[str, str]:
    return {**_selector(service, track), "app.kubernetes.io/part-of": APPLICATION}
