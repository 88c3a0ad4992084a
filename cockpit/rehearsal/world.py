"""One rehearsal world as a process: starts everything, writes the plan, and ends with the release."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cockpit.base.files import write_private
from cockpit.rehearsal.embedded import Embedded
from cockpit.rehearsal.pace import Pace
from cockpit.rehearsal.parts import Parts
from cockpit.rehearsal.people import People
from cockpit.rehearsal.plan_people import CAST
from cockpit.rehearsal.platform import Platform, running
from cockpit.rehearsal.release_plan import Endpoints, build, dump
from cockpit.rehearsal.scenarios import Scenario
from cockpit.rehearsal.supply import Supply, supplying
from cockpit.rehearsal.topology import DEV, PERF, STAGE, STAGES
from cockpit.rehearsal.watch_lock import until_released

_KUBERNETES, _SIGNING, _WEBHOOK, _ISSUES, _POLICY = (
    f"world/secrets/{name}" for name in ("kubernetes", "signing", "webhook", "issues", "policy")
)
_KUBERNETES_CA = "world/kubernetes_ca.pem"
_FIRST_LOCK = 120.0
_SETTLE = 1.5


async def run_world(
    folder: Path,
    scenario: Scenario,
    pace: Pace,
    lock: Path | None,
    bound: float,
    keep: float = 0.0,
    parts: Parts | None = None,
) -> str:
    """Run a world in `folder` until it is told to end; return why it ended.

    It is made of stand-ins, or of other `parts`.
    It ends when the flock on `lock` was held and is free again, on SIGTERM or SIGINT, and after `bound`
    seconds. Raises BackendError when a part of the world does not start or ends by itself.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def end(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, f"told by {signal.Signals(number).name}")

    async def follow(path: Path) -> None:
        end(await until_released(path, first=_FIRST_LOCK, settle=max(keep, _SETTLE)))

    try:
        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(_live(folder, scenario, pace, parts))]
            if lock is not None:
                jobs.append(tasks.create_task(follow(lock)))
            timer = loop.call_later(bound, end, f"its bound of {bound:g} s has passed")
            try:
                reason = await ended
            finally:
                timer.cancel()
            for job in jobs:
                job.cancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return reason


async def _live(folder: Path, scenario: Scenario, wanted: Pace, made_of: Parts | None) -> None:
    place = folder / "world"
    parts = made_of or Embedded()
    pace = parts.pace(wanted)
    async with (
        supplying(place, scenario, parts) as supply,
        running(place, scenario, supply.images, scrape=pace.scrape, parts=parts) as platform,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(platform.run())
        async with asyncio.TaskGroup() as starting:
            starting.create_task(platform.until_ready())
            starting.create_task(supply.publish())
        await supply.worsen()
        await platform.worsen()
        _write(folder, scenario, pace, supply, platform, parts)
        _announce(folder, scenario)
        if scenario.people not in (None, "absent"):
            tasks.create_task(People(folder, scenario.people).run())


def _write(
    folder: Path, scenario: Scenario, pace: Pace, supply: Supply, platform: Platform, parts: Parts
) -> None:
    """Write secrets, trust, what runs where, and last the plan, which refers to them all."""
    place = folder / "world"
    for name, value in {
        _KUBERNETES: platform.conductor_token,
        _SIGNING: supply.token_secret,
        _WEBHOOK: supply.webhook_secret,
        _ISSUES: supply.issues_token,
        _POLICY: supply.policy_token,
    }.items():
        write_private(folder / name, value.encode())
    if scenario.people is not None:
        for person in CAST:
            write_private(folder / person.secret, supply.person_secret(person.identity).encode())
            write_private(folder / person.totp, base64.b32encode(secrets.token_bytes(20)))
    write_private(place / "trust_config.json", supply.trust_config.encode())
    write_private(folder / "trusted_root.json", supply.trusted_root.encode())
    gateways = platform.app.endpoints.gateways
    authority = platform.cluster.ca_file
    if authority is not None:
        write_private(folder / _KUBERNETES_CA, authority.read_bytes())
    real = parts.real()
    endpoints = Endpoints(
        kubernetes=platform.kube.url,
        kubernetes_token=f"file:{_KUBERNETES}",
        kubernetes_ca=_KUBERNETES_CA if authority is not None else "",
        profile=parts.profile,
        real=real,
        prometheus=platform.prometheus.url,
        registry=supply.registry_url,
        entry=platform.entry,
        load=gateways[PERF],
        stages={namespace: gateways[namespace] for namespace in STAGES},
        token_url=supply.token_url,
        token_secret=f"file:{_SIGNING}",
        issuer=supply.issuer,
        login=supply.login,
        trust_config="world/trust_config.json",
        repository=str(supply.repository.relative_to(folder)),
        from_ref=supply.from_ref,
        to_ref=supply.to_ref,
        webhook=supply.webhooks["generic"],
        webhooks={kind: url for kind, url in supply.webhooks.items() if kind != "generic"},
        webhook_secret=f"file:{_WEBHOOK}",
        issues=supply.issues_url,
        issues_repository=supply.issues_repository,
        issues_token=f"file:{_ISSUES}",
        flags=platform.flags_url,
        policy=supply.policy_url,
        policy_token=f"file:{_POLICY}",
    )
    about: dict[str, Any] = {
        "scenario": scenario.name,
        "summary": scenario.summary,
        "pace": pace.name,
        "real_servers": dict(real),
        "started_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "pids": {"world": os.getpid(), "app": platform.app.pid},
        "endpoints": {
            "kubernetes": endpoints.kubernetes,
            "prometheus": endpoints.prometheus,
            "registry": endpoints.registry,
            "entry": endpoints.entry,
            "load": endpoints.load,
            "dev": endpoints.stages[DEV],
            "stage": endpoints.stages[STAGE],
            "issuer": endpoints.issuer,
            "webhook": endpoints.webhook,
            "issues": endpoints.issues,
            "flags": endpoints.flags,
            "policy": endpoints.policy,
        },
    }
    write_private(place / "world.json", json.dumps(about, indent=2).encode() + b"\n")
    images = dict(supply.images.candidate)
    if scenario.tagged_service:
        images[scenario.tagged_service] = supply.images.tags[scenario.tagged_service]
    plan = build(endpoints, images, supply.trust, pace, datetime.now(UTC), scenario)
    write_private(folder / "release.yaml", dump(plan).encode())


def _announce(folder: Path, scenario: Scenario) -> None:
    line = {
        "ready": True,
        "plan": str(folder / "release.yaml"),
        "scenario": scenario.name,
        "pid": os.getpid(),
    }
    with suppress(BrokenPipeError):  # whoever started the world has gone; the lock decides when it ends
        print(json.dumps(line), flush=True)
