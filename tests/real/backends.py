"""`make backends`: brings the real servers into a cache outside the checkout; quick when all is there.

What stands in `modules/` is pinned by go.sum and package-lock.json; what Debian has is taken from its
packages. Only the standard library is used, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
_KUBERNETES = "v1.37.2"  # as in modules/kubernetes/go.mod
_STATIC = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}


class Missing(Exception):
    """Something could not be brought; the text says what to do."""


@dataclass(frozen=True)
class Go:
    """A program of a Go module: `package` as the module in `modules/<module>` requires it."""

    name: str
    module: str
    package: str
    version: str = ""
    """Where the sources cannot tell by themselves: written into `k8s.io/component-base/version`."""


@dataclass(frozen=True)
class Debian:
    """Programs of a Debian package: what is in it by name."""

    package: str
    programs: dict[str, str]


@dataclass(frozen=True)
class Files:
    """Files of a Go module's source, by glob, put into `share/<name>`."""

    name: str
    module: str
    path: str
    globs: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """The packages of `modules/<name>/package-lock.json`, put into `share/<name>/node_modules`."""

    name: str


Part = Go | Debian | Files | Node

# The API server comes early: it holds most of what the other parts of Kubernetes are made of.
PARTS: tuple[Part, ...] = (
    Debian("prometheus", {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"}),
    Debian("prometheus-alertmanager", {"alertmanager": "usr/bin/prometheus-alertmanager"}),
    Debian("docker-registry", {"docker-registry": "usr/bin/docker-registry"}),
    Node("sigstore-js"),
    Files(
        "gateway-api",
        "gateway-api",
        "sigs.k8s.io/gateway-api",
        ("config/crd/standard/gateway.networking.k8s.io_*.yaml",),
    ),
    Files(
        "kwok",
        "kwok",
        "sigs.k8s.io/kwok",
        (
            "kustomize/stage/node/fast/node-initialize.yaml",
            "kustomize/stage/node/heartbeat/node-heartbeat.yaml",
            "kustomize/stage/pod/fast/pod-*.yaml",
        ),
    ),
    Go("toxiproxy-server", "toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server"),
    Go("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Go("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", _KUBERNETES),
    Go("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", _KUBERNETES),
    Go("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", _KUBERNETES),
    Go("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Go("opa", "opa", "github.com/open-policy-agent/opa"),
    Go("fulcio", "fulcio", "github.com/sigstore/fulcio"),
    Go("rekor", "rekor", "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix"),
    Go("timestamp-server", "timestamp", "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server"),
    Go("ctlog", "ctlog", "."),
)
LONG: tuple[Part, ...] = (
    Go("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
    Go("cosign", "cosign", "github.com/sigstore/cosign/v3/cmd/cosign"),
    Go("k6", "k6", "go.k6.io/k6"),
    Files(
        "argo-rollouts",
        "argo-rollouts",
        "github.com/argoproj/argo-rollouts",
        ("manifests/crds/*-crd.yaml", "manifests/role/argo-rollouts-clusterrole.yaml"),
    ),
    Go("argo-rollouts", "argo-rollouts", "github.com/argoproj/argo-rollouts/cmd/rollouts-controller"),
)
"""What only the long tier uses."""


def cache() -> Path:
    """Return the folder that is filled; the same as `cockpit.rehearsal.real.binaries.backends_dir`."""
    if named := os.environ.get("COCKPIT_BACKENDS"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "release-cockpit" / "backends"


def main(arguments: list[str] | None = None) -> int:
    """Bring what is missing; 0 when all is there, 1 when something is not, said plainly."""
    parser = argparse.ArgumentParser(prog="make backends", description=__doc__)
    parser.add_argument("--long", action="store_true", help="also what only the long tier uses")
    parser.add_argument("--check", action="store_true", help="bring nothing; say what is missing")
    chosen = parser.parse_args(arguments)
    folder = cache()
    parts = (*PARTS, *(LONG if chosen.long else ()))
    stale = [part for part in parts if not _fresh(folder, part)]
    if chosen.check:
        for part in stale:
            print(f"not there: {_name(part)}")
        return 1 if stale else 0
    if not stale:
        print(f"all {len(parts)} back ends are in {folder}")
        return 0
    for name in ("bin", "share", "stamps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    failed = []
    for number, part in enumerate(stale, 1):
        print(f"[{number}/{len(stale)}] {_name(part)} …", end=" ", flush=True)
        began = time.monotonic()
        stamp = folder / "stamps" / _name(part)
        try:
            stamp.unlink(missing_ok=True)  # what is half there must not look whole when this is interrupted
            _bring(folder, part)
            stamp.write_text(_stamp(part), encoding="ascii")
            print(f"{time.monotonic() - began:.0f} s", flush=True)
        except (Missing, OSError) as error:
            failed.append(_name(part))
            print(f"not brought: {error}", flush=True)
    if failed:
        print(f"missing: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _name(part: Part) -> str:
    if isinstance(part, Debian):
        return part.package
    return f"{part.name}-files" if isinstance(part, Files) else part.name


def _stamp(part: Part) -> str:
    """Return a digest of all that decides what a part is."""
    digest = hashlib.sha256(repr(part).encode())
    digest.update(platform.machine().encode())
    if not isinstance(part, Debian):
        module = part.name if isinstance(part, Node) else part.module
        for path in sorted((MODULES / module).iterdir()):
            if path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _made(part: Part) -> Iterable[str]:
    if isinstance(part, Go):
        return (f"bin/{part.name}",)
    if isinstance(part, Debian):
        return tuple(f"bin/{name}" for name in part.programs)
    return (f"share/{part.name}",)


def _fresh(folder: Path, part: Part) -> bool:
    stamp = folder / "stamps" / _name(part)
    if not all((folder / made).exists() for made in _made(part)):
        return False
    return stamp.exists() and stamp.read_text(encoding="ascii") == _stamp(part)


def _bring(folder: Path, part: Part) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch)
        if isinstance(part, Go):
            _build(folder, part, made)
        elif isinstance(part, Debian):
            _unpack(folder, part, made)
        elif isinstance(part, Files):
            _copy(folder, part, made)
        else:
            _install(folder, part, made)


def _build(folder: Path, part: Go, made: Path) -> None:
    out = made / part.name
    _run(
        [
            _tool("go"),
            "build",
            "-trimpath",
            f"-ldflags=-s -w{_stamped(part.version)}",
            "-o",
            str(out),
            part.package,
        ],
        cwd=MODULES / part.module,
        env=_STATIC,
    )
    out.replace(folder / "bin" / part.name)


def _stamped(version: str) -> str:
    if not version:
        return ""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in told.items())


def _unpack(folder: Path, part: Debian, made: Path) -> None:
    get = [_tool("apt-get"), "download", part.package]
    try:
        _run(get, cwd=made)
    except Missing:
        _run([_tool("apt-get"), "update"], cwd=made)  # a fresh machine has no list of packages yet
        _run(get, cwd=made)
    (found,) = made.glob("*.deb")
    # Unpacked, not installed: nothing is started, and no right is needed.
    _run([_tool("dpkg-deb"), "-x", str(found), str(made / "x")], cwd=made)
    for name, path in part.programs.items():
        (made / "x" / path).replace(folder / "bin" / name)


def _copy(folder: Path, part: Files, made: Path) -> None:
    said = _run([_tool("go"), "mod", "download", "-json", part.path], cwd=MODULES / part.module, env=_STATIC)
    source = Path(json.loads(said)["Dir"])
    for glob in part.globs:
        found = sorted(source.glob(glob))
        if not found:
            raise Missing(f"{part.path} has no {glob}")
        for path in found:
            shutil.copyfile(path, made / path.name)
    _put(made, folder / "share" / part.name)


def _install(folder: Path, part: Node, made: Path) -> None:
    for path in (MODULES / part.name).iterdir():
        shutil.copyfile(path, made / path.name)
    _run([_tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=made)
    _put(made, folder / "share" / part.name)


def _put(made: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(made, place, symlinks=True)


_HINTS: dict[str, Callable[[], str]] = {
    "go": lambda: "install Go 1.26 or newer",
    "npm": lambda: "install Node.js 20 or newer with npm",
    "apt-get": lambda: "this is not Debian: put its programs into the PATH of the cache's bin yourself",
}


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        hint = _HINTS.get(name, lambda: "install it")()
        raise Missing(f"`{name}` is not on this machine; {hint}")
    return found


def _run(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Missing(f"`{' '.join(command[:3])}` ended with {done.returncode}: {' | '.join(last)[:600]}")
    return done.stdout


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: what is there stays, the rest is brought the next time")
