"""The rules of the gates by name: what a verdict names, and what recomputing it offline calls."""

from __future__ import annotations

import importlib
from typing import cast

from cockpit.base.errors import UsageError
from cockpit.verdicts.rule import Rule

RULES: dict[str, str] = {
    "canary_look": "cockpit.verdicts.analysis:rule_look",
    "slo_levels": "cockpit.verdicts.rules.slo:slo_levels",
    "smoke_paths": "cockpit.verdicts.rules.smoke:smoke_paths",
    "load_latency": "cockpit.verdicts.rules.perf:load_latency",
    "latency_now": "cockpit.verdicts.rules.perf:latency_now",
    "headroom_load": "cockpit.verdicts.rules.perf:headroom_load",
    "headroom_utilisation": "cockpit.verdicts.rules.perf:headroom_utilisation",
    "policy_admission": "cockpit.verdicts.rules.policy:policy_admission",
    "contracts_compatible": "cockpit.verdicts.rules.contracts:contracts_compatible",
    "decision_table": "cockpit.verdicts.rules.authz:decision_table",
    "named_checks": "cockpit.verdicts.rules.checks:named_checks",
    "runbook_lint": "cockpit.verdicts.rules.runbooks:runbook_lint",
    "chaos_drill": "cockpit.verdicts.rules.chaos:chaos_drill",
    "incident_drill": "cockpit.verdicts.rules.incident:incident_drill",
    "cab_record": "cockpit.verdicts.rules.cab:cab_record",
    "go_no_go": "cockpit.verdicts.rules.go_no_go:go_no_go",
    "soak": "cockpit.verdicts.rules.soak:soak",
    "supply_chain": "cockpit.evidence.supply_chain_rule:supply_chain",
    "external_statement": "cockpit.verdicts.rules.external:external_statement",
    "flag_scopes": "cockpit.verdicts.rules.flags:flag_scopes",
    "kpi_regressions": "cockpit.verdicts.rules.kpi:kpi_regressions",
    "error_budget": "cockpit.verdicts.rules.economics:error_budget",
    "unmeasured": "cockpit.verdicts.rules.unmeasured:unmeasured",
}
"""Name → `module:function`; a name, once recorded, keeps its meaning."""


def find(name: str) -> Rule:
    """Return the rule of that name; raises UsageError when there is none."""
    try:
        module, _, function = RULES[name].partition(":")
    except KeyError:
        raise UsageError(f"there is no rule named {name[:80]!r}") from None
    return cast(Rule, getattr(importlib.import_module(module), function))
