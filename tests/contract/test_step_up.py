"""A login as second factor, over stand-in and real servers: from a code on a screen to what then counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cockpit.backends.device_flow import DeviceFlow, Prompt
from cockpit.base.clock import SystemClock
from cockpit.journal.events_people import StepUpSeen
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.plan.registry import Registry
from tests.conductor.support import events
from tests.conductor.test_approvals import room
from tests.contract.sigstore_fixtures import Tested, one_real_sigstore, tested_sigstore

__all__ = ["one_real_sigstore", "tested_sigstore"]
pytestmark = pytest.mark.contract


def _asks_for_a_login(server: Tested) -> dict[str, Any]:
    return {"rules": [{"asked": "promote", "step_up": "oidc"}], "login": server.login}


async def _login(server: Tested, registry: Registry, who: str, as_who: str = "") -> str:
    """Log in as `cockpit step-up --device` does, with somebody at the browser."""
    person = registry.person(who)
    assert person is not None
    shown: asyncio.Queue[Prompt] = asyncio.Queue()
    flow = DeviceFlow(registry.login_of(person), clock=SystemClock())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(flow.token(shown.put_nowait, deadline=30))
        prompt = await shown.get()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{server.url('oidc')}/device",
                json={"user_code": prompt.code, "sub": as_who or person.identity, "allow": True},
                headers={"Authorization": f"Bearer {server.token_secret}"},
            )
        assert answer.status_code == 200
    return waiting.result()


async def test_an_approval_counts_once_its_signer_has_logged_in(tmp_path: Path, server: Tested) -> None:
    async with room(tmp_path, server, **_asks_for_a_login(server)) as made, asyncio.TaskGroup() as group:
        assert made.plan.approvals is not None
        registry = Registry(made.plan.approvals, server.issuer)
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        assert (await made.says("ann", request)).startswith("step-up:")
        show = made.desks.step_up.show
        other = await _login(server, registry, "ann", "bob@example.org")
        assert "somebody else has logged in" in await show("ann", other)
        token = await _login(server, registry, "ann")
        assert await show("ann", token) == ""
        assert "used before" in await show("ann", token)
        assert await made.says("ann", request) == ""
        assert (await waiting).by == ("@ann",)
        seen = await events(made.recorder, StepUpSeen)
        assert [(one.method, one.ok) for one in seen] == [("oidc", False), ("oidc", True), ("oidc", False)]
    assert token not in (tmp_path / JOURNAL_NAME).read_text()
