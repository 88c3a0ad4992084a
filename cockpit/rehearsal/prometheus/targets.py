"""What to scrape: target groups as Prometheus's service discovery gives them, and the targets they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TARGETS = 500


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Addresses (`host:port`) that share labels; one entry of `static_configs` or of an http_sd answer."""

    targets: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to scrape; `labels` go onto each of its series, `discovered` is what they were made from."""

    url: str
    labels: Mapping[str, str]
    discovered: Mapping[str, str]

    @property
    def key(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """What makes two targets the same."""
        return self.url, frozenset(self.labels.items())


def expand(groups: Iterable[TargetGroup], job: str) -> list[Target]:
    """Return the targets of `groups`: labels beginning with `__` steer the scrape and are then dropped."""
    targets: dict[tuple[str, frozenset[tuple[str, str]]], Target] = {}
    for group in groups:
        for address in group.targets:
            discovered = {
                "__address__": address,
                "__metrics_path__": "/metrics",
                "__scheme__": "http",
                "job": job,
                **group.labels,
            }
            labels = {k: v for k, v in discovered.items() if not k.startswith("__") and v}
            labels.setdefault("instance", discovered["__address__"])
            url = f"{discovered['__scheme__']}://{discovered['__address__']}{discovered['__metrics_path__']}"
            target = Target(url, labels, discovered)
            targets.setdefault(target.key, target)
    return list(targets.values())[:MAX_TARGETS]


def parse_http_sd(body: bytes) -> list[TargetGroup]:
    """Read an http_sd answer: a JSON list of `{"targets": [...], "labels": {...}}`; raises ValueError."""
    try:
        groups = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(groups, list):
        raise ValueError("not a list of target groups")
    return [_group(entry) for entry in groups if entry is not None]


def _group(entry: Any) -> TargetGroup:
    if not isinstance(entry, dict):
        raise ValueError("a target group is no object")
    targets, labels = entry.get("targets", []), entry.get("labels") or {}
    if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
        raise ValueError("targets are no list of strings")
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        raise ValueError("labels are no object of strings")
    return TargetGroup(tuple(targets), labels)
