"""The real control plane of a test session: started when the first test asks for it, stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from cockpit.rehearsal.real.binaries import CONTROL_PLANE
from tests.real.fixtures import need

if TYPE_CHECKING:
    from cockpit.rehearsal.real.control_plane import ControlPlane


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="plane")
async def control_plane_of_session(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """One control plane for all tests; each works in namespaces of its own."""
    from cockpit.rehearsal.real.control_plane import control_plane
    from cockpit.rehearsal.real.servers import Servers

    need(*CONTROL_PLANE)
    async with Servers(tmp_path_factory.mktemp("control-plane")) as servers, control_plane(servers) as plane:
        yield plane
