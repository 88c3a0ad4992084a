"""Identifiers."""

from __future__ import annotations

import secrets
from datetime import datetime


def new_trace_id() -> str:
    """Return a W3C trace id: 32 hexadecimal digits, never all zero."""
    while True:
        trace_id = secrets.token_hex(16)
        if trace_id.strip("0"):
            return trace_id


def new_run_id(moment: datetime) -> str:
    """Return a run id that sorts by time: `20250923T080000Z-1a2b3c`."""
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
