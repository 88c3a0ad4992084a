"""`cockpit run PLAN --preview`: what a run would do and what is in the release; nothing is changed."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.cluster import LEASE
from cockpit.base.clock import SystemClock
from cockpit.base.errors import BackendRefused
from cockpit.cli.main import run
from cockpit.cli.preview import _show
from cockpit.plan.load import load_plan
from cockpit.preview import AgentRow, ContentsRow, Row, RunRow, preview
from cockpit.rehearsal.forge import FROM_REF, TO_REF, make_repository
from tests.cli.test_commands import plan_text, say, trust, write_plan
from tests.conductor.support import OLD, World, world
from tests.unit.plan.test_refuse import data

PROGRAM = Path(__file__).parents[1] / "agents" / "external_agent.py"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _trust_is_made() -> None:
    trust()  # it needs an event loop of its own


def command(how: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-I", str(PROGRAM), how]}


def planned(folder: Path, cluster: str, **changes: Any) -> Path:
    """Write a plan of two phases on a cluster and a repository that are there."""
    write_plan(folder)  # its secrets
    make_repository(folder / "platform.git")
    (folder / "t").write_text("conductor-token\n")
    targets = data()["targets"]
    targets["kubernetes"]["url"] = cluster
    targets["repository"] = {"path": "platform.git", "from_ref": FROM_REF, "to_ref": TO_REF}
    path = folder / "release.yaml"
    whole = {
        "phases": ["P0", "P6"], "agents": ["A15", "A1"], "targets": targets,
        "external": {"A15": command("good"), "A1": command("good")}, **changes,
    }  # fmt: skip
    path.write_text(plan_text(**whole), encoding="utf-8")
    return path


async def rows_of(path: Path, scratch: Path | None = None) -> list[Row]:
    async with asyncio.timeout(60):
        return [row async for row in preview(load_plan(path), SystemClock(), scratch=scratch)]


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[World, str]]:
    services = tuple(one["name"] for one in data()["services"])
    async with world(services) as made:
        yield made, made.kube.url


async def test_it_says_what_every_agent_would_do_and_changes_nothing(tmp_path: Path) -> None:
    async with cluster() as (made, url):
        before = (await made.stable(), await made.weights(), await made.canary_replicas())
        path = planned(tmp_path, url)
        (tmp_path / "scratch").mkdir()
        files = files_in(tmp_path)
        rows = await rows_of(path, tmp_path / "scratch")
        assert (await made.stable(), await made.weights(), await made.canary_replicas()) == before
        with pytest.raises(BackendRefused) as refused:
            await made.admin.get(LEASE, load_plan(path).plan.targets.kubernetes.lease)
        assert refused.value.status == 404
    assert files_in(tmp_path) == files
    first, contents, *agents = rows
    assert isinstance(first, RunRow) and first.version == "v3.0.0"
    assert isinstance(contents, ContentsRow)
    found = [row for row in agents if isinstance(row, AgentRow)]
    assert [(row.phase, row.agent, row.answered) for row in found] == [
        ("P0", "A15", "ok"),
        ("P6", "A1", "ok"),
    ]
    assert all(row.external and row.ops[0] == "PLAN" and ("APPLY" in row.ops) == row.changes for row in found)


async def test_it_says_what_is_in_the_release(tmp_path: Path) -> None:
    async with cluster() as (_, url):
        rows = await rows_of(planned(tmp_path, url))
    contents = next(row for row in rows if isinstance(row, ContentsRow))
    assert contents.problems == []
    assert len(contents.commits) == 13 and contents.left_out == 0
    assert "#405" in contents.pull_requests
    assert [one.text for one in contents.commits if one.breaking] == [
        "realtime: resume streams by sequence number (#405)"
    ]
    images = {row.service: row for row in contents.images}
    assert images["web"].now == OLD.format("web")
    assert images["web"].then.endswith("a" * 64) and images["web"].problem == ""
    assert contents.migrations and all("migrations" in path for path in contents.migrations)
    assert [flag.partition(":")[0] for flag in contents.flags] == data()["ga_flags"]


async def test_text_and_json_lines_say_the_same(tmp_path: Path) -> None:
    async with cluster() as (_, url):
        loaded = load_plan(planned(tmp_path, url))
        said: dict[str, str] = {}
        for form in ("text", "jsonl"):
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
                assert await _show(loaded, form) == 0
            said[form] = out.getvalue()
    rows = [json.loads(line) for line in said["jsonl"].splitlines()]
    assert [row["preview"] for row in rows] == ["run", "contents", "agent", "agent"]
    text = said["text"]
    assert "2 of 2 agents could begin; nothing was changed" in text
    for row in rows[2:]:
        assert f"{row['agent']:4} {row['name']}, external" in text
    for image in rows[1]["images"]:
        assert f"{image['service']}: {image['now']} → {image['then']}" in text


async def test_an_agent_that_could_not_begin_shows_and_counts(tmp_path: Path) -> None:
    async with cluster() as (_, url):
        rows = await rows_of(
            planned(tmp_path, url, external={"A15": command("garbage"), "A1": command("fail")})
        )
    answered = {row.agent: row.answered for row in rows if isinstance(row, AgentRow)}
    assert answered == {"A15": "invalid", "A1": "fail"}


def test_what_cannot_be_reached_is_said_and_is_no_success(capsys: Capture, tmp_path: Path) -> None:
    external = {"A15": command("good"), "A1": command("good")}
    plan = write_plan(tmp_path, phases=["P0", "P6"], agents=["A15", "A1"], external=external)
    code, out, err = say(capsys, "run", plan, "--preview")
    assert (code, err) == (1, "")
    assert "the repository cannot be read" in out and "the cluster cannot be reached" in out
    assert "a-secret-of-a-test" not in out


def test_our_own_agents_without_their_back_ends_are_told_as_blocked(capsys: Capture, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, phases=["P1", "P6"], agents=["A26"])
    code, out, _ = say(capsys, "run", plan, "--preview", "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    agents = [row for row in rows if row["preview"] == "agent"]
    assert code == 1 and [row["agent"] for row in agents] == ["A26"]
    assert agents[0]["answered"] == "blocked" and agents[0]["notes"]


def test_a_plan_that_is_wrong_is_refused_before(capsys: Capture, tmp_path: Path) -> None:
    missing = write_plan(tmp_path)
    (tmp_path / "t").unlink()
    code, out, err = say(capsys, "run", missing, "--preview")
    assert (code, out) == (64, "") and "t" in err
    assert run(["run", str(tmp_path / "nothing.yaml"), "--preview"]) == 64
    other = write_plan(tmp_path, external={"A98": command("good")})
    code, _, err = say(capsys, "run", other, "--preview")
    assert code == 64 and "A98" in err
