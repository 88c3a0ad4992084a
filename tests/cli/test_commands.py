"""Commands that need no world: clear words and the documented exit code for everything that can be wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from cockpit.base.clock import SystemClock
from cockpit.cli.main import SCENARIOS, run
from cockpit.cli.schema import rendered
from cockpit.rehearsal.release_plan import dump
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rpc.validate import MODELS
from tests.unit.plan.test_refuse import data

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


def cockpit(
    *arguments: object, cwd: Path | None = None, timeout: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cockpit", *map(str, arguments)],
        cwd=cwd or ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip


def say(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it said."""
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert "internal error:" not in err, err
    return code, out, err


def plan_text(**changes: Any) -> str:
    plan = data()
    now = SystemClock().now()
    plan["window_utc"] = (
        f"{now - timedelta(hours=1):%Y-%m-%d %H:%M} → {now + timedelta(hours=2):%Y-%m-%d %H:%M}"
    )
    plan.update(changes)
    return dump(plan)


@cache
def trust() -> str:
    """Return a trust configuration whose servers are not there any more."""
    return asyncio.run(_trust())


async def _trust() -> str:
    async with SigstoreServer() as server:
        return server.trust_config()


def write_plan(folder: Path, **changes: Any) -> Path:
    """Write a plan whose secrets are there and whose back ends are not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("t", "s", "w", "i"):
        (folder / name).write_text("a-secret-of-a-test\n")
    (folder / "t.json").write_text(trust())
    path = folder / "release.yaml"
    path.write_text(plan_text(**changes), encoding="utf-8")
    return path


# -- usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("nonsense",), ("run",), ("rehearse", "--format", "xml", "--auto"), ("journal",),
        ("journal", "verify"), ("evidence",), ("evidence", "verify"), ("replay",), ("status", "--nope"),
        ("replay", "x", "--speed", "fast"),
        ("agents", "extra"), ("run", "a", "b"), ("halt", "extra"),
    ],
)  # fmt: skip
def test_bad_usage_is_64_with_the_usage(capsys: Capture, arguments: Sequence[str]) -> None:
    code, out, err = say(capsys, *arguments)
    assert (code, out) == (64, "")
    assert "usage: cockpit" in err


def test_help_and_version_are_no_errors(capsys: Capture) -> None:
    code, out, err = say(capsys, "--help")
    assert (code, err) == (0, "")
    for command in (
        "rehearse",
        "run",
        "status",
        "follow",
        "halt",
        "rollback",
        "replay",
        "journal",
        "evidence",
    ):
        assert command in out
    code, out, _ = say(capsys, "--version")
    assert (code, out.strip() != "") == (0, True)
    for command in ("run", "rehearse", "journal"):
        assert say(capsys, command, "--help")[0] == 0


def test_a_scenario_there_is_not_names_those_there_are(capsys: Capture, tmp_path: Path) -> None:
    code, _, err = say(capsys, "rehearse", "--auto", "--scenario", "\x1b[31mblue", "--out", tmp_path / "run")
    assert code == 64
    assert all(name in err for name in SCENARIOS)
    assert "\x1b" not in err
    assert not (tmp_path / "run").exists()


def test_a_pace_there_is_not_names_those_there_are(capsys: Capture, tmp_path: Path) -> None:
    code, _, err = say(capsys, "rehearse", "--auto", "--pace", "warp", "--out", tmp_path / "run")
    assert (code, "fast, normal, slow" in err) == (64, True)
    assert not (tmp_path / "run").exists()


def test_where_nobody_is_asked_there_are_no_people_to_do_without(capsys: Capture, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = say(capsys, "rehearse", "--auto", "--people", "none", "--out", run)
    assert (code, "nobody is asked in green" in err, "break-glass" in err) == (64, True, True)
    assert not run.exists()
    assert "you are the people" in " ".join(say(capsys, "rehearse", "--help")[1].split())


def test_real_servers_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = cockpit("rehearse", "--auto", "--real", "--out", tmp_path / "run", COCKPIT_BACKENDS=str(tmp_path))
    assert done.returncode == 64
    assert "kube-apiserver" in done.stderr and "make backends" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_the_screen_is_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    for arguments in (("rehearse",), ("run", plan)):
        done = cockpit(*arguments, cwd=tmp_path)
        assert done.returncode == 64
        assert "--auto" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_plan_that_cannot_be_read_is_64(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("a: 1")
    (tmp_path / "secret.yaml").chmod(0)
    paths = [tmp_path / "none.yaml", tmp_path]
    if os.getuid() != 0:  # the superuser reads everything
        paths.append(tmp_path / "secret.yaml")
    for path in paths:
        code, _, err = say(capsys, "run", path, "--auto", "--out", tmp_path / "run")
        assert (code, str(path) in err) == (64, True)
        assert not (tmp_path / "run").exists()


def test_a_wrong_plan_tells_every_problem_by_line(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(plan_text(headroom_target=7, on_halt="never", target_version="3"), encoding="utf-8")
    code, _, err = say(capsys, "run", path, "--auto", "--out", tmp_path / "run")
    lines = [line for line in err.splitlines() if line.startswith(f"{path}:")]
    assert (code, len(lines)) == (64, 3)


@pytest.mark.parametrize("command", ["status", "halt", "rollback", "follow"])
def test_a_folder_that_holds_no_run_is_64(capsys: Capture, tmp_path: Path, command: str) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, _, err = say(capsys, command, "--run", folder)
        assert (code, "no run is recorded there" in err) == (64, True)


def test_no_run_anywhere_is_64(tmp_path: Path) -> None:
    done = cockpit("status", cwd=tmp_path)
    assert (done.returncode, "no run was found" in done.stderr) == (64, True)


def test_a_recording_that_is_none_is_64(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    for path in (tmp_path / "nowhere", tmp_path):
        assert say(capsys, "journal", "verify", path)[0] == 64
        assert say(capsys, "replay", path)[0] == 64
        assert say(capsys, "evidence", "verify", path / "evidence.zip")[0] == 64


def test_resuming_what_was_never_begun_is_64(capsys: Capture, tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    code, _, err = say(capsys, "run", plan, "--auto", "--resume", "--run", tmp_path / "nowhere")
    assert (code, "no run is recorded there" in err) == (64, True)


# -- what only prints ---------------------------------------------------------------------------------


def test_the_roster_as_json(capsys: Capture) -> None:
    code, out, _ = say(capsys, "agents", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["id"] for row in rows[:60]] == [f"A{number}" for number in range(1, 61)]
    assert [row["id"] for row in rows[60:]] == ["U1", "U2", "U3", "U4", "U5"]
    kinds = {
        "id": str, "name": str, "raci": str, "domain": str, "phases": list, "capabilities": list,
        "gates": list, "mutates": bool, "built": bool,
    }  # fmt: skip
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == kinds
    assert sum(row["built"] for row in rows) >= 13
    assert say(capsys, "agents")[0] == 0


@pytest.mark.parametrize("name", list(MODELS))
def test_a_schema_is_a_schema_and_its_file_is_not_stale(capsys: Capture, name: str) -> None:
    code, out, _ = say(capsys, "schema", name)
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(out))
    assert (ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8") == out == rendered(name)


def test_the_schemas_are_those_there_are(capsys: Capture, tmp_path: Path) -> None:
    files = {path.name.removesuffix(".schema.json") for path in (ROOT / "schemas").glob("*.schema.json")}
    assert files == set(MODELS)
    assert say(capsys, "schema")[1].split() == list(MODELS)
    assert say(capsys, "schema", "nothing")[0] == 64
    done = cockpit("schema", "--write", cwd=tmp_path)
    assert (done.returncode, "not a checkout" in done.stderr) == (64, True)


def test_a_reader_that_leaves_is_no_error() -> None:
    for arguments in (("agents",), ("agents", "--json"), ("schema", "agent_response"), ("--help",)):
        process = subprocess.Popen(
            [sys.executable, "-m", "cockpit", *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
        process.stderr.close()
        assert (process.wait(30), said) == (0, ""), arguments


# -- a run that cannot begin --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole run, by the real command, of a plan whose back ends are not there."""
    folder = tmp_path_factory.mktemp("unreachable")
    plan = write_plan(folder / "plan")
    out = folder / "run"
    return out, cockpit("run", plan, "--auto", "--out", out)


Run = tuple[Path, subprocess.CompletedProcess[str]]


def test_back_ends_that_are_not_there_are_50_and_all_is_written(unreachable: Run) -> None:
    folder, done = unreachable
    assert done.returncode == 50, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr + (folder / "conductor.log").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["exit"], summary["traffic_moved"], summary["released"]) == (50, False, False)
    ElementTree.fromstring((folder / "junit.xml").read_text())
    for name in ("journal.jsonl", "heads", "blobs", "state.json", "release_notes.md"):
        assert (folder / name).exists(), name
    # Its release may be taken up in another sitting: the key stays, for nobody but its owner.
    assert (folder / "run.key").stat().st_mode & 0o777 == 0o600
    assert not (folder / "control.sock").exists()


def test_a_secret_of_the_plan_is_nowhere_in_the_run(unreachable: Run) -> None:
    folder, done = unreachable
    assert "a-secret-of-a-test" not in done.stdout + done.stderr
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"a-secret-of-a-test" not in path.read_bytes(), path


def test_what_a_run_leaves_is_the_owners_alone(unreachable: Run) -> None:
    folder, _ = unreachable
    for path in folder.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_status_of_a_run(capsys: Capture, unreachable: Run) -> None:
    folder, _ = unreachable
    code, out, _ = say(capsys, "status", "--run", folder)
    assert code == 0
    assert "exit 50" in out
    code, out, _ = say(capsys, "status", "--json", "--run", folder)
    state = json.loads(out)
    assert (code, state["closed"]["exit"], state["mode"]) == (0, 50, "closed")
    assert state.pop("standing")["exit"] == 50
    assert state == json.loads((folder / "state.json").read_text())


def test_a_run_that_has_ended_takes_no_commands(capsys: Capture, unreachable: Run) -> None:
    folder, _ = unreachable
    for command in ("halt", "rollback"):
        code, _, err = say(capsys, command, "--run", folder)
        assert (code, "has ended" in err) == (64, True)
    code, _, err = say(capsys, "run", folder.parent / "plan/release.yaml", "--auto", "--out", folder)
    assert (code, "recorded here already" in err) == (64, True)
    code, _, err = say(
        capsys, "run", folder.parent / "plan/release.yaml", "--auto", "--resume", "--run", folder
    )
    assert (code, "has ended" in err) == (64, True)


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target


def test_journal_verify_says_intact_broken_or_not_closed(
    capsys: Capture, unreachable: Run, tmp_path: Path
) -> None:
    folder, _ = unreachable
    assert say(capsys, "journal", "verify", folder)[0] == 0
    assert say(capsys, "journal", "verify", folder / "journal.jsonl")[0] == 0
    report = json.loads(say(capsys, "journal", "verify", folder, "--json")[1])
    assert (report["ok"], report["closed"], report["intact"]) == (True, True, True)
    raw = (folder / "journal.jsonl").read_bytes()
    lines = raw.splitlines(keepends=True)
    bad = {
        "edited": raw.replace(b"intelgraph", b"Intelgraph", 1),
        "cut": b"".join(lines[:-1]),
        "torn": raw[:-20],
        "swapped": b"".join([*lines[:1], lines[2], lines[1], *lines[3:]]),
        "empty": b"",
        "garbage": b"not a journal\n",
    }
    for name, bytes_ in bad.items():
        target = copy_of(folder, tmp_path / name)
        (target / "journal.jsonl").write_bytes(bytes_)
        code, out, _ = say(capsys, "journal", "verify", target)
        assert (code, "BROKEN" in out or "NOT CLOSED" in out) == (1, True), name


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"window_utc": "2020-01-01 08:00 → 12:00"}, 60),
        ({"waivers": []}, 40),
        ({"waivers": [{"what": "approvals", "owner": "@sre", "reason": "none are asked"}]}, 10),
    ],
)
def test_a_run_that_may_not_begin(tmp_path: Path, changes: dict[str, Any], code: int) -> None:
    done = cockpit(
        "run",
        write_plan(tmp_path / "plan", **changes),
        "--auto",
        "--out",
        tmp_path / "run",
        "--format",
        "jsonl",
    )
    assert done.returncode == code, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (rows[0]["type"], rows[-1]["type"], rows[-1]["exit"]) == ("run.opened.v1", "run.closed.v1", code)
    assert [row["seq"] for row in rows] == list(range(len(rows)))


def test_a_secret_that_is_not_there_is_64(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan")
    (tmp_path / "plan/t").unlink()
    done = cockpit("run", plan, "--auto", "--out", tmp_path / "run")
    assert done.returncode == 64, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_reader_of_auto_that_leaves_changes_nothing(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan")
    process = subprocess.Popen(
        [sys.executable, "-m", "cockpit", "run", str(plan), "--auto", "--out", str(tmp_path / "run")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(60), "Traceback" in said, "BrokenPipe" in said) == (50, False, False)


def test_a_folder_that_cannot_be_written_is_64(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cockpit("run", write_plan(tmp_path / "plan"), "--auto", "--out", tmp_path / "file/run")
    assert (done.returncode, "cannot write there" in done.stderr) == (64, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_very_beginning_leaves_a_closed_run(tmp_path: Path, number: signal.Signals) -> None:
    plan = write_plan(tmp_path / "plan")
    process = subprocess.Popen(
        [sys.executable, "-m", "cockpit", "run", str(plan), "--auto", "--out", str(tmp_path / "run")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    clock = SystemClock()
    give_up = clock.monotonic() + 30
    while not (tmp_path / "run/supervisor.pid").exists() and clock.monotonic() < give_up:
        os.sched_yield()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (30, 50), said
    assert b"Traceback" not in said
    assert cockpit("journal", "verify", tmp_path / "run").returncode == 0
