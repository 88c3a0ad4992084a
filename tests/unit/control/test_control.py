"""The control socket: its rights, what it answers to anything, and a HALT that needs no socket."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import BackendUnreachable, UsageError
from cockpit.conductor.control import ControlServer
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.control.client import SOCKET, ControlClient, socket_address
from cockpit.control.halt_file import HALT_REQUEST, leave_halt_request
from cockpit.control.messages import MAX_COMMAND_BYTES, Kind
from cockpit.journal.events import CommandReceived, FrontEndSeen, HaltBegan, HaltReason, Noted
from tests.conductor.support import FastClock, ToldPolicy, events, gate_of, on_disk, recording, until


@dataclass
class Desk:
    """A control socket and what it commands."""

    folder: Path
    recorder: Recorder
    gate: EffectsGate
    people: People
    server: ControlServer

    async def say(self, data: bytes) -> list[dict[str, Any]]:
        """Send bytes, end, and return what came back."""
        with socket_address(self.folder) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        try:
            writer.write(data)
            writer.write_eof()
            answer = await reader.read()
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        finally:
            writer.close()
        return [json.loads(line) for line in answer.splitlines()]


@asynccontextmanager
async def desk(folder: Path, *, policy: Any = None) -> AsyncIterator[Desk]:
    policy = policy or ToldPolicy()
    async with asyncio.timeout(30), recording(folder) as recorder:
        gate = gate_of(recorder)
        people = People(
            effects=gate, recorder=recorder, clock=FastClock(), on_halt="ask", bound=1e6, unattended=False
        )
        server = ControlServer(folder, people, may_resume=policy.resume)
        await server.start()
        try:
            yield Desk(folder, recorder, gate, people, server)
        finally:
            await server.stop()
        assert not (folder / SOCKET).exists()


def command(kind: str, **more: Any) -> bytes:
    return json.dumps({"id": "1", "kind": kind, "by": "ann", "source": "tui", **more}).encode() + b"\n"


async def test_only_the_owner_may_speak_to_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with desk(tmp_path) as made:
            status = (made.folder / SOCKET).stat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
        assert os.umask(0o022) == 0o022  # the process keeps its own mask
    finally:
        os.umask(before)


async def test_a_folder_of_a_long_name_works(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    async with desk(folder) as made:
        client = ControlClient(folder, source="tui", by="ann")
        await client.connect()
        assert (await client.send("ping")).ok
        assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
        await client.close()
        assert not made.gate.halted


async def test_a_front_end_attaches_once_and_leaves(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        client = ControlClient(tmp_path, source="tui", by="ann")
        await client.connect()
        assert client.connected
        assert (await client.send("hello")).ok
        await client.close()
        await until(lambda: len(on_disk(tmp_path, FrontEndSeen)) == 2)
        seen = [(e.name, e.attached) for e in await events(made.recorder, FrontEndSeen)]
        assert seen == [("tui", True), ("tui", False)]


async def test_a_connection_without_hello_is_no_front_end(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        assert [r["ok"] for r in await made.say(command("ping"))] == [True]
        assert await events(made.recorder, FrontEndSeen) == []


@pytest.mark.parametrize(("source", "trigger"), [("tui", "key"), ("follow", "key"), ("shell", "command")])
async def test_a_halt_acts_and_says_by_whom(tmp_path: Path, source: str, trigger: str) -> None:
    async with desk(tmp_path) as made:
        leave_halt_request(tmp_path, "ann")
        (reply,) = await made.say(command("halt", source=source, reason="it burns"))
        assert reply["ok"]
        assert made.gate.halted
        assert not (tmp_path / HALT_REQUEST).exists()
        (began,) = await events(made.recorder, HaltBegan)
        assert (began.by, began.trigger, began.reason) == ("ann", trigger, "it burns")
        (received,) = await events(made.recorder, CommandReceived)
        assert (received.kind, received.source) == ("halt", source)


async def test_every_command_is_taken_and_the_wrong_ones_say_why(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        client = ControlClient(tmp_path, source="shell", by="ann")
        await client.connect(hello=False)
        refused = await client.send("resume", reason="why not")
        assert (refused.ok, "no HALT" in refused.text) == (False, True)
        assert (await client.send("halt")).ok
        assert not (await client.send("resume")).ok
        assert (await client.send("reason", reason="it burns")).ok
        assert (await client.send("note", reason="seen it")).ok
        assert (await client.send("stay")).ok
        assert not (await client.send("answer", question="q7", answer="rollback")).ok
        assert (await client.send("resume", reason="false alarm")).ok
        assert not made.gate.halted
        assert (await client.send("rollback", reason="no good")).ok
        stop = made.people.stop_decided
        assert stop is not None
        assert (stop.reason, stop.by) == ("manual", "ann")
        assert [e.reason for e in await events(made.recorder, HaltReason)] == ["it burns"]
        assert [e.text for e in await events(made.recorder, Noted)] == ["ann: seen it", "ann: stays halted"]
        made.people.over()
        assert not (await client.send("rollback")).ok
        await client.close()


async def test_many_commands_at_once_each_get_their_reply(tmp_path: Path) -> None:
    async with desk(tmp_path):
        client = ControlClient(tmp_path, source="tui", by="ann")
        await client.connect()
        replies = await asyncio.gather(*(client.send("ping") for _ in range(50)))
        assert all(reply.ok for reply in replies)
        assert len({reply.id for reply in replies}) == 50
        await client.close()


GARBAGE = [
    b"\n", b"{}\n", b"[]\n", b"null\n", b"not json\n", b"\xff\xfe\n", b'{"id": 1, "kind": "halt"}\n',
    command("explode"), command("halt", extra=1), command("halt", by=None), b"[" * 50_000 + b"\n",
    b'{"id":"1","kind":"halt","by":"\xff","source":"tui"}\n', b"\x00" * 100 + b"\n",
    b'{"id":"1","kind":"note","by":"\\ud800","source":"tui"}\n',
]  # fmt: skip


@pytest.mark.parametrize("line", GARBAGE, ids=lambda line: repr(line[:24]))
async def test_garbage_is_answered_and_changes_nothing(tmp_path: Path, line: bytes) -> None:
    async with desk(tmp_path) as made:
        replies = await made.say(line + command("ping"))
        assert [reply["ok"] for reply in replies] == [False, True]
        assert "not a command" in replies[0]["text"]
        assert len(replies[0]["text"]) < 500
        assert not made.gate.halted
        assert await events(made.recorder, CommandReceived) == []


async def test_a_line_beyond_the_limit_ends_the_connection_and_no_other(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        other = ControlClient(tmp_path, source="tui", by="ann")
        await other.connect()
        assert await made.say(command("note", reason="x" * (2 * MAX_COMMAND_BYTES)) + command("halt")) == []
        assert not made.gate.halted
        assert (await other.send("ping")).ok
        await other.close()


async def test_a_line_without_an_end_is_no_command(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        assert await made.say(command("halt").rstrip(b"\n")) == []
        assert not made.gate.halted


async def test_a_crowd_is_turned_away_and_the_socket_lives(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        clients = [ControlClient(tmp_path, source="tui", by=f"p{n}") for n in range(40)]
        for client in clients:
            await client.connect(hello=False)
        results = await asyncio.gather(*(c.send("ping") for c in clients), return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 32
        assert sum(isinstance(result, BackendUnreachable) for result in results) == 8
        for client in clients:
            await client.close()
        async with asyncio.timeout(10):
            while not await made.say(command("ping")):  # noqa: ASYNC110 - until the others have been let go
                await asyncio.sleep(0.01)


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.fixed_dictionaries(
            {"id": st.text(max_size=5), "kind": st.sampled_from(["note", "reason", "answer", "x", "hello"]),
             "by": st.text(max_size=20), "source": st.text(max_size=20)},
            optional={"reason": st.text(max_size=50), "answer": st.text(max_size=9), "odd": st.integers()},
        ).map(lambda value: json.dumps(value).encode()),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True)
@given(LINES)
def test_whatever_is_said_it_goes_on_answering(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    async def scene() -> None:
        async with desk(tmp_path_factory.mktemp("desk")) as made:
            await made.say(b"\n".join(lines) + b"\n")
            assert [reply["ok"] for reply in await made.say(command("ping"))] == [True]
            assert not made.gate.halted
            assert made.people.stop_decided is None

    asyncio.run(scene())


@pytest.mark.parametrize(("source", "trigger"), [("tui", "key"), ("follow", "key"), ("shell", "command")])
async def test_a_halt_by_key_is_one_also_when_its_file_is_seen_first(
    source: str, trigger: str, tmp_path: Path
) -> None:
    async with desk(tmp_path) as made:
        leave_halt_request(tmp_path, "ann", source)
        made.server.take_halt_request()
        (began,) = await events(made.recorder, HaltBegan)
        assert (began.by, began.trigger) == ("ann", trigger)


async def test_a_halt_left_as_a_file_is_taken(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        made.server.take_halt_request()
        assert await events(made.recorder, HaltBegan) == []
        leave_halt_request(tmp_path, "ann \x1b[31m")
        assert stat.S_IMODE((tmp_path / HALT_REQUEST).stat().st_mode) == 0o600
        made.server.take_halt_request()
        assert made.gate.halted
        assert not (tmp_path / HALT_REQUEST).exists()
        (began,) = await events(made.recorder, HaltBegan)
        assert (began.trigger, "\x1b" in began.by) == ("command", False)


async def test_a_halt_file_that_is_odd_halts_as_well_or_harms_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        (tmp_path / HALT_REQUEST).mkdir()
        made.server.take_halt_request()
        (tmp_path / HALT_REQUEST).rmdir()
        (tmp_path / HALT_REQUEST).write_bytes(b"\xff" * 100_000)
        made.server.take_halt_request()
        assert made.gate.halted


async def test_nobody_there_is_said_clearly(tmp_path: Path) -> None:
    client = ControlClient(tmp_path, source="shell", by="ann")
    with pytest.raises(BackendUnreachable) as error:
        await client.connect()
    assert "no conductor answers" in str(error.value)
    with pytest.raises(BackendUnreachable):
        await client.send("halt")


async def test_a_conductor_that_ends_or_talks_nonsense_is_said_clearly(tmp_path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"what?\n" if b"note" in line else b"x" * (2 * MAX_COMMAND_BYTES))
        writer.close()

    server = await asyncio.start_unix_server(nonsense, str(tmp_path / SOCKET))
    async with server:
        kinds: list[Kind] = ["note", "halt"]
        for kind in kinds:
            client = ControlClient(tmp_path, source="shell", by="ann")
            await client.connect(hello=False)
            with pytest.raises(BackendUnreachable):
                await client.send(kind)
            assert not client.connected


async def test_a_folder_that_takes_no_socket_is_bad_usage(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        gate = gate_of(recorder)
        people = People(
            effects=gate, recorder=recorder, clock=FastClock(), on_halt="ask", bound=1.0, unattended=True
        )
        with pytest.raises(UsageError):
            await ControlServer(tmp_path / "nowhere", people, may_resume=ToldPolicy().resume).start()
