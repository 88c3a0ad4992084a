"""The people of a rehearsal: they read the run's journal, and act from outside by the product's own commands.

What each of them does is one line in `world/people.jsonl`: who, which command, how it ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cockpit.rehearsal.plan_people import APPROVERS, OVERRIDABLE, SECURITY, SRE, Persona
from cockpit.rehearsal.scenarios import Part
from cockpit.rehearsal.terminal import Terminal

JOURNAL = "journal.jsonl"
RECORD = "world/people.jsonl"
Entry = Mapping[str, Any]

_POLL = 0.25
_CHUNK = 1 << 20
_ACT_SECONDS = 60.0
_ATTEMPTS = 3
_SAID = 2000

_REASONS = {
    "promote": "looked at the promotion pack and the go/no-go; it may go out",
    "flip": "the release carries all traffic and looks well; its flags may go on",
    "break-glass": "looked at the denied Deployment with the one who asks; it may go out",
}
_NO = "a dependency of reports still waits for its security review; it must not go out"
_EMERGENCY = "the ingest backlog endangers a customer's deadline; the denial is understood and bounded"


async def follow(path: Path) -> AsyncIterator[Entry]:
    """Yield the journal's entries as they are written, from its beginning."""
    offset, rest = 0, b""
    while True:
        data = _read(path, offset)
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for entry in _entries(lines):
            yield entry
        if not data:
            await asyncio.sleep(_POLL)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except OSError:
        return b""  # there is no run yet


def _entries(lines: Sequence[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # space kept for aborts, or a line that is no record
        if isinstance(entry, dict):
            yield entry


class People:
    """Plays one part in the run of `folder`, until cancelled."""

    def __init__(self, folder: Path, part: Part) -> None:
        self._folder = folder
        self._part = part
        self._terminal: Terminal | None = None
        self._glass_asked = False

    async def run(self) -> None:
        """Follow the journal and act when it is somebody's turn."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for entry in follow(self._folder / JOURNAL):
                    await self._take(tasks, entry)
        finally:
            if self._terminal is not None:
                await self._terminal.die()

    async def _take(self, tasks: asyncio.TaskGroup, entry: Entry) -> None:
        kind = entry.get("type")
        if kind == "approval.requested.v1":
            for person in APPROVERS.get(str(entry["asked"]), ()):
                # One after the other would do; side by side is how people are.
                tasks.create_task(self._decide(person, str(entry["request"]), str(entry["asked"])))
        elif kind == "gate.judged.v1" and self._part == "breaks-glass":
            overridable = entry["phase_gate"] in OVERRIDABLE
            if entry["verdict"] != "pass" and overridable and not self._glass_asked:
                self._glass_asked = True
                tasks.create_task(self._break_glass(str(entry["phase_gate"])))
        elif self._part == "vanishes":
            await self._operate(entry)

    async def _operate(self, entry: Entry) -> None:
        """Sit down before the promotion, and be gone in the second step."""
        if entry.get("type") == "phase.started.v1" and entry["phase"] == "P6" and self._terminal is None:
            command = [sys.executable, "-m", "cockpit", "follow", "--control", "--run", str(self._folder)]
            self._terminal = await Terminal.open(command, {**os.environ, "COCKPIT_OPERATOR": "operator"})
            self._note("operator", command[3:], "sits down")
        elif (
            entry.get("type") == "canary.stage.v1"
            and (entry["step"], entry["stage"]) == (2, "bake")
            and self._terminal is not None
        ):
            await self._terminal.die()
            self._note("operator", [], "the terminal died")

    async def _decide(self, person: Persona, request: str, asked: str) -> None:
        if self._part == "rejects" and person == SECURITY:
            await self._act(person, "approve", request, "--reject", "--reason", _NO)
            return
        if self._part == "rejects":
            return  # whoever would have approved hears of the rejection first
        if asked == "break-glass":
            await self._step_up(person)
        await self._act(person, "approve", request, "--reason", _REASONS[asked])

    async def _break_glass(self, gate: str) -> None:
        await self._step_up(SRE)
        await self._act(SRE, "break-glass", gate, "--reason", _EMERGENCY)

    async def _step_up(self, person: Persona) -> None:
        from pyotp import TOTP

        code = TOTP((self._folder / person.totp).read_text(encoding="ascii").strip()).now()
        await self._act(person, "step-up", typed=code)

    async def _act(self, person: Persona, *words: str, typed: str = "") -> None:
        """Run a command as `person`; one that fails is tried again, as people do.

        What is `typed` goes to its standard input and is written down nowhere.
        """
        command = [sys.executable, "-m", "cockpit", *words, "--run", str(self._folder)]
        for attempt in range(1, _ATTEMPTS + 1):
            code, said = await run_command(command, self._environment(person), typed)
            self._note(person.id, command[3:], f"exit {code}: {said}")
            if code == 0:
                return
            await asyncio.sleep(attempt)

    def _environment(self, person: Persona) -> dict[str, str]:
        return {
            **os.environ,
            "COCKPIT_OPERATOR": person.id,
            "COCKPIT_TOKEN_SECRET": f"file:{self._folder / person.secret}",
        }

    def _note(self, who: str, command: Sequence[str], outcome: str) -> None:
        line = {
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "who": who,
            "command": list(command),
            "outcome": outcome[:_SAID],
        }
        with (self._folder / RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


async def run_command(
    command: Sequence[str], environment: Mapping[str, str], typed: str = ""
) -> tuple[int, str]:
    """Run a command to its end, for a minute at most; return its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_ACT_SECONDS):
            said, _ = await process.communicate(typed.encode() + b"\n" if typed else b"")
    except TimeoutError:
        return -1, f"not done within {_ACT_SECONDS:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace").strip()
