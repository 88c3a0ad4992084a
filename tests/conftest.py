"""Fixtures every part may use, and which tests share a worker: real servers are started once a session."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.real.control_plane_fixtures import control_plane_of_session as control_plane_of_session
from tests.skips import pytest_terminal_summary as pytest_terminal_summary

_SERVER_OF = {
    "test_kube": "kubernetes",
    "test_cluster_client": "kubernetes",
    "test_alertmanager": "prometheus",
    "test_prometheus": "prometheus",
    "test_sigstore": "sigstore",
    "test_step_up": "sigstore",
}
"""By how a test's file begins. Two Sigstores cannot share a network namespace: one's ports are fixed."""


def _server_of(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    name = PurePosixPath(file).name
    return next((server for start, server in _SERVER_OF.items() if name.startswith(start)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `--dist loadfile`, keep the files of one real server together in one worker."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):  # type: ignore[misc]  # the library is not typed
        def _split_scope(self, nodeid: str) -> str:
            return _server_of(nodeid)

    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None
