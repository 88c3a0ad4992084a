"""Annotated, signed tags in a local git repository: cut once, never moved, never removed.

Written as loose objects and refs by git's own rules: an object under a temporary name, then linked; a ref
under its `.lock` file, after looking at loose and packed refs. Git itself is not needed for it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cockpit.backends.forge import GitRepo, check_ref
from cockpit.base import sshsig
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, Conflict
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads

TAGGER = "Release Cockpit <cockpit@release-cockpit.dev>"
_OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FORMAT = re.compile(r"^\s*objectformat\s*=\s*(\w+)\s*$", re.IGNORECASE | re.MULTILINE)
_STORAGE = re.compile(r"^\s*refstorage\s*=\s*(\w+)\s*$", re.IGNORECASE | re.MULTILINE)
_MAX_TAG = 64 * 1024
_MAX_REFS = 32 << 20


class Signer(Protocol):
    """An Ed25519 key that signs in the SSH format."""

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes of the public key."""
        ...

    def ssh_signature(self, message: bytes, namespace: str) -> bytes:
        """Return the armoured signature."""
        ...


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as it lies in the repository. `kind` is tag, or what a lightweight one stands for.

    `text` is the whole object with its signature; empty for a lightweight tag.
    """

    name: str
    object: str
    kind: str
    commit: str
    text: bytes

    @property
    def message(self) -> str:
        """The message, without header and signature."""
        return sshsig.split(self.text)[0].partition(b"\n\n")[2].decode("utf-8", "replace")

    def problem(self, public: bytes) -> str:
        """Return why this is no tag signed by that key, nothing when it is one."""
        if self.kind != "tag":
            return "it is not annotated"
        text, signature = sshsig.split(self.text)
        if not signature:
            return "it is not signed"
        try:
            sshsig.verify(text, sshsig.GIT, public, signature)
        except ValueError as error:
            return str(error)
        return ""


class TagReader(Protocol):
    """Tags, read-only; every method raises BackendError."""

    @property
    def public_key(self) -> bytes:
        """The key new tags are signed with."""
        ...

    async def names(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all tags that begin with `prefix`, sorted."""
        ...

    async def read(self, name: str) -> Tag | None:
        """Return a tag, None where there is none."""
        ...


class TagWriter(TagReader, Protocol):
    """Tags to cut."""

    async def cut(self, name: str, commit: str, message: str, when: datetime) -> Tag:
        """Cut a signed tag at a commit; raises Conflict when one of that name is there, or being made."""
        ...


class SignedTags:
    """The tags of the repository at `path`, bare or with a working tree; `deadline` seconds bound a call."""

    def __init__(self, path: Path, signer: Signer, *, deadline: float = 20.0) -> None:
        self._path = path
        self._signer = signer
        self._deadline = deadline
        self._repository = GitRepo(path, deadline=deadline)
        self._threads = BoundedThreads("git tags", 1)

    @property
    def public_key(self) -> bytes:
        """The key new tags are signed with."""
        return self._signer.public_bytes

    async def names(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all tags that begin with `prefix`, sorted."""
        found = await self._threads.run(lambda: _Refs(self._path).tags(), deadline=self._deadline)
        return tuple(sorted(name for name in found if name.startswith(prefix)))

    async def read(self, name: str) -> Tag | None:
        """Return a tag, None where there is none."""
        check_ref(name)
        refs = await self._threads.run(lambda: _Refs(self._path).tags(), deadline=self._deadline)
        if name not in refs:
            return None
        kind, text = await self._repository.object(refs[name], limit=_MAX_TAG)
        commit = await self._repository.resolve(refs[name])
        return Tag(name, refs[name], kind, commit, text if kind == "tag" else b"")

    async def cut(self, name: str, commit: str, message: str, when: datetime) -> Tag:
        """Cut a signed tag at a commit; see TagWriter."""
        check_ref(name)
        if not _OBJECT.fullmatch(commit) or await self._repository.resolve(commit) != commit:
            raise BackendRefused("a tag is cut at a commit", where=str(self._path))
        text = payload(name, commit, message, when)
        text += self._signer.ssh_signature(text, sshsig.GIT)
        made = await self._threads.run(lambda: self._write(name, text), deadline=self._deadline)
        return Tag(name, made, "tag", commit, text)

    def _write(self, name: str, text: bytes) -> str:
        try:
            refs = _Refs(self._path)
            return refs.create(name, text)
        except FileExistsError:
            raise Conflict(f"the tag {name} is there, or being made", where=str(self._path)) from None
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            said = f"the repository cannot be written: {error.strerror}"
            raise BackendRefused(
                said, where=str(self._path), hint="tags need write access to its objects and refs"
            ) from None
        except OSError as error:
            said = f"the repository cannot be written: {error.strerror or visible(str(error), limit=200)}"
            raise BackendUnreachable(said, where=str(self._path)) from None


def payload(name: str, commit: str, message: str, when: datetime) -> bytes:
    """Return the text of a tag object, which is what is signed; it ends with a newline."""
    shown = visible(message, newlines=True, limit=_MAX_TAG // 2).strip("\n")
    head = f"object {commit}\ntype commit\ntag {name}\ntagger {TAGGER} {int(when.timestamp())} +0000\n"
    return f"{head}\n{shown}\n".encode("utf-8", "replace")


class _Refs:
    """Tags below one repository's folder, loose and packed; blocking."""

    def __init__(self, path: Path) -> None:
        self._folder = _common(path)
        config = _read(self._folder / "config")
        storage, hashed = _STORAGE.search(config), _FORMAT.search(config)
        if storage is not None and storage[1].lower() != "files":
            raise BackendRefused(f"refs are kept as {storage[1]}, which is not supported", where=str(path))
        self._hash = hashed[1].lower() if hashed is not None else "sha1"
        if self._hash not in ("sha1", "sha256"):
            raise BackendRefused("objects have names of an unknown hash function", where=str(path))

    def tags(self) -> dict[str, str]:
        """Return tag → object id. Loose refs are read first: packing writes the other place before it
        removes them."""
        loose = dict(self._loose())
        return {**self._packed(), **loose}

    def create(self, name: str, text: bytes) -> str:
        """Write the tag object and then its ref; raises FileExistsError when the ref is there."""
        ref = self._folder / "refs" / "tags" / name
        try:
            ref.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, f"a ref stands where {name} needs a folder") from None
        lock = ref.with_name(f"{ref.name}.lock")
        file = lock.open("xb")
        try:
            with file:
                taken = [one for one in self.tags() if _same_place(one, name)]
                if taken and name not in taken:
                    raise NotADirectoryError(errno.ENOTDIR, f"the tag {taken[0]} stands in its way")
                if taken:
                    raise FileExistsError(name)
                made = self._object("tag", text)
                file.write(f"{made}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(lock, ref)  # unlike a rename it never replaces what came there all the same
        finally:
            lock.unlink()
        _sync(ref.parent)
        return made

    def _object(self, kind: str, data: bytes) -> str:
        raw = f"{kind} {len(data)}\0".encode() + data
        made = hashlib.new(self._hash, raw, usedforsecurity=False).hexdigest()
        target = self._folder / "objects" / made[:2] / made[2:]
        if target.exists():
            return made
        target.parent.mkdir(exist_ok=True)
        # The name git's own housekeeping removes when nobody came to rename it.
        draft = target.parent / f"tmp_obj_{secrets.token_hex(8)}"
        try:
            with draft.open("xb") as file:
                file.write(zlib.compress(raw))
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(0o444)
            with contextlib.suppress(FileExistsError):
                os.link(draft, target)
        finally:
            draft.unlink(missing_ok=True)
        _sync(target.parent)
        return made

    def _loose(self) -> Iterator[tuple[str, str]]:
        root = self._folder / "refs" / "tags"
        for folder, _, files in os.walk(root):
            for file in files:
                path = Path(folder, file)
                if file.endswith(".lock"):
                    continue
                found = _read(path, limit=256).strip()
                if _OBJECT.fullmatch(found):
                    yield path.relative_to(root).as_posix(), found

    def _packed(self) -> dict[str, str]:
        found = {}
        for line in _read(self._folder / "packed-refs").splitlines():
            sha, _, ref = line.partition(" ")
            if ref.startswith("refs/tags/") and _OBJECT.fullmatch(sha):
                found[ref.removeprefix("refs/tags/")] = sha
        return found


def _same_place(one: str, other: str) -> bool:
    """Tell whether two refs cannot both be: a file and a folder of the same name."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _common(path: Path) -> Path:
    """Return the folder with objects and refs; of a linked worktree, that of its repository."""
    folder = path / ".git"
    if folder.is_file():
        said = _read(folder, limit=4096).strip()
        if not said.startswith("gitdir: "):
            raise BackendGarbage(".git is no git directory", where=str(path))
        folder = (path / said.removeprefix("gitdir: ")).resolve()
    elif not folder.is_dir():
        folder = path
    shared = _read(folder / "commondir", limit=4096).strip()
    if shared:
        folder = (folder / shared).resolve()
    if not (folder / "objects").is_dir() or not (folder / "refs").is_dir():
        raise BackendRefused(
            "there is no git repository that can be written", where=str(path), hint="give a local path"
        )
    return folder


def _read(path: Path, *, limit: int = _MAX_REFS) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise BackendRefused(f"it cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > limit:
        raise BackendGarbage(f"more than {limit} bytes", where=str(path))
    return data.decode("utf-8", "replace")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
