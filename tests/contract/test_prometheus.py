"""One suite over the Prometheus stand-in and the real server: what they scrape and how they answer."""

from __future__ import annotations

import math

import pytest

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.errors import BackendRefused
from tests.contract.prometheus_fixtures import Subject, poll

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="session")]

NUMBERS = (
    ("1e-9", "1e-09", "0.000000001"),
    ("1.5e-7", "1.5e-07", "0.00000015"),
    ("1e-5", "0.00001", "0.00001"),
    ("123456.789", "123456.789", "123456.789"),
    ("1e20", "100000000000000000000", "100000000000000000000"),
    ("1.5e21", "1.5e+21", "1500000000000000000000"),
)
"""What is asked for, and how Prometheus shows it in a vector and as a scalar."""


class TestScraping:
    async def test_series_get_the_targets_labels(self, prom: Subject) -> None:
        prom.exporter.page = '# TYPE a gauge\na{x="1"} 2.5\na{x="2",} -1e3\nb 7\n'
        await prom.until("b", bool)
        target = f"instance={prom.exporter.address},job=app,track=canary"
        assert await prom.vector("{job='app',__name__=~'a|b|up'}") == {
            f"__name__=a,{target},x=1": 2.5,
            f"__name__=a,{target},x=2": -1000.0,
            f"__name__=b,{target}": 7.0,
            f"__name__=up,{target}": 1.0,
        }
        assert len(await prom.vector("scrape_duration_seconds > 0")) == 1
        assert await prom.vector("sum(scrape_samples_scraped)") == {"": 3.0}

    async def test_special_values_and_escapes(self, prom: Subject) -> None:
        prom.exporter.page = (
            'a{x="q\\"u\\\\o\\nte}",y="ü"} +Inf\na{x="n"} NaN\na{x="m"} -Inf\na{x="\\q",z="e"} 1\n'
        )
        await prom.until("a", lambda found: len(found) == 4)
        assert await prom.vector("a{x='q\"u\\\\o\\nte}',y='ü'} == Inf") != {}
        assert await prom.vector("sum(a{x='m'})") == {"": -math.inf}
        assert math.isnan((await prom.vector("sum(a{x='n'})"))[""])
        assert len(await prom.vector("a{x='\\\\q',z='e'}")) == 1

    async def test_a_label_of_the_page_does_not_hide_the_targets(self, prom: Subject) -> None:
        prom.exporter.page = 'a{job="mine",track="stable"} 1\n'
        found = await prom.until("a", bool)
        target = f"instance={prom.exporter.address},job=app,track=canary"
        assert list(found) == [f"__name__=a,exported_job=mine,exported_track=stable,{target}"]

    async def test_a_series_that_leaves_the_page_ends_at_once(self, prom: Subject) -> None:
        prom.exporter.page = 'a{x="1"} 1\na{x="2"} 1\n'
        await prom.until("count(a)", lambda found: found == {"": 2.0})
        prom.exporter.page = 'a{x="1"} 1\n'
        await prom.until("count(a)", lambda found: found == {"": 1.0})
        assert list(await prom.vector("count by (x) (a)")) == ["x=1"]
        prom.exporter.page = 'a{x="1"} 1\na{x="2"} 5\n'
        await prom.until("a{x='2'} == 5", bool)

    @pytest.mark.parametrize(
        "broken",
        ["b", "2b 3", "b{x=1} 2", "b 2 3 4", "b two", 'b{x="1" 1', '{x="1"} 1', "b 1_000"],
    )
    async def test_a_broken_page_counts_for_nothing(self, prom: Subject, broken: str) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        prom.exporter.page = f"a 2\n{broken}\n"
        await prom.until("up == 0", bool)
        # Prometheus 2.42 leaves a series standing that came before the fault; its new value must not show.
        assert await prom.vector("a == 2 or b") == {}
        prom.exporter.page = "a 3\n"
        await prom.until("a == 3", bool)
        assert list((await prom.vector("up")).values()) == [1.0]

    async def test_a_last_line_without_its_end_counts(self, prom: Subject) -> None:
        prom.exporter.page = "# comment\n\na 1\nb 2"
        await prom.until("b == 2", bool)
        assert list((await prom.vector("up")).values()) == [1.0]

    async def test_an_error_status_is_down(self, prom: Subject) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        prom.exporter.status = 500
        await prom.until("up == 0", bool)
        await prom.until("absent(a)", bool)

    async def test_a_hanging_target_is_down_and_named(self, prom: Subject) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        prom.exporter.freeze()
        await prom.until("up == 0", bool)
        _, answer = await prom.get("/api/v1/targets")
        (target,) = answer["data"]["activeTargets"]
        assert target["health"] == "down"
        assert target["lastError"]

    async def test_a_target_that_is_taken_away_ends(self, prom: Subject) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        prom.exporter.groups = []
        await prom.until("count(a) or count(up)", lambda found: not found)
        _, answer = await prom.get("/api/v1/targets")
        assert answer["data"]["activeTargets"] == []

    async def test_discovery_that_fails_keeps_the_last_targets(self, prom: Subject) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        prom.exporter.sd_status = 500
        prom.exporter.groups = []
        seen = prom.exporter.scrapes

        async def scraped_on() -> bool:
            return prom.exporter.scrapes > seen + 5

        await poll(scraped_on)
        assert await prom.vector("a")

    async def test_a_page_may_carry_its_own_timestamps(self, prom: Subject) -> None:
        prom.exporter.page = "b 1\n"
        await prom.until("b", bool)
        now = (await prom.vector("max(timestamp(up))"))[""]
        prom.exporter.page = f"own_time 5 {round(now * 1000)}\n"
        await prom.until("own_time", bool)
        assert list((await prom.vector("timestamp(own_time)")).values()) == [pytest.approx(now, abs=0.001)]

    async def test_a_live_counter_has_a_rate(self, prom: Subject) -> None:
        prom.exporter.page = "c_total 0\n"
        await prom.until("c_total", bool)
        prom.exporter.page = "c_total 60\n"
        await prom.until("increase(c_total[1m])", lambda found: any(v >= 60 for v in found.values()))


class TestApi:
    async def test_metadata(self, prom: Subject) -> None:
        prom.exporter.page = 'known{mark="2"} 1\nknown{mark="1"} 1\nother 1\n'
        await prom.until("other", bool)
        labels = {"instance": prom.exporter.address, "job": "app", "track": "canary"}
        status, answer = await prom.get("/api/v1/series", match="known")
        assert status == 200
        assert answer == {
            "status": "success",
            "data": [
                {"__name__": "known", **labels, "mark": "1"},
                {"__name__": "known", **labels, "mark": "2"},
            ],
        }
        _, answer = await prom.get("/api/v1/labels", match="known")
        assert answer["data"] == ["__name__", "instance", "job", "mark", "track"]
        _, answer = await prom.get("/api/v1/label/mark/values")
        assert answer["data"] == ["1", "2"]
        _, answer = await prom.get("/api/v1/label/mark/values", match="other")
        assert answer["data"] == []
        _, answer = await prom.get("/api/v1/series", match="known", end="1000000000")
        assert answer["data"] == []

    async def test_targets(self, prom: Subject) -> None:
        prom.exporter.page = "a 1\n"
        await prom.until("a", bool)
        _, answer = await prom.get("/api/v1/targets")
        (target,) = answer["data"]["activeTargets"]
        assert target["health"] == "up"
        assert target["scrapeUrl"] == f"http://{prom.exporter.address}/metrics"
        assert target["labels"] == {"instance": prom.exporter.address, "job": "app", "track": "canary"}
        assert target["discoveredLabels"]["__hidden"] == "x"
        assert (target["lastError"], target["scrapePool"]) == ("", "app")

    @pytest.mark.parametrize(
        ("path", "parameters", "status", "kind"),
        [
            ("query", {"query": "sum("}, 400, "bad_data"),
            ("query", {"query": ""}, 400, "bad_data"),
            ("query", {}, 400, "bad_data"),
            ("query", {"query": "1", "time": "noon"}, 400, "bad_data"),
            ("query", {"query": "up * on() up or label_replace(up, '-', '', '', '')"}, 422, "execution"),
            ("query_range", {"query": "1", "start": "0", "end": "10"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "0", "end": "10", "step": "0"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "10", "end": "0", "step": "1"}, 400, "bad_data"),
            ("query_range", {"query": "1", "start": "0", "end": "11001", "step": "1"}, 400, "bad_data"),
            ("query_range", {"query": "up[5m]", "start": "0", "end": "1", "step": "1"}, 400, "bad_data"),
            ("series", {}, 400, "bad_data"),
            ("series", {"match": "{"}, 400, "bad_data"),
            ("labels", {"match": "1"}, 400, "bad_data"),
            ("label/a-b/values", {}, 400, "bad_data"),
        ],
    )
    async def test_errors(
        self, any_prometheus: Subject, path: str, parameters: dict[str, str], status: int, kind: str
    ) -> None:
        got, answer = await any_prometheus.get(f"/api/v1/{path}", **parameters)
        assert (got, answer["status"], answer["errorType"]) == (status, "error", kind), answer
        assert answer["error"]

    async def test_answers_have_prometheus_shape(self, any_prometheus: Subject) -> None:
        at = "1700000000.25"
        for ask in (any_prometheus.get, any_prometheus.post):
            _, answer = await ask("/api/v1/query", query="vector(0.5)", time=at)
            assert answer == {
                "status": "success",
                "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1700000000.25, "0.5"]}]},
            }
            window = {"start": "2023-11-14T22:13:20Z", "end": "1700000002", "step": "1s"}
            _, answer = await ask("/api/v1/query_range", query="time()", **window)
            values = [[1700000000 + i, str(1700000000 + i)] for i in range(3)]
            assert answer["data"] == {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
        _, answer = await any_prometheus.get("/api/v1/query", query="1/0", time=at)
        assert answer["data"] == {"resultType": "scalar", "result": [1700000000.25, "+Inf"]}
        _, answer = await any_prometheus.get("/api/v1/query", query="0/0", time=at)
        assert answer["data"]["result"][1] == "NaN"
        _, answer = await any_prometheus.get("/api/v1/query", query="'text'", time=at)
        assert answer["data"] == {"resultType": "string", "result": [1700000000.25, "text"]}
        for text, in_vector, as_scalar in NUMBERS:
            _, answer = await any_prometheus.get("/api/v1/query", query=f"vector({text})", time=at)
            assert answer["data"]["result"][0]["value"][1] == in_vector
            _, answer = await any_prometheus.get("/api/v1/query", query=text, time=at)
            assert answer["data"]["result"][1] == as_scalar

    async def test_the_client_reads_it(self, prom: Subject) -> None:
        prom.exporter.page = 'a{x="1"} 2\n'
        await prom.until("a", bool)
        metrics = PrometheusMetrics(prom.url)
        try:
            answer = await metrics.query("a")
            assert [(s.labels["x"], s.value) for s in answer.samples] == [("1", 2.0)]
            assert answer.clock_offset_s is not None
            assert abs(answer.clock_offset_s) < 5
            with pytest.raises(BackendRefused) as caught:
                await metrics.query("sum(")
            assert caught.value.status == 400
        finally:
            await metrics.close()
