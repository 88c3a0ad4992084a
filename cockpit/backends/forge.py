"""The git repository, read-only: commits of a range, files and folders at a commit.

Loose objects are read directly. Repositories with packs (or alternates, worktrees, other hash functions)
are read with the `git` binary: arguments as a list, no shell, no configuration but the repository's own, and
nothing of that which could start a program.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cockpit.backends.gitobjects import LooseRepository, RawCommit
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.base.threads import BoundedThreads

MAX_COMMITS = 20_000
MAX_FILE_BYTES = 8 << 20
MAX_LIST_BYTES = 32 << 20
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: `subject` is the message's first paragraph on one line, `body` the rest, `when` committed."""

    sha: str
    author: str
    subject: str
    body: str
    when: datetime


class GitReader(Protocol):
    """Both ways of reading; `ref` and `sha` have been checked."""

    async def resolve(self, ref: str) -> str:
        """Return the commit a ref stands for; raises BackendRefused (404)."""
        ...

    async def commits(self, since: str, until: str) -> list[RawCommit]:
        """Return the commits reachable from `until` and not from `since`, newest first."""
        ...

    async def file(self, sha: str, path: str) -> bytes:
        """Return a file; raises BackendRefused (404)."""
        ...

    async def paths(self, sha: str, prefix: str) -> list[str]:
        """Return the paths of all files under a folder, sorted."""
        ...

    async def object(self, sha: str, limit: int) -> tuple[str, bytes]:
        """Return an object's kind and contents."""
        ...


class GitRepo:
    """A repository at a local path, bare or with a working tree; `deadline` seconds bound each call.

    Raises BackendRefused (no repository there, or status 404: no such ref, path), BackendGarbage (damaged or
    too large) and BackendUnreachable (no answer in time).
    """

    def __init__(self, path: Path, *, deadline: float = 20.0) -> None:
        self._path = path
        self._deadline = deadline
        self._reader: GitReader | None = None

    async def resolve(self, ref: str) -> str:
        """Return the commit id of a tag, branch, `HEAD` or commit id."""
        check_ref(ref, where=str(self._path))
        return await self._read().resolve(ref)

    async def commits(self, from_ref: str, to_ref: str) -> tuple[Commit, ...]:
        """Return the commits of `from_ref..to_ref`, newest first."""
        since, until = await self.resolve(from_ref), await self.resolve(to_ref)
        found = await self._read().commits(since, until)
        return tuple(_commit(raw) for raw in found)

    async def file_at(self, ref: str, path: str) -> bytes:
        """Return the contents of a file at a commit."""
        _check_path(path)
        return await self._read().file(await self.resolve(ref), path)

    async def list_at(self, ref: str, prefix: str = "") -> tuple[str, ...]:
        """Return the paths of the files under a folder (all when empty) at a commit, sorted."""
        prefix = prefix.rstrip("/")
        if prefix:
            _check_path(prefix)
        return tuple(await self._read().paths(await self.resolve(ref), prefix))

    async def object(self, sha: str, *, limit: int) -> tuple[str, bytes]:
        """Return the kind of an object (commit, tag, tree, blob) and its contents, up to `limit` bytes."""
        if not _SHA.fullmatch(sha):
            raise BackendRefused("not the name of an object", where=str(self._path), status=400)
        return await self._read().object(sha, limit)

    def _read(self) -> GitReader:
        if self._reader is None:
            loose = LooseRepository.open(self._path)
            self._reader = (
                _GitBinary(self._path, self._deadline) if loose is None else _Loose(loose, self._deadline)
            )
        return self._reader


def check_ref(ref: str, *, where: str = "") -> None:
    """Refuse what is no ref, or none that is safe to write; raises BackendRefused (400)."""
    parts = ref.split("/")
    odd = any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts)
    if not _REF.fullmatch(ref) or ".." in ref or odd:
        raise BackendRefused(f"{ref[:80]!r} is not a ref", where=where, status=400)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if "\0" in path or len(path) > 4096 or any(part in ("", ".", "..") for part in parts):
        raise BackendRefused(f"{path[:80]!r} is not a path within a repository", status=400)


def _commit(raw: RawCommit) -> Commit:
    head, _, body = raw.message.strip("\n").partition("\n\n")
    subject = " ".join(line.strip() for line in head.splitlines())
    return Commit(raw.sha, raw.author, subject, body.strip("\n"), raw.when)


class _Loose:
    """Reads loose objects in a thread."""

    def __init__(self, repository: LooseRepository, deadline: float) -> None:
        self._repository = repository
        self._deadline = deadline
        self._threads = BoundedThreads("git", 2)

    async def resolve(self, ref: str) -> str:
        return await self._threads.run(lambda: self._repository.resolve(ref), deadline=self._deadline)

    async def commits(self, since: str, until: str) -> list[RawCommit]:
        return await self._threads.run(
            lambda: self._repository.commits(since, until, limit=MAX_COMMITS), deadline=self._deadline
        )

    async def file(self, sha: str, path: str) -> bytes:
        return await self._threads.run(
            lambda: self._repository.file(sha, path, limit=MAX_FILE_BYTES), deadline=self._deadline
        )

    async def paths(self, sha: str, prefix: str) -> list[str]:
        return await self._threads.run(lambda: self._repository.paths(sha, prefix), deadline=self._deadline)

    async def object(self, sha: str, limit: int) -> tuple[str, bytes]:
        kind, data = await self._threads.run(lambda: self._repository.object(sha), deadline=self._deadline)
        if len(data) > limit:
            raise BackendGarbage(f"an object of more than {limit} bytes", where=sha)
        return kind, data


class _GitBinary:
    """Asks the `git` binary."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        git = path / ".git"
        self._git_dir = git if git.exists() else path

    async def resolve(self, ref: str) -> str:
        arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        code, out = await self._run(arguments, limit=4096)
        sha = out.decode("ascii", "replace").strip()
        if code != 0:
            raise BackendRefused(f"there is no commit {ref}", where=str(self._path), status=404)
        if not _SHA.fullmatch(sha):
            raise BackendGarbage("git named a commit in an unknown way", where=str(self._path))
        return sha

    async def commits(self, since: str, until: str) -> list[RawCommit]:
        form = _SEPARATOR.join(("%H", "%an", "%cI", "%B"))
        limit = str(MAX_COMMITS + 1)
        out = await self._must(
            (
                "log",
                "-z",
                "--no-color",
                "--date-order",
                f"--max-count={limit}",
                f"--format={form}",
                f"{since}..{until}",
            ),
            limit=MAX_LIST_BYTES,
        )
        records = [one for one in out.decode("utf-8", "replace").split("\0") if one]
        if len(records) > MAX_COMMITS:
            raise BackendGarbage(f"more than {MAX_COMMITS} commits in the range", where=str(self._path))
        found = []
        for record in records:
            try:
                sha, author, when, message = record.split(_SEPARATOR, 3)
                found.append(RawCommit(sha, (), author, datetime.fromisoformat(when), message))
            except ValueError as error:
                raise BackendGarbage("git's log cannot be read", where=str(self._path)) from error
        return found

    async def file(self, sha: str, path: str) -> bytes:
        if await self._kind(sha, path) != "blob":
            raise BackendRefused(f"there is no file {path}", where=f"{self._path}@{sha[:12]}", status=404)
        return await self._must(("cat-file", "blob", f"{sha}:{path}"), limit=MAX_FILE_BYTES)

    async def paths(self, sha: str, prefix: str) -> list[str]:
        arguments = ["ls-tree", "-r", "-z", "--full-tree", "--format=%(objecttype) %(path)", sha]
        if prefix:
            if await self._kind(sha, prefix) != "tree":
                return []
            arguments += ["--", f"{prefix}/"]
        out = await self._must(tuple(arguments), limit=MAX_LIST_BYTES)
        lines = (line.partition(" ") for line in out.decode("utf-8", "surrogateescape").split("\0") if line)
        return sorted(path for kind, _, path in lines if kind == "blob")

    async def object(self, sha: str, limit: int) -> tuple[str, bytes]:
        kind = (await self._must(("cat-file", "-t", sha), limit=4096)).decode("ascii", "replace").strip()
        return kind, await self._must(("cat-file", kind, sha), limit=limit)

    async def _kind(self, sha: str, path: str) -> str:
        code, out = await self._run(("cat-file", "-t", f"{sha}:{path}"), limit=4096)
        return out.decode("ascii", "replace").strip() if code == 0 else ""

    async def _must(self, arguments: tuple[str, ...], *, limit: int) -> bytes:
        code, out = await self._run(arguments, limit=limit)
        if code != 0:
            raise BackendGarbage(f"git {arguments[0]} ended with status {code}", where=str(self._path))
        return out

    async def _run(self, arguments: tuple[str, ...], *, limit: int) -> tuple[int, bytes]:
        command = ("git", f"--git-dir={self._git_dir}", "--no-pager", *_HARMLESS, *arguments)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
            )
        except FileNotFoundError:
            raise BackendRefused(
                "the repository's objects are packed and there is no git to read them",
                where=str(self._path),
                hint="install git, or give a repository with loose objects",
            ) from None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._deadline):
                out = bytearray()
                while chunk := await process.stdout.read(1 << 16):
                    out += chunk
                    if len(out) > limit:
                        raise BackendGarbage(f"git gave more than {limit} bytes", where=str(self._path))
                return await process.wait(), bytes(out)
        except TimeoutError:
            raise BackendUnreachable(
                f"git gave no answer within {self._deadline:g} s", where=str(self._path)
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


_HARMLESS = (  # a repository's own configuration may name programs to run: none of these is wanted
    "-c",
    "core.fsmonitor=false",
    "-c",
    "log.showSignature=false",
    "-c",
    "i18n.logOutputEncoding=UTF-8",
    "-c",
    "core.quotePath=false",
    "-c",
    "protocol.allow=never",
)


def _environment() -> dict[str, str]:
    import os

    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_LITERAL_PATHSPECS": "1",
    }
