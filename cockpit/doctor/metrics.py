"""Prometheus: reachable, on time, kept long enough, and an answer to every query of the plan."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, BackendRefused, BackendUnreachable
from cockpit.connecting import Clients
from cockpit.doctor.checks import Finding, Probe, fail, ok, unused, warn
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.model import Plan
from cockpit.plan.values import parse_duration
from cockpit.verdicts.questions import queries_for, stable_names, window_text

PART = "prometheus"
_AT_ONCE = 4
_SHOWN = 3
_UNITS = {"w": 7 * 86400.0, "y": 365 * 86400.0}


class MetricsPart:
    """The probes of the metrics, and their connections, which the caller closes."""

    def __init__(self, plan: Plan, clients: Clients, clock: Clock) -> None:
        self._plan = plan
        self._clients = clients
        self._clock = clock
        self._metrics: PrometheusMetrics | None = None
        # As many as the client asks at once: waiting for a turn is not the server's time.
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """Close every connection."""
        if self._metrics is not None:
            await self._metrics.close()

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        url = self._plan.targets.prometheus.url
        todo = "check `targets.prometheus.url`, and that Prometheus runs and is ready"
        reach = Probe(PART, "reachable", url, self._reach, todo)
        yield reach
        yield clock_probe(PART, url, self._now, self._clock, reach, resolution=0.001)
        todo = "look at Prometheus' own status page"
        yield Probe(PART, "retention", url, self._retention, todo, reach)
        todo = "correct the query in the plan; try it in Prometheus' own page"
        yield Probe(PART, "queries", url, self._queries, todo, reach)
        todo = "check the labels in the query, that stable is scraped, and that it has traffic"
        yield Probe(PART, "stable has data", url, self._stable, todo, reach)
        todo = "check the metric's name in the query, and that the services export it"
        yield Probe(PART, "metrics are there", url, self._names, todo, reach)

    async def _reach(self) -> Finding:
        metrics = self._metrics = self._clients.metrics()
        await metrics.query("time()")
        try:
            version = (await metrics.status("buildinfo")).get("version", "")
        except BackendRefused as error:
            if error.status != 404:
                raise
            version = ""
        return ok(version or "it answers and does not say its version", version=version)

    async def _now(self) -> float:
        return (await self._there.query("time()")).evaluated_at

    async def _retention(self) -> Finding:
        longest = max(self._plan.canary.bake, *(one.long for one in self._plan.canary.burn.windows))
        try:
            said = await self._there.status("runtimeinfo")
        except BackendRefused as error:
            if error.status != 404:
                raise
            said = {}
        kept = said.get("storageRetention", "")
        if said.get("reloadConfigSuccess") == "False":
            return fail("its last change of configuration failed", "correct Prometheus' configuration")
        seconds = _seconds(kept)
        if seconds is None:
            asked = f"check that samples of {window_text(longest)} are kept"
            return warn("it does not say how long it keeps samples", asked)
        found = f"{kept} kept, {window_text(longest)} needed"
        if seconds < longest:
            return fail(found, "let it keep samples longer, or shorten `canary.burn.windows`", retention=kept)
        return ok(found, retention=kept)

    # -- queries --------------------------------------------------------------------------------------

    async def _queries(self) -> Finding:
        texts = _texts(self._plan)
        problems = await self._asked(texts, data=False)
        return _found(problems, len(texts), "answered", "correct the query in the plan: ")

    async def _stable(self) -> Finding:
        canary = self._plan.canary
        texts = queries_for(canary.model_dump(), canary.bake, weight=canary.steps[0])
        # Events may be none at all (no error yet); their total and a histogram may not.
        kinds = {f"baseline.{one.metric}.stable": one.kind for one in canary.baseline}
        needed = {
            name: texts[name] for name in stable_names(canary.model_dump()) if kinds.get(name) != "proportion"
        }
        problems = await self._asked(needed, data=True)
        return _found(problems, len(needed), "with data", "check labels, scraping and traffic of stable: ")

    async def _names(self) -> Finding:
        names: set[str] = set()
        for text in _texts(self._plan).values():
            names |= metrics_in(text)
        if not names:
            return unused("the queries name no metric that could be looked for")
        problems = await self._asked({name: f"count({name})" for name in sorted(names)}, data=True)
        return _found(problems, len(names), "there", "check the name, and that the services export it: ")

    async def _asked(self, texts: dict[str, str], *, data: bool) -> dict[str, str]:
        """Ask all and return what is wrong, by name; `data`: an empty answer is."""
        deadline = self._plan.canary.query_deadline

        async def one(text: str) -> str:
            try:
                async with self._slots:
                    answer = await self._there.query(text, deadline=deadline)
            except BackendUnreachable:
                raise
            except BackendError as error:
                return error.what
            return "no data" if data and not answer.samples else ""

        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(one(text)) for name, text in texts.items()}
        return {name: task.result() for name, task in tasks.items() if task.result()}

    @property
    def _there(self) -> PrometheusMetrics:
        assert self._metrics is not None  # every probe needs `reachable`
        return self._metrics


def metrics_in(query: str) -> set[str]:
    """Return the names of the metrics a query selects; none for what is no PromQL known here."""
    import promql_parser as ast

    found: set[str] = set()
    try:
        waiting = [ast.parse(query)]
    except ValueError:
        return found
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.VectorSelector):
            if isinstance(node.name, str):
                found.add(node.name)
        elif isinstance(node, ast.MatrixSelector):
            waiting.append(node.vector_selector)
        elif isinstance(node, ast.BinaryExpr):
            waiting += [node.lhs, node.rhs]
        elif isinstance(node, ast.Call):
            waiting += node.args
        elif isinstance(node, (ast.AggregateExpr, ast.ParenExpr, ast.UnaryExpr, ast.SubqueryExpr)):
            waiting.append(node.expr)
    return found


def _texts(plan: Plan) -> dict[str, str]:
    """Return every query of the plan by a name, with its window filled in."""
    canary = plan.canary
    texts = queries_for(canary.model_dump(), canary.bake, weight=canary.steps[0])
    for stage in plan.stages:
        window = window_text(stage.bake or canary.bake)
        for check in stage.checks:
            texts[f"{stage.environment}.{check.metric}"] = check.query.replace("{window}", window)
    if plan.chaos is not None:
        for check in plan.chaos.steady:
            texts[f"chaos.{check.metric}"] = check.query.replace("{window}", window_text(plan.chaos.window))
    if plan.kpis is not None:
        for kpi in plan.kpis.items:
            texts[f"kpi.{kpi.name}"] = kpi.query.replace("{window}", window_text(plan.kpis.window))
    for risk in plan.risks:
        for number, trigger in enumerate(risk.triggers):
            texts[f"{risk.id}.{number}"] = trigger.query
    return texts


def _found(problems: dict[str, str], asked: int, what: str, todo: str) -> Finding:
    if not problems:
        return ok(f"all {asked} {what}", asked=asked)
    shown = [f"{name} ({said})" for name, said in list(problems.items())[:_SHOWN]]
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    names = ", ".join(problems)
    return fail(
        f"{len(problems)} of {asked} not {what}: {'; '.join(shown)}{more}",
        todo + names,
        asked=asked,
        lacking=names,
    )


def _seconds(retention: str) -> float | None:
    """Return Prometheus' `15d`, `2w` or `15d or 10GiB` in seconds; None when that says no time."""
    text = retention.partition(" or ")[0].strip()
    weeks = re.fullmatch(r"(\d+)([wy])", text)
    if weeks:
        return int(weeks[1]) * _UNITS[weeks[2]]
    try:
        return parse_duration(text) or None
    except ValueError:
        return None
