"""The supervisor as a process, over conductors that crash, hang and hear nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conductor.support import until

HERE = Path(__file__).parent
NEVER = 600.0


class Run:
    """A supervisor that runs, and what its conductors wrote."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    def starts(self) -> list[tuple[str, int, str]]:
        """Return each start of a conductor: what it does, its process id, first or resume."""
        try:
            lines = (self.folder / "starts").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(act, int(pid), how) for act, pid, how in (line.split() for line in lines)]

    async def ended(self) -> tuple[int, str]:
        """Return its exit code and what it said."""
        async with asyncio.timeout(30):
            _, said = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, acts: str, *, silent: float = NEVER, unheard: float = NEVER, ours: bool = True
) -> AsyncIterator[Run]:
    conductor = [sys.executable, str(HERE / "conductor.py"), str(folder), acts]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "supervise.py"), str(folder), str(silent), str(unheard), *conductor,
        stderr=asyncio.subprocess.PIPE, cwd=HERE.parents[2],
    )  # fmt: skip
    run = Run(process, folder)
    try:
        yield run
    finally:
        left = process.returncode is None
        if left:
            process.kill()
        for _, pid, _ in run.starts() if ours else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            await process.communicate()


async def test_the_exit_code_is_the_releases(tmp_path: Path) -> None:
    for code in (0, 20, 64):
        folder = tmp_path / str(code)
        folder.mkdir()
        async with supervised(folder, str(code)) as run:
            assert (await run.ended())[0] == code
            assert [how for _, _, how in run.starts()] == ["first"]


@pytest.mark.parametrize("way", ["crash", "kill"])
async def test_a_conductor_that_crashed_is_resumed(tmp_path: Path, way: str) -> None:
    async with supervised(tmp_path, f"{way},20") as run:
        code, said = await run.ended()
        assert (code, [how for _, _, how in run.starts()]) == (20, ["first", "resume"])
        assert "before its run was closed" in said
        assert "Traceback" not in said


async def test_one_that_cannot_be_kept_alive_is_an_internal_error(tmp_path: Path) -> None:
    async with supervised(tmp_path, "crash") as run:
        assert (await run.ended())[0] == 70
        assert [how for _, _, how in run.starts()] == ["first", *["resume"] * 6]


async def test_one_that_hangs_is_replaced(tmp_path: Path) -> None:
    async with supervised(tmp_path, "hang,20", silent=0.5) as run:
        code, said = await run.ended()
        assert (code, [how for _, _, how in run.starts()]) == (20, ["first", "resume"])
        assert "does not answer" in said


async def test_one_that_beats_is_left_alone(tmp_path: Path) -> None:
    async with supervised(tmp_path, "wait", silent=5.0) as run:
        await until(lambda: (tmp_path / "heartbeat").exists())
        await asyncio.sleep(0)
        run.process.send_signal(signal.SIGTERM)
        assert (await run.ended())[0] == 30
        assert len(run.starts()) == 1


async def test_a_halt_nobody_hears_replaces_the_conductor(tmp_path: Path) -> None:
    async with supervised(tmp_path, "deaf,20", unheard=0.3) as run:
        await until(lambda: (tmp_path / "heartbeat").exists())
        (tmp_path / "halt.request").write_text("ann")
        code, _ = await run.ended()
        assert (code, [how for _, _, how in run.starts()]) == (20, ["first", "resume"])
        assert not (tmp_path / "halt.request").exists()


async def test_a_halt_left_before_the_first_conductor_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "halt.request").write_text("ann")
    async with supervised(tmp_path, "deaf,20", unheard=0.3) as run:
        code, _ = await run.ended()
        # It was there to be taken, and nobody took it.
        assert (code, [how for _, _, how in run.starts()]) == (20, ["first", "resume"])
        assert _text(tmp_path / "halted") == "ann"
        assert _text(tmp_path / "told") == "a HALT was not acknowledged"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_are_passed_on_as_a_request_to_abort(tmp_path: Path, number: signal.Signals) -> None:
    async with supervised(tmp_path, "wait") as run:
        await until(lambda: (tmp_path / "heartbeat").exists())
        run.process.send_signal(number)
        assert (await run.ended())[0] == 30
        assert [how for _, _, how in run.starts()] == ["first"]


async def test_two_signals_stop_at_once_and_what_is_open_is_left_to_resume(tmp_path: Path) -> None:
    async with supervised(tmp_path, "hard,20") as run:
        for count in ("0", "1"):
            await until(lambda count=count: _text(tmp_path / "asked") == count)  # type: ignore[misc]
            run.process.send_signal(signal.SIGTERM)
        code, said = await run.ended()
        assert (code, "--resume" in said, len(run.starts())) == (70, True, 1)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_only_one_supervises_a_run(tmp_path: Path) -> None:
    async with supervised(tmp_path, "wait") as first:
        await until(lambda: (tmp_path / "heartbeat").exists())
        async with supervised(tmp_path, "wait", ours=False) as second:
            code, said = await second.ended()
            assert (code, "another supervisor" in said) == (60, True)
        assert len(first.starts()) == 1
        assert first.process.returncode is None
        pid = int((tmp_path / "supervisor.pid").read_text())
        assert pid == first.process.pid


async def test_bad_usage_is_64(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cockpit.supervisor", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, b"Usage" in said, b"Traceback" in said) == (64, True, False)
