"""The alerts the cockpit posts, at the stand-in and at a real Alertmanager: taken, once, and ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cockpit.backends.notify import Webhook
from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.prometheus.rules import AlertingRule
from cockpit.rehearsal.real.alertmanager import RealAlertmanager, alertmanager
from cockpit.rehearsal.real.prometheus import prometheus
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.webhook import WebhookReceiver
from tests.contract.test_notify_shapes import BREACH, NASTY, message, receiver_of
from tests.real.fixtures import need

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="session")]
real_only = pytest.mark.real

_DEADLINE = 60.0
EARLIER, LATER = "2023-11-14T22:13:20Z", "2199-11-14T22:13:20+01:00"
FULL = {"labels": {"alertname": "A", "n": "1"}, "startsAt": EARLIER, "endsAt": LATER}


def body(**changes: Any) -> bytes:
    """Return one alert as it is posted, with changes."""
    return json.dumps([{**FULL, **changes}]).encode()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def alertmanager_real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealAlertmanager]:
    """A real Alertmanager for the session."""
    need("alertmanager")
    async with (
        Servers(tmp_path_factory.mktemp("alertmanager")) as servers,
        alertmanager(servers) as running,
    ):
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def alertmanager_standin(tmp_path: Path) -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(tmp_path / "webhooks.jsonl") as running:
        yield running


@dataclass
class Subject:
    """Where alerts are posted to, and which of them it has."""

    url: str
    receiver: WebhookReceiver | None = None

    async def post(self, data: bytes, content_type: str = "application/json") -> int:
        """Post what may be no alert at all."""
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"Content-Type": content_type}
            return (await client.post(f"{self.url}/api/v2/alerts", content=data, headers=headers)).status_code

    async def firing(self, **labels: str) -> list[dict[str, Any]]:
        """Return the alerts with these labels that have not ended."""
        return [one for one in await self._all() if labels.items() <= one["labels"].items()]

    async def _all(self) -> list[dict[str, Any]]:
        if self.receiver is None:
            async with httpx.AsyncClient(trust_env=False) as client:
                found: list[dict[str, Any]] = (await client.get(f"{self.url}/api/v2/alerts")).json()
                return found
        known: dict[str, dict[str, Any]] = {}
        for line in self.receiver.received():
            if line["outcome"] in ("taken", "duplicate"):
                known |= {json.dumps(alert["labels"], sort_keys=True): alert for alert in line["body"]}
        return [one for one in known.values() if datetime.fromisoformat(one["endsAt"]) > datetime.now(UTC)]


@pytest.fixture(params=["standin", pytest.param("real", marks=real_only)])
def subject(request: pytest.FixtureRequest) -> Subject:
    """The one a test is about."""
    running = request.getfixturevalue(f"alertmanager_{request.param}")
    if isinstance(running, WebhookReceiver):
        return Subject(running.url_of("alertmanager"), running)
    assert isinstance(running, RealAlertmanager)
    return Subject(running.url)


async def test_an_alert_is_one_however_often_it_is_sent_and_ends(subject: Subject) -> None:
    hook = receiver_of("am", subject.url, "alertmanager")
    webhook = Webhook(deadline=20.0)
    for _ in range(3):
        assert 200 <= (await webhook.send(hook, message())).status < 300
    [one] = await subject.firing(alertname="ReleaseBreach")
    assert one["annotations"]["summary"].startswith("Canary breach at 10%. Gate: <!channel>")
    assert one["generatorURL"].startswith("https://")
    assert "\x1b" not in json.dumps(one, ensure_ascii=False)
    await webhook.send(hook, message(alerts=(replace(BREACH, status="resolved"),)))
    assert await subject.firing(alertname="ReleaseBreach") == []


async def test_alerts_of_several_kinds_stand_side_by_side(subject: Subject) -> None:
    hook = receiver_of("am", f"{subject.url}/api/v2/alerts", "alertmanager")
    both = (replace(BREACH, name="ReleaseHalted"), replace(BREACH, name="ReleaseBlocked"))
    await Webhook(deadline=20.0).send(hook, message(alerts=both))
    for alert in both:
        [one] = await subject.firing(alertname=alert.name)
        assert one["labels"]["severity"] == "critical"
    ended = tuple(replace(alert, status="resolved") for alert in both)
    await Webhook(deadline=20.0).send(hook, message(alerts=ended))
    for alert in both:
        assert await subject.firing(alertname=alert.name) == []


@pytest.mark.parametrize(
    "data",
    [
        body(),
        body(labels={"alertname": "ünï 🚀", "n": 'quote" \\ \n'}),
        body(annotations={"summary": NASTY.encode("utf-8", "replace").decode()}),
        body(generatorURL="https://x.example/run?a=b#c"),
        body(startsAt=EARLIER, endsAt=EARLIER),
        body(startsAt="2023-11-14T22:13:20.123456Z"),
        json.dumps([FULL, {**FULL, "labels": {"alertname": "B"}}]).encode(),
    ],
)
async def test_what_is_an_alert_is_taken(subject: Subject, data: bytes) -> None:
    assert 200 <= await subject.post(data) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"{}",
        b'"text"',
        b"[1]",
        b"[{}]",
        body(labels=None),
        body(labels={}),
        body(labels={"alertname": ""}),
        body(labels=["alertname"]),
        body(labels={"alertname": 1}),
        body(labels={"alertname": "A", "a-b": "c"}),
        body(labels={"alertname": "A", "1a": "c"}),
        body(annotations={"a-b": "c"}),
        body(annotations={"a": 1}),
        body(startsAt=LATER, endsAt=EARLIER),
        body(startsAt="yesterday"),
        body(endsAt="2023-11-14"),
        body(generatorURL="no url"),
        body(generatorURL=7),
        json.dumps([FULL, {**FULL, "labels": {}}]).encode(),
    ],
)
async def test_what_is_no_alert_is_refused(subject: Subject, data: bytes) -> None:
    assert 400 <= await subject.post(data) < 500


@real_only
async def test_it_may_be_frozen_and_gone(alertmanager_real: RealAlertmanager) -> None:
    hook = receiver_of("am", alertmanager_real.url, "alertmanager")
    alertmanager_real.suspend()
    try:
        with pytest.raises(BackendUnreachable):
            await Webhook(deadline=0.5).send(hook, message())
    finally:
        alertmanager_real.resume()
    await alertmanager_real.kill()
    with pytest.raises(BackendUnreachable):
        await Webhook(deadline=20.0).send(hook, message())
    await alertmanager_real.restart()
    assert (await Webhook(deadline=20.0).send(hook, message())).status == 200


@real_only
async def test_prometheus_sends_it_its_alerts(alertmanager_real: RealAlertmanager, tmp_path: Path) -> None:
    need("prometheus")
    rule = AlertingRule("AlwaysThere", "vector(1)", labels={"severity": "page"})
    there = Subject(alertmanager_real.url)
    async with (
        Servers(tmp_path) as servers,
        prometheus(
            servers,
            scrape_interval=0.5,
            rules=[rule],
            rule_interval=0.2,
            alertmanagers=[alertmanager_real.url],
        ),
        asyncio.timeout(_DEADLINE),
    ):
        while not await there.firing(alertname="AlwaysThere", severity="page"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
