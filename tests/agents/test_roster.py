"""The roster declares all of seed sections 4 and 19, and what it says of an agent is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cockpit.agentkit.agent import Agent
from cockpit.agentkit.info import OPS, AgentInfo
from cockpit.agents.roster import ROSTER, NotBuilt, find, load, table
from cockpit.base.errors import UsageError
from cockpit.verdicts.gates import GA_GATES, P1_GATES, PHASE_GATES
from tests.agents.support import World

PHASES = {*(f"P{number}" for number in range(9)), "canary"}
GATES = {gate for parts in PHASE_GATES.values() for gate in parts} | {*GA_GATES, *P1_GATES}
BUILT = {
    "A1",
    "A2",
    "A3",
    "A4",
    "A9",
    "A11",
    "A15",
    "A19",
    "A20",
    "A23",
    "A26",
    "A27",
    "A36",
    "A37",
    "A38",
    "A40",
    "A41",
    "A43",
    "A46",
    "A54",
    "A55",
    "A60",
}
ids = pytest.mark.parametrize("info", ROSTER, ids=lambda info: info.id)


def test_everybody_is_there_in_order() -> None:
    wanted = [f"A{number}" for number in range(1, 61)] + [f"U{number}" for number in range(1, 6)]
    assert [info.id for info in ROSTER] == wanted
    assert {info.id for info in ROSTER if info.built} == BUILT


@ids
def test_an_entry_is_declared_in_full(info: AgentInfo) -> None:
    assert info.name and info.domain and info.capabilities and info.artifacts
    assert info.summary.endswith(".") and "\n" not in info.summary
    assert info.phases and set(info.phases) <= PHASES
    assert set(info.raci.split("/")) <= {"R", "A", "C", "I"}
    assert info.ops == OPS
    assert set(info.gates) <= GATES | {"all_required_gates"}
    assert all(re.fullmatch(r"[A-Za-z0-9+_.*/-]+", path) for path in info.artifacts)


@ids
def test_an_agent_is_what_the_roster_says(info: AgentInfo) -> None:
    agent = load(info)
    assert isinstance(agent, Agent)
    assert isinstance(agent, NotBuilt) != info.built


def test_the_seed_s_phases_have_their_agents() -> None:
    seed = {
        "P0": {"A5", "A6", "A8", "A15", "A52", "A51"},
        "P1": {"A11", "A12", "A13", "A7", "A53", "A26", "A27"},
        "P2": {"A21", "A22", "A23", "A24", "A25"},
        "P3": {"A18", "A19", "A15", "A16", "A17", "A58"},
        "P4": {"A30", "A31", "A32", "A33", "A34"},
        "P5": {"A35", "A36", "A37", "A38"},
        "P6": {"A1", "A2", "A3", "A41", "A60"},
        "P7": {"A39", "A40", "A42"},
        "P8": {"A1", "A43", "A54", "A47"},
    }
    for phase, agents in seed.items():
        assert agents <= {info.id for info in ROSTER if phase in info.phases}, phase


def test_the_table_of_agents_is_current() -> None:
    stored = Path(__file__).parents[2] / "docs" / "agents.md"
    assert stored.read_text() == table(), "write cockpit.agents.roster.table() to docs/agents.md"


def test_an_unknown_agent_is_named() -> None:
    with pytest.raises(UsageError, match="A99"):
        find("A99")


@pytest.mark.parametrize("op", OPS)
async def test_what_is_not_built_is_blocked(world: World, op: str) -> None:
    result = await world.call("A5", op)  # type: ignore[arg-type]
    assert result.status == "blocked"
    assert result.reason == "A5 CI/CD Engineer is not built in this version"
    assert result.response is not None and not result.response.verdicts and result.response.next
