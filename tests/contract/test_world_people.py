"""The people of a rehearsal: how they read the journal, act, and vanish."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from cockpit.rehearsal.people import JOURNAL, RECORD, People, follow, run_command
from cockpit.rehearsal.terminal import Terminal
from tests.contract.world_support import until

pytestmark = pytest.mark.contract


async def test_the_journal_is_followed_line_by_line_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    seen: list[object] = []

    async def read() -> None:
        async for entry in follow(path):
            seen.append(entry["n"])

    reading = asyncio.create_task(read())
    try:
        path.write_bytes(b'{"n": 1}\n{"n"')
        await until("the whole line", lambda: _is(seen, [1]))
        with path.open("ab") as file:
            file.write(b": 2}\nno record\n[3]\n")
            file.write(b'{"n": 4}\n')
        await until("the rest of it, without what is no record", lambda: _is(seen, [1, 2, 4]))
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _is(found: list[object], wanted: list[object]) -> bool:
    return found == wanted


async def test_a_command_is_run_to_its_end_and_what_it_said_is_kept() -> None:
    program = "import sys; print('heard', sys.stdin.readline().strip()); raise SystemExit(3)"
    code, said = await run_command([sys.executable, "-c", program], os.environ, "123456")
    assert (code, said) == (3, "heard 123456")


async def test_a_terminal_that_dies_takes_its_command_with_it(tmp_path: Path) -> None:
    program = "import os, sys, time; print(os.isatty(0), os.get_terminal_size()); " + (
        f"open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(600)"
    )
    terminal = await Terminal.open([sys.executable, "-c", program], os.environ)

    async def up() -> bool:
        return (tmp_path / "up").exists()

    await until("the command runs", up)
    await terminal.die()
    await terminal.die()
    with pytest.raises(ProcessLookupError):
        os.kill(terminal.pid, 0)


async def test_whoever_is_asked_acts_by_a_command_and_is_on_record(tmp_path: Path) -> None:
    (tmp_path / "world" / "secrets").mkdir(parents=True)
    asked = {"type": "approval.requested.v1", "request": "promote-1", "asked": "promote"}
    (tmp_path / JOURNAL).write_text(json.dumps(asked) + "\n")
    acting = asyncio.create_task(People(tmp_path, "rejects").run())

    async def tried() -> bool:
        return (tmp_path / RECORD).exists()

    try:
        # There is no run to reject anything in: the command says so, and that is on record as well.
        await until("the rejection was tried", tried)
    finally:
        acting.cancel()
        await asyncio.wait([acting])
    first = json.loads((tmp_path / RECORD).read_text().splitlines()[0])
    assert first["who"] == "@security"
    assert first["command"][:2] == ["approve", "promote-1"] and "--reject" in first["command"]
