"""A stand-in for the Kubernetes API of the embedded world: real protocol on loopback, nothing executed.

What it keeps to and what it leaves out, for whoever reads a recording made with it: versions, conflicts,
watches, patches, server-side apply, access rules, Deployments down to pods and the status of HTTPRoutes are
there; jobs, disruption budgets and events are only stored, there is no scheduler, no admission policy or
webhook, no priority and fairness, no eviction, no log and no exec. The contract suite runs over it and over a
real API server (`cockpit.rehearsal.real.control_plane`) alike; where the two differ, this one is wrong.
"""

from __future__ import annotations

from cockpit.rehearsal.kube.access import Rule, User, admin, conductor
from cockpit.rehearsal.kube.faults import Fault, Faults, matching
from cockpit.rehearsal.kube.resources import STAND_IN_VERSION
from cockpit.rehearsal.kube.server import KubeServer

__all__ = [
    "STAND_IN_VERSION",
    "Fault",
    "Faults",
    "KubeServer",
    "Rule",
    "User",
    "admin",
    "conductor",
    "matching",
]
