"""Signed heads: the C2SP form, and what is not one."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cockpit.base.errors import JournalError
from cockpit.journal.heads import (
    Head,
    RunKey,
    head_files,
    key_id,
    origin_of,
    parse_and_verify,
    read_head,
    read_public_key,
    sign_head,
    write_head,
    write_public_key,
)
from tests.unit.journal.support import KEY, ORIGIN

HEAD = Head(ORIGIN, 42, bytes(range(32)))
SIGNED = sign_head(HEAD, KEY)
PUBLIC = KEY.public_bytes


def test_the_form_is_that_of_a_signed_note() -> None:
    text, _, signature = SIGNED.partition(b"\n\n")
    root = base64.b64encode(HEAD.root).decode()
    assert text.decode() == f"{ORIGIN}\n42\n{root}"
    dash, name, blob = signature.decode().rstrip("\n").split(" ")
    assert (dash, name) == ("—", ORIGIN)
    raw = base64.b64decode(blob)
    assert raw[:4] == key_id(ORIGIN, PUBLIC)
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(raw[4:], text + b"\n")


def test_a_known_key_id() -> None:
    # The verifier key of golang.org/x/mod/sumdb/note's examples.
    name, identity, encoded = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    assert key_id(name, base64.b64decode(encoded)[1:]).hex() == identity


def test_it_reads_back() -> None:
    assert parse_and_verify(SIGNED, PUBLIC) == HEAD
    assert parse_and_verify(SIGNED, PUBLIC, origin=ORIGIN) == HEAD


def test_a_signature_of_a_stranger_beside_ours_is_passed_over() -> None:
    stranger = RunKey.generate().note_signature("witness.example", HEAD.text())
    assert parse_and_verify(SIGNED + stranger, PUBLIC) == HEAD
    text, _, ours = SIGNED.partition(b"\n\n")
    assert parse_and_verify(text + b"\n\n" + stranger + ours, PUBLIC) == HEAD
    with pytest.raises(JournalError, match="not signed by"):
        parse_and_verify(text + b"\n\n" + stranger, PUBLIC)


def test_another_key_or_origin_is_refused() -> None:
    with pytest.raises(JournalError, match="not signed by"):
        parse_and_verify(SIGNED, RunKey.generate().public_bytes)
    with pytest.raises(JournalError, match="not of"):
        parse_and_verify(SIGNED, PUBLIC, origin="cockpit/other")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n",
        SIGNED[:-1],
        SIGNED.replace(b"\n42\n", b"\n042\n"),
        SIGNED.replace(b"\n42\n", b"\n-1\n"),
        SIGNED.replace(b"\n42\n", b"\n43\n"),
        SIGNED.replace(b"\n42\n", b"\n42\nextension\n"),
        SIGNED.replace("—".encode(), b"-"),
        SIGNED + b"\n",
        SIGNED + b"x" * 20_000,
        SIGNED + SIGNED.partition(b"\n\n")[2] * 20,
        b"\xff" + SIGNED,
        SIGNED.replace(b"AAECAwQF", b"AAECAwQ="),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(bad: bytes) -> None:
    assert bad != SIGNED
    with pytest.raises(JournalError):
        parse_and_verify(bad, PUBLIC)


def test_heads_are_kept_by_size_and_name(tmp_path: Path) -> None:
    path = write_head(tmp_path, "p3-end", HEAD, KEY)
    assert path.name == "00000042-p3-end.checkpoint"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert head_files(tmp_path) == [(42, path)]
    assert read_head(path, PUBLIC) == HEAD
    for name in ("../x", "A", "", "a" * 100):
        with pytest.raises(JournalError):
            write_head(tmp_path, name, HEAD, KEY)
    with pytest.raises(JournalError):
        read_head(tmp_path / "none", PUBLIC)


def test_keys_survive_saving(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert RunKey.load(tmp_path / "key").public_bytes == PUBLIC
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(JournalError, match="readable by others"):
        RunKey.load(tmp_path / "key")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key").write_text("short")
    with pytest.raises(JournalError):
        RunKey.load(tmp_path / "key")
    write_public_key(tmp_path, KEY)
    assert read_public_key(tmp_path) == PUBLIC
    (tmp_path / "run-key.pub").write_text("AAAA")
    with pytest.raises(JournalError):
        read_public_key(tmp_path)


@pytest.mark.parametrize("run_id", ["", "two words", "a\nb", "a+b", "ü", "x" * 300])
def test_unfit_run_ids_are_refused(run_id: str) -> None:
    if run_id:
        with pytest.raises(JournalError):
            origin_of(run_id)
    assert origin_of("20250923T080000Z-1a2b3c") == "cockpit/20250923T080000Z-1a2b3c"
