"""Asking the metrics back end many questions at once, with everything a verdict must say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cockpit.agentkit.context import Context
from cockpit.agents.common import together
from cockpit.base.clock import iso
from cockpit.base.errors import BackendError
from cockpit.rpc.messages import Query
from cockpit.verdicts.answers import MetricAnswer
from cockpit.verdicts.questions import error_answer


@dataclass(frozen=True, slots=True)
class Asked:
    """Raw answers and descriptions by name; `now` is Unix seconds by the back end's clock."""

    answers: dict[str, bytes]
    queries: dict[str, Query]
    now: float


async def ask(
    context: Context,
    texts: Mapping[str, str],
    *,
    window_s: float | None = None,
    at: Mapping[str, datetime] | None = None,
) -> Asked:
    """Ask every query at once. One that does not answer leaves an error in its place: the rule decides.

    `at` gives the moment of the queries that are not about now, by name.
    """
    metrics = context.metrics
    deadline = context.plan.canary.query_deadline

    async def one(text: str, moment: datetime | None) -> MetricAnswer | BackendError:
        try:
            return await metrics.query(text, at=moment, deadline=deadline)
        except BackendError as error:
            return error

    every = await together({name: one(text, (at or {}).get(name)) for name, text in texts.items()})
    answers: dict[str, bytes] = {}
    queries: dict[str, Query] = {}
    offsets = []
    for name, found in every.items():
        if isinstance(found, BackendError):
            answers[name] = error_answer("http", str(found))
            queries[name] = Query(text=texts[name][:4000], backend="prometheus", asked_at=context.now())
            continue
        answers[name] = found.raw
        if found.clock_offset_s is not None:
            offsets.append(found.clock_offset_s)
        queries[name] = Query(
            text=texts[name][:4000],
            backend="prometheus",
            asked_at=found.asked_at,
            evaluated_at=iso(datetime.fromtimestamp(found.evaluated_at, UTC)),
            clock_offset_s=found.clock_offset_s,
            window_s=window_s,
            samples=len(found.samples),
        )
    offset = sorted(offsets)[len(offsets) // 2] if offsets else 0.0
    return Asked(answers, queries, context.clock.now().timestamp() + offset)
