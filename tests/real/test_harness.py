"""The harness itself: servers start, say why they did not, and never outlive whoever started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cockpit.base.errors import BackendError, UsageError
from cockpit.rehearsal.real.binaries import backends_dir, binary, missing, share
from cockpit.rehearsal.real.namespace import entering, inside
from cockpit.rehearsal.real.servers import Servers, free_ports
from tests.real import backends
from tests.real.fixtures import need

WEB = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1")
MODULE = (sys.executable, "-m", "cockpit.rehearsal.real.namespace")
real = pytest.mark.real


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_was_not_brought_is_named_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="make backends"):
        binary("no-such-server")
    with pytest.raises(UsageError, match="make backends"):
        share("no-such-files")
    assert missing(["no-such-server"]) == ["no-such-server"]


def test_builder_and_cockpit_mean_the_same_folder() -> None:
    assert backends.cache() == backends_dir()


def test_who_interrupts_the_builder_is_told_what_stays(tmp_path: Path) -> None:
    first = backends.PARTS[0]
    assert isinstance(first, backends.Debian)
    tools, cache = tmp_path / "tools", tmp_path / "cache"
    tools.mkdir()
    (tools / "apt-get").write_text("#!/bin/sh\nexec sleep 600\n")
    (tools / "apt-get").chmod(0o755)
    stamp = cache / "stamps" / first.package
    stamp.parent.mkdir(parents=True)
    stamp.write_text("of before")
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.real.backends"],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "COCKPIT_BACKENDS": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background may have had it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert running.stdout is not None
        assert running.stdout.read(3) == "[1/"
        give_up = time.monotonic() + 30
        while stamp.exists():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does
        _, said = running.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert running.returncode == 1
    assert "interrupted" in said and "Traceback" not in said


def test_every_part_is_pinned() -> None:
    for part in (*backends.PARTS, *backends.LONG):
        if isinstance(part, backends.Go | backends.Files):
            assert (backends.MODULES / part.module / "go.sum").stat().st_size > 0
        if isinstance(part, backends.Go) and part.version:
            assert f" {part.version} " in (backends.MODULES / part.module / "go.mod").read_text()
        if isinstance(part, backends.Node):
            lock = (backends.MODULES / part.name / "package-lock.json").read_text()
            assert '"integrity"' in lock and "://" not in lock


async def test_a_server_is_refused_outside_a_namespace(tmp_path: Path) -> None:
    if inside():
        pytest.skip("this is one")
    async with Servers(tmp_path) as servers:
        with pytest.raises(UsageError, match="namespace"):
            await servers.start("x", [sys.executable, "-V"], ready="http://127.0.0.1:1/")
    assert not (tmp_path / "x.log").exists()


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "--inside", str(tmp_path / "nothing")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 70 and "Traceback" not in done.stderr
    assert subprocess.run([*MODULE], capture_output=True, check=False).returncode == 64


@real
def test_a_namespace_has_loopback_and_nothing_else() -> None:
    need()
    look = (
        "import socket; from cockpit.rehearsal.real.namespace import inside;"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname());"
        "print([n for _, n in socket.if_nameindex()], inside())"
    )
    done = subprocess.run(entering([sys.executable, "-c", look]), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lo'] True"


@real
async def test_a_server_starts_answers_and_ends_with_its_context(tmp_path: Path) -> None:
    need()
    (port,) = free_ports(1)
    async with Servers(tmp_path) as servers:
        running = await servers.start("web", [*WEB, str(port)], ready=f"http://127.0.0.1:{port}/")
        assert _alive(running.pid)
    assert not _alive(running.pid)
    assert "GET / HTTP" in running.log.read_text()


@real
async def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    need()
    async with Servers(tmp_path) as servers:
        with pytest.raises(BackendError, match="no licence to serve"):
            await servers.start(
                "web",
                [sys.executable, "-c", "raise SystemExit('no licence to serve')"],
                ready="http://127.0.0.1:1/",
            )


@real
async def test_a_server_that_never_answers_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    need()
    async with Servers(tmp_path) as servers:
        with pytest.raises(BackendError, match="not ready within"):
            await servers.start(
                "web",
                [sys.executable, "-c", "import time; time.sleep(600)"],
                ready="http://127.0.0.1:1/",
                within=0.5,
            )


@real
async def test_a_frozen_server_is_stopped_all_the_same(tmp_path: Path) -> None:
    need()
    (port,) = free_ports(1)
    async with Servers(tmp_path) as servers:
        running = await servers.start("web", [*WEB, str(port)], ready=f"http://127.0.0.1:{port}/")
        running.suspend()
    assert not _alive(running.pid)


@real
async def test_a_server_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    need()
    (port,) = free_ports(1)
    command = [*WEB, str(port)]
    code = (
        "import asyncio, sys, pathlib\n"
        "from cockpit.rehearsal.real.servers import Servers\n"
        "async def main():\n"
        f"    async with Servers(pathlib.Path({str(tmp_path)!r})) as servers:\n"
        f"        running = await servers.start('web', {command!r}, ready='http://127.0.0.1:{port}/')\n"
        "        print(running.pid, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    try:
        async with asyncio.timeout(30):
            server = int(await parent.stdout.readline())
        assert _alive(server)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
    for _ in range(200):
        if not _alive(server):
            break
        await asyncio.sleep(0.05)
    assert not _alive(server)
