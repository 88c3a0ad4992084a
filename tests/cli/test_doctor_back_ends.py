"""The doctor at each back end: away, faulty, wrong or not ours; what is said, and what to do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from ruamel.yaml import YAML

from cockpit.backends.cluster import REVIEWS
from cockpit.backends.k6 import K6Generator
from cockpit.backends.load import OpenLoopGenerator
from cockpit.backends.reach import proxy_for, reach
from cockpit.backends.rights import manifest
from cockpit.base.clock import iso
from cockpit.base.errors import BackendUnreachable
from cockpit.base.redact import Redactor
from cockpit.connecting import Clients
from cockpit.doctor.around import connected
from cockpit.doctor.checks import Check, examine
from cockpit.doctor.cluster import ClusterPart
from cockpit.plan.load import LoadedPlan
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.topology import PROD, STAGE
from tests.cli.doctor_support import Data, Proxy, Ward, dead_url, mixed, seeded, serving, ward

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAY = "/apis/gateway.networking.k8s.io/v1"
Change = Callable[[Data], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ward]:
    async with ward(tmp_path_factory.mktemp("ward")) as made:
        yield made


def setting(path: str, value: Any) -> Change:
    """Return a change of one member of the plan's targets."""

    def change(data: Data) -> None:
        *names, last = path.split(".")
        node = data["targets"]
        for name in names:
            node = node[name]
        node[last] = value

    return change


async def failed(world: Ward, part: str, loaded: LoadedPlan, name: str) -> Check:
    """Return a check that must be the only one of its part that failed by itself."""
    checks = await world.part(part, loaded)
    assert [one for one, check in checks.items() if check.status == "fail"] == [name], checks
    assert checks[name].todo
    return checks[name]


# -- the cluster ----------------------------------------------------------------------------------------


async def test_a_right_that_lacks_is_named(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    (tmp_path / "kubernetes").write_text("no-route")
    checks = await examined_rights(world, loaded)
    assert {space: one.status for space, one in checks.items()} == {
        PROD: "fail", "intelgraph-dev": "fail", STAGE: "fail",
    }  # fmt: skip
    assert checks[PROD].facts["lacking"] == "patch httproutes.gateway.networking.k8s.io"
    assert "1 of 20" in checks[PROD].found and "--rbac" in checks[PROD].todo


async def examined_rights(world: Ward, loaded: LoadedPlan) -> dict[str, Check]:
    report = await examine_cluster(world, loaded)
    return {one.target: one for one in report if one.check == "rights"}


async def examine_cluster(world: Ward, loaded: LoadedPlan) -> list[Check]:
    part = ClusterPart(loaded.plan, Clients(loaded, world.clock, Redactor()), world.clock)
    try:
        return await examine(list(part.probes()), deadline=60)
    finally:
        await part.close()


async def test_the_manifest_is_enough(world: Ward, tmp_path: Path) -> None:
    """Reviews answered as Kubernetes does from the manifest's own roles: rights on named objects and all."""
    loaded = world.plan(tmp_path)
    roles = {
        one["metadata"]["namespace"]: one["rules"]
        for one in YAML(typ="safe").load_all(manifest(loaded.plan))
        if one["kind"] == "Role"
    }

    async def review(request: web.Request) -> web.Response:
        asked = (await request.json())["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        allowed = any(
            asked["verb"] in rule["verbs"]
            and asked.get("group", "") in rule["apiGroups"]
            and resource in rule["resources"]
            and ("resourceNames" not in rule or asked.get("name") in rule["resourceNames"])
            for rule in roles.get(asked["namespace"], [])
        )
        return web.json_response({"status": {"allowed": allowed}}, status=201)

    async with Proxy(world.kube.url, answers={REVIEWS: review}) as proxy:
        loaded = world.plan(tmp_path, setting("kubernetes.url", proxy.url))
        assert {one.status for one in (await examined_rights(world, loaded)).values()} == {"ok"}
        for rule in roles[PROD]:
            if rule["resources"] == ["deployments"] and "resourceNames" in rule:
                rule["resourceNames"].remove("web-canary")
        checks = await examined_rights(world, loaded)
    assert checks[PROD].facts["lacking"] == (
        "get deployments.apps on web-canary; patch deployments.apps on web-canary"
    )
    assert checks[STAGE].status == "ok"


async def test_a_cluster_without_the_gateway_api(world: Ward, tmp_path: Path) -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "code": 404, "message": "not found"}, status=404)

    async with Proxy(world.kube.url, answers={GATEWAY: nothing}) as proxy:
        loaded = world.plan(tmp_path, setting("kubernetes.url", proxy.url))
        check = await failed(world, "cluster", loaded, "kubernetes Gateway API")
    assert "httproutes" in check.found and "CRDs" in check.todo and not check.unreachable


async def test_a_token_nobody_knows_and_one_without_rights(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    (tmp_path / "kubernetes").write_text("stranger")
    check = await failed(world, "cluster", loaded, "kubernetes reachable")
    assert "401" in check.found and "targets.kubernetes.token" in check.todo and not check.unreachable
    (tmp_path / "kubernetes").write_text("nobody")
    checks = await world.part("cluster", loaded)
    for name in ("rights", "objects", "lock"):
        assert checks[f"kubernetes {name}"].status == "fail"
        assert "--rbac" in checks[f"kubernetes {name}"].todo
    assert checks["kubernetes Gateway API"].status == "ok"


async def test_what_the_plan_names_and_the_cluster_has_not(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        data["services"][0]["canary"] = "elsewhere"
        data["services"][1]["container"] = "other"

    loaded = world.plan(tmp_path, change)
    found = {one.target: one for one in await examine_cluster(world, loaded) if one.check == "objects"}
    assert "no Deployment elsewhere" in found[PROD].found
    assert "has no container other" in found[PROD].found
    # dev has no canary, so none is missed there.
    assert "elsewhere" not in found["intelgraph-dev"].found


async def test_a_lock_that_is_held(world: Ward, tmp_path: Path) -> None:
    async def held(_: web.Request) -> web.Response:
        spec = {"holderIdentity": "her", "renewTime": iso(world.clock.now()), "leaseDurationSeconds": 60}
        return web.json_response({"kind": "Lease", "metadata": {"name": "release-cockpit"}, "spec": spec})

    path = f"/apis/coordination.k8s.io/v1/namespaces/{PROD}/leases/release-cockpit"
    async with Proxy(world.kube.url, answers={path: held}) as proxy:
        loaded = world.plan(tmp_path, setting("kubernetes.url", proxy.url))
        check = (await world.part("cluster", loaded))["kubernetes lock"]
    assert check.status == "warn" and check.facts["holder"] == "her"


@pytest.mark.parametrize("name", ["kubernetes", "registry", "issues"])
async def test_a_wrong_clock(world: Ward, tmp_path: Path, name: str) -> None:
    parts = {"kubernetes": "cluster", "registry": "supply", "issues": "around"}
    url = world.data["targets"][name]["url"]
    async with Proxy(url, shift=timedelta(seconds=-30)) as proxy:
        loaded = world.plan(tmp_path, setting(f"{name}.url", proxy.url))
        check = await failed(world, parts[name], loaded, f"{name} clock")
    assert float(check.facts["offset_ms"]) == pytest.approx(-30_000, abs=5_000)
    assert "NTP" in check.todo


# -- metrics --------------------------------------------------------------------------------------------


async def test_a_wrong_clock_of_prometheus_is_told_to_the_millisecond(world: Ward, tmp_path: Path) -> None:
    async with PrometheusServer(store=seeded(), clock_offset_s=20.0) as server:
        loaded = world.plan(tmp_path, setting("prometheus.url", server.url))
        check = await failed(world, "metrics", loaded, "prometheus clock")
    offset, doubt = float(check.facts["offset_ms"]), float(check.facts["uncertainty_ms"])
    assert abs(offset - 20_000) <= doubt + 1


async def test_a_stable_that_is_not_measured(world: Ward, tmp_path: Path) -> None:
    async with PrometheusServer(store=seeded(stable=False)) as server:
        loaded = world.plan(tmp_path, setting("prometheus.url", server.url))
        check = await failed(world, "metrics", loaded, "prometheus stable has data")
    assert "baseline.error_ratio.stable_total" in str(check.facts["lacking"])


async def test_a_query_that_is_wrong_and_a_metric_nobody_exports(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        checks = data["canary"]["checks"]
        checks[2]["query"] = 'max(ingest_lag_secs{track="canary"})'
        checks[3]["query"] = "sum(increase("

    checks = await world.part("metrics", world.plan(tmp_path, change))
    queries, names = checks["prometheus queries"], checks["prometheus metrics are there"]
    assert queries.status == "fail" and queries.facts["lacking"] == "check.isolation_violations"
    assert "parse error" in queries.found
    assert names.status == "fail" and names.facts["lacking"] == "ingest_lag_secs"
    assert checks["prometheus stable has data"].status == "ok"


async def test_samples_that_are_not_kept_long_enough(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        data["canary"]["burn"]["windows"][0]["long"] = "6h"

    check = (await world.part("metrics", world.plan(tmp_path, change)))["prometheus retention"]
    assert check.status == "fail" and "21600s needed" in check.found


async def test_a_prometheus_that_hangs(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path, setting("prometheus.deadline", "1s"))
    world.prometheus.faults.set("hang")
    try:
        check = await failed(world, "metrics", loaded, "prometheus reachable")
    finally:
        world.prometheus.faults.clear()
    assert check.unreachable and "within 1 s" in check.found


# -- registry, repository, policy -----------------------------------------------------------------------


async def test_an_image_that_is_not_there_and_one_that_can_change(world: Ward, tmp_path: Path) -> None:
    first = world.data["services"][0]["image"]

    def gone(data: Data) -> None:
        data["services"][0]["image"] = first.partition("@")[0] + "@sha256:" + "0" * 64

    def tagged(data: Data) -> None:
        data["services"][0]["image"] = first.partition("@")[0] + ":v3.0.0"

    check = await failed(world, "supply", world.plan(tmp_path, gone), "registry images")
    assert "not there" in check.found and world.data["services"][0]["name"] in check.found
    check = await failed(world, "supply", world.plan(tmp_path, tagged), "registry images")
    assert "can change" in check.found and "sha256" in check.todo


async def test_refs_that_are_not_there(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path, setting("repository.to_ref", "v9.9.9"))
    checks = await world.part("supply", loaded)
    assert checks["repository refs"].status == "fail" and "v9.9.9" in checks["repository refs"].found
    assert checks["repository takes tags"].status == "not checked"
    loaded = world.plan(tmp_path, setting("repository.from_ref", "main"))
    assert "no commit" in (await world.part("supply", loaded))["repository refs"].found


@pytest.mark.parametrize(
    ("rego", "said"),
    [
        ("package cockpit.release\ndecision := {", "failed"),
        ("package somewhere.else\nimport rego.v1\ndecision := {}", "undefined"),
        (
            'package cockpit.release\ndecision := {"allow": true, "obligations": [], "reasons": []}',
            "allows",
        ),
    ],
)
async def test_a_policy_that_does_not_load_or_cannot_say_no(
    world: Ward, tmp_path: Path, rego: str, said: str
) -> None:
    (tmp_path / "rego").mkdir()
    (tmp_path / "rego" / "release.rego").write_text(rego)

    def change(data: Data) -> None:
        data["targets"]["policy"] = {"bundle": "rego", "deadline": "30s"}

    check = await failed(world, "policy", world.plan(tmp_path, change), "policy policy loads")
    assert said in check.found


async def test_an_opa_without_the_policy_and_nobody_to_bring_it(world: Ward, tmp_path: Path) -> None:
    def change(data: Data) -> None:
        data["agents"].remove("A19")

    loaded = world.plan(tmp_path, change)
    check = await failed(world, "policy", loaded, "policy OPA decides")
    assert "undefined" in check.found and "A19" in check.todo
    world.opa.policies["release"] = 'package cockpit.release\ndecision := {"allow": false, "reasons": ["no"]}'
    try:
        assert (await world.part("policy", loaded))["policy OPA decides"].status == "ok"
    finally:
        world.opa.policies.clear()
    (tmp_path / "policy").write_text("another")
    check = await failed(world, "policy", loaded, "policy reachable")
    assert "401" in check.found and "targets.policy.token" in check.todo


# -- signing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "name"),
    [("fulcio", "certificate authority"), ("rekor", "transparency log"), ("tsa", "time-stamps")],
)
async def test_a_signing_service_that_is_away(world: Ward, tmp_path: Path, service: Any, name: str) -> None:
    loaded = world.plan(tmp_path)
    await world.sigstore.fault(service, "refuse")
    try:
        check = await failed(world, "signing", loaded, f"signing {name}")
    finally:
        await world.sigstore.fault(service, None)
    assert check.unreachable and "trust configuration" in check.todo


async def test_services_that_are_not_the_trusted_ones(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    async with SigstoreServer() as other:
        config = mixed(world.sigstore.trust_config(), other.trust_config())
    (tmp_path / "trust_config.json").write_text(config)
    checks = await world.part("signing", loaded)
    for name in ("certificate authority", "transparency log", "time-stamps"):
        check = checks[f"signing {name}"]
        assert check.status == "fail" and not check.unreachable and "trust configuration" in check.todo
    assert checks["signing identity"].status == "ok"


async def test_a_log_that_serves_its_checkpoint_elsewhere(world: Ward, tmp_path: Path) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=501)

    url = world.sigstore.url("rekor")
    async with Proxy(url, answers={"/api/v2/checkpoint": elsewhere}) as proxy:
        loaded = world.plan(tmp_path)
        (tmp_path / "trust_config.json").write_text(world.sigstore.trust_config().replace(url, proxy.url))
        checks = await world.part("signing", loaded)
    log = checks["signing transparency log"]
    assert log.status == "warn" and "no checkpoint" in log.found
    assert checks["signing clock of Rekor"].status == "ok"


async def test_a_trust_configuration_that_is_none(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    (tmp_path / "trust_config.json").write_text("{}")
    check = await failed(world, "signing", loaded, "signing trust")
    assert "cannot be used" in check.found
    (tmp_path / "trust_config.json").unlink()
    check = await failed(world, "signing", loaded, "signing trust")
    assert "cannot be read" in check.found


async def test_an_identity_that_is_not_the_plans(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    (tmp_path / "signing").write_text("wrong")
    check = await failed(world, "signing", loaded, "signing identity")
    assert "401" in check.found and "token_secret" in check.todo

    async def hers(_: web.Request) -> web.Response:
        return web.json_response({"value": world.sigstore.token("her@intelgraph.io")})

    async def stale(_: web.Request) -> web.Response:
        token = world.sigstore.token("release@intelgraph.io", lifetime=timedelta(hours=-1))
        return web.json_response({"value": token})

    async def forged(_: web.Request) -> web.Response:
        head, body, _sig = world.sigstore.token("release@intelgraph.io").split(".")
        other = world.sigstore.token("her@intelgraph.io").rpartition(".")[2]
        return web.json_response({"value": f"{head}.{body}.{other}"})

    for handler, said in ((hers, "her@intelgraph.io"), (stale, "expired"), (forged, "Signature")):
        async with serving(handler) as url:
            loaded = world.plan(tmp_path, setting("signing.token_url", f"{url}/token"))
            check = await failed(world, "signing", loaded, "signing identity")
        assert said in check.found
    loaded = world.plan(tmp_path, setting("signing.issuer", "https://other.invalid"))
    check = await failed(world, "signing", loaded, "signing identity")
    assert "https://other.invalid" in check.found


# -- what stands around ---------------------------------------------------------------------------------


async def test_what_stands_around_a_release(world: Ward, tmp_path: Path) -> None:
    (tmp_path / "agent").write_text("#!/bin/sh\n")  # it cannot be executed

    def change(data: Data) -> None:
        targets = data["targets"]
        targets["webhooks"][1]["url"] = f"{dead_url()}/T000/secret-path"
        targets["load"]["url"] = dead_url()
        targets["smoke"][0]["contains"] = "something else"
        data["ga_flags"].append("feature.nobody.defined")
        data["external"] = {
            "A1": {"command": ["./agent"]},
            "A2": {"url": dead_url()},
            "A3": {"command": ["sh", "-c", "true"]},
        }
        data["telemetry"] = {"otlp": dead_url()}

    checks = await world.part("around", world.plan(tmp_path, change))
    wrong = {name for name, check in checks.items() if check.status == "fail"}
    assert wrong == {
        "webhook team-chat", "load reachable", "entry smoke paths", "flags definitions", "external A1",
        "external A2", "telemetry reachable",
    }  # fmt: skip
    hook = checks["webhook team-chat"]
    assert hook.unreachable and "secret-path" not in str(hook) and "team-chat" in hook.todo
    assert "feature.nobody.defined" in checks["flags definitions"].found
    assert checks["flags evaluated"].status == "not checked"
    assert checks["external A3"].status == "ok"
    assert "not what it must contain" in checks["entry smoke paths"].found
    assert not (world.folder / "webhooks.jsonl").exists()


@pytest.mark.parametrize("choice", ["builtin", "auto", "k6"])
async def test_the_load_generator_a_plan_asks_for(
    world: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    loaded = world.plan(tmp_path, lambda data: data["targets"]["load"].update(generator=choice))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    missing = (await world.part("around", loaded)).get("load generator")
    program = folder / "k6"
    program.write_text("#!/bin/sh\necho 'k6 v1.8.1 (go1.26.8, linux/amd64)'\n")
    program.chmod(0o755)
    there = (await world.part("around", loaded)).get("load generator")
    sending = Clients(loaded, world.clock, Redactor()).load()
    assert isinstance(sending, OpenLoopGenerator if choice == "builtin" else K6Generator)
    if choice == "builtin":
        assert missing is there is None
        return
    assert missing is not None and there is not None
    assert missing.status == ("ok" if choice == "auto" else "fail") and "not on the PATH" in missing.found
    assert choice == "auto" or "targets.load.generator" in missing.todo
    assert there.status == "ok" and there.facts["version"] == "1.8.1"


async def test_the_directory(world: Ward, tmp_path: Path) -> None:
    config: dict[str, object] = {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": {"supported": True}, "bulk": {"supported": False}, "filter": {"supported": True},
    }  # fmt: skip
    answers: dict[str, web.Response] = {}
    seen: list[tuple[str, str]] = []

    async def scim(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Accept"]))
        if answers:
            return answers.pop("next")
        if request.headers.get("Authorization") != "Bearer a-directory-token":
            return web.json_response({"detail": "who are you, a-directory-token?"}, status=401)
        return web.json_response(config, content_type="application/scim+json")

    def change(data: Data) -> None:
        data["rehearsal"] = False
        data["scim_baseurl"] = f"{url}/scim/v2/"
        data |= {"scim_token": "file:scim"} if token else {}

    async with serving(scim) as base:
        url = base
        for token, status, said in (
            ("a-directory-token", "ok", "SCIM 2.0; patch, filter"),
            ("another", "fail", "401"),
            ("", "warn", "it wants a token"),
        ):
            (tmp_path / "scim").write_text(token)
            check = (await world.part("around", world.plan(tmp_path, change)))["scim its configuration"]
            assert check.status == status and said in check.found
            assert ("scim_token" in check.todo) is (status != "ok")
        assert set(seen) == {("/scim/v2/ServiceProviderConfig", "application/scim+json")}
        for body, code in ((b"<html>", 200), (b"[]", 200), (b'{"schemas": {}}', 200), (b"{}", 404)):
            answers["next"] = web.Response(body=body, status=code)
            check = await failed(world, "around", world.plan(tmp_path, change), "scim its configuration")
            assert "no SCIM configuration" in check.found and not check.unreachable
        answers["next"] = web.Response(status=503)
        assert (
            await failed(world, "around", world.plan(tmp_path, change), "scim its configuration")
        ).unreachable
    url = dead_url()
    assert (await failed(world, "around", world.plan(tmp_path, change), "scim its configuration")).unreachable


def certificate(folder: Path, days: int) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS with a certificate of its own for loopback, and where that lies."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{days}.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context, path


async def test_a_webhook_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for days in (3, 300):
        context, path = certificate(tmp_path, days)
        async with await asyncio.start_server(end, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
            with pytest.raises(BackendUnreachable, match="certificate does not hold"):
                await reach(url, deadline=30)
            with monkeypatch.context() as trusting:
                trusting.setenv("SSL_CERT_FILE", str(path))
                found = await reach(url, deadline=30)
        assert found.tls.startswith("TLSv1") and found.expires is not None
        assert (found.expires - datetime.now(UTC)).days == days
        assert connected(found, datetime.now(UTC)).status == ("warn" if days < 14 else "ok")
    with pytest.raises(BackendUnreachable):
        await reach(dead_url(), deadline=30)


async def test_what_is_behind_a_proxy_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://hooks.invalid/x") == ""
    monkeypatch.setenv("https_proxy", "http://user:word@proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "inside.invalid")
    assert proxy_for("https://hooks.invalid/x").endswith("proxy.invalid:3128")
    assert proxy_for("https://inside.invalid/x") == proxy_for("https://127.0.0.1/x") == ""


async def test_an_issue_tracker_that_is_not_ours_to_label(world: Ward, tmp_path: Path) -> None:
    loaded = world.plan(tmp_path)
    world.issues.may_label = False
    try:
        check = await failed(world, "around", loaded, "issues reachable")
    finally:
        world.issues.may_label = True
    assert "labels" in check.found
    (tmp_path / "issues").write_text("wrong")
    check = await failed(world, "around", loaded, "issues reachable")
    assert "401" in check.found and "targets.issues.token" in check.todo
