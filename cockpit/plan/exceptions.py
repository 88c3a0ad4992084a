"""What people sign when they approve an exception of the plan."""

from __future__ import annotations

from cockpit.base.clock import iso
from cockpit.plan.model import ExceptionEntry


def about(entry: ExceptionEntry) -> dict[str, str]:
    """Return the subject of an approval of this exception: with another reason or expiry it is another."""
    expires = entry.expires
    return {
        "exception": entry.id,
        "owner": entry.owner,
        "reason": entry.reason,
        "expires": iso(expires) if expires.tzinfo is not None else expires.isoformat(),
    }
