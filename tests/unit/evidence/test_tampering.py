"""Whatever is changed in a pack or its bundle, the verification must not say `ok`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cockpit.base.files import sha256_hex
from cockpit.evidence import container
from cockpit.evidence.manifest import rows_of
from cockpit.evidence.sealing import bundle_path
from cockpit.evidence.verify import Report, verify_pack
from cockpit.journal.chain import leaf_hash
from cockpit.journal.heads import Head, RunKey, origin_of, sign_head
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.unit.evidence.conftest import Factory
from tests.unit.evidence.runs import RUN, WHO, Change, Made, copy_of, plan_text
from tests.unit.plan.test_refuse import data
from tests.unit.verdicts.samples import canary

Files = dict[str, bytes]
Document = dict[str, Any]


def broken(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.ok}


def repack(
    made: Made,
    folder: Path,
    change: Callable[[Files], None] = lambda files: None,
    say: Callable[[Document], None] = lambda document: None,
    *,
    hashes: bool = True,
) -> bytes:
    """Return a canonical pack with other content and, unless told not to, a manifest that agrees with it."""
    files = container.read(made.pack.path.read_bytes())
    document = json.loads(files.pop("manifest.json"))
    change(files)
    if hashes:
        document["hashes"] = {name: sha256_hex(data) for name, data in files.items()}
        absent = {row["name"]: row["reason"] for row in document["artifacts"]}
        document["artifacts"] = [row.model_dump(mode="json") for row in rows_of(files, absent)]
    say(document)
    return container.write({**files, "manifest.json": json.dumps(document).encode()})


def verify(made: Made, folder: Path, raw: bytes, factory: Factory | None = None) -> Report:
    """Verify other bytes: beside the old bundle, or signed again by the release's own identity."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "evidence.zip"
    if factory is None:
        target.write_bytes(raw)
        bundle_path(target).write_bytes(made.bundle.read_bytes())
    else:
        factory.seal_again(made, raw, target)
    return verify_pack(target, config=folder)


def flips(size: int, count: int) -> list[int]:
    return sorted({int(step * (size - 1) / (count - 1)) for step in range(count)})


def check_flips(path: Path, pack: Path, config: Path, positions: list[int]) -> None:
    good = path.read_bytes()
    for at in positions:
        changed = bytearray(good)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        assert verify_pack(pack, config=config, recompute=False).exit_code != 0, at
    path.write_bytes(good)
    assert verify_pack(pack, config=config).ok


def test_any_byte_of_the_bundle(made: Made, tmp_path: Path) -> None:
    spoilt = copy_of(made, tmp_path)
    check_flips(spoilt.bundle, spoilt.pack.path, tmp_path, flips(spoilt.bundle.stat().st_size, 100))


def test_any_byte_of_the_pack(made: Made, tmp_path: Path) -> None:
    spoilt = copy_of(made, tmp_path)
    size = spoilt.pack.path.stat().st_size
    check_flips(
        spoilt.pack.path, spoilt.pack.path, tmp_path, [*range(40), *flips(size, 60), *range(size - 40, size)]
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_single_byte(made: Made, tmp_path: Path) -> None:
    spoilt = copy_of(made, tmp_path)
    check_flips(spoilt.bundle, spoilt.pack.path, tmp_path, list(range(spoilt.bundle.stat().st_size)))
    size = spoilt.pack.path.stat().st_size
    check_flips(spoilt.pack.path, spoilt.pack.path, tmp_path, list(range(0, size, 11)))


def test_another_pack_under_the_old_bundle(made: Made, tmp_path: Path) -> None:
    raw = repack(made, tmp_path, lambda files: files.update({"chaos/note": b"x"}))
    assert broken(verify(made, tmp_path, raw)) == {"signature"}


def set_file(name: str, data: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: data})


def drop(name: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        del files[name]

    return change


STRANGE = b'{"signed":[{"path":"perf/headroom.json","sha256":"00","bundle":"signatures/none.sig"}]}'


def say(**fields: Any) -> Callable[[Document], None]:
    return lambda document: document.update(fields)


@pytest.mark.parametrize(
    ("change", "said", "hashes", "names"),
    [
        (drop("sbom/web.spdx.json"), say(), False,
         {"manifest", "hashes", "artifacts", "artifact signatures"}),
        (drop("sbom/web.spdx.json"), say(), True, {"artifacts", "artifact signatures"}),
        (set_file("chaos/extra", b"x"), say(), False, {"manifest", "hashes"}),
        (set_file("perf/headroom.json", b'{"web":0.9}'), say(), False, {"hashes", "artifacts"}),
        (set_file("perf/headroom.json", b'{"web":0.9}'), say(), True, {"artifacts"}),
        (set_file("signatures/sbom/web.spdx.json.sig", b"{}"), say(), True,
         {"artifacts", "artifact signatures"}),
        (drop("signatures/sbom/web.spdx.json.sig"), say(), True, {"artifacts", "artifact signatures"}),
        (set_file("signatures/index.json", b"{}"), say(), True, {"artifacts", "artifact signatures"}),
        (set_file("signatures/index.json", STRANGE), say(), True, {"artifacts", "artifact signatures"}),
        (set_file("attestations/x.intoto.jsonl", b"{}"), say(), True, {"artifact signatures"}),
        (set_file("state.json", b"{}"), say(), True, {"state"}),
        (drop("journal.jsonl"), say(), True, {"journal"}),
        (drop("heads/journal-head.sigstore.json"), say(), True, {"head attestation"}),
        (drop("heads/run-key.pub"), say(), True, {"heads", "head attestation"}),
        (set_file("heads/00000001-x.checkpoint", b"x"), say(), True, {"heads"}),
        (set_file("blobs/" + "a" * 64, b"x"), say(), True, {"blobs"}),
        (lambda files: None, say(version="v3.0.1"), True, {"journal"}),
        (lambda files: None, say(reduced=[]), True, {"journal"}),
        (lambda files: None, say(run_id="other"), True, {"journal", "heads", "head attestation"}),
        (lambda files: None, say(rekor_uuid="e" * 64), True, {"head attestation"}),
        (lambda files: None, say(promotion_pack=""), True, {"promotion pack"}),
        (lambda files: None, say(artifacts=[]), True, {"manifest"}),
        (lambda files: None, say(journal_head="x\n1\nx\n"), True, {"heads", "head attestation"}),
        (lambda files: None, say(surprise=1), True, {"manifest"}),
        (lambda files: None, say(format=2), True, {"manifest"}),
        (lambda files: None, say(hashes={"a": "b"}), True, {"manifest"}),
        (lambda files: None, say(signed_by="mallory@evil.example"), True,
         {"signature", "head attestation", "artifact signatures"}),
    ],
)  # fmt: skip
def test_whoever_may_sign_cannot_make_it_fit(
    made: Made,
    factory: Factory,
    tmp_path: Path,
    change: Callable[[Files], None],
    said: Callable[[Document], None],
    hashes: bool,
    names: set[str],
) -> None:
    # Signed again by the release's own identity: each binding must hold without the signature's help.
    raw = repack(made, tmp_path, change, said, hashes=hashes)
    report = verify(made, tmp_path, raw, factory)
    assert not report.ok
    assert broken(report) == names


def test_a_missing_answer_is_not_proven(made: Made, factory: Factory, tmp_path: Path) -> None:
    files = container.read(made.pack.path.read_bytes())
    blob = next(
        name for name, data in files.items() if name.startswith("blobs/") and b'"metric": {"le"' in data
    )
    report = verify(made, tmp_path, repack(made, tmp_path, drop(blob)), factory)
    assert broken(report) == {"canary looks recomputed"}


def rechain(raw: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a journal with changed lines whose links hold again."""
    out, prev = [], b"0" * 64
    for line in raw.splitlines():
        line = change(line)
        line = line[:9] + prev + line[73:]
        prev = leaf_hash(line).hex().encode()
        out.append(line + b"\n")
    return b"".join(out)


def test_an_edited_journal(made: Made, factory: Factory, tmp_path: Path) -> None:
    def edit(files: Files) -> None:
        files["journal.jsonl"] = files["journal.jsonl"].replace(
            b'"operator":"someone"', b'"operator":"nobody!"'
        )

    report = verify(made, tmp_path, repack(made, tmp_path, edit), factory)
    assert "journal" in broken(report)

    def forge(files: Files) -> None:
        files["journal.jsonl"] = rechain(
            files["journal.jsonl"],
            lambda line: line.replace(b'"operator":"someone"', b'"operator":"nobody!"'),
        )

    report = verify(made, tmp_path / "forged", repack(made, tmp_path, forge), factory)
    assert broken(report) >= {"heads", "head attestation", "state"}


def test_another_run_key(made: Made, factory: Factory, tmp_path: Path) -> None:
    key = RunKey.generate()
    size, root = made.head.decode().split("\n")[1:3]
    head = sign_head(Head(origin_of(RUN), int(size), base64.b64decode(root)), key)

    def swap(files: Files) -> None:
        files["heads/run-key.pub"] = base64.b64encode(key.public_bytes) + b"\n"
        for name in [name for name in files if name.endswith(".checkpoint")]:
            files[name] = head

    raw = repack(made, tmp_path, swap, say(journal_head=head.decode()))
    assert broken(verify(made, tmp_path, raw, factory)) == {"heads", "head attestation"}


def test_another_root(made: Made, factory: Factory, tmp_path: Path) -> None:
    other = factory.run(foreign_root())
    root = tmp_path / "root.json"
    root.write_text(other)
    report = verify_pack(made.pack.path, trust_root=root, config=tmp_path)
    assert broken(report) >= {"signature", "head attestation"}
    raw = repack(made, tmp_path, set_file("trusted_root.json", other.encode()))
    assert broken(verify(made, tmp_path, raw, factory)) >= {"signature", "head attestation"}
    for content in (b"", b"{}", b"\xff"):
        root.write_bytes(content)
        assert not verify_pack(made.pack.path, trust_root=root, config=tmp_path).anchored or content
    root.write_bytes(b"{}")
    assert not verify_pack(made.pack.path, trust_root=root, config=tmp_path).ok


async def foreign_root() -> str:
    async with SigstoreServer() as server:
        return server.trusted_root()


def test_another_signer_than_expected(made: Made, tmp_path: Path) -> None:
    assert "trust" in broken(verify_pack(made.pack.path, config=tmp_path, identity="someone@else"))
    assert "trust" in broken(verify_pack(made.pack.path, config=tmp_path, issuer="https://other"))


def test_a_real_release_must_be_anchored(factory: Factory, tmp_path: Path) -> None:
    targets = data()["targets"]
    targets["signing"]["profile"] = "private"
    plan = plan_text({"rehearsal": False, "targets": targets, "canary": canary().model_dump(mode="json")})
    made = factory.make(
        Change(
            plan=plan,
            opened={"rehearsal": False, "trust_profile": "private", "plan_sha256": sha256_hex(plan)},
        )
    )
    assert "trust" in broken(verify_pack(made.pack.path, config=tmp_path))
    root = tmp_path / "trusted_root.json"
    root.write_text(made.root)
    assert "trust" in broken(verify_pack(made.pack.path, config=tmp_path))
    report = verify_pack(made.pack.path, identity=WHO, issuer=made.issuer, config=tmp_path)
    assert report.ok and report.anchored
    (tmp_path / "signer.json").write_text(json.dumps({"identity": WHO, "issuer": made.issuer}))
    assert verify_pack(made.pack.path, config=tmp_path).anchored
    (tmp_path / "signer.json").write_text("[]")
    assert not verify_pack(made.pack.path, config=tmp_path).ok


def test_what_cannot_be_read(made: Made, tmp_path: Path) -> None:
    spoilt = copy_of(made, tmp_path / "pack")
    assert verify_pack(spoilt.pack.path, trust_root=tmp_path / "missing").exit_code == 64
    missing = verify_pack(tmp_path / "missing.zip")
    assert (missing.unreadable, missing.exit_code, missing.ok) == (True, 64, False)
    assert verify_pack(tmp_path).exit_code == 64
    assert verify_pack(spoilt.pack.path, bundle=tmp_path / "missing.json").exit_code == 64
    for content in (b"", b"not a zip", b"PK"):
        spoilt.pack.path.write_bytes(content)
        assert verify_pack(spoilt.pack.path).exit_code == 64
    spoilt.pack.path.write_bytes(b"PK\x03\x04 and nothing")
    assert verify_pack(spoilt.pack.path).exit_code == 1


def test_a_pack_without_a_bundle_is_not_signed(made: Made, tmp_path: Path) -> None:
    spoilt = copy_of(made, tmp_path)
    spoilt.bundle.unlink()
    assert broken(verify_pack(spoilt.pack.path, config=tmp_path)) == {"signature"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", pytest.param(b"[" * 100_000, id="deep"), b"\xff\xfe", b"null"],
)
def test_a_manifest_that_is_none(made: Made, factory: Factory, tmp_path: Path, content: bytes) -> None:
    files = container.read(made.pack.path.read_bytes())
    report = verify(made, tmp_path, container.write({**files, "manifest.json": content}), factory)
    assert broken(report) == {"manifest"}
