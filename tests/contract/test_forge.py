"""The repository reader on repositories written object by object, and, where git is there, packed by git."""

from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cockpit.backends.forge import Commit, GitRepo
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.rehearsal.forge import BASE_REF, FROM_REF, TO_REF, Author, Forge, ObjectStore, make_repository

pytestmark = pytest.mark.contract
GIT = shutil.which("git")
ANN = Author("Ann Ünicode", "ann@rehearsal.invalid")
START = datetime(2025, 1, 1, tzinfo=UTC)


def git(path: Path, *arguments: str) -> str:
    assert GIT is not None
    command = [GIT, f"--git-dir={path}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def packed(path: Path) -> None:
    git(path, "gc", "--quiet", "--prune=now")
    assert list((path / "objects" / "pack").glob("*.pack"))


def loose(_: Path) -> None:
    pass


Pack = Callable[[Path], None]
BOTH = pytest.mark.parametrize(
    "pack", [loose, pytest.param(packed, marks=pytest.mark.skipif(GIT is None, reason="needs git"))]
)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return make_repository(tmp_path / "platform.git")


def test_the_same_repository_each_time(tmp_path: Path, forge: Forge) -> None:
    assert make_repository(tmp_path / "again.git").tags == forge.tags


@pytest.mark.skipif(GIT is None, reason="needs git")
def test_git_finds_no_fault_with_it(forge: Forge) -> None:
    git(forge.path, "fsck", "--strict", "--full")
    assert git(forge.path, "rev-parse", f"{TO_REF}^{{commit}}").strip() == forge.candidate


@BOTH
async def test_reads_the_commits_of_a_release(forge: Forge, pack: Pack) -> None:
    pack(forge.path)
    repo = GitRepo(forge.path)
    commits = await repo.commits(FROM_REF, TO_REF)
    assert len(commits) == 13
    assert commits[0].sha == forge.candidate
    assert commits[0].subject == "chore(release): v3.0.0 (#430)"
    assert commits[-1].subject == "feat(search): rank answers by recency (#401)"
    assert [one.when for one in commits] == sorted((one.when for one in commits), reverse=True)
    [breaking] = [one for one in commits if "BREAKING CHANGE:" in one.body]
    assert breaking.subject == "feat(realtime)!: resume streams by sequence number (#405)"
    assert breaking.author == "Chi Example"
    assert len(await repo.commits(BASE_REF, TO_REF)) == 16
    assert await repo.commits(TO_REF, FROM_REF) == ()
    assert await repo.commits(TO_REF, TO_REF) == ()
    for name in ("main", "HEAD", forge.candidate, f"refs/tags/{TO_REF}"):
        assert await repo.resolve(name) == forge.candidate


@BOTH
async def test_reads_files_and_folders(forge: Forge, pack: Pack) -> None:
    pack(forge.path)
    repo = GitRepo(forge.path)
    assert await repo.file_at(FROM_REF, "services/web/VERSION") == b"v2.9.4\n"
    assert await repo.file_at(forge.candidate, "services/web/VERSION") == b"v3.0.0\n"
    before = await repo.list_at(FROM_REF, "contracts/item-created")
    after = await repo.list_at(TO_REF, "contracts/item-created/")
    assert set(after) - set(before) == {"contracts/item-created/samples/2.json"}
    assert await repo.list_at(FROM_REF, "migrations/v3.0.0") == ()
    plan = json.loads(await repo.file_at(TO_REF, "migrations/v3.0.0/plan.json"))
    assert [step["phase"] for step in plan["steps"]] == ["expand", "backfill", "cutover", "contract"]
    migrations = await repo.list_at(TO_REF, "migrations/v3.0.0")
    for step in plan["steps"]:
        assert f"migrations/v3.0.0/{step['up']}" in migrations
        assert f"migrations/v3.0.0/{step['rollback']}" in migrations
    everything = await repo.list_at(TO_REF)
    assert set(migrations) < set(everything)
    assert list(everything) == sorted(everything)
    assert await repo.list_at(TO_REF, "README.md") == ()
    assert await repo.list_at(TO_REF, "no/such/folder") == ()


@BOTH
async def test_what_is_not_there_is_refused(forge: Forge, pack: Pack) -> None:
    pack(forge.path)
    repo = GitRepo(forge.path)
    missing = "0" * 40
    for call in (
        repo.resolve("v9.9.9"),
        repo.resolve(missing),
        repo.commits("v9.9.9", TO_REF),
        repo.file_at(TO_REF, "no/such/file"),
        repo.file_at(TO_REF, "README.md/inside"),
        repo.file_at(TO_REF, "contracts"),
    ):
        with pytest.raises(BackendRefused) as refused:
            await call
        assert refused.value.status == 404


@BOTH
async def test_refs_and_paths_are_never_options_or_ways_out(forge: Forge, pack: Pack) -> None:
    pack(forge.path)
    repo = GitRepo(forge.path)
    for ref in (
        "--output=x",
        "-v",
        "a..b",
        "a^{/x}",
        "a b",
        "HEAD~1",
        "../../etc/passwd",
        "",
        "v3.0.0\n",
        "x.lock",
    ):
        with pytest.raises(BackendRefused) as refused:
            await repo.resolve(ref)
        assert refused.value.status == 400
    for path in ("../x", "/etc/passwd", "a//b", "a/./b", "", "a\0b"):
        with pytest.raises(BackendRefused):
            await repo.file_at(TO_REF, path)
    assert await repo.list_at(TO_REF, ":(glob)*") == ()


@BOTH
async def test_a_range_is_what_git_says_it_is(tmp_path: Path, pack: Pack) -> None:
    store = ObjectStore(tmp_path / "merged.git")

    def commit(minutes: int, message: str, *parents: str) -> str:
        tree = store.tree({"n": str(minutes).encode(), "a/b": b"x", "a.b": b"y", "a-b/c": b"z"})
        return store.commit(tree, parents, ANN, START + timedelta(minutes=minutes), message)

    root = commit(0, "root")
    left = commit(10, "left\nside\n\n\nbody one\n\nbody two\n", root)
    right = commit(5, "right", root)
    # Its clock was wrong: older than its own parent.
    late = commit(1, "late", right)
    merge = commit(20, "merge", left, late)
    store.ref("refs/heads/main", merge)
    store.tag("from", left, ANN, START, "tag")
    store.ref("refs/tags/light", right)
    pack(store.path)
    repo = GitRepo(store.path)
    assert [one.sha for one in await repo.commits("from", "main")] == [merge, late, right]
    assert [one.sha for one in await repo.commits("light", "main")] == [merge, left, late]
    [*_, only] = await repo.commits(root, left)
    assert only == Commit(
        left, "Ann Ünicode", "left side", "body one\n\nbody two", START + timedelta(minutes=10)
    )
    assert await repo.list_at("main") == ("a-b/c", "a.b", "a/b", "n")


@pytest.mark.skipif(GIT is None, reason="needs git")
async def test_a_repositorys_configuration_starts_no_program(forge: Forge, tmp_path: Path) -> None:
    packed(forge.path)
    proof = tmp_path / "started"
    script = tmp_path / "program"
    script.write_text(f"#!/bin/sh\ntouch {proof}\n")
    script.chmod(0o755)
    for name in (
        "core.fsmonitor",
        "gpg.program",
        "core.pager",
        "diff.external",
        "core.sshCommand",
        "core.editor",
    ):
        git(forge.path, "config", name, str(script))
    git(forge.path, "config", "log.showSignature", "true")
    repo = GitRepo(forge.path)
    await repo.commits(FROM_REF, TO_REF)
    await repo.file_at(TO_REF, "README.md")
    await repo.list_at(TO_REF, "contracts")
    assert not proof.exists()


@pytest.mark.skipif(GIT is None, reason="needs git")
async def test_a_git_that_takes_too_long_is_ended(forge: Forge) -> None:
    packed(forge.path)
    with pytest.raises(BackendUnreachable):
        await GitRepo(forge.path, deadline=0.0).resolve(TO_REF)


async def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BackendRefused):
            await GitRepo(path).resolve("HEAD")


async def test_damage_is_noticed(forge: Forge) -> None:
    name = forge.candidate
    path = forge.path / "objects" / name[:2] / name[2:]
    whole = path.read_bytes()
    raw = zlib.decompress(whole)
    path.chmod(0o644)
    damages = [
        b"",
        whole[:-5],
        b"not zlib",
        zlib.compress(raw.replace(b"Ann", b"Eve")),
        zlib.compress(b"commit 3\0abcd"),
        zlib.compress(b"commit " + b"0" * (33 << 20)),
    ]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(BackendGarbage):
            await GitRepo(forge.path).commits(FROM_REF, TO_REF)
    path.unlink()
    with pytest.raises(BackendError):
        await GitRepo(forge.path).commits(FROM_REF, TO_REF)
    path.write_bytes(whole)
    assert len(await GitRepo(forge.path).commits(FROM_REF, TO_REF)) == 13


async def test_a_ref_that_points_to_itself_ends(forge: Forge) -> None:
    (forge.path / "refs/heads/loop").write_text("ref: refs/heads/loop\n")
    (forge.path / "refs/heads/out").write_text("ref: refs/../../../../etc/passwd\n")
    for name in ("loop", "out"):
        with pytest.raises(BackendRefused):
            await GitRepo(forge.path).resolve(name)
