"""What the Sigstore suites run against: a new stand-in for each test, or the real servers, once a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import httpx
import pytest
import pytest_asyncio

from cockpit.rehearsal.sigstore import SigstoreServer
from tests.real.sigstore_thread import ThreadedSigstore, threaded_sigstore

WHO = "https://rehearsal.invalid/conductor"
STANDIN = "standin"
REAL = pytest.param("real", marks=pytest.mark.real)
Tested: TypeAlias = SigstoreServer | ThreadedSigstore


@pytest.fixture(scope="module", name="real_sigstore")
def one_real_sigstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedSigstore]:
    """The real servers: they start in less than half a second."""
    with threaded_sigstore(tmp_path_factory.mktemp("real")) as running:
        yield running


@pytest_asyncio.fixture(params=[STANDIN, REAL], name="server")
async def tested_sigstore(request: pytest.FixtureRequest) -> AsyncIterator[Tested]:
    """Each of the two."""
    if request.param != STANDIN:
        yield request.getfixturevalue("real_sigstore")
        return
    async with SigstoreServer() as running:
        yield running


@pytest_asyncio.fixture(name="http")
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks no proxy."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


async def read(server: Tested, path: str) -> bytes | None:
    """Return a file of the log: `checkpoint`, or one below `tile/`.

    Rekor only writes them, for some web server to serve; the stand-in is both.
    """
    if isinstance(server, ThreadedSigstore):
        return server.read(path)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        answer = await client.get(f"{server.url('rekor')}/api/v2/{path}")
    return answer.content if answer.status_code == 200 else None


async def size(server: Tested) -> int:
    """Return how many entries the log's newest checkpoint is over."""
    note = await read(server, "checkpoint")
    return int(note.split(b"\n")[1]) if note else 0
