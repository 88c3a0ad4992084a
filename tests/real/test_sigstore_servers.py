"""The real Sigstore as a whole: keys that are new and private, servers that end, refusals that explain."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from cockpit.base.errors import BackendError, UsageError
from cockpit.rehearsal.real.binaries import SIGSTORE, binary
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.real.sigstore import PARTS, sigstore
from tests.real.fixtures import need

pytestmark = pytest.mark.real
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


async def test_each_start_has_keys_of_its_own_and_keeps_them_private(tmp_path: Path) -> None:
    need(*SIGSTORE)
    roots = []
    for name in ("one", "two"):
        async with Servers(tmp_path / name) as servers, sigstore(servers) as running:
            roots.append(json.loads(running.trusted_root()))
            assert stat.S_IMODE(running.folder.stat().st_mode) == stat.S_IRWXU
            kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in running.folder.glob("*-key.pem")}
            assert kept.keys() == {f"{of}-key.pem" for of in ("ca", "ct", "log", "tsa")}
            kept["fulcio.json"] = stat.S_IMODE((running.folder / "fulcio.json").stat().st_mode)
            assert set(kept.values()) == {_OWNER_ONLY}
            config = json.loads((running.folder / "fulcio.json").read_text())
            shown = [_command_line(running.running(part).pid) for part in PARTS]
            assert not [one for one in shown if config["fileca-key-passwd"].encode() in one]
            ended = [running.running(part) for part in PARTS]
        assert all(one.ended for one in ended)
    for part in ("tlogs", "ctlogs"):
        assert roots[0][part][0]["publicKey"]["rawBytes"] != roots[1][part][0]["publicKey"]["rawBytes"]
    for part in ("certificateAuthorities", "timestampAuthorities"):
        assert roots[0][part][0]["certChain"] != roots[1][part][0]["certChain"]


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_what_cannot_fail_in_a_way_says_so(tmp_path: Path) -> None:
    need(*SIGSTORE)
    async with Servers(tmp_path) as servers, sigstore(servers) as running:
        with pytest.raises(UsageError, match="the real one"):
            await running.fault("rekor", "error")


async def test_a_server_that_does_not_start_is_named_with_its_own_words(tmp_path: Path) -> None:
    need(*SIGSTORE)
    async with Servers(tmp_path) as servers:
        with pytest.raises(BackendError, match="-prefix"):
            await servers.start("ctlog", [binary("ctlog"), "-prefix="], ready="http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-nothing"], "flag provided but not defined"),
        (["more"], 'unexpected argument "more"'),
        (["-http=0.0.0.0:6962"], "is not an address of loopback"),
        (["-http=6962"], "-http:"),
        (["-prefix=a/b"], "is not one part of a path"),
        ([], "-roots: a file must be named"),
        (["-roots=/no/such/file"], "no such file"),
        (["-roots={empty}"], "no certificate in"),
        (["-roots={root}"], "-key: a file must be named"),
        (["-roots={root}", "-key={root}"], "-key:"),
        (["-roots={leaf}", "-key={key}"], "is not one of a CA"),
        (["-roots={root}", "-key={other}"], "is not one of ECDSA P-256"),
    ],
)
def test_the_ct_log_refuses_flags_it_cannot_use(tmp_path: Path, flags: list[str], said: str) -> None:
    need("ctlog")
    files = _files(tmp_path)
    command = [str(binary("ctlog")), *(flag.format(**files) for flag in flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (64, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _files(folder: Path) -> dict[str, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    from cockpit.rehearsal.sigstore.tsa import time_stamping_authority

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    sealed = serialization.NoEncryption()
    made = time_stamping_authority("test")
    content = {
        "empty": b"",
        "root": made.root.public_bytes(pem),
        "leaf": made.certificate.public_bytes(pem),
        "key": made.key.private_bytes(pem, pkcs8, sealed),
        "other": ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, sealed),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}
