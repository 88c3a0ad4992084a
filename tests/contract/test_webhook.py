"""The webhook client against the receiver: delivery, signatures, sending twice, and every failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.notify import Webhook
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.rehearsal.sigstore import Fault
from cockpit.rehearsal.webhook import WebhookReceiver

pytestmark = pytest.mark.contract
MESSAGE = {"text": "v3.0.0 ist da: Grüße", "step": 10}


@pytest_asyncio.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(tmp_path / "world" / "webhooks.jsonl", secret="shared") as running:
        yield running


def sender(receiver: WebhookReceiver, **options: Any) -> Webhook:
    return Webhook({receiver.url: "shared"}, **options)


async def test_a_message_arrives_as_it_was_sent(receiver: WebhookReceiver) -> None:
    delivery = await sender(receiver).post(receiver.url, "release.started", MESSAGE, key="r1:start")
    assert (delivery.status, delivery.key) == (202, "r1:start")
    [line] = receiver.received()
    assert (line["kind"], line["key"], line["outcome"]) == ("release.started", "r1:start", "taken")
    assert (line["body"], line["path"]) == (MESSAGE, "/hooks/release")


async def test_a_message_sent_twice_is_known_as_such(receiver: WebhookReceiver) -> None:
    webhook = sender(receiver)
    for _ in range(2):
        await webhook.post(receiver.url, "release.started", MESSAGE, key="r1:start")
    await webhook.post(receiver.url, "release.started", MESSAGE, key="r2:start")
    assert [line["outcome"] for line in receiver.received()] == ["taken", "duplicate", "taken"]


async def test_many_at_once_are_all_kept(receiver: WebhookReceiver) -> None:
    webhook = sender(receiver)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(webhook.post(receiver.url, "note", {"n": number}, key=f"n{number}"))
    assert sorted(line["body"]["n"] for line in receiver.received()) == list(range(20))


async def test_a_wrong_secret_is_refused(receiver: WebhookReceiver) -> None:
    for secrets in ({}, {receiver.url: "wrong"}):
        with pytest.raises(BackendRefused) as refused:
            await Webhook(secrets).post(receiver.url, "note", MESSAGE, key="k")
        assert refused.value.status == 401
    assert [line["outcome"] for line in receiver.received()] == ["refused", "refused"]


@pytest.mark.parametrize("kind", ["error", "hang", "refuse"])
async def test_an_outage_is_unreachable_and_can_be_tried_again(
    receiver: WebhookReceiver, kind: Fault
) -> None:
    await receiver.fault(kind)
    with pytest.raises(BackendUnreachable):
        await sender(receiver, deadline=0.3).post(receiver.url, "note", MESSAGE, key="k")
    await receiver.fault(None)
    await sender(receiver).post(receiver.url, "note", MESSAGE, key="k")
    assert [line["outcome"] for line in receiver.received()] == ["taken"]


@pytest.mark.parametrize(
    ("url", "kind", "payload", "key"),
    [
        ("ftp://127.0.0.1/x", "note", {}, "k"),
        ("http://[", "note", {}, "k"),
        ("no address", "note", {}, "k"),
        (None, "note", {"x": float("nan")}, "k"),
        (None, "note", {"x": object()}, "k"),
        (None, "note", {"x": "y" * (2 << 20)}, "k"),
        (None, "no\r\nte", {}, "k"),
        (None, "note", {}, ""),
        (None, "note", {}, "k" * 300),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    receiver: WebhookReceiver, url: str | None, kind: str, payload: dict[str, Any], key: str
) -> None:
    with pytest.raises(BackendRefused):
        await sender(receiver).post(url or receiver.url, kind, payload, key=key)
    assert receiver.received() == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, BackendGarbage),
        (304, BackendGarbage),
        (404, BackendRefused),
        (429, BackendUnreachable),
        (503, BackendUnreachable),
    ],
)
async def test_answers_are_told_apart(status: int, error: type[Exception]) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        headers = {"Location": "http://127.0.0.1:1/elsewhere"}
        return web.Response(status=status, headers=headers, text="" if status == 304 else "\x1b[2J" * 50_000)

    app = web.Application()
    app.router.add_post("/hook", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://user:pass@127.0.0.1:{runner.addresses[0][1]}/hook?token=hidden"
        with pytest.raises(error) as caught:
            await Webhook().post(url, "note", MESSAGE, key="k")
        assert "\x1b" not in str(caught.value)
        assert "hidden" not in str(caught.value) and "pass" not in str(caught.value)
    finally:
        await runner.cleanup()
