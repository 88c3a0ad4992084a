from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cockpit.rehearsal.sigstore import SigstoreServer
from tests.unit.evidence.runs import Change, Made, Maker


class Factory:
    """Makes runs on a loop of its own, so that one signer serves a whole module."""

    def __init__(self, loop: asyncio.Runner, server: SigstoreServer, folder: Path) -> None:
        self._loop = loop
        self._server = server
        self._folder = folder
        self._count = 0

    def make(self, change: Change | None = None, *, plots: bool = False) -> Made:
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        return self._loop.run(Maker(self._server).make(folder, change=change, plots=plots))

    def run(self, work: Coroutine[Any, Any, str]) -> str:
        return self._loop.run(work)

    def seal_again(self, made: Made, raw: bytes, target: Path) -> None:
        self._loop.run(Maker(self._server).seal_again(made, raw, target))


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    with asyncio.Runner() as runner:
        server = SigstoreServer()
        runner.run(server.start())
        try:
            yield Factory(runner, server, tmp_path_factory.mktemp("runs"))
        finally:
            runner.run(server.stop())


@pytest.fixture(scope="module")
def made(factory: Factory) -> Made:
    return factory.make(plots=True)
