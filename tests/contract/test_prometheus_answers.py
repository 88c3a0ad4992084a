"""How Prometheus answers where the cockpit depends on it: times, errors, limits, outages, rules, alerts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
import pytest_asyncio

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.promql import window_text
from cockpit.rehearsal.prometheus.rules import AlertingRule, RecordingRule
from tests.contract import promql_cases as cases
from tests.contract import promql_generated as generated
from tests.contract.prometheus_fixtures import Subject, poll

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="session")]

PAST = datetime.fromtimestamp(cases.END_S, UTC)


@pytest_asyncio.fixture(loop_scope="session")
async def client(prom: Subject) -> AsyncIterator[PrometheusMetrics]:
    """The cockpit's client, patient."""
    metrics = PrometheusMetrics(prom.url, deadline=30.0, read_timeout=30.0)
    yield metrics
    await metrics.close()


class TestWindows:
    @pytest.mark.parametrize("bake", [2.5, 0.0014, 61.0005])
    async def test_a_plan_with_fractions_of_seconds_is_understood(
        self, any_prometheus: Subject, bake: float
    ) -> None:
        queries = generated.of_the_cockpit((window_text(bake),), bake=bake)
        assert any(f"[{window_text(bake)}]" in query for query in queries)
        for query in queries:
            status, answer = await any_prometheus.get("/api/v1/query", query=query)
            assert status == 200, (query, answer)

    async def test_a_fraction_of_a_second_is_refused(self, any_prometheus: Subject) -> None:
        status, answer = await any_prometheus.get("/api/v1/query", query="rate(requests_total[2.5s])")
        assert (status, answer["errorType"]) == (400, "bad_data")


class TestTimes:
    @pytest.mark.parametrize(
        ("asked", "evaluated"),
        [
            ("1700000000", 1700000000),
            ("1700000000.5", 1700000000.5),
            ("1700000000.1234", 1700000000.123),
            ("1700000000.9996", 1700000001),
            ("1.7e9", 1700000000),
            ("2023-11-14T22:13:20Z", 1700000000),
            ("2023-11-14T22:13:20.25Z", 1700000000.25),
            ("2023-11-15T00:13:20+02:00", 1700000000),
            ("0", 0),
            ("-62.5", -62.5),
        ],
    )
    async def test_a_time_is_taken_to_the_millisecond(
        self, any_prometheus: Subject, asked: str, evaluated: float
    ) -> None:
        _, answer = await any_prometheus.get("/api/v1/query", query="vector(1)", time=asked)
        assert answer["data"]["result"] == [{"metric": {}, "value": [evaluated, "1"]}]
        _, answer = await any_prometheus.get("/api/v1/query", query="time()", time=asked)
        assert float(answer["data"]["result"][1]) == evaluated

    @pytest.mark.parametrize(
        "asked", ["now", "1e", "2023-11-14", "2023-11-14T22:13:20", " 5", "2023-11-14T22:13Z", "0x10", "٣"]
    )
    async def test_what_is_no_time_is_refused(self, any_prometheus: Subject, asked: str) -> None:
        status, answer = await any_prometheus.get("/api/v1/query", query="1", time=asked)
        assert (status, answer["errorType"]) == (400, "bad_data")

    async def test_without_a_time_it_is_now(self, any_prometheus: Subject) -> None:
        before = datetime.now(UTC).timestamp()
        _, answer = await any_prometheus.get("/api/v1/query", query="time()")
        assert before - 1 <= float(answer["data"]["result"][1]) <= datetime.now(UTC).timestamp() + 1

    @pytest.mark.parametrize(
        ("start", "end", "step", "count"),
        [
            ("1700000000", "1700000000", "15", 1),
            ("1700000000", "1700000001", "0.3", 4),
            ("1700000000.5", "1700000002", "500ms", 4),
            ("1700000000", "1700000090", "1m30s", 2),
            ("1700000000", "1700000010", "1h", 1),
            ("0", "11000", "1", 11001),
            ("0", "0.01", "0.0015", 11),
        ],
    )
    async def test_a_range_has_both_its_ends(
        self, any_prometheus: Subject, start: str, end: str, step: str, count: int
    ) -> None:
        window = {"start": start, "end": end, "step": step}
        status, answer = await any_prometheus.get("/api/v1/query_range", query="vector(1)", **window)
        assert status == 200, answer
        (series,) = answer["data"]["result"]
        assert len(series["values"]) == count
        assert series["values"][0] == [float(start), "1"]

    async def test_a_step_below_a_millisecond_fails(self, any_prometheus: Subject) -> None:
        status, answer = await any_prometheus.get(
            "/api/v1/query_range", query="1", start="0", end="1", step="0.0009"
        )
        assert (status, answer["errorType"]) == (422, "execution")

    @pytest.mark.parametrize("step", ["0", "-1", "x", "", "1 m", "1.5m"])
    async def test_a_step_that_is_none_is_refused(self, any_prometheus: Subject, step: str) -> None:
        status, answer = await any_prometheus.get(
            "/api/v1/query_range", query="1", start="0", end="1", step=step
        )
        assert (status, answer["errorType"]) == (400, "bad_data")


class TestAnswers:
    async def test_what_is_not_there_is_an_empty_success(
        self, prom: Subject, client: PrometheusMetrics
    ) -> None:
        _, answer = await prom.get("/api/v1/query", query="no_such_series")
        assert answer == {"status": "success", "data": {"resultType": "vector", "result": []}}
        window = {"start": "0", "end": "1", "step": "1"}
        _, answer = await prom.get("/api/v1/query_range", query="no_such_series", **window)
        assert answer == {"status": "success", "data": {"resultType": "matrix", "result": []}}
        empty = await client.query("no_such_series")
        assert (empty.samples, empty.warnings, empty.result_type) == ((), (), "vector")

    async def test_the_client_reads_special_values_and_labels(self, client: PrometheusMetrics) -> None:
        at = PAST - timedelta(seconds=37 * cases.STEP_S)
        values = {s.labels["pod"]: s.value for s in (await client.query("temperature", at=at)).samples}
        assert values["d"] != values["d"]
        infinite = await client.query("temperature / 0", at=PAST)
        assert {abs(s.value) for s in infinite.samples} == {float("inf")}
        strange = await client.query("strange", at=PAST)
        known = {labels["text"] for labels, _ in cases.series() if labels["__name__"] == "strange"}
        assert {s.labels["text"] for s in strange.samples} == known
        assert 'quote"slash\\line\n' in known

    async def test_a_range_of_the_client_is_a_matrix(self, client: PrometheusMetrics) -> None:
        answer = await client.query_range(
            "temperature", start=PAST - timedelta(seconds=60), end=PAST, step=15
        )
        assert answer.result_type == "matrix"
        assert [s.timestamp for s in answer.samples][:5] == [cases.END_S - 60 + 15 * i for i in range(5)]
        raw = await client.query('temperature{pod="a"}[1m]', at=PAST)
        assert (raw.result_type, len(raw.samples)) == ("matrix", 5)

    async def test_the_client_asks_to_the_millisecond(self, client: PrometheusMetrics) -> None:
        end = PAST + timedelta(milliseconds=250)
        answer = await client.query_range("time()", start=end - timedelta(seconds=2), end=end, step=0.5)
        expected = [end.timestamp() - 2 + i * 0.5 for i in range(5)]
        assert [s.timestamp for s in answer.samples] == expected == [s.value for s in answer.samples]
        at = PAST - timedelta(seconds=5.125)
        assert (await client.query("time()", at=at)).samples[0].value == at.timestamp()

    async def test_the_servers_clock_is_measured(self, client: PrometheusMetrics) -> None:
        for query in ("vector(1)", "no_such_series"):  # by its samples, and by the Date header
            answer = await client.query(query)
            assert answer.clock_offset_s is not None
            assert abs(answer.clock_offset_s) < 10
            assert abs(answer.evaluated_at - datetime.now(UTC).timestamp()) < 30

    async def test_ranges_are_closed_at_both_ends(self, client: PrometheusMetrics) -> None:
        # As in Prometheus 2; since version 3 the left end is open, and this would be 4.
        answer = await client.query('count_over_time(temperature{pod="a"}[1m])', at=PAST)
        assert [s.value for s in answer.samples] == [60 / cases.STEP_S + 1]

    async def test_two_series_of_one_name_are_an_execution_error(
        self, prom: Subject, client: PrometheusMetrics
    ) -> None:
        query = 'label_replace(temperature, "pod", "same", "", "")'
        for asked in (query, f"{query} + 1", f"sum by (pod) ({query.replace('same', 'x')}) or {query}"):
            status, answer = await prom.get(
                "/api/v1/query",
                query=asked.replace('"track"', '"pod"').replace("temperature", 'temperature{track="stable"}'),
                time=str(cases.END_S),
            )
            assert (status, answer["errorType"]) == (422, "execution"), asked
        with pytest.raises(BackendRefused, match="execution") as caught:
            await client.query("temperature * on(track) temperature", at=PAST)
        assert caught.value.status == 422

    @pytest.mark.parametrize("query", ["sum(", "rate(up)", 'up{a=~"("}', "up[5]", "nope(up)"])
    async def test_what_is_no_promql_reaches_the_person(self, client: PrometheusMetrics, query: str) -> None:
        with pytest.raises(BackendRefused, match=r"bad_data: .*parse error") as caught:
            await client.query(query)
        assert caught.value.status == 400

    async def test_a_range_of_too_many_points_is_refused(self, client: PrometheusMetrics) -> None:
        with pytest.raises(BackendRefused, match="11,000 points"):
            await client.query_range("up", start=PAST - timedelta(seconds=11_001), end=PAST, step=1)

    async def test_an_answer_may_be_large(self, prom: Subject, client: PrometheusMetrics) -> None:
        count, text = 4000, "x" * 400
        prom.exporter.page = "".join(f'wide{{n="{n}",text="{text}"}} {n}\n' for n in range(count))
        await prom.until("count(wide)", lambda found: found == {"": count})

        async def all_of_them() -> bool:  # a scrape that fails on a busy machine ends them for a moment
            answer = await client.query("wide")
            assert len(answer.raw) < MAX_ANSWER_BYTES
            return {s.value for s in answer.samples} == set(range(count)) and len(answer.raw) > 1_000_000

        await poll(all_of_them)

    async def test_one_that_is_too_large_is_not_read(self, client: PrometheusMetrics) -> None:
        long = f'label_replace({{__name__=~".+"}}, "a", "{"x" * 1000}", "", "")'
        query = f'label_replace({long}, "b", "{"$1" * 500}", "a", "(.*)")'
        with pytest.raises(BackendGarbage, match="larger than"):
            await client.query(query, at=PAST)

    async def test_the_server_says_what_it_is(self, prom: Subject, client: PrometheusMetrics) -> None:
        for path in ("/-/ready", "/-/healthy"):
            async with prom.session.get(f"{prom.url}{path}") as response:
                assert response.status == 200
        build = await client.status("buildinfo")
        assert {"version", "revision", "branch", "buildUser", "buildDate", "goVersion"} <= build.keys()
        assert build["version"].startswith("2.42.0")
        runtime = await client.status("runtimeinfo")
        assert datetime.fromisoformat(runtime["startTime"].replace("Z", "+00:00")).tzinfo is not None
        async with prom.session.get(f"{prom.url}/metrics") as response:
            assert "prometheus_build_info{" in await response.text()
        async with prom.session.get(f"{prom.url}/api/v1/nowhere") as response:
            assert response.status == 404


class TestOutages:
    async def test_a_frozen_server_is_unreachable_and_comes_back(self, prom: Subject) -> None:
        metrics = PrometheusMetrics(prom.url, deadline=0.5)
        try:
            await prom.server.freeze()
            with pytest.raises(BackendUnreachable):
                await metrics.query("vector(1)")
            await prom.server.thaw()
            assert (await metrics.query("vector(1)", deadline=20.0)).samples
        finally:
            await prom.server.thaw()
            await metrics.close()

    async def test_after_a_restart_the_samples_are_there(self, prom: Subject) -> None:
        prom.exporter.page = "kept_over_restart 7\n"
        await prom.until("kept_over_restart", bool)
        metrics = PrometheusMetrics(prom.url)
        try:
            await prom.server.die()
            with pytest.raises(BackendUnreachable, match="nothing listens"):
                await metrics.query("kept_over_restart")
            # A server that goes away marks nothing as stale: what was measured last stays in sight.
            prom.exporter.page = ""
            await prom.server.live()
            answer = await metrics.query("kept_over_restart")
            assert [s.value for s in answer.samples] == [7.0]
        finally:
            await prom.server.live()
            await metrics.close()

    async def test_a_part_that_is_missing_is_a_warning(
        self, prom: Subject, client: PrometheusMetrics
    ) -> None:
        assert (await client.query("temperature", at=PAST)).warnings == ()
        await prom.server.lose_a_part()
        try:
            answer = await client.query("temperature", at=PAST)
            assert answer.warnings
            assert json.loads(answer.raw)["status"] == "success"
        finally:
            await prom.server.find_it()
        assert (await client.query("temperature", at=PAST)).warnings == ()

    async def test_many_ask_at_once(self, client: PrometheusMetrics) -> None:
        answers = await asyncio.gather(*(client.query(f"vector({n})") for n in range(30)))
        assert [answer.samples[0].value for answer in answers] == list(range(30))


class TestRules:
    async def test_rules_record_and_alert(self, prom: Subject, client: PrometheusMetrics) -> None:
        target = {"instance": prom.exporter.address, "job": "app", "track": "canary"}
        alert = AlertingRule(
            "Burning",
            'burning:max{team="a"} > 1',
            hold_s=0.8,
            labels={"severity": "page", "copy": "{{ $labels.track }}"},
            annotations={"summary": "{{ $labels.track }} burns at {{ $value }}"},
        )
        await prom.server.rules(
            [RecordingRule("burning:max", "max by (track) (kept_burning)", {"team": "a"}), alert]
        )
        try:
            prom.exporter.page = "kept_burning 3.5\n"
            recorded = await prom.until("burning:max", bool)
            assert recorded == {"__name__=burning:max,team=a,track=canary": 3.5}
            assert (await client.query("kept_burning")).samples[0].labels == {
                "__name__": "kept_burning",
                **target,
            }
            own = {
                "team": "a",
                "track": "canary",
                "alertname": "Burning",
                "severity": "page",
                "copy": "canary",
            }
            states = await self._states_until_firing(prom)
            assert states == ["pending", "firing"]
            _, answer = await prom.get("/api/v1/alerts")
            (shown,) = answer["data"]["alerts"]
            assert (shown["labels"], shown["state"]) == (own, "firing")
            assert shown["annotations"] == {"summary": "canary burns at 3.5"}
            assert float(shown["value"]) == 3.5
            began = datetime.fromisoformat(shown["activeAt"][:19] + "+00:00").timestamp()
            (since,) = (await client.query("ALERTS_FOR_STATE")).samples
            assert abs(since.value - began) <= 1.0
            (firing,) = (await client.query("ALERTS")).samples
            assert firing.labels == {"__name__": "ALERTS", "alertstate": "firing", **own}
            prom.exporter.page = "kept_burning 0\n"
            await prom.until("ALERTS or ALERTS_FOR_STATE", lambda found: not found)
            _, answer = await prom.get("/api/v1/alerts")
            assert answer["data"]["alerts"] == []
        finally:
            await prom.server.rules([])

    async def _states_until_firing(self, prom: Subject) -> list[str]:
        seen: list[str] = []

        async def firing() -> bool:
            _, answer = await prom.get("/api/v1/alerts")
            seen.extend(one["state"] for one in answer["data"]["alerts"] if one["state"] not in seen)
            return "firing" in seen

        await poll(firing)
        return seen

    async def test_without_rules_there_are_none(self, prom: Subject) -> None:
        _, answer = await prom.get("/api/v1/alerts")
        assert answer["data"] == {"alerts": []}


async def test_a_form_and_an_address_may_both_carry_parameters(prom: Subject) -> None:
    url = f"{prom.url}/api/v1/query?query=vector(1)&time=1&nobody=knows"
    async with prom.session.post(url, data={"query": "vector(2)"}) as response:
        answer = await response.json()
    assert answer["data"]["result"] == [{"metric": {}, "value": [1, "2"]}]
    timeout = aiohttp.ClientTimeout(total=20)
    async with prom.session.put(f"{prom.url}/api/v1/query", data={}, timeout=timeout) as response:
        assert response.status == 405
