"""Fixtures of the agents' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.agents.support import World
from tests.agents.support import world as running


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Give a world of its own to each test."""
    async with running(tmp_path) as made:
        yield made
