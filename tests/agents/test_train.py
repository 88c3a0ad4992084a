"""The release train's agents: messages once each, notes, signatures, the pack, go/no-go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cockpit.agents.release_notes import Change, actual_bump, bump_problem, needed_bump
from cockpit.evidence.checks import passed
from cockpit.evidence.signatures import verify_bundle
from cockpit.journal.events import AnyEvent, ArtifactSigned, MessagePosted, RiskChanged
from cockpit.sealing import PackSealer
from tests.agents.support import World


def change(kind: str, *breaking: str) -> Change:
    return Change("c0ffee", kind, "", "text", breaking, ())


def journaled(world: World) -> list[AnyEvent]:
    """Return every event of the run so far."""
    world.recorder.state()
    return list(world.recorder.events())


@pytest.mark.parametrize(
    ("changes", "before", "after", "fits"),
    [
        ([change("fix")], "v1.0.0", "v1.0.1", True),
        ([change("feat")], "v1.0.0", "v1.0.1", False),
        ([change("feat")], "v1.0.0", "v1.1.0", True),
        ([change("fix", "all of it")], "v1.0.0", "v1.1.0", False),
        ([change("fix", "all of it")], "v1.0.0", "v2.0.0", True),
        ([change("fix")], "v2.0.0", "v1.9.9", False),
        ([change("fix")], "main", "v1.9.9", True),
    ],
)
def test_the_version_must_fit_the_changes(changes: list[Change], before: str, after: str, fits: bool) -> None:
    assert (bump_problem(changes, before, after) == "") is fits


def test_bumps() -> None:
    assert actual_bump("v1.2.3", "v1.2.3") is None and actual_bump("x", "v1.0.0") is None
    assert needed_bump([]) == "patch"


async def test_release_notes_escape_what_commits_say(world: World) -> None:
    assert (await world.call("A41")).status == "ok"
    result = await world.call("A41", "EVIDENCE")
    assert result.status == "ok", result.reason
    notes = (world.run_dir / "artifacts" / "release_notes.md").read_text()
    for heading in ("Version", "Breaking changes", "Features", "Fixes", "Risks", "Rollback", "Known issues"):
        assert f"## {heading}\n" in notes
    assert "**major** release" in notes and "Rehearsal" in notes
    assert "tenant\\_key" in notes


async def test_a_version_that_hides_a_breaking_change_fails(world: World) -> None:
    world.data["target_version"] = "v2.10.0"
    result = await world.call("A41")
    assert result.status == "fail" and "major" in result.reason


async def test_messages_are_posted_once_each(world: World) -> None:
    for _ in range(3):
        assert (await world.call("A41", "APPLY", macro="start")).status == "ok"
    assert [one["kind"] for one in world.posted] == ["start"]
    assert "Cutting `v3.0.0`" in world.posted[0]["text"] and "@sre" in world.posted[0]["text"]
    breach: dict[str, Any] = {"macro": "breach", "gate": "slo", "weight": 10}
    assert (await world.call("A41", "APPLY", step=1, **breach)).status == "ok"
    assert (await world.call("A41", "APPLY", step=1, **breach)).status == "ok"
    assert "**10%**" in world.posted[1]["text"] and "Gate: slo" in world.posted[1]["text"]
    assert len(world.posted) == 2 and len({one["key"] for one in world.posted}) == 2


async def test_a_message_that_did_not_arrive_is_tried_again_with_its_key(world: World) -> None:
    world.hook_status = 503
    result = await world.call("A41", "APPLY", macro="ga")
    assert result.status == "ok" and "503" in result.reason
    assert "not delivered: ga" in (await world.call("A41")).reason
    world.hook_status = 200
    assert (await world.call("A41", "APPLY", macro="ga")).status == "ok"
    assert len(world.posted) == 2 and len({one["key"] for one in world.posted}) == 1
    assert (await world.call("A41")).status == "ok"
    assert "GA flags flipped" not in world.posted[1]["text"]  # nobody has flipped any


async def test_an_unknown_message_is_not_posted(world: World) -> None:
    assert (await world.call("A41", "APPLY", macro="party")).status == "fail"
    assert (await world.call("A41", "APPLY")).status == "ok"
    assert world.posted == []


async def test_messages_become_events(world: World) -> None:
    await world.call("A41", "APPLY", macro="start")
    await world.call("A41", "APPLY", macro="start")
    [event] = [one for one in journaled(world) if isinstance(one, MessagePosted)]
    assert event.ok and event.macro == "start"


async def test_risks_become_events(world: World) -> None:
    for _ in range(2):
        await world.call("A4")
    changed = [one.id for one in journaled(world) if isinstance(one, RiskChanged)]
    assert sorted(changed) == ["R-REALTIME-LAG", "R-SCHEMA-CUTOVER"]


async def test_signatures_verify_and_follow_a_file_that_changes(world: World) -> None:
    await world.call("A43")
    result = await world.call("A3", "EVIDENCE")
    assert result.status == "ok", result.reason
    folder = world.run_dir / "artifacts"
    [row] = world.read("signatures/index.json")["signed"]
    checks = verify_bundle(
        (folder / row["bundle"]).read_bytes(),
        (folder / row["path"]).read_bytes(),
        trusted_root_json=world.sigstore.trusted_root().encode(),
        identity="release@intelgraph.io",
        issuer=world.sigstore.issuer,
    )
    assert passed(checks)
    [event] = [one for one in journaled(world) if isinstance(one, ArtifactSigned)]
    assert event.log_index >= 0 and event.path == row["path"]
    before = world.sigstore.requests("rekor")
    assert (await world.call("A3", "EVIDENCE")).status == "ok"
    assert world.sigstore.requests("rekor") == before + 1  # the attestation alone is made anew
    world.facts.pages["/web/healthz"] = (500, "")
    await world.call("A43")
    await world.call("A3", "EVIDENCE")
    [again] = world.read("signatures/index.json")["signed"]
    assert again["sha256"] != row["sha256"]


async def test_a_signature_that_was_tampered_with_is_made_anew(world: World) -> None:
    await world.call("A43")
    await world.call("A3", "EVIDENCE")
    path = world.run_dir / "artifacts" / "signatures" / "quality" / "acceptance.xml.sig"
    path.write_bytes(path.read_bytes()[:-20])
    await world.call("A3", "EVIDENCE")
    assert json.loads(path.read_bytes())["mediaType"].startswith("application/vnd.dev.sigstore.bundle")


async def test_the_pack_is_opened_as_a_stranger_would(world: World) -> None:
    (world.run_dir / "trusted_root.json").write_text(world.sigstore.trusted_root())
    await world.call("A43")
    await world.call("A20")
    assert (await world.call("A3", "EVIDENCE")).status == "ok"
    signing = world.handles.signing
    assert signing is not None
    sealer = PackSealer(
        world.plan,
        world.run_dir,
        world.recorder,
        world.key,
        signing,
        world.handles.forge,
    )
    assert await sealer.seal("promotion") == ""
    verdict = await world.verdict("A60")
    assert verdict.verdict == "pass", verdict.details.reason
    names = {one["name"] for one in world.read("verification.json")["checks"]}
    assert {"signature", "reproducible", "recorded"} <= names
    pack = world.run_dir / "promotion.zip"
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.write_bytes(raw)
    assert (await world.verdict("A60")).verdict == "fail"


async def test_go_needs_every_verdict(world: World) -> None:
    world.data["required_gates"] = ["slo"]
    world.data["agents"] = ["A1", "A11", "A43"]
    world.data["risks"] = []
    await world.call("A11")
    reasons = world_reasons(await world.verdict("A1"))
    assert "A43 has given no verdict" in reasons
    await world.call("A43")
    reasons = world_reasons(await world.verdict("A1"))
    # What is left is that no pack was sealed.
    assert reasons == "the promotion pack is not sealed and signed"


def world_reasons(verdict: object) -> str:
    reason: str = verdict.details.reason  # type: ignore[attr-defined]
    return reason
