"""The HTTP API v1 of Prometheus over the store."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from cockpit.rehearsal.prometheus.faults import Faults, spoil
from cockpit.rehearsal.prometheus.promql import MAX_STEPS, Evaluator
from cockpit.rehearsal.prometheus.regex import BadPattern, UnknownPattern
from cockpit.rehearsal.prometheus.rules import ActiveAlert
from cockpit.rehearsal.prometheus.scrape import ScrapeLoop
from cockpit.rehearsal.prometheus.store import Labels, Store
from cockpit.rehearsal.prometheus.syntax import parse, result_type, selector_matchers
from cockpit.rehearsal.prometheus.vectors import QueryFailed, execution
from cockpit.rehearsal.prometheus.wire import (
    matrix_json,
    metric,
    number,
    parse_step,
    parse_time,
    value_json,
)

VERSION = "2.42.0-release-cockpit-stand-in"
_STATUS = {"bad_data": 400, "execution": 422, "not_found": 404, "unavailable": 503, "timeout": 503}
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served(Protocol):
    """What the API shows of the server."""

    store: Store
    faults: Faults
    lookback_ms: int
    interval_ms: int
    """How often rules are evaluated, and the step of subqueries that name none."""

    def now_ms(self) -> int:
        """Return the server's present time, Unix milliseconds."""
        ...

    def scrapes(self) -> list[ScrapeLoop]:
        """Return the targets' loops."""
        ...

    def alerts(self) -> list[ActiveAlert]:
        """Return pending and firing alerts."""
        ...


def application(served: Served) -> web.Application:
    """Return the API as an aiohttp application."""
    api = _Api(served)
    app = web.Application(middlewares=[_middleware(api)], client_max_size=1 << 20)
    for path, handler in (
        ("/api/v1/query", api.query),
        ("/api/v1/query_range", api.query_range),
        ("/api/v1/series", api.series),
        ("/api/v1/labels", api.labels),
    ):
        app.router.add_get(path, handler)
        app.router.add_post(path, handler)
    app.router.add_get("/api/v1/label/{name}/values", api.label_values)
    app.router.add_get("/api/v1/targets", api.targets)
    app.router.add_get("/api/v1/alerts", api.alerts)
    app.router.add_get("/api/v1/status/buildinfo", api.buildinfo)
    app.router.add_get("/api/v1/status/runtimeinfo", api.runtimeinfo)
    app.router.add_get("/-/healthy", api.healthy)
    app.router.add_get("/-/ready", api.healthy)
    app.router.add_get("/metrics", api.metrics)
    return app


def _middleware(api: _Api) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await api.guard(request, handler)

    return guard


class Parameters:
    """The parameters of a request, from its form and its query string, the form first."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = list(pairs)

    @classmethod
    async def of(cls, request: web.Request) -> Parameters:
        """Read them from `request`."""
        pairs: list[tuple[str, str]] = []
        if request.method == "POST":
            pairs += [(k, v) for k, v in (await request.post()).items() if isinstance(v, str)]
        return cls([*pairs, *request.query.items()])

    def get(self, name: str) -> str:
        """Return the first value of `name`, or nothing."""
        return next((value for key, value in self._pairs if key == name), "")

    def all(self, name: str) -> list[str]:
        """Return every value of `name`."""
        return [value for key, value in self._pairs if key == name]


class _Api:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._since = _rfc3339(served.now_ms())

    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn errors into the API's error answers and apply faults."""
        text = (await Parameters.of(request)).get("query")
        mode = self._served.faults.applies(text)
        if mode == "unavailable":
            return web.Response(status=503, text="Service Unavailable")
        if mode == "hang":
            await self._served.faults.hang()
        if mode == "drop" and request.transport is not None:
            request.transport.abort()
            return web.Response()
        if mode == "garbage":
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if mode == "drip":
            return await self._drip(request)
        try:
            answer = await handler(request)
        except QueryFailed as error:
            answer = _failure(error)
        except BadPattern as error:
            answer = _failure(QueryFailed("bad_data", f"error parsing regexp: {error}"))
        except UnknownPattern as error:
            answer = _failure(execution(f"the stand-in does not know this regular expression: {error}"))
        if mode == "truncated" and isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            return web.Response(body=answer.body[: len(answer.body) // 2], content_type="application/json")
        return answer

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        faults = self._served.faults
        try:
            while faults.mode == "drip":
                await response.write(b" ")
                try:
                    async with asyncio.timeout(0.1):
                        await faults.changed()
                except TimeoutError:
                    pass
        except ConnectionError:
            pass  # the client has had enough
        return response

    async def query(self, request: web.Request) -> web.Response:
        parameters = await Parameters.of(request)
        at = self._time(parameters, "time", self._served.now_ms())
        query = parameters.get("query")
        expression = parse(query)
        value = self._evaluator(at, at).at(expression, at)
        matrix = result_type(expression) == "matrix"
        return self._data(value_json(value, at, matrix=matrix), query)

    async def query_range(self, request: web.Request) -> web.Response:
        parameters = await Parameters.of(request)
        start = parse_time(parameters.get("start"), "start")
        end = parse_time(parameters.get("end"), "end")
        if end < start:
            raise QueryFailed(
                "bad_data", 'invalid parameter "end": end timestamp must not be before start time'
            )
        step = parse_step(parameters.get("step"))
        if (end - start) // step > MAX_STEPS:
            raise QueryFailed(
                "bad_data",
                "exceeded maximum resolution of 11,000 points per timeseries. "
                "Try decreasing the query resolution (?step=XX)",
            )
        query = parameters.get("query")
        expression = parse(query)
        kind = result_type(expression)
        if kind != "value":
            shown = "range vector" if kind == "matrix" else "string"
            raise QueryFailed(
                "bad_data",
                f'invalid expression type "{shown}" for range query, must be Scalar or instant Vector',
            )
        return self._data(matrix_json(self._evaluator(start, end).over(expression, step)), query)

    async def series(self, request: web.Request) -> web.Response:
        parameters = await Parameters.of(request)
        if not parameters.all("match[]"):
            raise QueryFailed("bad_data", "no match[] parameter provided")
        found = [metric(labels) for labels in self._selected(parameters)]
        return _success(sorted(found, key=lambda labels: sorted(labels.items())))

    async def labels(self, request: web.Request) -> web.Response:
        parameters = await Parameters.of(request)
        return _success(sorted({name for labels in self._selected(parameters) for name in labels}))

    async def label_values(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if _LABEL_NAME.fullmatch(name) is None:
            raise QueryFailed("bad_data", f'invalid label name: "{name[:100]}"')
        parameters = await Parameters.of(request)
        return _success(sorted({labels[name] for labels in self._selected(parameters) if name in labels}))

    async def targets(self, request: web.Request) -> web.Response:
        active = [
            {
                "discoveredLabels": metric(loop.target.discovered),
                "labels": metric(loop.target.labels),
                "scrapePool": loop.target.discovered["job"],
                "scrapeUrl": loop.target.url,
                "globalUrl": loop.target.url,
                "lastError": loop.last_error,
                "lastScrape": _rfc3339(loop.last_scrape_ms),
                "lastScrapeDuration": loop.last_duration_s,
                "health": loop.health,
            }
            for loop in self._served.scrapes()
        ]
        return _success({"activeTargets": active, "droppedTargets": []})

    async def alerts(self, request: web.Request) -> web.Response:
        alerts = [
            {
                "labels": metric(alert.labels),
                "annotations": alert.annotations,
                "state": "firing" if alert.firing else "pending",
                "activeAt": _rfc3339(alert.since_ms),
                "value": number(alert.value),
            }
            for alert in self._served.alerts()
        ]
        return _success({"alerts": alerts})

    async def buildinfo(self, request: web.Request) -> web.Response:
        return _success(
            {
                "version": VERSION,
                "revision": "stand-in",
                "branch": "stand-in",
                "buildUser": "Release Cockpit rehearsal",
                "buildDate": "",
                "goVersion": "",
            }
        )

    async def runtimeinfo(self, request: web.Request) -> web.Response:
        kept = f"{self._served.store.retention_s:g}s"
        return _success(
            {
                "startTime": self._since,
                "reloadConfigSuccess": True,
                "lastConfigTime": self._since,
                "corruptionCount": 0,
                "storageRetention": kept,
            }
        )

    async def healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="The Prometheus stand-in is up.\n")

    async def metrics(self, request: web.Request) -> web.Response:
        text = (
            "# TYPE prometheus_build_info gauge\n"
            f'prometheus_build_info{{version="{VERSION}"}} 1\n'
            "# TYPE prometheus_tsdb_head_series gauge\n"
            f"prometheus_tsdb_head_series {len(self._served.store)}\n"
        )
        return web.Response(text=text)

    def _evaluator(self, start: int, end: int) -> Evaluator:
        served = self._served
        return Evaluator(served.store, served.lookback_ms, start, end, step_ms=served.interval_ms)

    def _time(self, parameters: Parameters, name: str, default: int) -> int:
        text = parameters.get(name)
        return parse_time(text, name) if text else default

    def _selected(self, parameters: Parameters) -> list[Labels]:
        """Return the labels of matching series that have a sample between `start` and `end`."""
        start = self._time(parameters, "start", 0)
        end = self._time(parameters, "end", 1 << 60)
        selectors = [selector_matchers(text) for text in parameters.all("match[]")]
        store = self._served.store
        series = [one for s in selectors for one in store.select(s)] if selectors else list(store)
        inside = {one.key: one.labels for one in series if any(start <= t <= end for t in one.times)}
        return list(inside.values())

    def _data(self, data: dict[str, Any], query: str) -> web.Response:
        return _success(data, spoil(self._served.faults.applies(query), data))


def _success(data: Any, warnings: Iterable[str] = ()) -> web.Response:
    answer: dict[str, Any] = {"status": "success", "data": data}
    if warnings := list(warnings):
        answer["warnings"] = warnings
    return _json(answer, 200)


def _failure(error: QueryFailed) -> web.Response:
    answer = {"status": "error", "errorType": error.kind, "error": str(error)}
    return _json(answer, _STATUS.get(error.kind, 500))


def _json(answer: dict[str, Any], status: int) -> web.Response:
    body = json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def _rfc3339(time_ms: int) -> str:
    if not time_ms:
        return "0001-01-01T00:00:00Z"  # Go's zero time
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}Z"
