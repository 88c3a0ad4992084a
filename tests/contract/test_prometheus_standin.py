"""What only the stand-in has: rules without files, faults, its own admission of what it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.errors import BackendUnreachable
from cockpit.rehearsal.prometheus.exposition import Exposition
from cockpit.rehearsal.prometheus.rules import AlertingRule, RecordingRule, RuleRunner
from cockpit.rehearsal.prometheus.scrape import ScrapeLoop
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.prometheus.store import Matcher, Store
from cockpit.rehearsal.prometheus.targets import Target, TargetGroup, expand, parse_http_sd

pytestmark = pytest.mark.contract


@asynccontextmanager
async def exporter(page: str) -> AsyncIterator[str]:
    """Serve one page; yields `host:port`."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=page)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_it_says_what_it_is() -> None:
    async with PrometheusServer() as server:
        status, text = await get(f"{server.url}/api/v1/status/buildinfo")
        assert status == 200
        assert "stand-in" in json.loads(text)["data"]["version"]
        assert (await get(f"{server.url}/-/healthy"))[0] == 200
        assert "stand-in" in (await get(f"{server.url}/metrics"))[1]


async def test_static_targets_may_change_while_it_runs() -> None:
    async with (
        exporter("a 1\n") as one,
        exporter("a 1\n") as two,
        PrometheusServer(scrape_interval=0.05, targets=[one]) as server,
    ):
        await until(lambda: up(server) == {one})
        server.set_targets([TargetGroup((two,), {"track": "canary"})])
        await until(lambda: up(server) == {two})


def up(server: PrometheusServer) -> set[str]:
    """Return the instances that are up."""
    selected = server.store.select([Matcher("__name__", "=", "up")])
    live = {one.labels["instance"]: one.latest(server.now_ms(), 300_000) for one in selected}
    return {instance for instance, sample in live.items() if sample is not None and sample[1] == 1}


async def test_samples_grow_old_while_scraping_is_off() -> None:
    async with (
        exporter("a 1\n") as target,
        PrometheusServer(scrape_interval=0.05, targets=[target]) as server,
    ):
        await until(lambda: bool(server.scrapes()) and server.scrapes()[0].last_scrape_ms > 0)
        server.faults.scraping = False
        (loop,) = server.scrapes()
        at = server.now_ms()
        await until(lambda: server.now_ms() > at + 300)
        assert loop.last_scrape_ms <= at
        server.faults.clear()
        await until(lambda: loop.last_scrape_ms > at + 300)


def test_targets_are_scraped_spread_over_the_interval() -> None:
    offsets = []
    for port in range(9000, 9040):
        (target,) = expand([TargetGroup((f"127.0.0.1:{port}",))], "app")
        offsets.append(loop_of(target).offset_s)
    assert all(0 <= offset < 0.5 for offset in offsets)
    assert all(any(quarter <= offset * 8 < quarter + 1 for offset in offsets) for quarter in range(4))


def loop_of(target: Target) -> ScrapeLoop:
    session: aiohttp.ClientSession = None  # type: ignore[assignment]  # nothing is fetched here
    return ScrapeLoop(
        target, Store(), session, interval_s=0.5, timeout_s=0.5, now_ms=lambda: 0, paused=lambda: False
    )


def test_labels_of_discovery_steer_the_scrape() -> None:
    groups = parse_http_sd(
        b'[{"targets":["h:1"],"labels":{"__metrics_path__":"/m","__scheme__":"https","job":"x","instance":"me"}}]'
    )
    (target,) = expand(groups, "app")
    assert target.url == "https://h:1/m"
    assert target.labels == {"job": "x", "instance": "me"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"targets":"h:1"}]',
        b'[{"targets":[1]}]',
        b'[{"labels":{"a":1}}]',
        b"[" * 100_000,
    ],
)
def test_discovery_that_is_malformed_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_http_sd(body)


def test_a_known_line_is_not_parsed_again() -> None:
    resolved: list[dict[str, str]] = []

    def resolve(labels: dict[str, str]) -> str:
        resolved.append(labels)
        return labels["__name__"]

    exposition = Exposition(resolve)
    for value in range(5):
        samples = exposition.read(f'# HELP a x\na{{x="}} 1"}} {value}\nb\t{value} 1000\n\n')
        assert [(s.series, s.value, s.time_ms) for s in samples] == [("a", value, None), ("b", value, 1000)]
    assert resolved == [{"__name__": "a", "x": "} 1"}, {"__name__": "b"}]


async def test_stopping_lets_hanging_requests_go() -> None:
    server = PrometheusServer()
    await server.start()
    server.faults.set("hang")
    metrics = PrometheusMetrics(server.url)
    query = asyncio.create_task(metrics.query("vector(1)"))
    await until(lambda: server.faults.hanging == 1)
    async with asyncio.timeout(20):
        await server.stop()
        await server.stop()
        try:
            await query
        except BackendUnreachable:
            pass  # it was under way when the port was closed
    await metrics.close()


async def test_an_unknown_fault_is_refused() -> None:
    async with PrometheusServer() as server:
        with pytest.raises(ValueError, match="no such fault"):
            server.faults.set("gremlins")  # type: ignore[arg-type]


def names(store: Store, at_ms: int) -> dict[str, float]:
    """Return name and alert state → value of what is live."""
    out = {}
    for series in store:
        sample = series.latest(at_ms, 300_000)
        if sample is not None:
            state = series.labels.get("alertstate", "")
            out[f"{series.labels['__name__']} {state}".strip()] = sample[1]
    return out


class TestRules:
    def test_a_recording_rule_feeds_the_next_one(self) -> None:
        store = Store()
        rules = [
            RecordingRule("job:x:sum", "sum(x)", {"team": "a"}),
            RecordingRule("y", "job:x:sum{team='a'} * 2"),
        ]
        runner = RuleRunner(rules, store, 300_000)
        for pod in "ab":
            store.append({"__name__": "x", "pod": pod}, 1_000, 21)
        runner.evaluate(2_000)
        assert names(store, 2_000) == {"x": 21.0, "job:x:sum": 42.0, "y": 84.0}

    def test_an_alert_is_pending_then_firing_then_gone(self) -> None:
        store = Store()
        rule = AlertingRule(
            "Burning",
            "errors > 1",
            hold_s=10,
            labels={"severity": "page"},
            annotations={"summary": "{{ $labels.pod }} has {{$value}}"},
        )
        runner = RuleRunner([rule], store, 300_000)
        store.append({"__name__": "errors", "pod": "a"}, 1_000, 5)
        runner.evaluate(1_000)
        assert names(store, 1_000)["ALERTS pending"] == 1.0
        runner.evaluate(10_999)
        assert not runner.alerts[0].firing
        runner.evaluate(11_000)
        (alert,) = runner.alerts
        assert alert.firing
        assert alert.labels == {"pod": "a", "severity": "page", "alertname": "Burning"}
        assert alert.annotations == {"summary": "a has 5"}
        live = names(store, 11_000)
        assert "ALERTS pending" not in live
        assert (live["ALERTS firing"], live["ALERTS_FOR_STATE"]) == (1.0, 1.0)
        store.append({"__name__": "errors", "pod": "a"}, 12_000, 0)
        runner.evaluate(12_000)
        assert runner.alerts == []
        assert names(store, 12_000) == {"errors": 0.0}

    def test_a_rule_that_fails_is_named(self) -> None:
        store = Store()
        runner = RuleRunner([RecordingRule("z", "x * on() x")], store, 300_000)
        for pod in "ab":
            store.append({"__name__": "x", "pod": pod}, 1_000, 21)
        runner.evaluate(2_000)
        assert "many-to-many" in runner.errors["z"]

    def test_templates_it_cannot_fill_are_refused(self) -> None:
        with pytest.raises(ValueError, match="template"):
            AlertingRule("A", "x", annotations={"summary": '{{ query "up" }}'})

    async def test_the_api_shows_alerts(self) -> None:
        rules = [AlertingRule("Always", "vector(1)", labels={"severity": "page"})]
        async with PrometheusServer(rules=rules, rule_interval=0.05) as server:
            await until(lambda: bool(server.alerts()))
            alerts = json.loads((await get(f"{server.url}/api/v1/alerts"))[1])["data"]["alerts"]
        assert [(alert["labels"], alert["state"], alert["value"]) for alert in alerts] == [
            ({"alertname": "Always", "severity": "page"}, "firing", "1")
        ]
