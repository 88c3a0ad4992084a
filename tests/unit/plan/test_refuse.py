from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from cockpit.plan.model import Plan
from cockpit.plan.refuse import unfailable
from cockpit.rehearsal.pace import PACES
from cockpit.rehearsal.release_plan import Endpoints, ImageTrust, build
from cockpit.rehearsal.scenarios import SCENARIOS


def data(pace: str = "fast") -> dict[str, Any]:
    url = "http://127.0.0.1:1"
    digest = "@sha256:" + "a" * 64
    endpoints = Endpoints(
        kubernetes=url, kubernetes_token="file:t", prometheus=url, registry=url, entry=url, load=url,
        stages={"intelgraph-dev": url, "intelgraph-stage": url},
               token_url=url, token_secret="file:s", issuer=url, trust_config="t.json", repository="repo",
        from_ref="a", to_ref="b", webhook=url, webhook_secret="file:w",
        issues=url, issues_repository="intelgraph/platform", issues_token="file:i", flags=url,
    )  # fmt: skip
    images = {
        name: f"r/{name}{digest}" for name in ("gateway", "web", "search", "realtime", "reports", "ingest")
    }
    trust = ImageTrust("i", "https://issuer", "b", "s")
    return build(endpoints, images, trust, PACES[pace], datetime(2025, 9, 23, tzinfo=UTC), SCENARIOS["green"])


def problems(change: dict[str, Any] | None = None, **canary: Any) -> list[str]:
    plan = data()
    plan["canary"].update(canary)
    plan.update(change or {})
    return [field for field, _, _ in unfailable(Plan.model_validate(plan))]


@pytest.mark.parametrize("pace", sorted(PACES))
def test_the_rehearsals_plan_can_fail(pace: str) -> None:
    assert unfailable(Plan.model_validate(data(pace))) == []


def check(**changes: Any) -> dict[str, Any]:
    return {**data()["canary"]["checks"][0], **changes}


def baseline(index: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**data()["canary"]["baseline"][index], **changes}]


@pytest.mark.parametrize(
    ("canary", "field"),
    [
        ({"failure_limit": 9}, "canary.failure_limit"),
        ({"required_passes": 9}, "canary.required_passes"),
        ({"interval": "20s"}, "canary.required_passes"),
        ({"steps": [10, 50]}, "canary.steps"),
        ({"steps": [50, 10, 100]}, "canary.steps"),
        ({"steps": [10, 10, 100]}, "canary.steps"),
        ({"steps": [100]}, "canary.steps"),
        ({"min_requests": 1}, "canary.min_requests"),
        ({"checks": [check(critical=False)]}, "canary.checks"),
        ({"checks": [check(), check()]}, "canary.checks"),
        ({"checks": [check(threshold="p95_ms>=0")]}, "canary.checks[0].threshold"),
        ({"checks": [check(threshold="p95_ms<0")]}, "canary.checks[0].threshold"),
        ({"checks": [check(threshold="p95_ms")]}, "canary.checks[0].threshold"),
        ({"checks": [check(threshold="p99_ms<=150")]}, "canary.checks[0].threshold"),
        ({"checks": [check(metric="error_rate", threshold="error_rate<2")]}, "canary.checks[0].threshold"),
        ({"checks": [check(metric="error_rate", threshold="error_rate<=1")]}, "canary.checks[0].threshold"),
        ({"baseline": baseline(0, stable="x", canary="x")}, "canary.baseline[0].stable"),
        ({"baseline": baseline(0, min_effect=1)}, "canary.baseline[0].min_effect"),
        ({"baseline": baseline(0, canary_total="")}, "canary.baseline[0].canary_total"),
        ({"burn": {**data()["canary"]["burn"], "windows": [{"long": "8s", "short": "2s", "factor": 100}]}},
         "canary.burn.windows[0].factor"),
        ({"burn": {**data()["canary"]["burn"], "windows": [{"long": "2s", "short": "8s", "factor": 6}]}},
         "canary.burn.windows[0].short"),
    ],
)  # fmt: skip
def test_what_cannot_fail_or_pass_is_named(canary: dict[str, Any], field: str) -> None:
    assert field in problems(**canary)


def test_outside_the_canary() -> None:
    assert problems({"required_gates": ["slo", "slo"]}) == ["required_gates"]
    risks = data()["risks"]
    risks[0]["triggers"][0]["threshold"] = "error_ratio>1"
    assert problems({"risks": risks}) == ["risks[0].triggers[0].threshold"]
    targets = data()["targets"]
    targets["load"]["threshold"] = "p95_ms>=0"
    assert problems({"targets": targets}) == ["targets.load.threshold"]


def test_webhooks_have_names_of_their_own_and_a_pager_its_key() -> None:
    targets = data()["targets"]
    [hook, *_] = targets["webhooks"]
    targets["webhooks"] = [hook, {**hook, "url": "http://127.0.0.1:1/other"}]
    assert problems({"targets": targets}) == ["targets.webhooks"]
    targets["webhooks"] = [{"name": "pager", "url": "http://127.0.0.1:1", "kind": "pager"}]
    with pytest.raises(ValidationError, match="routing key"):
        problems({"targets": targets})


def test_a_plan_that_releases_nothing_is_refused() -> None:
    assert "phases" in problems({"phases": ["P0", "P1"]})
