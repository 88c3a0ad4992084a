from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cockpit.agentkit.artifacts import Artifacts
from cockpit.base.errors import EvidenceError
from cockpit.evidence.pack import build_pack
from cockpit.evidence.rebuild import rebuild
from cockpit.evidence.show import show
from cockpit.evidence.verify import Report, verify_pack
from tests.unit.evidence.runs import RUN, WHO, Made


def names(report: Report) -> set[str]:
    return {check.name for check in report.checks}


def test_a_pack_verifies(made: Made, tmp_path: Path) -> None:
    report = verify_pack(made.pack.path, config=tmp_path)
    assert [check for check in report.checks if not check.ok] == []
    assert (report.ok, report.exit_code, report.anchored) == (True, 0, False)
    assert "UNANCHORED" in report.note
    assert "REHEARSAL" in report.note
    assert "REDUCED" in report.note
    said = {check.name: check.detail for check in report.checks}["artifact signatures"]
    assert said == "2 signed, 1 attested; covered by the pack's signature alone: perf/headroom.json"
    assert names(report) >= {
        "container", "manifest", "hashes", "signature", "journal", "heads", "head attestation", "state",
        "artifacts", "artifact signatures", "blobs", "promotion pack", "go/no-go follows from the verdicts",
        "verdicts recomputed", "canary looks recomputed", "trust", "steps earned", "effects in their place",
        "rollbacks proven",
    }  # fmt: skip


def test_a_root_from_outside_anchors_it(made: Made, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_text(made.root)
    report = verify_pack(made.pack.path, trust_root=root, identity=WHO, issuer=made.issuer, config=tmp_path)
    assert report.ok
    assert report.anchored
    assert "UNANCHORED" not in report.note


def test_any_unzip_can_open_it(made: Made) -> None:
    with zipfile.ZipFile(made.pack.path) as archive:
        assert archive.testzip() is None
        listed = archive.namelist()
        document = json.loads(archive.read("manifest.json"))
    assert listed == sorted(listed)
    assert {"journal.jsonl", "state.json", "trusted_root.json", "heads/run-key.pub"} <= set(listed)
    assert set(document["hashes"]) == set(listed) - {"manifest.json"}
    rows = {row["name"]: row for row in document["artifacts"]}
    assert rows["sbom"]["files"] == ["sbom/web.spdx.json"]
    assert rows["perf"]["reason"] == "without perf/spike.json"
    assert "slo/burn_rate.png" in rows["slo"]["files"]
    assert rows["dr"] == {
        "name": "dr", "path": "dr/{failover,cutback}.json", "state": "absent", "files": [],
        "reason": "the plan has no disaster-recovery drill",
    }  # fmt: skip
    assert document["promotion_pack"] == "sha256:" + "d" * 64


def test_a_second_build_has_the_same_digest(made: Made, tmp_path: Path) -> None:
    again = build_pack(made.folder, "closing", made.facts, head=made.head, path=tmp_path / "again.zip")
    assert again.sha256 == made.pack.sha256
    assert again.path.stat().st_mode & 0o777 == 0o600


def test_what_was_written_over_and_never_recorded_is_not_in_it(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made.folder, folder)
    Artifacts(folder).write("perf/headroom.json", b'{"web":0.1}', "report")
    again = build_pack(folder, "closing", made.facts, head=made.head, path=tmp_path / "again.zip")
    assert again.sha256 == made.pack.sha256


def test_rebuilding_says_what_differs(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made.folder, folder)
    same, text = rebuild(folder)
    assert same, text
    assert "plots taken over" in text
    (folder / "artifacts/perf/headroom.json").write_bytes(b"{}")
    same, text = rebuild(folder)
    assert not same
    assert "perf/headroom.json" in text
    (folder / "evidence.zip").unlink()
    with pytest.raises(EvidenceError):
        rebuild(folder)


def test_what_is_no_pack_of_the_run_is_refused(made: Made, tmp_path: Path) -> None:
    for head in (b"", made.head.replace(b"\n", b"\r\n"), b"x" + made.head):
        with pytest.raises(EvidenceError):
            build_pack(made.folder, "closing", made.facts, head=head, path=tmp_path / "x.zip")
    for name in ("manifest.json", "heads/x.json", "../x", "/etc/passwd", "release_notes.md"):
        facts = replace(made.facts, extra={name: b"x"})
        with pytest.raises(EvidenceError):
            build_pack(made.folder, "closing", facts, head=made.head, path=tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_show_tells_what_is_in_it(made: Made, tmp_path: Path) -> None:
    text = show(made.pack.path)
    assert RUN in text
    assert "absent: the plan has no disaster-recovery drill" in text
    assert "gate       policy: pass" in text
    assert "Read, not verified" in text
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK")
    for path in (broken, tmp_path, tmp_path / "missing"):
        with pytest.raises(EvidenceError):
            show(path)
