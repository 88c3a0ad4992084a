"""How a message reaches an agent that is not ours and its answer comes back: a command, or HTTP.

A command is executed without a shell in a session of its own, sees an environment without secrets and a home
that is removed after it, and is killed with all it started when it ends, is late, or its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cockpit.backends.http import hung_up
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import (
    AnswerLate,
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    MessageInvalid,
)
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.base.tasks import first_error
from cockpit.base.text import visible

PATH = "/usr/local/bin:/usr/bin:/bin"
_MARK = "COCKPIT_CALL"
"""Environment variable that marks a call's processes, so that one which left its session is found too."""
_KEPT_ERRORS = 4000
_CHUNK = 64 * 1024
_POLL = 0.02
_ROUNDS = 20
_GONE_WITHIN = 2.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """The line a command answered with, and the end of what it wrote to standard error."""

    line: bytes
    errors: str


async def ask_command(
    command: Sequence[str],
    request: bytes,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    deadline: float,
) -> CommandAnswer:
    """Run a command with `request` as its one line of input; return its one line of output.

    Raises AnswerLate, MessageInvalid (no line, more than one, or too long), BackendGarbage (it ended with
    another status than 0) or BackendUnreachable (it cannot be started).
    """
    mark = secrets.token_hex(16)
    home = tempfile.mkdtemp(prefix="cockpit-agent-")
    try:
        return await _run(
            command,
            request,
            cwd,
            {
                "PATH": PATH,
                "LANG": "C.UTF-8",
                "HOME": home,
                "TMPDIR": home,
                **environment,
                _MARK: mark,
            },
            mark,
            deadline,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _run(
    command: Sequence[str],
    request: bytes,
    cwd: Path,
    environment: Mapping[str, str],
    mark: str,
    deadline: float,
) -> CommandAnswer:
    name = visible(Path(command[0]).name, limit=80)
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise BackendUnreachable(f"the command {name} cannot be started: {text}") from None
    errors = bytearray()
    try:
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
            said = group.create_task(_read(child.stdout, name))
            group.create_task(_keep_end(child.stderr, errors))
            group.create_task(_feed(child.stdin, request))
            group.create_task(_end_with(child, mark))
    except TimeoutError:
        raise AnswerLate(f"{name} did not answer and end within {deadline:g} s") from None
    except BaseExceptionGroup as group_error:
        raise first_error(group_error) from None
    finally:
        _kill(child, mark)
        await _gone(child)
    text = visible(errors.decode("utf-8", "replace").strip(), limit=1000)
    if child.returncode != 0:
        raise BackendGarbage(f"{name} ended with status {child.returncode}: {text}".rstrip(": "))
    line, newline, rest = said.result().partition(b"\n")
    if not newline:
        raise MessageInvalid(f"{name} answered no whole line")
    if rest.strip():
        raise MessageInvalid(f"{name} answered more than one line")
    return CommandAnswer(line, text)


async def _read(stream: asyncio.StreamReader | None, name: str) -> bytes:
    assert stream is not None
    found = bytearray()
    while chunk := await stream.read(_CHUNK):
        found += chunk
        if len(found) > MAX_MESSAGE_BYTES:
            raise MessageInvalid(f"{name} answered more than {MAX_MESSAGE_BYTES} bytes")
    return bytes(found)


async def _keep_end(stream: asyncio.StreamReader | None, kept: bytearray) -> None:
    assert stream is not None
    while chunk := await stream.read(_CHUNK):
        kept += chunk
        del kept[:-_KEPT_ERRORS]


async def _feed(stream: asyncio.StreamWriter | None, request: bytes) -> None:
    assert stream is not None
    try:
        stream.write(request + b"\n")
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it does not read its request; its answer will show what comes of that


async def _end_with(child: asyncio.subprocess.Process, mark: str) -> None:
    """End what the command left behind once it has ended: a grandchild may hold its output open."""
    while child.returncode is None:  # noqa: ASYNC110 - `wait` would wait for those who hold its output, too
        await asyncio.sleep(_POLL)
    _kill(child, mark)


def _kill(child: asyncio.subprocess.Process, mark: str) -> None:
    # The whole session's first group; then whoever left it and still bears the mark of this call.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for _ in range(_ROUNDS):
        left = _marked(mark)
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """Return the living processes of this user that bear the mark; only Linux tells."""
    if not sys.platform.startswith("linux"):
        return []
    wanted, found = f"{_MARK}={mark}".encode(), []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
            dead = Path(entry.path, "stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
        except OSError:
            continue  # it has gone, or is not ours
        if wanted in environment.split(b"\0") and not dead:
            found.append(int(entry.name))
    return found


async def _gone(child: asyncio.subprocess.Process) -> None:
    """Wait for the end of what was killed; what it had still to say is let go, or its pipes would stay."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_GONE_WITHIN):
            for stream in (child.stdout, child.stderr):
                while stream is not None and await stream.read(_CHUNK):
                    pass
            await child.wait()


async def ask_url(
    url: str, request: bytes, *, token: str, trace_id: str, deadline: float, tls: Tls = USUAL
) -> bytes:
    """POST `request` to `url` and return the body of its 200; no redirect is followed.

    Raises AnswerLate, MessageInvalid (too long), BackendRefused (4xx, a redirect), BackendGarbage or
    BackendUnreachable.
    """
    import httpx

    outside = httpx.URL(url).host not in _LOOPBACK
    where = visible(str(httpx.URL(url).copy_with(query=None, userinfo=b"")), limit=200)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "release-cockpit",
        "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
    }
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        async with (
            asyncio.timeout(deadline),
            httpx.AsyncClient(
                timeout=deadline, trust_env=outside, verify=tls.context(environment=outside)
            ) as client,
            client.stream("POST", url, content=request, headers=headers, follow_redirects=False) as answer,
        ):
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise BackendGarbage("the answer is compressed, which was not asked for", where=where)
            if answer.is_redirect:
                raise BackendRefused(
                    "it redirects, which is not followed", where=where, status=answer.status_code
                )
            if answer.status_code != 200:
                error = BackendUnreachable if answer.status_code >= 500 else BackendRefused
                raise error(f"it answered {answer.status_code}", where=where)
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > MAX_MESSAGE_BYTES:
                    raise MessageInvalid(f"an answer of more than {MAX_MESSAGE_BYTES} bytes", where=where)
            return bytes(body)
    except (TimeoutError, httpx.TimeoutException):
        raise AnswerLate(f"no answer within {deadline:g} s", where=where) from None
    except (httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.DecodingError) as error:
        text = visible(str(error), limit=200)
        if hung_up(error):
            raise BackendUnreachable(f"cut off: {text}", where=where) from None
        raise BackendGarbage(f"not HTTP: {text}", where=where) from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        text = visible(f"{type(error).__name__}: {error}", limit=200)
        raise BackendUnreachable(text, where=where) from None
