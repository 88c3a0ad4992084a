"""The stand-in's PromQL against a real Prometheus over the same samples: equal to 1e-9, or it says that it
does not know; what it does not know is a list, and nothing may come to it unseen."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from cockpit.rehearsal.prometheus.dialect import AGGREGATIONS, FUNCTIONS
from tests.contract import promql_cases as cases
from tests.contract import promql_generated as generated
from tests.contract.prometheus_fixtures import Subject

pytestmark = [pytest.mark.contract, pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

_AT_ONCE = 8
_SHOWN = 5
_FULL = 0.45
"""The share of answers that must hold something; of what is drawn at random it is a half."""
GENERATED_MOMENTS = (cases.END_S - 7,)
WINDOW = {"start": str(cases.START_S - 20), "end": str(cases.END_S + 400), "step": "37s"}
COARSE = {"start": str(cases.START_S + 11), "end": str(cases.END_S + 400), "step": "131.25"}
PLATFORM_WINDOW = {
    "start": str(cases.PLATFORM_END_S - cases.SAMPLES * cases.STEP_S),
    "end": str(cases.PLATFORM_END_S + 100),
    "step": "23.5",
}


@dataclass(frozen=True)
class Difference:
    """An expression on which the two do not agree, and what each said."""

    query: str
    parameters: dict[str, str]
    real: Any
    standin: Any


@dataclass(frozen=True)
class Pair:
    """Both servers."""

    real: Subject
    standin: Subject

    async def differences(
        self, queries: Iterable[str], parameters: Iterable[dict[str, str]]
    ) -> list[Difference]:
        """Ask both for every query with each of the parameters; return where they do not agree.

        Fails when there was not enough to agree on: two empty answers, or two errors, are alike.
        """
        moments = list(parameters)
        jobs = [(query, moment) for query in queries for moment in moments]
        found: list[Difference] = []
        full = 0
        waiting = iter(jobs)

        async def work() -> None:
            nonlocal full
            for query, moment in waiting:
                real, ours = await asyncio.gather(
                    _ask(self.real, query, moment), _ask(self.standin, query, moment)
                )
                full += bool(real[1]["status"] == "success" and real[1]["data"]["result"])
                if not _agree(query, moment, real, ours):
                    found.append(Difference(query, moment, real[1], ours[1]))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(work())
        assert full > _FULL * len(jobs), f"only {full} of {len(jobs)} answers hold anything"
        return found


@pytest.fixture
def pair(prometheus_real: Subject, prometheus_standin: Subject) -> Pair:
    """Both servers, with the same past."""
    return Pair(prometheus_real, prometheus_standin)


async def _ask(server: Subject, query: str, parameters: dict[str, str]) -> tuple[int, dict[str, Any]]:
    path = "/api/v1/query_range" if "step" in parameters else "/api/v1/query"
    return await server.post(path, query=query, **parameters)


def same(a: Any, b: Any) -> bool:
    """Compare results: numbers in texts to 1e-9, everything else exactly."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, str) and isinstance(b, str) and a != b:
        try:
            return math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-12)
        except ValueError:
            return False
    return bool(a == b)


def _agree(
    query: str, parameters: dict[str, str], real: tuple[int, dict[str, Any]], ours: tuple[int, dict[str, Any]]
) -> bool:
    ordered = query.startswith("sort") and "step" not in parameters
    return real[0] == ours[0] and same(_comparable(real[1], ordered), _comparable(ours[1], ordered))


def _comparable(answer: dict[str, Any], ordered: bool) -> Any:
    if answer["status"] == "error":
        return answer["errorType"]
    data = answer["data"]
    if ordered and data["resultType"] == "vector":
        # The places of equal values are not laid down.
        return [one["value"][1] for one in data["result"]]
    if data["resultType"] in ("vector", "matrix"):
        result = sorted(data["result"], key=lambda one: sorted(one["metric"].items()))
        return {**data, "result": result}
    return data


def _none(differences: list[Difference]) -> None:
    shown = "\n".join(str(one) for one in differences[:_SHOWN])
    assert not differences, f"{len(differences)} differences:\n{shown}"


def _times(moments: Iterable[float]) -> list[dict[str, str]]:
    return [{"time": str(moment)} for moment in moments]


async def test_expressions_written_by_hand_agree(pair: Pair) -> None:
    _none(await pair.differences(cases.EXPRESSIONS, [*_times(cases.MOMENTS), WINDOW]))


async def test_every_function_and_operator_agrees(pair: Pair) -> None:
    _none(await pair.differences(generated.systematic(), [*_times(GENERATED_MOMENTS), COARSE]))


async def test_expressions_drawn_at_random_agree(pair: Pair) -> None:
    _none(await pair.differences(generated.drawn(), [COARSE]))


async def test_what_the_cockpit_asks_agrees(pair: Pair) -> None:
    moments = _times((cases.PLATFORM_END_S, cases.PLATFORM_END_S - 100.5))
    _none(await pair.differences(generated.of_the_cockpit(), [*moments, PLATFORM_WINDOW]))


async def test_what_the_stand_in_does_not_know_is_this_list(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {"time": str(cases.END_S)}
    said = {}
    for query in cases.NOT_KNOWN:
        real, ours = await _ask(pair.real, query, at), await _ask(pair.standin, query, at)
        assert real[0] == 200, (query, real)
        assert ours[1]["status"] == "error", f"{query} is known: take it off the list"
        said[query] = ours[1]["error"]
    with capsys.disabled():
        print(f"\n{len(said)} expressions the stand-in answers with an error:")
        for query, error in said.items():
            print(f"  {query}: {error}")


async def test_every_name_of_prometheus_is_tried() -> None:
    tried = "\n".join((*cases.EXPRESSIONS, *generated.systematic(), *cases.NOT_KNOWN))
    missing = [name for name in (*FUNCTIONS, *AGGREGATIONS) if not re.search(rf"\b{name}\b", tried)]
    assert missing == []


async def test_regular_expressions_agree(pair: Pair) -> None:
    queries = []
    for pattern, *texts in cases.PATTERNS:
        for text in texts:
            made = f'label_replace(vector(1), "made", {_literal(text)}, "", "")'
            queries.append(f'label_replace({made}, "is", "matched", "made", {_literal(pattern)})')
    _none(await pair.differences(queries, _times([cases.END_S])))
    for pattern in cases.BAD_PATTERNS:
        matched = f"temperature{{pod=~{_literal(pattern)}}}"
        replaced = f'label_replace(temperature, "a", "b", "pod", {_literal(pattern)})'
        for server in (pair.real, pair.standin):
            status, _ = await server.post("/api/v1/query", query=matched)
            assert status == 400, (pattern, server.url)
            status, _ = await server.post("/api/v1/query", query=replaced, time=str(cases.END_S))
            assert status == 422, (pattern, server.url)


def _literal(text: str) -> str:
    """Return a text as PromQL writes it; a dollar sign stays one in a replacement."""
    return json.dumps(text, ensure_ascii=False)


async def test_refusals_agree(pair: Pair) -> None:
    for query in cases.REFUSED:
        for server in (pair.real, pair.standin):
            status, answer = await server.post("/api/v1/query", query=query)
            got = (status, answer["status"], answer.get("errorType"))
            assert got == (400, "error", "bad_data"), (query, server.url, answer)
