"""`cockpit doctor` as a whole: how checks are made and shown, this machine, and the command."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from ruamel.yaml import YAML

from cockpit.cli.doctor import _show
from cockpit.cli.main import run
from cockpit.doctor.checks import Check, Finding, Probe, Report, examine, exit_of, ok
from cockpit.doctor.clocks import ServerClock, Span
from cockpit.doctor.metrics import metrics_in
from cockpit.rehearsal.real.pki import Validity, serving
from tests.cli.doctor_support import Data, Ward, dead_url, ward

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAY = "/apis/gateway.networking.k8s.io/v1"
Change = Callable[[Data], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ward]:
    async with ward(tmp_path_factory.mktemp("ward")) as made:
        yield made


# -- the whole ------------------------------------------------------------------------------------------


async def test_all_well(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    logged = world.sigstore.requests("rekor")
    report = await world.report(loaded)
    assert [one for one in report.checks if one.status == "fail"] == []
    assert (report.exit, report.version, report.plan_sha256) == (0, "v3.0.0", loaded.sha256)
    by_name = {f"{one.part} {one.check}": one for one in report.checks}
    assert "standin" in str(by_name["kubernetes reachable"].facts["version"])
    assert by_name["prometheus reachable"].facts["version"]
    assert by_name["registry reachable"].facts["version"] == "registry/2.0"
    assert "standin" in str(by_name["policy reachable"].facts["version"])
    clocks = [one for one in report.checks if one.check.startswith("clock")]
    assert {one.part for one in clocks} == {
        "kubernetes", "prometheus", "registry", "policy", "signing", "issues",
    }  # fmt: skip
    for one in clocks:
        offset, doubt = float(one.facts["offset_ms"]), float(one.facts["uncertainty_ms"])
        assert one.status == "ok" and abs(offset) <= doubt and float(one.facts["rtt_ms"]) > 0
    # What is not checked says why, and is no pass.
    unchecked = {f"{one.part} {one.check}": one.found for one in report.checks if one.status == "not checked"}
    assert set(unchecked) == {"secret cluster token's end", "policy OPA decides"}
    assert "A19 puts the policy there" in unchecked["policy OPA decides"]
    standby = by_name["plan standby"]
    assert standby.status == "warn" and "waived until" in standby.found and "@platform" in standby.found
    assert by_name["signing identity"].found.startswith("release@intelgraph.io")

    # Nothing was changed: no message, no log entry, no object, and no secret told.
    assert not (world.folder / "webhooks.jsonl").exists()
    assert world.sigstore.log.checkpoint().split("\n")[1] == "0"
    assert world.sigstore.requests("rekor") > logged
    assert world.opa.policies == {}
    text = shown(report)
    for secret in world.secrets.values():
        assert secret not in text or secret == "full"


async def test_one_that_is_away_hides_no_other(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        targets = data["targets"]
        for name in ("prometheus", "registry", "policy"):
            targets[name]["url"] = dead_url()

    report = await world.report(world.plan(tmp_path, change))
    away = {one.part: one for one in report.checks if one.unreachable}
    assert set(away) == {"prometheus", "registry", "policy"}
    assert report.exit == 50
    for part, check in away.items():
        assert check.check == "reachable" and f"targets.{part}.url" in check.todo
    for check in report.checks:
        if check.part in ("prometheus", "registry") and check.check != "reachable":
            assert check.status == "not checked" and "reachable" in check.found
        elif check.part not in away:
            assert check.status != "fail", check


def shown(report: Report) -> str:
    """Return the table as text."""
    with redirect_stdout(io.StringIO()) as out:
        _show(report)
    return out.getvalue()


async def test_the_table_fits_and_takes_no_orders() -> None:
    evil = "[red]pass[/red] \x1b[2J :smile: " + "x" * 300
    checks = [
        Check("kubernetes", "reachable", "https://k", "fail", evil, f"do {evil}", unreachable=True),
        Check("kubernetes", "[bold]clock", "https://k", "not checked", "because"),
    ]

    async def say() -> Finding:
        return ok(evil)

    [made] = await examine([Probe("part", "check", "there", say, "todo")], deadline=5)
    assert "\x1b" not in made.found and "[red]pass[/red]" in made.found
    checks = [made, *checks[1:]]
    text = shown(Report(1, "p", "0" * 64, "v1.0.0", "now", 50, {"fail": 1}, checks))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "[red]pass[/red]" in text and "[bold]clock" in text and ":smile:" in text
    assert "not checked: because" in text


# -- how checks are made --------------------------------------------------------------------------------


async def test_a_check_that_hangs_or_breaks_fails_by_itself() -> None:
    async def hangs() -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    async def breaks() -> Finding:
        raise ZeroDivisionError("of its own")

    async def well() -> Finding:
        return ok("well")

    hanging = Probe("a", "reachable", "", hangs, "start it")
    breaking = Probe("c", "broken", "", breaks, "tell us")
    probes = [
        hanging,
        Probe("a", "behind", "", well, "", hanging),
        Probe("b", "well", "", well, ""),
        breaking,
        Probe("b", "quiet", "", well, "", quiet=True),
    ]
    away, behind, fine, broken, quiet = await examine(probes, deadline=0.05)
    assert (away.status, away.unreachable, away.todo) == ("fail", True, "start it")
    assert (behind.status, behind.unreachable) == ("not checked", False)
    assert fine.status == quiet.status == "ok"
    assert broken.status == "fail" and "ZeroDivisionError" in broken.found and not broken.unreachable
    assert exit_of([fine, broken]) == 10 and exit_of([fine, broken, away]) == 50
    assert exit_of([fine]) == 0


async def test_what_answers_say_of_a_clock() -> None:
    clock = ServerClock()
    assert clock.finding().status == "warn"  # nothing was heard
    clock.heard_date("no date", Span(100.0, 100.1))
    assert clock.finding().status == "warn"
    clock.heard(100.0, Span(100.2, 100.4), resolution=1.0)  # theirs is in [-0.4, +0.8] of ours
    clock.heard(101.0, Span(100.9, 101.0), resolution=1.0)  # and in [0.0, 1.1]
    found = clock.finding()
    assert found.status == "ok"
    assert found.facts["offset_ms"] == pytest.approx(400, abs=1)
    assert found.facts["uncertainty_ms"] == pytest.approx(400, abs=1)
    clock.heard(200.0, Span(100.0, 100.1), resolution=1.0)
    assert clock.finding().status == "fail"  # no clock says both

    late = ServerClock()
    late.heard(100.0, Span(103.0, 103.1), resolution=0.001)
    assert late.finding().status == "warn"  # three seconds
    slow = ServerClock()
    slow.heard(100.0, Span(95.0, 110.0), resolution=1.0)
    assert slow.finding().status == "warn" and "cannot be told" in slow.finding().found
    wrong = ServerClock()
    wrong.heard(100.0, Span(130.0, 131.0), resolution=1.0)
    assert wrong.finding().status == "fail" and "NTP" in wrong.finding().todo


async def test_the_metrics_a_query_names() -> None:
    query = "1000 * histogram_quantile(0.9, sum by (le) (rate(a_b[5m]))) / max_over_time(c[5m:1m]) or -d"
    assert metrics_in(query) == {"a_b", "c", "d"}
    assert metrics_in('{__name__="x"}') == set() == metrics_in("not promql (")


# -- this machine and the plan --------------------------------------------------------------------------


async def test_secrets_window_and_standby(
    world: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKPIT_TEST_WEBHOOK", "in the environment")

    def change(data: Data) -> None:
        data["targets"]["webhooks"][0]["secret"] = "env:COCKPIT_TEST_WEBHOOK"
        data["targets"]["registry"]["token"] = "env:COCKPIT_TEST_NOT_SET"
        data["waivers"] = [one for one in data["waivers"] if one["what"] != "standby"]
        data["window_utc"] = "2025-09-23 08:00 → 12:00"

    loaded = world.plan(tmp_path, change)
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 1_500_000_000}).encode()).decode().rstrip("=")
    (tmp_path / "kubernetes").write_text(f"e30.{claims}.sig")
    (tmp_path / "policy").chmod(0o644)
    (tmp_path / "issues").chmod(0o666)
    (tmp_path / "signing").write_text("\n")
    checks = await world.part("local", loaded)
    status = {name: check.status for name, check in checks.items()}
    assert status == {
        "plan window": "fail",
        "plan standby": "fail",
        "secret targets.kubernetes.token": "ok",
        "secret targets.registry.token": "fail",
        "secret targets.signing.token_secret": "fail",
        "secret targets.webhooks[0].secret": "ok",
        "secret targets.webhooks[1].secret": "ok",
        "secret targets.issues.token": "fail",
        "secret targets.policy.token": "warn",
        "secret cluster token's end": "fail",
    }
    assert "COCKPIT_TEST_NOT_SET" in checks["secret targets.registry.token"].found
    assert "chmod 600 policy" in checks["secret targets.policy.token"].todo
    assert checks["secret targets.signing.token_secret"].found == "it is empty"
    assert "2017" in checks["secret cluster token's end"].found
    assert "waivers" in checks["plan standby"].todo


async def test_authorities_of_ones_own(world: Ward, tmp_path: Path) -> None:
    served = serving(tmp_path, "own")
    over = serving(
        tmp_path, "over", authority=Validity(since=timedelta(days=-1), until=timedelta(minutes=-1))
    )

    async def row(content: bytes | None, name: str = "targets.ca_file") -> Check:
        if content is None:
            (tmp_path / "own.pem").unlink(missing_ok=True)
        else:
            (tmp_path / "own.pem").write_bytes(content)

        def change(data: Data) -> None:
            places = {
                "targets.ca_file": data["targets"],
                "targets.kubernetes.ca_file": data["targets"]["kubernetes"],
            }
            places[name]["ca_file"] = "own.pem"

        return (await world.part("local", world.plan(tmp_path, change)))[f"plan {name}"]

    held = await row(served.ca.read_bytes())
    assert (held.status, held.found) == ("ok", "1 authorities: own CA")
    assert (await row(served.ca.read_bytes(), "targets.kubernetes.ca_file")).status == "ok"
    assert (await row(over.ca.read_bytes())).status == "fail"
    both = await row(over.ca.read_bytes() + served.ca.read_bytes())
    assert both.status == "warn" and "over CA" in both.found
    for content in (None, b"", b"garbage", served.certificate.read_bytes()):
        wrong = await row(content)
        assert wrong.status == "fail" and "CA file" in wrong.found and not wrong.unreachable


# -- the command ----------------------------------------------------------------------------------------


def say(*words: str) -> tuple[int, str, str]:
    """Run a command; return exit code and what it said."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        code = run(list(words))
    return code, out.getvalue(), errors.getvalue()


async def test_the_command(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        data["agents"] = [one for one in data["agents"] if one != "A19"]

    world.plan(tmp_path, change)
    path = str(tmp_path / "release.yaml")
    # In a thread: the command has a loop of its own, and the servers need this one.
    code, out, errors = await asyncio.to_thread(say, "doctor", path, "--json")
    report = json.loads(out)
    assert (code, errors) == (10, "") and report["exit"] == 10 and report["format"] == 1
    assert report["plan"] == path and sum(report["counts"].values()) == len(report["checks"])
    wrong = [one for one in report["checks"] if one["status"] == "fail"]
    assert [(one["part"], one["check"]) for one in wrong] == [("policy", "OPA decides")]
    assert set(report["checks"][0]) == {
        "part", "check", "target", "status", "found", "todo", "facts", "unreachable",
    }  # fmt: skip


async def test_the_command_refuses_what_makes_no_sense(world: Ward, tmp_path: Path) -> None:
    world.plan(tmp_path)
    path = str(tmp_path / "release.yaml")
    code, out, errors = say("doctor", path, "--rbac")
    assert (code, errors) == (0, "")
    assert {one["kind"] for one in YAML(typ="safe").load_all(out)} == {
        "ServiceAccount", "Role", "RoleBinding",
    }  # fmt: skip
    assert say("doctor", path, "--rbac", "--json")[0] == 64
    assert say("doctor", path, "--deadline", "0")[0] == 64
    assert say("doctor", str(tmp_path / "none.yaml"))[0] == 64
    (tmp_path / "release.yaml").write_text("format: 1\nservices: 3\n")
    code, out, errors = say("doctor", path)
    assert code == 64 and "release.yaml:2: services" in errors and "Traceback" not in errors
