"""A back end that answers garbage or 500, hangs or is gone never leads to `ok` or to a pass."""

from __future__ import annotations

from typing import Any

import pytest

from cockpit.rehearsal.sigstore import SERVICES
from tests.agents.support import Mode, Service, World

FAULTS: list[Mode] = ["garbage", "error", "hang"]

# agent → the back end it depends on, and what it is asked
NEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "A4": ("prometheus", {}),
    "A9": ("kubernetes", {}),
    "A11": ("prometheus", {}),
    "A15": ("kubernetes", {}),
    "A26": ("stage", {}),
    "A27": ("stage", {}),
    "A43": ("entry", {}),
    "A27 in the canary": ("prometheus", {"step": 1}),
    "A26 in the canary": ("prometheus", {"step": 1}),
    "A11 in the canary": ("prometheus", {"step": 1}),
}


def never_good(result: Any) -> None:
    """The call is not ok, and no verdict in it passes."""
    assert result.status != "ok", result
    if result.response is not None:
        assert all(verdict.verdict == "fail" for verdict in result.response.verdicts)


@pytest.mark.parametrize("agent", NEEDS)
async def test_a_back_end_out_of_order(world: World, agent: str) -> None:
    part, params = NEEDS[agent]
    service: Service = getattr(world, part)
    # To load an answer is an answer, whatever it says.
    for fault in FAULTS if part != "stage" else FAULTS[1:]:
        service.mode = fault
        result = await world.call(agent.partition(" ")[0], **params)
        never_good(result)
        verdicts = result.response.verdicts if result.response is not None else []
        outcomes = {verdict.details.outcome for verdict in verdicts}
        # What users would see is a measurement, and a bad one; everything else was not measured at all.
        seen = part in ("stage", "entry")
        assert outcomes <= ({"fail", "no_data", "provider_error"} if seen else {"provider_error"})
    assert service.requests > 0


@pytest.mark.parametrize("fault", ["error", "hang", "refuse"])
async def test_supply_chain_with_the_registry_away(world: World, fault: Any) -> None:
    await world.supply()
    await world.registry.fault(fault)
    result = await world.call("A15")
    never_good(result)
    assert result.response is not None
    [verdict] = result.response.verdicts
    assert verdict.details.outcome == "provider_error"


@pytest.mark.parametrize("service", SERVICES)
async def test_nothing_is_silently_unsigned(world: World, service: Any) -> None:
    await world.call("A43")
    await world.sigstore.fault(service, "refuse")
    result = await world.call("A3", "EVIDENCE")
    assert result.status == "blocked" and "evidence pending" in result.reason
    index = world.read("signatures/index.json")
    assert index["pending"] == ["quality/acceptance.xml"] and not index["signed"] and index["reasons"]
    await world.sigstore.fault(service, None)
    again = await world.call("A3", "EVIDENCE")
    assert again.status == "ok", again.reason
    assert world.read("signatures/index.json")["pending"] == []
    assert (await world.call("A3")).status == "ok"


@pytest.mark.parametrize("agent", ["A23", "A41"])
async def test_a_repository_that_is_none(world: World, agent: str) -> None:
    head = world.folder / "repository" / "HEAD"
    head.unlink()
    never_good(await world.call(agent))
    head.write_bytes(b"\xff\x00garbage")
    for path in (world.folder / "repository" / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"garbage")
    never_good(await world.call(agent))


async def test_a_journal_that_is_gone(world: World) -> None:
    world.recorder.state()
    (world.run_dir / "journal.jsonl").rename(world.run_dir / "elsewhere")
    result = await world.call("A20")
    never_good(result)


async def test_a_pack_that_was_never_sealed_or_is_garbage(world: World) -> None:
    from cockpit.journal.events import EvidenceSealed

    never_good(await world.call("A60"))
    (world.run_dir / "promotion.zip").write_bytes(b"PK garbage")
    await world.recorder.record(
        EvidenceSealed(
            kind="promotion", path="promotion.zip", sha256="0" * 64, log_index=1, entry_id="1" * 64
        )
    )
    result = await world.call("A60")
    never_good(result)
    assert result.response is not None and result.response.verdicts[0].details.outcome == "fail"


async def test_go_no_go_without_verdicts_is_no_go(world: World) -> None:
    result = await world.call("A1")
    never_good(result)
    assert world.read("go_no_go.json")["go"] is False
    assert len(world.read("go_no_go.json")["reasons"]) > 5
    assert {row["what"]: row["state"] for row in world.read("approvals_matrix.json")["matrix"]} == {
        "approvals": "waived",
        "standby": "waived",
    }


@pytest.mark.parametrize("agent", ["A9", "A11", "A15", "A23", "A26", "A27", "A41", "A43", "A3", "A4"])
async def test_a_back_end_that_is_not_configured_blocks(world: World, agent: str) -> None:
    from cockpit.agentkit.context import Handles

    world.handles = Handles()
    for op in ("PLAN", "VERIFY", "EVIDENCE"):
        if op == "EVIDENCE" and agent not in ("A3", "A41"):
            continue
        if op == "VERIFY" and agent == "A4":
            world.data["risks"] = world.data["risks"][:1]
        result = await world.call(agent, op)
        assert result.status == "blocked", (op, result)
        assert result.response is not None and not result.response.verdicts
