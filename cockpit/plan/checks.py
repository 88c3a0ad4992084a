"""One look at one number, used by the canary, stages, soak and drills."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cockpit.plan.values import Strict


class MetricCheck(Strict):
    """One absolute look at the canary: `query` gives one number named `metric`, held against `threshold`.

    `{window}` in the query is replaced by the look's window, e.g. `8s`.
    """

    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    query: Annotated[str, Field(min_length=1, max_length=4000)]
    threshold: str
    critical: bool = True
