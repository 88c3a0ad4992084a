"""Each shape against a receiver that insists on it: what is posted, what escapes, what is sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends import cdevents
from cockpit.backends.notices import About, Alert, Message, Part, ServiceFact
from cockpit.backends.notify import Webhook
from cockpit.backends.notify_shapes import SLACK_TEXT, mrkdwn, posts, slack_escape
from cockpit.base.clock import SystemClock, iso
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.plan.model import Webhook as Receiver
from cockpit.rehearsal.webhook import KINDS, Kind, WebhookReceiver

pytestmark = pytest.mark.contract
NOW = SystemClock().now()
SECRET = "0123456789abcdef0123456789abcdef"
NASTY = "<!channel> & <http://evil|here> @everyone *bold* `code` ‮ \x1b[2J _x_ \ud800"
IMAGE = "registry.example:5000/intelgraph/web@sha256:" + "a" * 64
ABOUT = About(
    run_id="20250923T080000Z-abcdef",
    repo="intelgraph-platform",
    version="v3.0.0",
    rehearsal=True,
    services=(ServiceFact("web", IMAGE, IMAGE.replace("a" * 64, "1" * 64)),),
)
BREACH = Alert("breach@1", "ReleaseBreach", "critical", "firing", iso(NOW - timedelta(minutes=1)))


def message(**changes: Any) -> Message:
    """Return a breach, with text from outside in it."""
    web_ = ABOUT.services[0]
    made = Message(
        key="r1:breach@1:hook",
        kind="breach",
        parts=(Part("Canary breach at "), Part("10%", "bold"), Part(". Gate: "), Part(NASTY, "outside")),
        about=ABOUT,
        at=iso(NOW),
        step=1,
        weight=10,
        gate="slo",
        trace_id="ab" * 16,
        alerts=(BREACH,),
        occurrences=(
            cdevents.service(ABOUT, "rolledback", web_, web_.before),
            cdevents.incident(ABOUT, "detected", "r1/breach", NASTY),
            cdevents.finished(ABOUT, "failure", "slo"),
        ),
        facts={"cause": NASTY},
    )
    return replace(made, **changes)


@pytest_asyncio.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(tmp_path / "world" / "webhooks.jsonl", secret=SECRET) as running:
        yield running


def hook(receiver: WebhookReceiver, kind: Kind) -> Receiver:
    return receiver_of(f"{kind}-hook", receiver.url_of(kind), kind)


def receiver_of(name: str, url: str, kind: str) -> Receiver:
    return Receiver.model_validate({"name": name, "url": url, "kind": kind, "secret": "env:UNREAD"})


def sender(deadline: float = 20.0) -> Webhook:
    return Webhook({f"{kind}-hook": SECRET for kind in KINDS}, deadline=deadline)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_shape_is_taken_once_however_often_it_is_sent(
    receiver: WebhookReceiver, kind: Kind
) -> None:
    for _ in range(3):
        delivery = await sender().send(hook(receiver, kind), message())
        assert 200 <= delivery.status < 300
    posts_each = 3 if kind == "cdevents" else 1
    outcomes = [line["outcome"] for line in receiver.received()]
    assert outcomes == ["taken"] * posts_each + ["duplicate"] * posts_each * 2
    assert all(line["shape"] == kind for line in receiver.received())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_secret_is_refused_and_never_shown(receiver: WebhookReceiver, kind: Kind) -> None:
    wrong = "wrongwrongwrongwrongwrongwrong12"
    with pytest.raises(BackendRefused) as refused:
        await Webhook({f"{kind}-hook": wrong}).send(hook(receiver, kind), message())
    assert refused.value.status == 401 and wrong not in str(refused.value)
    assert receiver.count("refused") == 1 and receiver.count("taken") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["hang", "drip", "error", "refuse"])
async def test_a_receiver_that_fails_costs_its_deadline_at_most(
    receiver: WebhookReceiver, kind: Kind, fault: Any
) -> None:
    await receiver.fault(fault)
    # A deadline far above the client's own: only what the client promises ends the wait.
    async with asyncio.timeout(20):
        with pytest.raises(BackendUnreachable):
            await sender(deadline=0.3).send(hook(receiver, kind), message())
    await receiver.fault(None)
    await sender().send(hook(receiver, kind), message())
    assert receiver.count("taken") == (3 if kind == "cdevents" else 1)


async def test_later_is_asked_again_within_the_deadline(receiver: WebhookReceiver) -> None:
    await receiver.fault("later", times=1)
    await sender().send(hook(receiver, "slack"), message())
    assert (receiver.requests, receiver.count("taken")) == (2, 1)


async def test_later_than_the_deadline_is_not_waited_for(receiver: WebhookReceiver) -> None:
    await receiver.fault("later")
    receiver.retry_after = 60
    with pytest.raises(BackendUnreachable, match="429"):
        await sender().send(hook(receiver, "slack"), message())
    assert receiver.requests == 1


async def test_slack_text_from_outside_calls_nobody(receiver: WebhookReceiver) -> None:
    await sender().send(hook(receiver, "slack"), message())
    [line] = receiver.received()
    assert line["outcome"] == "taken"  # the receiver refuses mentions
    text = line["body"]["text"]
    assert text.startswith("Canary breach at *10%*. Gate: &lt;!channel&gt; &amp; ")
    assert "@everyone" not in text and "\x1b" not in text and "‮" not in text
    assert line["body"]["blocks"][0]["text"] == {"type": "mrkdwn", "text": text, "verbatim": True}
    assert "REHEARSAL" in line["body"]["blocks"][1]["elements"][0]["text"]


@pytest.mark.parametrize("outside", ["<" * 5000, "&" * 5000, "`*_~" * 2000, "x" * 9000])
def test_slack_text_is_cut_between_characters(outside: str) -> None:
    text = mrkdwn((Part("Gate: "), Part(outside, "outside"), Part(outside, "bold")))
    assert len(text) <= SLACK_TEXT
    assert text.count("&") == text.count("&lt;") + text.count("&amp;")


def test_slack_escapes() -> None:
    assert slack_escape("a_b <@U1>") == "a_b &lt;@U1&gt;"
    assert slack_escape("ask @here and @sre") == "ask @\u200bhere and @sre"
    assert slack_escape("*x* @channel", outside=False) == "*x* @channel"
    assert "*" not in slack_escape("*x*").replace("\u200b*\u200b", "")


async def test_an_alert_begins_and_ends_with_the_same_labels(receiver: WebhookReceiver) -> None:
    begun = message()
    over = message(alerts=(replace(BREACH, status="resolved"),), key="r1:resolved:hook")
    for one in (begun, over):
        await sender().send(hook(receiver, "alertmanager"), one)
    first, last = (line["body"][0] for line in receiver.received())
    assert [line["kind"] for line in receiver.received()] == ["firing", "resolved"]
    assert first["labels"] == last["labels"]
    assert first["labels"]["alertname"] == "ReleaseBreach" and first["labels"]["severity"] == "critical"
    assert first["endsAt"] > last["endsAt"] == over.at
    assert first["startsAt"] == last["startsAt"] == BREACH.since
    assert first["generatorURL"].startswith("https://") and first["annotations"]["gate"] == "slo"


async def test_a_pager_is_triggered_acknowledged_and_resolved(receiver: WebhookReceiver) -> None:
    for status in ("firing", "acknowledged", "resolved"):
        await sender().send(
            hook(receiver, "pager"), message(alerts=(replace(BREACH, status=status),), key=f"k:{status}")
        )
    lines = receiver.received()
    assert [line["kind"] for line in lines] == ["trigger", "acknowledge", "resolve"]
    assert len({line["body"]["dedup_key"] for line in lines}) == 1
    assert len(lines[0]["body"]["payload"]["summary"]) <= 1024 and "payload" not in lines[1]["body"]


async def test_a_pager_is_not_woken_by_mere_news(receiver: WebhookReceiver) -> None:
    news = message(alerts=(replace(BREACH, severity="info"),))
    delivery = await sender().send(hook(receiver, "pager"), news)
    assert delivery.status == 0 and receiver.requests == 0
    with pytest.raises(BackendRefused, match="routing key"):
        await Webhook().send(hook(receiver, "pager"), message())


async def test_a_long_matter_still_has_one_key(receiver: WebhookReceiver) -> None:
    long = replace(BREACH, matter="m" * 400)
    for status in ("firing", "resolved"):
        await sender().send(hook(receiver, "pager"), message(alerts=(replace(long, status=status),)))
    keys = {line["body"]["dedup_key"] for line in receiver.received()}
    assert len(keys) == 1 and all(len(key) <= 255 for key in keys)


async def test_cdevents_are_those_of_the_specification(receiver: WebhookReceiver) -> None:
    about, [one] = ABOUT, ABOUT.services
    every = (
        cdevents.started(about),
        cdevents.modified(about),
        cdevents.service(about, "deployed", one, one.image),
        cdevents.service(about, "upgraded", one, one.image),
        cdevents.service(about, "rolledback", one, one.before),
        cdevents.incident(about, "detected", "i", "it broke"),
        cdevents.incident(about, "reported", "i", "it broke", "https://forge.example/issues/1"),
        cdevents.incident(about, "resolved", "i", "it was mended"),
        cdevents.finished(about, "success"),
    )
    assert {occurrence.type for occurrence in every} == set(cdevents.TYPES)
    await sender().send(hook(receiver, "cdevents"), message(occurrences=every))
    assert [line["outcome"] for line in receiver.received()] == ["taken"] * len(every)
    events = [line["body"]["data"] for line in receiver.received()]
    assert {event["context"]["version"] for event in events} == {"0.4.1"}
    assert len({event["context"]["chainId"] for event in events}) == 1
    assert events[2]["subject"]["content"]["artifactId"] == (
        f"pkg:oci/web@sha256%3A{'a' * 64}?repository_url=registry.example%3A5000/intelgraph/web"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"type": "dev.cdevents.service.deployed.9.9.9"}, "unknown type"),
        ({"subject": "another"}, "subject"),
        ({"time": "yesterday"}, "time"),
        ({"data": {"context": {}}}, "required"),
    ],
)
async def test_the_receiver_refuses_what_is_no_cdevent(
    receiver: WebhookReceiver, change: dict[str, Any], said: str
) -> None:
    import json

    import httpx

    [post, *_] = posts("cdevents", receiver.url_of("cdevents"), SECRET, message())
    body = {**json.loads(post.body), **change}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(post.url, content=json.dumps(body), headers=dict(post.headers))
    assert answer.status_code == 400 and said in answer.text
    assert receiver.count("malformed") == 1


@pytest.mark.parametrize("kind", ["slack", "alertmanager", "pager", "cdevents"])
async def test_the_receiver_refuses_another_shape(receiver: WebhookReceiver, kind: Kind) -> None:
    plain = Webhook({receiver.url_of(kind): SECRET})
    with pytest.raises(BackendRefused):
        await plain.post(receiver.url_of(kind), "note", {"no": "shape"}, key="k")
    assert receiver.count("taken") == 0


async def test_a_message_no_shape_has_a_use_for_is_not_posted(receiver: WebhookReceiver) -> None:
    for kind in ("alertmanager", "cdevents", "pager"):
        bare = message(alerts=(), occurrences=())
        assert (await sender().send(hook(receiver, kind), bare)).status == 0
    assert receiver.requests == 0


@asynccontextmanager
async def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> AsyncIterator[str]:
    """Run a server that answers always the same."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        answer = web.StreamResponse(status=status, headers=headers or {})
        await answer.prepare(request)
        for start in range(0, len(body), 65536):
            await answer.write(body[start : start + 65536])
        return answer

    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _kinds() -> Iterator[Any]:
    for status, error in ((301, BackendGarbage), (410, BackendRefused), (500, BackendUnreachable)):
        yield pytest.param(status, error, id=str(status))


@pytest.mark.parametrize(("status", "error"), _kinds())
async def test_answers_without_end_or_with_our_secret_in_them(status: int, error: type[Exception]) -> None:
    text = f"routing key {SECRET} is unknown \x1b[2J ".encode()
    async with answering(status, text + b"z" * 1_000_000, {"Location": "http://127.0.0.1:1/"}) as url:
        there = receiver_of("pager-hook", f"{url}/v2", "pager")
        with pytest.raises(error) as caught:
            await sender().send(there, message())
    assert SECRET not in str(caught.value) and "\x1b" not in str(caught.value)


async def test_the_path_of_an_address_is_not_shown() -> None:
    async with answering(404, b"no_service") as url:
        there = receiver_of("slack-hook", f"{url}/T0/B0/hidden", "slack")
        with pytest.raises(BackendRefused) as caught:
            await Webhook().send(there, message())
    assert "hidden" not in str(caught.value) and "slack-hook" in str(caught.value)
