"""One examination of a plan: every part's probes, made side by side, and the report of them."""

from __future__ import annotations

import importlib
from collections import Counter

from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.tls import USUAL
from cockpit.base.clock import Clock, iso
from cockpit.base.errors import UsageError
from cockpit.base.redact import Redactor
from cockpit.connecting import Clients
from cockpit.doctor.around import AroundPart
from cockpit.doctor.checks import FORMAT, Check, Report, examine, exit_of
from cockpit.doctor.cluster import ClusterPart
from cockpit.doctor.local import LocalPart
from cockpit.doctor.metrics import MetricsPart
from cockpit.doctor.policy import PolicyPart
from cockpit.doctor.signing import SigningPart
from cockpit.doctor.supply import SupplyPart
from cockpit.plan.load import LoadedPlan

DEADLINE_S = 20.0
_SLOW = (
    "cockpit.backends.prometheus_http",
    "cockpit.backends.sigstore_probe",
    "httpx",
    "jwt",
    "kubernetes.aio.client",
    "kubernetes.aio.dynamic.resource",
    "promql_parser",
)


def warm_up() -> None:
    """Load the libraries before anything is timed: seconds of our own must not look like a back end's."""
    for module in _SLOW:
        importlib.import_module(module)


STATUSES = ("ok", "warn", "fail", "not checked")


async def examine_plan(
    loaded: LoadedPlan, clock: Clock, *, name: str, deadline: float = DEADLINE_S
) -> Report:
    """Check everything a plan names, each check within `deadline` seconds; `name` stands for the plan.

    Whatever is wrong is in the report; nothing is raised, and nothing in the world is changed.
    """
    warm_up()
    redactor = Redactor()
    clients = Clients(loaded, clock, redactor)
    try:
        tls = clients.tls()
    except UsageError:
        tls = USUAL  # a row says so, and every client that cannot be made
    reader = BoundedHttpReader(deadline=deadline, tls=tls)
    cluster = ClusterPart(loaded.plan, clients, clock)
    metrics = MetricsPart(loaded.plan, clients, clock)
    supply = SupplyPart(loaded, clients, clock)
    around = AroundPart(loaded, clients, clock, reader)
    parts = (
        LocalPart(loaded, clients, clock),
        cluster,
        metrics,
        supply,
        PolicyPart(loaded, clients, clock, reader),
        SigningPart(loaded.plan, clients, clock, reader),
        around,
    )
    try:
        found = await examine([probe for part in parts for probe in part.probes()], deadline=deadline)
    finally:
        for closing in (cluster, metrics, supply, around):
            await closing.close()
    checks = [_redacted(check, redactor) for check in found]
    counts = Counter(check.status for check in checks)
    return Report(
        format=FORMAT,
        plan=name,
        plan_sha256=loaded.sha256,
        version=loaded.plan.target_version,
        at=iso(clock.now()),
        exit=exit_of(checks),
        counts={status: counts[status] for status in STATUSES},  # type: ignore[index]
        checks=checks,
    )


def _redacted(check: Check, redactor: Redactor) -> Check:
    """Mask the plan's secrets: a server may say back what it was sent."""
    facts = {
        name: redactor.text(value) if isinstance(value, str) else value for name, value in check.facts.items()
    }
    return Check(
        part=check.part,
        check=check.check,
        target=redactor.text(check.target),
        status=check.status,
        found=redactor.text(check.found),
        todo=redactor.text(check.todo),
        facts=facts,
        unreachable=check.unreachable,
    )
