"""Where the binaries of the real servers are, and which of them are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cockpit.base.errors import UsageError

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
SIGSTORE = ("fulcio", "rekor", "timestamp-server", "ctlog")
METRICS = ("prometheus", "promtool", "alertmanager")
EVERY = (*CONTROL_PLANE, *SIGSTORE, *METRICS, "opa", "docker-registry", "toxiproxy-server")
"""What `make backends` brings and `make test` may want."""


def backends_dir() -> Path:
    """Return the folder `make backends` fills: `$COCKPIT_BACKENDS`, else one in the user's cache."""
    if named := os.environ.get("COCKPIT_BACKENDS"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "release-cockpit" / "backends"


def binary(name: str) -> Path:
    """Return a server's binary; raises UsageError when it has not been brought."""
    path = backends_dir() / "bin" / name
    if not os.access(path, os.X_OK):
        raise UsageError(f"{name} is not there", where=str(path), hint="run: make backends")
    return path


def share(name: str) -> Path:
    """Return a folder of files that belong to the servers; raises UsageError when it has not been brought."""
    path = backends_dir() / "share" / name
    if not path.is_dir():
        raise UsageError(f"the files of {name} are not there", where=str(path), hint="run: make backends")
    return path


def missing(names: Iterable[str] = EVERY) -> list[str]:
    """Return those of `names` that have not been brought."""
    return [name for name in names if not os.access(backends_dir() / "bin" / name, os.X_OK)]
