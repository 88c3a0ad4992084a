"""Git's loose objects and refs, read directly; every object is checked against its name."""

from __future__ import annotations

import hashlib
import heapq
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cockpit.base.errors import BackendGarbage, BackendRefused

_SHA = re.compile(r"[0-9a-f]{40}")
_MAX_OBJECT = 32 << 20
_MAX_WALK = 200_000
_MAX_DEPTH = 64
_STAMP = re.compile(rb"(?P<name>.*?) ?<[^>]*> (?P<seconds>-?\d{1,12})(?: [+-]\d{4})?")


@dataclass(frozen=True, slots=True)
class RawCommit:
    """A commit with its whole message; `when` is the committer's time, UTC."""

    sha: str
    parents: tuple[str, ...]
    author: str
    when: datetime
    message: str


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: bytes
    name: str
    sha: str

    @property
    def is_tree(self) -> bool:
        return self.mode == b"40000"

    @property
    def is_file(self) -> bool:
        return self.mode[:2] in (b"10", b"12")


class LooseRepository:
    """A repository whose objects are all loose, SHA-1 ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def open(cls, path: Path) -> LooseRepository | None:
        """Return the repository at `path`, or `None` when it takes git to read it; raises BackendRefused."""
        git = path / ".git"
        if git.is_file():
            return None  # a linked worktree or a submodule
        folder = git if git.is_dir() else path
        if not (folder / "HEAD").is_file() or not (folder / "objects").is_dir():
            if (folder / "commondir").exists():
                return None
            raise BackendRefused("there is no git repository", where=str(path), hint="give a local path")
        config = (folder / "config").read_text(errors="replace") if (folder / "config").is_file() else ""
        special = (
            any((folder / "objects" / "pack").glob("*.pack")),
            (folder / "objects" / "info" / "alternates").exists(),
            (folder / "commondir").exists(),
            (folder / "shallow").exists(),
            "[extensions]" in config.lower(),
        )
        return None if any(special) else cls(folder)

    def resolve(self, ref: str) -> str:
        """Return the commit a ref, `HEAD` or an id stands for; raises BackendRefused (404)."""
        found = ref if _SHA.fullmatch(ref) and self._object_path(ref).exists() else self._lookup(ref)
        for _ in range(8):
            kind, data = self._object(found)
            if kind == "commit":
                return found
            if kind != "tag":
                break
            found = self._header(data, b"object", found)
        raise BackendRefused(f"{ref} is not a commit", where=str(self._folder), status=404)

    def commits(self, since: str, until: str, *, limit: int) -> list[RawCommit]:
        """Return the commits reachable from `until` and not from `since`, the newest first.

        A parent never comes before its child, whatever the clocks said.
        """
        excluded = {commit.sha for commit in self._ancestors(since, set())}
        wanted = {commit.sha: commit for commit in self._ancestors(until, excluded)}
        if len(wanted) > limit:
            raise BackendGarbage(f"more than {limit} commits in the range", where=str(self._folder))
        children = dict.fromkeys(wanted, 0)
        for commit in wanted.values():
            for parent in commit.parents:
                if parent in children:
                    children[parent] += 1
        ready = [(-c.when.timestamp(), c.sha) for c in wanted.values() if children[c.sha] == 0]
        heapq.heapify(ready)
        ordered = []
        while ready:
            commit = wanted[heapq.heappop(ready)[1]]
            ordered.append(commit)
            for parent in commit.parents:
                if parent in children:
                    children[parent] -= 1
                    if children[parent] == 0:
                        heapq.heappush(ready, (-wanted[parent].when.timestamp(), parent))
        return ordered

    def file(self, sha: str, path: str, *, limit: int) -> bytes:
        """Return a file's contents; raises BackendRefused (404)."""
        entry = self._find(sha, path)
        if entry is None or not entry.is_file:
            raise BackendRefused(f"there is no file {path}", where=f"{self._folder}@{sha[:12]}", status=404)
        kind, data = self._object(entry.sha)
        if kind != "blob" or len(data) > limit:
            raise BackendGarbage(f"{path} is no file, or larger than {limit} bytes", where=str(self._folder))
        return data

    def paths(self, sha: str, prefix: str) -> list[str]:
        """Return the files under a folder, sorted by path."""
        if not prefix:
            return sorted(self._walk(self._root(sha), "", 0))
        entry = self._find(sha, prefix)
        if entry is None or not entry.is_tree:
            return []
        return sorted(self._walk(entry.sha, f"{prefix}/", 0))

    def object(self, sha: str) -> tuple[str, bytes]:
        """Return the kind of an object and its contents; raises BackendGarbage for one that is not there."""
        return self._object(sha)

    def _walk(self, tree: str, at: str, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise BackendGarbage("folders nested too deep", where=str(self._folder))
        for entry in self._entries(tree):
            if entry.is_tree:
                yield from self._walk(entry.sha, f"{at}{entry.name}/", depth + 1)
            elif entry.is_file:
                yield f"{at}{entry.name}"

    def _root(self, sha: str) -> str:
        return self._header(self._object(sha, "commit")[1], b"tree", sha)

    def _find(self, sha: str, path: str) -> _Entry | None:
        entry = _Entry(b"40000", "", self._root(sha))
        for part in path.split("/"):
            if not entry.is_tree:
                return None
            match = [one for one in self._entries(entry.sha) if one.name == part]
            if not match:
                return None
            entry = match[0]
        return entry

    def _entries(self, tree: str) -> Iterator[_Entry]:
        data, position = self._object(tree, "tree")[1], 0
        while position < len(data):
            space, null = data.find(b" ", position), data.find(b"\0", position)
            if not position < space < null or null + 21 > len(data):
                raise BackendGarbage("a tree that does not parse", where=tree)
            name = data[space + 1 : null].decode("utf-8", "surrogateescape")
            if "/" in name or name in ("", ".", ".."):
                raise BackendGarbage("a tree with an impossible name", where=tree)
            yield _Entry(data[position:space], name, data[null + 1 : null + 21].hex())
            position = null + 21

    def _ancestors(self, start: str, stop: set[str]) -> Iterator[RawCommit]:
        seen, waiting = {start}, [start]
        while waiting:
            sha = waiting.pop()
            if sha in stop:
                continue
            commit = self._commit(sha)
            yield commit
            for parent in commit.parents:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
            if len(seen) > _MAX_WALK:
                raise BackendGarbage(f"a history of more than {_MAX_WALK} commits", where=str(self._folder))

    def _commit(self, sha: str) -> RawCommit:
        _, data = self._object(sha, "commit")
        head, _, message = data.partition(b"\n\n")
        # Continued lines (signatures) begin with a space and belong to the header before.
        lines = [line for line in head.split(b"\n") if not line.startswith(b" ")]
        fields = [line.partition(b" ")[::2] for line in lines]
        parents = tuple(value.decode("ascii", "replace") for name, value in fields if name == b"parent")
        named = dict(fields)
        author, committer = (_STAMP.fullmatch(named.get(name, b"")) for name in (b"author", b"committer"))
        if author is None or committer is None or not all(_SHA.fullmatch(parent) for parent in parents):
            raise BackendGarbage("a commit that does not parse", where=sha)
        try:
            when = datetime.fromtimestamp(int(committer["seconds"]), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise BackendGarbage("a commit from no time there is", where=sha) from error
        encoding = named.get(b"encoding", b"utf-8").decode("ascii", "replace")
        return RawCommit(sha, parents, _text(author["name"], encoding), when, _text(message, encoding))

    def _lookup(self, ref: str) -> str:
        names = (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}", f"refs/remotes/{ref}")
        packed = self._packed_refs()
        for name in names:
            if name != "HEAD" and not name.startswith("refs/"):
                continue
            target = self._read_ref(name) or packed.get(name)
            for _ in range(8):
                if target is None or not target.startswith("ref: "):
                    break
                inner = target[5:].strip()
                target = (self._read_ref(inner) or packed.get(inner)) if inner.startswith("refs/") else None
            if target is not None and _SHA.fullmatch(target):
                return target
        raise BackendRefused(f"there is no ref {ref}", where=str(self._folder), status=404)

    def _read_ref(self, name: str) -> str | None:
        if ".." in name:
            return None
        path = self._folder / name
        try:
            with path.open("rb") as file:
                return file.read(512).decode("ascii", "replace").strip()
        except OSError:
            return None

    def _packed_refs(self) -> dict[str, str]:
        try:
            text = (self._folder / "packed-refs").read_text(errors="replace")
        except OSError:
            return {}
        pairs = (line.partition(" ") for line in text.splitlines() if line and line[0] not in "#^")
        return {name: sha for sha, _, name in pairs}

    def _object_path(self, sha: str) -> Path:
        return self._folder / "objects" / sha[:2] / sha[2:]

    def _object(self, sha: str, kind: str = "") -> tuple[str, bytes]:
        try:
            with self._object_path(sha).open("rb") as file:
                packed = file.read(_MAX_OBJECT + 1)
        except OSError as error:
            raise BackendGarbage(f"object {sha} is missing", where=str(self._folder)) from error
        try:
            engine = zlib.decompressobj()
            raw = engine.decompress(packed, _MAX_OBJECT)
        except zlib.error as error:
            raise BackendGarbage("an object that does not decompress", where=sha) from error
        if not engine.eof or len(packed) > _MAX_OBJECT:
            raise BackendGarbage(f"an object larger than {_MAX_OBJECT} bytes, or cut off", where=sha)
        if hashlib.sha1(raw, usedforsecurity=False).hexdigest() != sha:
            raise BackendGarbage("an object that does not have the name it is kept under", where=sha)
        head, _, data = raw.partition(b"\0")
        found, _, size = head.decode("ascii", "replace").partition(" ")
        if size != str(len(data)) or (kind and found != kind):
            raise BackendGarbage(f"not a {kind or 'git object'}", where=sha)
        return found, data

    @staticmethod
    def _header(data: bytes, name: bytes, where: str) -> str:
        for line in data.partition(b"\n\n")[0].split(b"\n"):
            if line.startswith(name + b" "):
                value = line[len(name) + 1 :].decode("ascii", "replace")
                if _SHA.fullmatch(value):
                    return value
        raise BackendGarbage(f"an object without {name.decode()}", where=where)


def _text(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")
