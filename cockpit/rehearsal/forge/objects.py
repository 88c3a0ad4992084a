"""Git's object format: blobs, trees, commits and annotated tags as loose objects in a bare repository."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a commit."""

    name: str
    email: str

    def stamp(self, when: datetime) -> str:
        """Return the form used in commits: name, address, seconds since 1970, offset."""
        return f"{self.name} <{self.email}> {int(when.timestamp())} +0000"


class ObjectStore:
    """A bare repository at `path`, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        (path / "config").write_text(_CONFIG)
        (path / "HEAD").write_text("ref: refs/heads/main\n")

    def write(self, kind: str, data: bytes) -> str:
        """Write an object and return its id, 40 hexadecimal digits."""
        raw = f"{kind} {len(data)}\0".encode() + data
        name = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        target = self.path / "objects" / name[:2] / name[2:]
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(zlib.compress(raw, 1))
            target.chmod(0o444)
        return name

    def tree(self, files: Mapping[str, bytes]) -> str:
        """Write files by path, and the trees above them; return the root tree's id."""
        folders: dict[str, dict[str, bytes]] = {}
        entries: list[tuple[bytes, bytes]] = []
        for path, data in files.items():
            head, slash, rest = path.partition("/")
            if slash:
                folders.setdefault(head, {})[rest] = data
            else:
                line = b"100644 " + head.encode() + b"\0" + bytes.fromhex(self.write("blob", data))
                entries.append((head.encode(), line))
        for name, inner in folders.items():
            line = b"40000 " + name.encode() + b"\0" + bytes.fromhex(self.tree(inner))
            entries.append((name.encode() + b"/", line))  # git sorts a folder as if its name ended in a slash
        return self.write("tree", b"".join(line for _, line in sorted(entries)))

    def commit(self, tree: str, parents: Sequence[str], author: Author, when: datetime, message: str) -> str:
        """Write a commit and return its id."""
        stamp = author.stamp(when)
        lines = [
            f"tree {tree}",
            *(f"parent {one}" for one in parents),
            f"author {stamp}",
            f"committer {stamp}",
        ]
        return self.write("commit", ("\n".join(lines) + f"\n\n{message.rstrip()}\n").encode())

    def tag(self, name: str, commit: str, author: Author, when: datetime, message: str) -> str:
        """Write an annotated tag with its ref and return its id."""
        head = (
            f"object {commit}\ntype commit\ntag {name}\ntagger {author.stamp(when)}\n\n{message.rstrip()}\n"
        )
        made = self.write("tag", head.encode())
        self.ref(f"refs/tags/{name}", made)
        return made

    def ref(self, name: str, target: str) -> None:
        """Point a ref at an object."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{target}\n")
