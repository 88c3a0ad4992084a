"""What a test of the real servers needs: their binaries, and a network namespace to run them in."""

from __future__ import annotations

import os

import pytest

from cockpit.rehearsal.real.binaries import missing
from cockpit.rehearsal.real.namespace import inside

HOW = "python -m cockpit.rehearsal.real.namespace pytest -m real"


def need(*names: str) -> None:
    """Skip when a server is not there or this is no namespace; with REAL=1 that is a failure.

    `names` are binaries of `cockpit.rehearsal.real.binaries`.
    """
    reasons = []
    if gone := missing(names):
        reasons.append(f"{', '.join(gone)} not there: run make backends")
    if not inside():
        reasons.append(f"not in a network namespace: run {HOW}")
    if not reasons:
        return
    if os.environ.get("REAL") == "1":
        pytest.fail("; ".join(reasons), pytrace=False)
    pytest.skip("; ".join(reasons))
