"""Named checks: what an audit or a verification of a pack found, all of which must have held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement
from cockpit.verdicts.rules.reading import Trouble, document, never_raises


@never_raises
def named_checks(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge the answer `checks`: `{"checks": [{"name", "ok", "detail"}]}`.

    None at all fails, and so does one of `params["required"]` that is missing.
    """
    found = document(answers, "checks").get("checks")
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in found
    ):
        raise Trouble("provider_error", "the checks cannot be read")
    failed = [one for one in found if one.get("ok") is not True]
    names = {one["name"] for one in found}
    missing = [name for name in params["required"] if name not in names]
    thresholds = ("checks_failed==0",)
    metrics = {"checks": len(found), "checks_failed": len(failed) + len(missing)}
    if not found:
        return Judgement("fail", "nothing was checked", {"checks": 0, "checks_failed": None}, thresholds)
    said = [f"{one['name']}: {one.get('detail') or 'does not hold'}" for one in failed]
    said += [f"{name}: was not checked" for name in missing]
    if said:
        return Judgement("fail", visible("; ".join(said), limit=1000), {**metrics}, thresholds)
    return Judgement("pass", f"all {len(found)} checks hold", {**metrics}, thresholds)
