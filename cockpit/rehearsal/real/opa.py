"""A real OPA: it wants its bearer token for everything but its health, and keeps who may ask to itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cockpit.base.files import write_private
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.servers import Running, Servers, free_ports

# What it decides by cannot be read or changed with the token it gives: only data asked, and other policies.
_AUTHZ = """package system.authz

import rego.v1

default allow := false

allow if {{
	input.path == ["health"]
	input.method == "GET"
}}

allow if {{
	known
	input.method == "POST"
	array.slice(input.path, 0, 2) == ["v1", "data"]
	input.path[2] != "system"
}}

allow if {{
	known
	input.method in {{"GET", "PUT", "DELETE"}}
	array.slice(input.path, 0, 2) == ["v1", "policies"]
	count(input.path) > 2
	not endswith(input.path[count(input.path) - 1], "authz.rego")
}}

known if {known}
"""


@dataclass(frozen=True)
class Opa:
    """An OPA that runs; `token` is empty when it wants none."""

    url: str
    token: str = field(repr=False)
    server: Running


@asynccontextmanager
async def opa(
    folder: Path, policies: Mapping[str, str] | None = None, *, token: str = ""
) -> AsyncIterator[Opa]:
    """Run OPA with its files in `folder`; `policies` (Rego by file name) are there from the start.

    Raises BackendError when it does not start, e.g. for a policy that is wrong.
    """
    program = binary("opa")
    [port] = free_ports(1)
    _write(folder, policies or {}, token)
    url = f"http://127.0.0.1:{port}"
    async with Servers(folder) as servers:
        running = await servers.start(
            "opa",
            [
                *(program, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error"),
                *("--skip-version-check", "--shutdown-grace-period", "1"),
                *("--authentication=token", "--authorization=basic"),
                *("authz.rego", *(policies or {})),
            ],
            ready=f"{url}/health",
        )
        yield Opa(url, token, running)


def _write(folder: Path, policies: Mapping[str, str], token: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = f"input.identity == {json.dumps(token)}" if token else "true"
    write_private(folder / "authz.rego", _AUTHZ.format(known=known).encode())
    for name, text in policies.items():
        (folder / name).write_text(text, encoding="utf-8")
