"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """Return the version, or say that the package is not installed."""
    try:
        return f"release-cockpit {installed('release-cockpit')}"
    except PackageNotFoundError:
        return "release-cockpit (not installed)"
