"""Plans in which flags or KPIs would only be found missing when prod traffic has moved are refused."""

from __future__ import annotations

from typing import Any

import pytest

from cockpit.plan.model import Plan
from cockpit.plan.refuse import unfailable
from tests.unit.plan.test_refuse import data as plan_data

FLAGS = {"namespace": "intelgraph", "configmap": "flags", "evaluate_url": "http://127.0.0.1:8016"}
KPI = {"name": "orders", "query": "sum(orders)", "better": "higher"}


def refused(flags: bool = True, **more: Any) -> set[str]:
    data = plan_data() | {"agents": ["A1", "A43", "A55"], "ga_flags": ["search"]} | more
    data["targets"] = {**data["targets"], **({"flags": FLAGS} if flags else {})}
    if not flags:
        data["targets"].pop("flags", None)
    return {field for field, _, _ in unfailable(Plan.model_validate(data))} & {
        "targets.flags",
        "ga_flags",
        "pilot_tenants",
        "kpis",
        "kpis.items",
    }


def test_a_plan_with_all_of_it_is_taken() -> None:
    assert refused(auto_ramp_flags=True, kpis={"items": [KPI]}, phases=["P6", "P8"]) == set()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"flags": False}, "targets.flags"),
        ({"ga_flags": []}, "ga_flags"),
        ({"auto_ramp_flags": True, "pilot_tenants": []}, "pilot_tenants"),
        ({"phases": ["P6", "P8"], "kpis": None}, "kpis"),
        ({"kpis": {"items": [KPI, KPI]}}, "kpis.items"),
    ],
)
def test_what_is_missing_is_named(more: dict[str, Any], field: str) -> None:
    assert refused(**more) == {field}


def test_nobody_who_needs_it_needs_it() -> None:
    assert refused(flags=False, agents=["A1"], ga_flags=[], phases=["P6", "P8"], kpis=None) == set()
