"""What is broken in the demo application at the moment, and what breaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from cockpit.rehearsal.scenarios import Fault, FaultKind


def canary_weight(routes: Iterable[Mapping[str, Any]]) -> int:
    """Return the largest share, in whole percent, that any rule of the HTTPRoutes gives to a canary."""
    largest = 0.0
    for route in routes:
        for rule in route.get("spec", {}).get("rules", []):
            weights = [(ref["name"], ref.get("weight", 1)) for ref in rule.get("backendRefs", [])]
            total = sum(weight for _, weight in weights)
            canary = sum(weight for name, weight in weights if name.endswith("-canary"))
            if total > 0:
                largest = max(largest, 100 * canary / total)
    return round(largest)


class Trigger:
    """Fires once, when the canary's weight first reaches the fault's; it stays fired afterwards."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self.fired = asyncio.Event()

    def observe(self, weight: int) -> None:
        """Note the canary's weight in percent."""
        if self._fault is not None and weight >= self._fault.at_weight:
            self.fired.set()

    def active(self, kind: FaultKind) -> bool:
        """Tell whether a fault of this kind is in force."""
        return self._fault is not None and self._fault.kind == kind and self.fired.is_set()
