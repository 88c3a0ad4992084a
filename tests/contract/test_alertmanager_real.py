"""The alerts the cockpit posts, at a real Alertmanager: taken, once however often sent, and ended."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cockpit.backends.notify import Webhook
from tests.contract.test_notify_shapes import BREACH, message, receiver_of

pytestmark = [pytest.mark.contract, pytest.mark.real]
_CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"
_DEADLINE = 60.0


@pytest_asyncio.fixture
async def alertmanager(tmp_path: Path) -> AsyncIterator[str]:
    """Run a real Alertmanager on loopback, alone: without a cluster port."""
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if binary is None:
        pytest.skip("no Alertmanager is installed")
    (tmp_path / "config.yml").write_text(_CONFIG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--config.file={tmp_path / 'config.yml'}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_DEADLINE), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"{url}/-/ready")).status_code == 200:
                        break
                except httpx.HTTPError:
                    assert process.returncode is None, "it ended at once"
                await asyncio.sleep(0.05)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def alerts(url: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        found: list[dict[str, Any]] = (await client.get(f"{url}/api/v2/alerts")).json()
        return found


async def test_an_alert_is_one_however_often_it_is_sent_and_ends(alertmanager: str) -> None:
    hook = receiver_of("am", alertmanager, "alertmanager")
    webhook = Webhook(deadline=20.0)
    for _ in range(3):
        assert (await webhook.send(hook, message())).status == 200
    [one] = await alerts(alertmanager)
    assert one["labels"]["alertname"] == "ReleaseBreach" and one["status"]["state"] == "active"
    assert one["annotations"]["summary"].startswith("Canary breach at 10%. Gate: <!channel>")
    assert one["generatorURL"].startswith("https://")
    await webhook.send(hook, message(alerts=(replace(BREACH, status="resolved"),)))
    assert await alerts(alertmanager) == []  # it names only those that have not ended
