"""Whether a grant of people was in force when it was used, for the very pack and images it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from cockpit.base.clock import parse_iso
from cockpit.evidence.statements import read_request
from cockpit.journal.state_people import RequestView
from cockpit.plan.model import Plan

SLACK = timedelta(seconds=60)
"""What lies between a decision and its record, at most."""


def granted(
    requests: Sequence[RequestView],
    asked: str,
    at: str,
    plan: Plan,
    pack: str,
    blob: Callable[[str], bytes],
) -> bool:
    """Tell whether people had granted `asked`; `at`: RFC 3339, `pack`: the promotion pack's SHA-256 in hex.

    Raises CockpitError for a request that is not to be had or cannot be read.
    """
    for view in requests:
        if (view.asked, view.result) != (asked, "granted") or not view.valid_until:
            continue
        if parse_iso(at) >= parse_iso(view.valid_until) + SLACK:
            continue
        about = tuple(read_request(blob(view.blob)).about.values())
        digests = (pack, *(service.image.digest for service in plan.services))
        if all(digest and any(digest in value for value in about) for digest in digests):
            return True
    return False
