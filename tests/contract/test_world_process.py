"""The world as a process: what it writes, what it answers, and that it ends with its release."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cockpit.plan.load import load_plan
from cockpit.plan.model import Plan
from cockpit.rehearsal.registry.predicates import PROVENANCE, SBOM, SIGNATURE, VULNERABILITIES
from cockpit.rehearsal.topology import PROD, ROUTE, SERVICES
from tests.contract.world_support import until

pytestmark = pytest.mark.contract

_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
_REFERRING = "dev.sigstore.bundle.predicateType"


@dataclass
class World:
    """A running world and the lock its release holds."""

    process: asyncio.subprocess.Process
    folder: Path
    lock: int

    @property
    def plan(self) -> Plan:
        """Return the plan it wrote."""
        return load_plan(self.folder / "release.yaml").plan

    @property
    def about(self) -> dict[str, Any]:
        """Return its world.json."""
        found: dict[str, Any] = json.loads((self.folder / "world" / "world.json").read_text())
        return found

    async def ended(self) -> tuple[int, str]:
        """Wait until the process has ended; return its status and what it said."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            said = await self.process.stderr.read()
            return await self.process.wait(), said.decode()


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cockpit.rehearsal",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@asynccontextmanager
async def running(folder: Path, scenario: str = "green") -> AsyncIterator[World]:
    """Start a world, hold its lock, and wait until it says that it is ready."""
    path = folder / "release.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    out = folder / "run"
    process = await _start("--out", str(out), "--scenario", scenario, "--watch-lock", str(path))
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(90):
            line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
        ready = json.loads(line)
        assert ready["ready"] is True and Path(ready["plan"]) == (out / "release.yaml").resolve()
        yield World(process, out, lock)
    finally:
        try:
            os.close(lock)
        except OSError:
            pass
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _gone(pid: int) -> bool:
    return not _alive(pid)


async def test_what_it_writes_leads_to_servers_that_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        plan, base = world.plan, world.folder
        assert plan.rehearsal
        for path in (base / "world" / "secrets").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = (base / "release.yaml").read_text()
        token = plan.targets.kubernetes.token.read(base)
        signing = plan.targets.signing
        for secret in (token, signing.token_secret.read(base)):
            assert secret and secret not in text
        assert json.loads((base / signing.trust_config).read_text())
        assert json.loads((base / "trusted_root.json").read_text())["certificateAuthorities"]
        assert (base / plan.targets.repository.path).is_dir()

        async with aiohttp.ClientSession() as session:
            route = f"/apis/gateway.networking.k8s.io/v1/namespaces/{PROD}/httproutes/{ROUTE}"
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(plan.targets.kubernetes.url + route, headers=headers) as answer:
                assert answer.status == 200
            query = plan.canary.baseline[0].stable_total.replace("{window}", "8s")
            url = f"{plan.targets.prometheus.url}/api/v1/query"
            async with session.get(url, params={"query": query}) as answer:
                assert float((await answer.json())["data"]["result"][0]["value"][1]) >= 50
            for smoke in plan.targets.smoke:
                async with session.get(f"{plan.targets.entry_url}{smoke.path}") as answer:
                    assert answer.status == smoke.status
                    assert smoke.contains in await answer.text()
            assert plan.targets.load is not None
            for service in plan.targets.load.services:
                async with session.get(f"{plan.targets.load.url}/{service}/healthz") as answer:
                    assert (await answer.json())["version"] == plan.target_version
            for entry in plan.services:
                image = entry.image
                manifest = f"{plan.targets.registry.url}/v2/{image.repository}/manifests/{image.reference}"
                async with session.get(manifest, headers=_ACCEPT) as answer:
                    assert answer.headers["Docker-Content-Digest"] == image.digest
                kinds = await _attested(session, plan, image.repository, image.digest)
                assert kinds == {SIGNATURE, SBOM, PROVENANCE, VULNERABILITIES}


async def test_it_ends_when_its_release_does_with_complete_records(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        app = world.about["pids"]["app"]
        os.close(world.lock)
        code, said = await world.ended()
        assert code == 0 and "the release is over" in said and "Traceback" not in said
        await until("the application is gone", lambda: _gone(app))
        lines = (world.folder / "world" / "requests.jsonl").read_text().splitlines(keepends=True)
        assert len(lines) > 100 and all(line.endswith("\n") for line in lines)
        assert {json.loads(line)["service"] for line in lines} == set(SERVICES)


async def test_the_application_does_not_outlive_a_world_that_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        app = world.about["pids"]["app"]
        assert _alive(app)
        world.process.kill()
        await world.process.wait()
        await until("the application is gone", lambda: _gone(app))


async def test_it_ends_on_sigterm_and_when_its_application_dies(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.process.send_signal(signal.SIGTERM)
        code, said = await world.ended()
        assert code == 0 and "SIGTERM" in said and "Traceback" not in said
    other = tmp_path / "other"
    other.mkdir()
    async with running(other) as world:
        os.kill(world.about["pids"]["app"], signal.SIGKILL)
        code, said = await world.ended()
        assert code == 50 and "demo application ended" in said and "Traceback" not in said


async def test_mutable_tag_changes_one_reference_of_the_plan_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, "mutable-tag") as world:
        tagged = [service for service in world.plan.services if not service.image.digest]
        assert [service.name for service in tagged] == ["web"]
        assert tagged[0].image.reference == world.plan.target_version
        async with aiohttp.ClientSession() as session:
            url = f"{world.plan.targets.registry.url}/v2/intelgraph/web/manifests/{tagged[0].image.reference}"
            async with session.get(url, headers=_ACCEPT) as answer:
                assert answer.status == 200, "the tag is there: only policy refuses it"


async def test_unsigned_image_lacks_one_signature_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, "unsigned-image") as world, aiohttp.ClientSession() as session:
        found = {
            service.name: await _attested(session, world.plan, service.image.repository, service.image.digest)
            for service in world.plan.services
        }
    everything = {SIGNATURE, SBOM, PROVENANCE, VULNERABILITIES}
    assert found.pop("search") == everything - {SIGNATURE}
    assert all(kinds == everything for kinds in found.values())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--scenario", "gren"), "slo-breach-50"),
        (("--pace", "warp"), "normal"),
        (("--bound", "-1"), "bound"),
        (("--bound", "soon"), "bound"),
        (("--nonsense",), "nonsense"),
    ],
)
async def test_bad_usage_is_said_plainly(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    assert await _refused("--out", str(tmp_path / "run"), *arguments, word=word) == 64


async def test_a_folder_that_cannot_be_used_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert await _refused("--out", str(tmp_path / "file" / "run"), word="cannot write") == 64
    used = tmp_path / "used" / "world"
    used.mkdir(parents=True)
    (used / "world.json").write_text("{}")
    assert await _refused("--out", str(tmp_path / "used"), word="already") == 64


async def _refused(*arguments: str, word: str) -> int:
    process = await _start(*arguments)
    out, said = await process.communicate()
    assert not out and word in said.decode() and "Traceback" not in said.decode()
    assert process.returncode is not None
    return process.returncode


async def _attested(session: aiohttp.ClientSession, plan: Plan, repository: str, digest: str) -> set[str]:
    url = f"{plan.targets.registry.url}/v2/{repository}/referrers/{digest}"
    async with session.get(url) as answer:
        manifests = json.loads(await answer.read())["manifests"]
    return {entry["annotations"][_REFERRING] for entry in manifests}
