"""`cockpit prompt`: what an agent is told, and which answers would be taken."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cockpit.agentkit.info import AgentInfo
from cockpit.agentkit.prompt import problems_of, prompt_of, request_for
from cockpit.agents.roster import ROSTER, find
from cockpit.plan.load import LoadedPlan, load_plan
from cockpit.rpc.messages import AgentRequest
from cockpit.rpc.validate import check
from tests.cli.test_commands import say, write_plan

GOLDEN = Path(__file__).with_name("golden") / "prompt.txt"
Capture = pytest.CaptureFixture[str]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
INFO = AgentInfo(
    id="A99",
    name="Sample Keeper",
    raci="R",
    domain="Samples",
    summary="Keeps the samples and says when one is missing.",
    phases=("P0", "P3"),
    capabilities=("git", "kubernetes"),
    gates=("policy_ci", "doc_lint"),
    artifacts=("samples/kept.json",),
    mutates=True,
)
TEMPLATE = (
    "You are ", "Goal: ", "Paths (IaC/code) to modify/add: ", "Checks to satisfy: ", "Artifacts to output: ",
    "Dashboards to verify: ", "Risk IDs: ",
    "Return Agent RPC v2 response with artifacts (path+sha256+sig), links (PRs,runs,dashboards), "
    "verdicts (gates), notes, next, trace_id.",
    "Emit OTEL spans + JSON logs with release/env/tenant/trace_id/sha.",
)  # fmt: skip


def asked(op: str = "VERIFY", info: AgentInfo = INFO) -> AgentRequest:
    return request_for("P0", op, "prod", info, TRACE)


def planned(folder: Path, **changes: Any) -> LoadedPlan:
    return load_plan(write_plan(folder, **changes))


def line_of(text: str, start: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found.removeprefix(start)


def blocks(text: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)]


def test_the_prompt_is_the_one_of_the_brief(tmp_path: Path) -> None:
    text = prompt_of(INFO, asked("APPLY"), None).partition("## JSON Schema")[0]
    if os.environ.get("COCKPIT_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("info", ROSTER, ids=lambda info: info.id)
def test_every_agent_has_one_with_every_line(info: AgentInfo, tmp_path: Path) -> None:
    text = prompt_of(info, asked(info=info), None)
    for start in TEMPLATE:
        assert start in text
    assert "{{" not in text.partition("## Request")[0]
    assert info.summary in text and f"({info.id})" in text


def test_the_plan_fills_it_in(tmp_path: Path) -> None:
    risk = {"id": "R-SCHEMA-CUTOVER", "owner": "@schema"}
    loaded = planned(tmp_path, risks=[risk], headroom_target=0.25)
    text = prompt_of(INFO, asked(), loaded)
    assert line_of(text, "Risk IDs: ") == "R-SCHEMA-CUTOVER"
    paths = line_of(text, "Paths (IaC/code) to modify/add: ")
    assert loaded.plan.targets.repository.path in paths
    assert loaded.plan.services[0].canary_deployment in paths
    perf = prompt_of(find("A27"), asked(info=find("A27")), loaded)
    assert "headroom>=0.25" in line_of(perf, "Checks to satisfy: ")
    assert line_of(perf, "Dashboards to verify: ") == "Perf headroom"


def test_request_and_schema_are_those_an_answer_is_held_to(tmp_path: Path) -> None:
    loaded = planned(tmp_path)
    request, schema = blocks(prompt_of(INFO, asked(), loaded))
    check(AgentRequest, json.dumps(request).encode())
    assert request["trace_id"] == TRACE
    assert request["inputs"]["params"]["release"]["judged"]["plan_sha256"] == loaded.sha256
    jsonschema.Draft202012Validator.check_schema(schema)
    assert not list(jsonschema.Draft202012Validator(schema).iter_errors(answer()))


def verdict(**changes: Any) -> dict[str, Any]:
    return {
        "gate": "policy", "env": "prod", "verdict": "pass", "metrics": {"missing": 0},
        "thresholds": ["missing==0"],
        "details": {
            "phase_gate": "policy_ci", "outcome": "pass",
            "judged": {"images": {}, "env": "prod", "plan_sha256": "b" * 64, "valid_s": 60},
        },
        **changes,
    }  # fmt: skip


def lint() -> dict[str, Any]:
    made = verdict()
    return {**made, "details": {**made["details"], "phase_gate": "doc_lint"}}


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "phase": "P0", "agent": INFO.name, "result": "ok", "verdicts": [verdict(), lint()], "notes": "n",
        "next": "n", "trace_id": TRACE, **changes,
    }  # fmt: skip


def said_of(document: Any, op: str = "VERIFY") -> list[str]:
    return problems_of(json.dumps(document).encode(), INFO, asked(op))


def test_a_valid_answer_has_no_problems() -> None:
    assert said_of(answer()) == []


@pytest.mark.parametrize(
    ("changes", "op", "why"),
    [
        ({"trace_id": "f" * 32}, "VERIFY", "trace_id"),
        ({"phase": "P1"}, "VERIFY", "phase"),
        ({"agent": "Somebody"}, "VERIFY", "agent"),
        ({"result": "fine"}, "VERIFY", "AgentResponse"),
        ({"verdicts": []}, "VERIFY", "owes one on policy_ci"),
        ({"verdicts": [verdict()]}, "VERIFY", "owes one on doc_lint"),
        ({}, "APPLY", "must not give a passing verdict"),
        ({"verdicts": [verdict(metrics={"missing": 2}), lint()]}, "VERIFY", "would count as fail"),
        ({"verdicts": [verdict(thresholds=[]), lint()]}, "VERIFY", "no threshold"),
        ({"verdicts": [verdict(gate="slo"), lint()]}, "VERIFY", "cannot travel"),
        ({"artifacts": [{"path": "elsewhere.json", "sha256": "0" * 64, "type": "report"}]}, "VERIFY",
         "not below A99/"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer_is_said(changes: dict[str, Any], op: str, why: str) -> None:
    assert any(why in problem for problem in said_of(answer(**changes), op))


def test_any_bytes_are_an_answer_with_a_problem() -> None:
    for raw in (b"", b"null", b"\xff", b"[" * 100_000, b"x" * 2_000_000):
        assert problems_of(raw, INFO, asked())


# -- the command --------------------------------------------------------------------------------------


def test_the_command_prints_and_checks(capsys: Capture, tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    code, out, _ = say(capsys, "prompt", "A15", "--phase", "P0", "--op", "PLAN", plan, "--trace-id", TRACE)
    assert code == 0 and f'"trace_id": "{TRACE}"' in out
    file = tmp_path / "answer.json"
    good = answer(agent=find("A15").name, verdicts=[])
    file.write_text(json.dumps(good))
    more = ("prompt", "A15", "--phase", "P0", "--op", "PLAN", "--response", file)
    assert say(capsys, *more)[0] == 0
    assert say(capsys, *more, "--trace-id", TRACE)[0] == 0
    code, _, err = say(capsys, *more, "--trace-id", "e" * 32)
    assert code == 1 and "trace_id" in err
    file.write_text("{}")
    code, out, err = say(capsys, *more)
    assert (code, out) == (1, "") and "AgentResponse" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("A99",), ("A15", "--phase", "P8"), ("A15", "--phase", "P9"), ("A15", "--op", "DO"),
        ("A15", "--trace-id", "x"), ("A15", "no-such-plan.yaml"), ("A15", "--response", "no-such-file"), (),
    ],
)  # fmt: skip
def test_bad_usage_is_64(capsys: Capture, arguments: tuple[str, ...]) -> None:
    code, out, err = say(capsys, "prompt", *arguments)
    assert (code, out) == (64, "") and err


def test_agents_given_to_others_are_listed_as_such(capsys: Capture, tmp_path: Path) -> None:
    external = {
        "A15": {"command": ["tools/agent", "--secret-flag"]},
        "A9": {"url": "https://a.example/x?k=1"},
    }
    plan = write_plan(tmp_path, external=external)
    code, out, _ = say(capsys, "agents", "--plan", plan)
    assert code == 0
    assert re.search(r"A15 .* external: command tools/agent$", out, re.MULTILINE)
    assert re.search(r"A9 .* external: url https://a.example$", out, re.MULTILINE)
    code, out, _ = say(capsys, "agents", "--plan", plan, "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert rows["A15"]["built"] and rows["A15"]["external"] == "command tools/agent"
    assert "external" not in rows["A1"]
    wrong = write_plan(tmp_path, external={"A98": {"command": ["x"]}})
    code, _, err = say(capsys, "agents", "--plan", wrong)
    assert code == 64 and "A98" in err
