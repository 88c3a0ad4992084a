"""Which version of a real server lies there: as its module was built into it, or as it says itself."""

from __future__ import annotations

import mmap
import re
import subprocess
from collections.abc import Iterable

from cockpit.base.errors import BackendError
from cockpit.base.text import visible
from cockpit.rehearsal.real.binaries import binary

_MODULES = {
    "kube-apiserver": "k8s.io/kubernetes",
    "kube-controller-manager": "k8s.io/kubernetes",
    "kube-scheduler": "k8s.io/kubernetes",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kwok": "sigs.k8s.io/kwok",
    "opa": "github.com/open-policy-agent/opa",
    "fulcio": "github.com/sigstore/fulcio",
    "rekor": "github.com/sigstore/rekor-tiles/v2",
    "timestamp-server": "github.com/sigstore/timestamp-authority/v2",
    "ctlog": "github.com/google/certificate-transparency-go",
}
"""Go writes into a program which version of which module it was made of; what was left out is its name."""

_SAID = re.compile(r"\bv?(\d+\.\d+\.\d+[^\s(]*)")
_SECONDS = 10


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each binary; raises UsageError when one is missing, BackendError without one."""
    return {name: version(name) for name in names}


def version(name: str) -> str:
    """Return a binary's version, e.g. `v1.37.2`; see `versions`."""
    program = binary(name)
    if (module := _MODULES.get(name)) is not None:
        wanted = rb"\n(?:dep|mod)\t" + re.escape(module.encode()) + rb"\t(v[^\t\n]{1,60})"
        with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = re.search(wanted, data)
            if found is not None:
                return visible(found[1].decode(errors="replace"), limit=60)
        raise BackendError(
            f"{name} does not say of which version of {module} it was made", where=str(program)
        )
    try:
        said = subprocess.run(  # noqa: S603 - a program of our own cache
            [program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{name} does not say its version: {error}", where=str(program)) from None
    stated = _SAID.search(said.stdout + said.stderr)
    if stated is None:
        raise BackendError(f"{name} does not say its version", where=str(program))
    return "v" + visible(stated[1], limit=60)
