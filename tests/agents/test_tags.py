"""A1's tags: signed by the run, never moved, counted up, used again by a resumed run, verified by git."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cockpit.agents.tags import SIGNERS
from cockpit.backends.forge import GitRepo
from cockpit.backends.gittags import SignedTags, payload
from cockpit.base import sshsig
from cockpit.base.errors import BackendRefused, Conflict
from cockpit.conductor.calls import CallResult
from cockpit.journal.events import EffectIntended, GateJudged, Released, RollbackStarted
from cockpit.journal.events_work import TagCut
from cockpit.journal.heads import RunKey
from cockpit.rehearsal.forge import make_repository
from tests.agents.support import World

GIT = shutil.which("git")
needs_git = pytest.mark.skipif(
    GIT is None or shutil.which("ssh-keygen") is None, reason="needs git and ssh-keygen"
)
RC1, RC2, FINAL = "release/v3.0.0-rc.1", "release/v3.0.0-rc.2", "v3.0.0"
WHEN = datetime(2025, 9, 23, 8, tzinfo=UTC)


@pytest_asyncio.fixture
async def tagged(world: World) -> World:
    """A world whose repository has no v3.0.0 yet, and tags signed with the run's key."""
    path = world.folder / "tagged"
    make_repository(path, released=False)
    world.data["targets"]["repository"] |= {"path": "tagged", "to_ref": "main"}
    world.handles = replace(world.handles, forge=GitRepo(path), tags=SignedTags(path, world.key))
    return world


def repository(world: World) -> Path:
    return world.folder / "tagged"


def git(path: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    command = [str(GIT), f"--git-dir={path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def call(world: World, op: Any, tag: str, **params: Any) -> CallResult:
    return await world.call("A1", op, "P6", tag=tag, **params)


def events(world: World, kind: Any) -> list[Any]:
    world.recorder.state()
    return [event for event in world.recorder.events() if isinstance(event, kind)]


def effects(world: World) -> list[EffectIntended]:
    return [one for one in events(world, EffectIntended) if one.verb == "tag"]


async def test_a_candidate_is_planned_cut_recorded_and_read_back(tagged: World) -> None:
    commit = await GitRepo(repository(tagged)).resolve("main")
    planned = await call(tagged, "PLAN", "rc")
    assert planned.status == "ok" and RC1 in planned.reason and commit[:12] in planned.reason
    assert not effects(tagged) and not (repository(tagged) / "refs/tags/release").exists()

    cut = await call(tagged, "APPLY", "rc")
    assert cut.status == "ok", cut.reason
    [effect] = effects(tagged)
    assert (effect.target, effect.env, effect.by) == (f"refs/tags/{RC1}", "all", "A1")
    [event] = events(tagged, TagCut)
    fingerprint = sshsig.fingerprint(tagged.key.public_bytes)
    assert (event.tag, event.kind, event.commit, event.fingerprint) == (RC1, "rc", commit, fingerprint)
    assert await GitRepo(repository(tagged)).resolve(RC1) == commit

    text = (tagged.run_dir / "artifacts/tags/release-v3.0.0-rc.1.tag").read_text()
    assert f"Cockpit-Plan: sha256:{tagged.plan_sha256}" in text
    assert all(f"Cockpit-Image: {one.name} {one.image.digest}" in text for one in tagged.plan.services)
    assert "Cockpit-Run: 20250923T080000Z-1a2b3c" in text and "Cockpit-Rehearsal: true" in text
    assert tagged.read("tags/rc.json")["object"] == event.object

    checked = await call(tagged, "VERIFY", "rc")
    assert checked.status == "ok" and fingerprint in checked.reason
    assert (await call(tagged, "EVIDENCE", "rc")).status == "ok"
    assert len(events(tagged, TagCut)) == 1, "a tag is told of once"
    assert not events(tagged, GateJudged), "a call about a tag judges no gate"


@needs_git
async def test_git_verifies_it_with_the_allowed_signers(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    signers = tagged.run_dir / "artifacts" / SIGNERS
    said = git(repository(tagged), "-c", f"gpg.ssh.allowedSignersFile={signers}", "tag", "-v", RC1)
    assert 'Good "git" signature' in said and sshsig.fingerprint(tagged.key.public_bytes) in said
    git(repository(tagged), "fsck", "--strict", "--full")
    signers.write_text(sshsig.allowed_signer("somebody", RunKey.generate().public_bytes))
    with pytest.raises(AssertionError):
        git(repository(tagged), "-c", f"gpg.ssh.allowedSignersFile={signers}", "tag", "-v", RC1)


async def test_a_resumed_run_uses_its_candidate_again(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    again = await call(tagged, "APPLY", "rc")
    assert again.status == "ok" and "already" in again.reason
    assert len(effects(tagged)) == 1 == len(events(tagged, TagCut))


@pytest.mark.parametrize("change", ["images", "plan", "commit", "key"])
async def test_another_candidate_gets_the_next_number(tagged: World, change: str) -> None:
    await call(tagged, "APPLY", "rc")
    if change == "images":
        name, _, _ = tagged.data["services"][0]["image"].partition("@")
        tagged.data["services"][0]["image"] = f"{name}@sha256:{'e' * 64}"
    elif change == "plan":
        tagged.data["oncall"] = ["@somebody"]
    elif change == "commit":
        tagged.data["targets"]["repository"]["to_ref"] = "v2.9.4"
    else:
        tagged.handles = replace(tagged.handles, tags=SignedTags(repository(tagged), RunKey.generate()))
    assert RC2 in (await call(tagged, "PLAN", "rc")).reason
    assert (await call(tagged, "APPLY", "rc")).status == "ok"
    assert [one.tag for one in events(tagged, TagCut)] == [RC1, RC2]


@needs_git
async def test_packed_tags_count_and_are_read(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    path = repository(tagged)
    git(path, "gc", "--quiet", "--prune=now")
    assert not (path / "refs/tags" / RC1).exists()
    tagged.handles = replace(tagged.handles, forge=GitRepo(path), tags=SignedTags(path, tagged.key))
    assert "already" in (await call(tagged, "APPLY", "rc")).reason
    assert (await call(tagged, "VERIFY", "rc")).status == "ok"
    tagged.data["oncall"] = ["@somebody"]
    assert (await call(tagged, "APPLY", "rc")).status == "ok"
    assert [one.tag for one in events(tagged, TagCut)] == [RC1, RC2]
    git(path, "fsck", "--strict", "--full")


# -- the final tag ------------------------------------------------------------------------------------


async def test_only_a_release_that_is_out_gets_its_final_tag(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    early = await call(tagged, "APPLY", "final")
    assert early.status == "blocked" and "only of a release that is out" in early.reason
    await tagged.recorder.record(Released(version=FINAL))
    late = await call(tagged, "APPLY", "rc")
    assert late.status == "blocked" and "candidate" in late.reason
    cut = await call(tagged, "APPLY", "final")
    assert cut.status == "ok", cut.reason
    rc, final = events(tagged, TagCut)
    assert (final.tag, final.kind, final.commit) == (FINAL, "final", rc.commit)
    assert f"was {RC1}" in (tagged.run_dir / "artifacts/tags/v3.0.0.tag").read_text()
    assert (await call(tagged, "VERIFY", "final")).status == "ok"
    assert "already" in (await call(tagged, "APPLY", "final")).reason
    back = await tagged.call("A1", "ROLLBACK", "P6")
    assert back.status == "ok" and "immutable" in back.reason
    assert await GitRepo(repository(tagged)).resolve(FINAL) == final.commit


async def test_the_final_tag_is_the_candidate_s_commit_wherever_the_branch_went(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    path = repository(tagged)
    (path / "refs/heads/main").write_text(await GitRepo(path).resolve("v2.9.4") + "\n")
    await tagged.recorder.record(Released(version=FINAL))
    assert (await call(tagged, "APPLY", "final")).status == "ok"
    rc, final = events(tagged, TagCut)
    assert rc.commit == final.commit != await GitRepo(path).resolve("main")


async def test_a_release_that_was_rolled_back_gets_none(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    await tagged.recorder.record(Released(version=FINAL))
    await tagged.recorder.record(RollbackStarted(reason="manual", cause="by hand", by="somebody"))
    result = await call(tagged, "APPLY", "final")
    assert result.status == "blocked" and "rolled back" in result.reason
    assert not (repository(tagged) / "refs/tags" / FINAL).exists()


async def test_a_tag_that_is_there_is_never_moved(tagged: World) -> None:
    path = repository(tagged)
    other = await GitRepo(path).resolve("v2.9.4")
    ref = path / "refs/tags" / FINAL
    ref.write_text(f"{other}\n")
    await tagged.recorder.record(Released(version=FINAL))
    for op in ("PLAN", "APPLY"):
        result = await call(tagged, op, "final")
        assert result.status == "blocked" and "not of this run" in result.reason
    assert ref.read_text() == f"{other}\n" and not events(tagged, TagCut)


async def test_a_tag_somebody_moved_or_removed_is_found_out(tagged: World) -> None:
    await call(tagged, "APPLY", "rc")
    ref = repository(tagged) / "refs/tags" / RC1
    kept = ref.read_text()
    ref.write_text(await GitRepo(repository(tagged)).resolve("main") + "\n")
    moved = await call(tagged, "VERIFY", "rc")
    assert moved.status == "fail" and RC1 in moved.reason
    ref.unlink()
    gone = await call(tagged, "VERIFY", "rc")
    assert gone.status == "fail" and "gone" in gone.reason
    ref.write_text(kept)
    assert (await call(tagged, "VERIFY", "rc")).status == "ok"


# -- what cannot be cut -------------------------------------------------------------------------------


async def test_without_the_parameter_apply_changes_nothing(tagged: World) -> None:
    result = await tagged.call("A1", "APPLY", "P6", pack="promotion")
    assert result.status == "ok" and not effects(tagged)
    back = await tagged.call("A1", "ROLLBACK", "P6")
    assert back.status == "ok" and "nothing to take back" in back.reason


@pytest.mark.parametrize("tag", ["latest", 3, True])
async def test_an_unknown_kind_is_refused(tagged: World, tag: Any) -> None:
    assert (await call(tagged, "APPLY", tag)).status == "fail"
    assert not effects(tagged)


async def test_a_repository_that_cannot_be_written_blocks(tagged: World) -> None:
    path = repository(tagged)
    # A file where the folder of the tags has to be: also root cannot write there.
    (path / "refs/tags/release").write_text("no folder")
    result = await call(tagged, "APPLY", "rc")
    assert result.status == "blocked" and "was not cut" in result.reason
    tagged.handles = replace(tagged.handles, tags=SignedTags(tagged.folder / "nowhere", tagged.key))
    assert (await call(tagged, "APPLY", "rc")).status == "blocked"
    tagged.handles = replace(tagged.handles, tags=None)
    assert (await call(tagged, "APPLY", "rc")).status == "blocked"
    assert not events(tagged, TagCut)


# -- the writer ---------------------------------------------------------------------------------------


@pytest.fixture
def writer(tmp_path: Path) -> SignedTags:
    make_repository(tmp_path / "git", released=False)
    return SignedTags(tmp_path / "git", RunKey.generate())


async def head(tmp_path: Path) -> str:
    return await GitRepo(tmp_path / "git").resolve("main")


async def test_a_name_is_given_once(writer: SignedTags, tmp_path: Path) -> None:
    commit = await head(tmp_path)
    await writer.cut("a/b", commit, "one", WHEN)
    for name in ("a/b", "a", "a/b/c", "v2.9.4"):
        with pytest.raises((Conflict, BackendRefused)):
            await writer.cut(name, commit, "two", WHEN)
    assert not list((tmp_path / "git/refs").rglob("*.lock"))
    found = await writer.read("a/b")
    assert found is not None and found.message.strip() == "one" and not found.problem(writer.public_key)
    assert found.problem(RunKey.generate().public_bytes)
    assert await writer.read("nothing") is None
    assert await writer.names("a/") == ("a/b",)


async def test_a_lock_of_somebody_else_is_respected(writer: SignedTags, tmp_path: Path) -> None:
    lock = tmp_path / "git/refs/tags/x.lock"
    lock.write_text("")
    with pytest.raises(Conflict):
        await writer.cut("x", await head(tmp_path), "one", WHEN)
    assert lock.exists() and not (tmp_path / "git/refs/tags/x").exists()


@pytest.mark.parametrize("name", ["../x", "a..b", "x.lock", "a/.b", "a//b", "-x", "x/", "a b", "x\n", ""])
async def test_names_that_are_none_are_refused(writer: SignedTags, tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendRefused):
        await writer.cut(name, await head(tmp_path), "one", WHEN)


async def test_only_commits_are_tagged(writer: SignedTags, tmp_path: Path) -> None:
    for target in ("main", "0" * 40, "HEAD"):
        with pytest.raises(BackendRefused):
            await writer.cut("x", target, "one", WHEN)


async def test_packed_refs_hold_names_too(writer: SignedTags, tmp_path: Path) -> None:
    commit = await head(tmp_path)
    (tmp_path / "git/packed-refs").write_text(
        f"# pack-refs with: peeled fully-peeled sorted \n{commit} refs/tags/old/one\n^{commit}\n"
    )
    for name, error in (("old/one", Conflict), ("old", BackendRefused)):
        with pytest.raises(error):
            await writer.cut(name, commit, "one", WHEN)
    light = await writer.read("old/one")
    assert light is not None and (light.kind, light.text) == ("commit", b"")
    assert light.problem(writer.public_key) == "it is not annotated"


async def test_reftable_is_said_and_not_written(writer: SignedTags, tmp_path: Path) -> None:
    commit = await head(tmp_path)
    config = tmp_path / "git/config"
    config.write_text(config.read_text() + "[extensions]\n\trefStorage = reftable\n")
    with pytest.raises(BackendRefused, match="reftable"):
        await writer.cut("x", commit, "one", WHEN)


def test_text_from_outside_cannot_add_header_lines() -> None:
    text = payload("x", "0" * 40, "title\x1b[31m\n\nobject 1", WHEN)
    head, _, message = text.partition(b"\n\n")
    assert head.count(b"object ") == 1 and b"\x1b" not in message


# -- the signature ------------------------------------------------------------------------------------


def test_a_signature_is_of_one_text_key_and_namespace() -> None:
    key = RunKey.generate()
    made = key.ssh_signature(b"text", "git")
    sshsig.verify(b"text", "git", key.public_bytes, made)
    for message, namespace, public, signature in (
        (b"other", "git", key.public_bytes, made),
        (b"text", "file", key.public_bytes, made),
        (b"text", "git", RunKey.generate().public_bytes, made),
        (b"text", "git", key.public_bytes, made + b"\n"),
        (b"text", "git", key.public_bytes, made[:-40] + made[-30:]),
        (b"text", "git", key.public_bytes, b""),
        (
            b"text",
            "git",
            key.public_bytes,
            b"-----BEGIN SSH SIGNATURE-----\n!\n-----END SSH SIGNATURE-----\n",
        ),
    ):
        with pytest.raises(ValueError, match="signature"):
            sshsig.verify(message, namespace, public, signature)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_ssh_keygen_agrees(tmp_path: Path) -> None:
    key = RunKey.generate()
    (tmp_path / "signers").write_text(sshsig.allowed_signer("me", key.public_bytes, "file"))
    (tmp_path / "sig").write_bytes(key.ssh_signature(b"text", "file"))
    command = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "me", "-n", "file"]
    command += ["-s", str(tmp_path / "sig")]
    good = subprocess.run(command, input=b"text", capture_output=True, check=False)
    assert good.returncode == 0 and b"Good" in good.stdout
    assert subprocess.run(command, input=b"other", capture_output=True, check=False).returncode != 0
