"""OPA's HTTP API: one suite over the stand-in and a real OPA, and what fails in the stand-in only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cockpit.backends.policy_opa import MAX_DECISION_BYTES, OpaEngine, OpaHttp, OpaPolicyStore, release_policy
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable
from cockpit.plan.operations import PolicyEngine
from cockpit.rehearsal.opa import OpaFault, OpaServer
from tests.contract.policy_support import (
    DEADLINE,
    REASON,
    SLOW,
    Server,
    real_opa,
    server,
    server_kind,
    subject,
)

__all__ = ["real_opa", "server", "server_kind"]
pytestmark = pytest.mark.contract
NO_REGO = "package p\nthis is no rego"
ECHO = (
    'package p\nimport rego.v1\n\ndecision := {"allow": true, "reasons": [input.text]}\nif_asked if input\n'
)


async def test_policies_are_put_read_and_taken_away(server: Server) -> None:
    store = OpaPolicyStore(server.http())
    assert await store.get("p") is None
    await store.put("p", REASON)
    assert await store.get("p") == REASON
    with pytest.raises(BackendRefused) as refused:
        await store.put("p", NO_REGO)
    assert refused.value.status == 400
    assert await store.get("p") == REASON
    await store.put("p", SLOW)
    assert await store.get("p") == SLOW
    await store.delete("p")
    await store.delete("p")
    assert await store.get("p") is None


async def test_a_policys_id_may_be_a_path(server: Server) -> None:
    store = OpaPolicyStore(server.http())
    name = "release/é 1.rego"
    await store.put(name, REASON)
    assert await store.get(name) == REASON
    assert (await OpaEngine(server.http(), package="p").decide(subject("good"))).allow
    await store.delete(name)
    assert await store.get(name) is None


async def test_a_policy_that_is_changed_decides_at_once(server: Server) -> None:
    engine = await server.engine(REASON)
    assert (await engine.decide(subject("good"))).allow
    await OpaPolicyStore(server.http()).put("p", REASON.replace('"good"', '"better"'))
    assert not (await engine.decide(subject("good"))).allow
    await OpaPolicyStore(server.http()).delete("p")
    gone = await engine.decide(subject("better"))
    assert not gone.allow and "undefined" in gone.reasons[0]


@pytest.mark.parametrize("token", ["", "other", "t0ken-of-the-test", "t0ken-of-the-testsX"])
async def test_without_its_token_nothing_is_decided_read_or_changed(server: Server, token: str) -> None:
    await server.engine(REASON)
    wrong = server.http(token=token)
    store = OpaPolicyStore(wrong)
    for call in (
        OpaEngine(wrong, package="p").decide(subject("good")),
        store.get("p"),
        store.put("p", SLOW),
        store.delete("p"),
    ):
        with pytest.raises(BackendRefused, match="token") as refused:
            await call
        assert refused.value.status == 401
    assert await OpaPolicyStore(server.http()).get("p") == REASON


async def test_a_plan_names_a_server(server: Server, tmp_path: Path) -> None:
    await server.engine(REASON)
    target = PolicyEngine(engine="opa", url=server.url, package="p", deadline=DEADLINE)
    served = release_policy(target, tmp_path, server.token)
    assert served.engine.name == "opa" and served.store is not None and served.reader is not None
    assert (await served.engine.decide(subject("good"))).allow
    assert await served.reader.get("p") == REASON
    with pytest.raises(BackendRefused, match="token"):
        await release_policy(target, tmp_path).engine.decide(subject("good"))


async def test_a_decision_that_is_too_large_is_garbage(server: Server) -> None:
    engine = await server.engine(
        "package p\nimport rego.v1\n"
        'decision := {"allow": true, "reasons": [sprintf("%s%d", [input.text, n])'
        " | some n in numbers.range(1, 100)]}\n"
    )
    small = await engine.decide({"text": "x"})
    assert small.allow
    with pytest.raises(BackendGarbage, match="more than"):
        await engine.decide({"text": "x" * (MAX_DECISION_BYTES // 90)})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "p/decision", b'{"input": {"text": "a"}}', 200, ""),
        ("POST", "p/decision", b'{"input": {"text": "a"}, "other": 1}', 200, ""),
        ("POST", "p/decision", b'{"input": ', 400, "invalid_parameter"),
        ("POST", "p/decision", b'{"input": {}} more', 400, "invalid_parameter"),
        ("POST", "p/decision", b'{"input": {}}', 200, ""),
        ("POST", "nobody/decision", b'{"input": {}}', 200, ""),
        ("POST", "no-name/decision", b'{"input": {}}', 200, ""),
        ("GET", "none", b"", 404, "resource_not_found"),
        ("DELETE", "none", b"", 404, "resource_not_found"),
        ("PUT", "q", b"", 400, "invalid_parameter"),
        ("PUT", "q", b"package q\nno rego", 400, "invalid_parameter"),
        ("PUT", "q", b"\xff\xfe", 400, "invalid_parameter"),
        ("GET", "q", b"", 404, "resource_not_found"),
    ],
)
async def test_the_api_answers_alike(
    server: Server, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    await server.engine(ECHO)
    answer = await ask(server, method, f"/v1/{'data' if method == 'POST' else 'policies'}/{path}", body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    if code:
        assert answer.json()["code"] == code and answer.json()["message"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"1", b'{"inputs": 1}'])
async def test_without_an_input_there_is_none(server: Server, body: bytes) -> None:
    # Not `null`: a policy that only asks whether there is an input must not be told that there is.
    await server.engine(ECHO)
    for rule in ("decision", "if_asked"):
        answer = await ask(server, "POST", f"/v1/data/p/{rule}", body)
        assert answer.status_code == 200
        assert "result" not in answer.json() and answer.json()["warning"]["code"] == "api_usage_warning"
    asked = await ask(server, "POST", "/v1/data/p/if_asked", b'{"input": null}')
    assert asked.json() == {"result": True}


async def test_its_health_is_open_to_everybody(server: Server) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{server.url}/health")
    assert (answer.status_code, answer.json()) == (200, {})


async def ask(server: Server, method: str, path: str, body: bytes) -> httpx.Response:
    """Send what the cockpit's own client never would."""
    kind = "application/json" if method == "POST" else "text/plain"
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": kind}
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as http:
        return await http.request(method, f"{server.url}{path}", content=body, headers=headers)


# -- only a real one ------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("server_kind", ["real"], indirect=True)
async def test_a_policy_that_does_not_end(server: Server) -> None:
    engine = await server.engine(SLOW, deadline=0.5)
    with pytest.raises(BackendUnreachable):
        await engine.decide(subject("good"))
    assert (await (await server.engine(REASON)).decide(subject("good"))).allow


@pytest.mark.real
@pytest.mark.parametrize("server_kind", ["real"], indirect=True)
async def test_a_server_that_is_frozen_gives_no_decision(server: Server) -> None:
    assert server.real is not None
    engine = await server.engine(REASON)
    server.real.server.suspend()
    try:
        with pytest.raises(BackendUnreachable):
            await OpaEngine(server.http(deadline=0.5), package="p").decide(subject("good"))
    finally:
        server.real.server.resume()
    assert (await engine.decide(subject("good"))).allow


@pytest.mark.real
@pytest.mark.parametrize("server_kind", ["real"], indirect=True)
async def test_who_may_ask_cannot_be_read_or_changed_by_the_one_who_asks(server: Server) -> None:
    everybody = b"package system.authz\ndefault allow := true\n"
    for method, path, body in (
        ("GET", "/v1/policies/authz.rego", b""),
        ("GET", "/v1/policies", b""),
        ("PUT", "/v1/policies/authz.rego", everybody),
        ("DELETE", "/v1/policies/authz.rego", b""),
        ("POST", "/v1/data/system/authz", b"{}"),
        ("POST", "/v1/query", b'{"query": "data.system"}'),
        ("GET", "/v1/data", b""),
        ("PATCH", "/v1/data/x", b"[]"),
        ("GET", "/v1/config", b""),
    ):
        assert (await ask(server, method, path, body)).status_code == 401, path
    # A second `default` of the rule: the server refuses it for the conflict.
    assert (await ask(server, "PUT", "/v1/policies/mine", everybody)).status_code == 400


@pytest.mark.real
@pytest.mark.parametrize("server_kind", ["real"], indirect=True)
async def test_a_policy_sees_nothing_of_whoever_started_the_server(server: Server) -> None:
    # A server as it is built has `opa.runtime`; the stand-in is one without it.
    engine = await server.engine(
        "package p\nimport rego.v1\n"
        'decision := {"allow": true, "reasons": [name | some name, _ in opa.runtime().env]}\n'
    )
    decision = await engine.decide({})
    assert set(decision.reasons) == {"HOME", "PATH"}


# -- faults of the stand-in -----------------------------------------------------------------------------

FAULTS: dict[OpaFault, type[BackendError]] = {
    "hang": BackendUnreachable,
    "error": BackendUnreachable,
    "refuse": BackendUnreachable,
    "garbage": BackendGarbage,
    "huge": BackendGarbage,
    "redirect": BackendGarbage,
}


@pytest.mark.parametrize(("fault", "error"), FAULTS.items(), ids=FAULTS.keys())
async def test_a_server_that_fails_gives_no_decision(fault: OpaFault, error: type[BackendError]) -> None:
    async with OpaServer({"p": REASON}) as failing:
        # A server that hangs must be given up soon; one that answers may take its time on a busy machine.
        deadline = 0.5 if fault == "hang" else DEADLINE
        engine = OpaEngine(OpaHttp(failing.url, deadline=deadline), package="p")
        await failing.fault(fault)
        with pytest.raises(error):
            await engine.decide(subject("good"))
        await failing.fault(None)
        if fault != "hang":
            assert (await engine.decide(subject("good"))).allow


async def test_a_server_that_knows_no_policy_denies() -> None:
    async with OpaServer({"p": REASON}) as failing:
        engine = OpaEngine(OpaHttp(failing.url, deadline=DEADLINE), package="p")
        await failing.fault("undefined")
        decision = await engine.decide(subject("good"))
        assert not decision.allow and "undefined" in decision.reasons[0]


async def test_what_is_asked_is_all_that_is_sent() -> None:
    asked: dict[str, Any] = subject("good")
    async with OpaServer({"p": REASON}) as listening:
        await OpaEngine(OpaHttp(listening.url, deadline=DEADLINE), package="p").decide(asked)
        [(headers, body)] = listening.asked
    assert json.loads(body) == {"input": asked}
    assert "Authorization" not in headers and headers["Accept-Encoding"] == "identity"
