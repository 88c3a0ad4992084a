"""The rule of a gate that could not be measured: never a pass, whatever is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.questions import error_of
from cockpit.verdicts.rule import Judgement


def unmeasured(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Return `provider_error` with the stored error, or `no_data` when the parameters say so."""
    said = error_of(answers.get("error", b"")) or "the back end did not answer"
    outcome = "no_data" if params.get("outcome") == "no_data" else "provider_error"
    return Judgement("no_data" if outcome == "no_data" else "provider_error", visible(said, limit=1000))
