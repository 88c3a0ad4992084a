"""A real Alertmanager, alone: without a cluster port."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cockpit.base.errors import UsageError
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.servers import Restartable, Servers, free_ports

_READY_SECONDS = 30.0
_SHARE = Path("/usr/share")
_TEMPLATES = Path("prometheus", "alertmanager")
_OVER = 'mount --bind "$0" "$1" && shift && exec "$@"'
_NOBODY: Mapping[str, Any] = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}


class RealAlertmanager(Restartable):
    """An Alertmanager on loopback; `url` stays the same over restarts, and so do its silences.

    Alerts are in its memory only: after a restart it knows those that are sent again.
    """

    def __init__(self, servers: Servers, name: str, config: Mapping[str, Any], port: int) -> None:
        super().__init__(name)
        self.url = f"http://127.0.0.1:{port}"
        self._servers = servers
        self._config = config
        self._address = f"127.0.0.1:{port}"

    async def start(self) -> None:
        """Write the configuration, start the process and wait until it is ready; raises BackendError."""
        folder = self._servers.folder / self._name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "alertmanager.yml"
        file.write_text(
            json.dumps(self._config, ensure_ascii=False, indent=1), encoding="utf-8"
        )  # it is YAML
        self._running = await self._servers.start(
            self._name,
            [
                *_templates(folder),
                binary("alertmanager"),
                f"--config.file={file}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={self._address}",
                "--cluster.listen-address=",
            ],
            ready=f"{self.url}/-/ready",
            within=_READY_SECONDS,
        )


def _templates(folder: Path) -> list[str | Path]:
    """Return what the command has to begin with so that Debian's build finds its templates.

    It wants them in a folder that is there only when it is installed, and not just unpacked. So it sees,
    and nobody else does, a folder of ours there; its templates are empty, none of our receivers uses them.
    """
    if (_SHARE / _TEMPLATES / "default.tmpl").exists():
        return []
    own = folder / "share"
    (own / _TEMPLATES).mkdir(parents=True, exist_ok=True)
    for name in ("default.tmpl", "email.tmpl"):
        (own / _TEMPLATES / name).touch()
    programs = {name: shutil.which(name) for name in ("unshare", "mount", "sh")}
    if gone := [name for name, path in programs.items() if path is None]:
        raise UsageError(f"an Alertmanager that is not installed needs {', '.join(gone)} (util-linux)")
    return ["unshare", "--mount", "--", "sh", "-c", _OVER, own, _SHARE]


@asynccontextmanager
async def alertmanager(
    servers: Servers, *, config: Mapping[str, Any] | None = None, name: str = "alertmanager"
) -> AsyncIterator[RealAlertmanager]:
    """Run an Alertmanager and yield it when it is ready; raises BackendError when it does not start.

    `config`: the content of its file; without one it takes alerts and tells nobody.
    """
    (port,) = free_ports(1)
    server = RealAlertmanager(servers, name, _NOBODY if config is None else config, port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
