"""How kwok moves nodes and pods: its own stages, and what a real kubelet does about readiness gates.

kwok opens every readiness gate itself. Here a gate is opened by whoever really serves for the pod, as on the
stand-in, so a pod with gates runs first and is Ready only while all of them are True.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML

Obj: TypeAlias = dict[str, Any]

_ENDING_MS = 200
# "0" where all gates are open; a pod without gates has none that is shut.
_SHUT = (
    "([.spec.readinessGates[]?.conditionType]"
    ' - [.status.conditions[]? | select(.status == "True") | .type] | length | tostring)'
)
_GATES = "([.spec.readinessGates[]?] | length | tostring)"
_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_STAYS: Obj = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}


def load(folder: Path) -> list[Obj]:
    """Return the stages of kwok's files in `folder`, changed where gates ask for it, and those of gates."""
    yaml = YAML(typ="safe", pure=True)
    stages: list[Obj] = [yaml.load(path) for path in sorted(folder.glob("*.yaml"))]
    ready = next(stage for stage in stages if stage["metadata"]["name"] == "pod-ready")
    for stage in stages:
        if stage["metadata"]["name"] == "pod-delete":
            # A pod takes a moment to end, so that who serves for it sees it go.
            stage["spec"]["delay"] = {"durationMilliseconds": _ENDING_MS}
    started = _stage(
        "pod-started", [*ready["spec"]["selector"]["matchExpressions"], _in(_GATES, "0", no=True)]
    )
    started["spec"]["next"] = {"statusTemplate": _without_gates(ready["spec"]["next"]["statusTemplate"])}
    ready["spec"]["selector"]["matchExpressions"].append(_in(_GATES, "0"))
    running = _in(".status.phase", "Running")
    opened = _stage(
        "pod-gates-open",
        [_STAYS, running, _in(_GATES, "0", no=True), _in(_SHUT, "0"), _in(_READY, "True", no=True)],
    )
    opened["spec"]["next"] = {"statusTemplate": _condition("True", "")}
    closed = _stage("pod-gates-shut", [_STAYS, running, _in(_SHUT, "0", no=True), _in(_READY, "True")])
    closed["spec"]["next"] = {"statusTemplate": _condition("False", "ReadinessGatesNotReady")}
    return [*stages, started, opened, closed]


def _stage(name: str, expressions: list[Obj]) -> Obj:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": expressions},
        },
    }


def _in(key: str, value: str, *, no: bool = False) -> Obj:
    return {"key": key, "operator": "NotIn" if no else "In", "values": [value]}


def _condition(status: str, reason: str) -> str:
    return (
        "{{ $now := Now }}\nconditions:\n- lastTransitionTime: {{ $now | Quote }}\n"
        f'  status: "{status}"\n  type: Ready\n  reason: "{reason}"\n'
    )


def _without_gates(template: str) -> str:
    """Return the template of `pod-ready` that leaves the gates and says why the pod is not Ready."""
    before, opens, rest = template.partition("{{ range .spec.readinessGates }}")
    _, ends, after = rest.partition("{{ end }}")
    ready = '  status: "True"\n  type: Ready\n'
    if not (opens and ends and ready in before):
        raise ValueError("the stage pod-ready of kwok is not as expected")
    return (
        before.replace(ready, '  status: "False"\n  type: Ready\n  reason: "ReadinessGatesNotReady"\n')
        + after
    )
