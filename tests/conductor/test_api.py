"""Promote and Rollback v2 over HTTP: what is taken, what is refused and how, and who may ask at all."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from cockpit.base.errors import EffectRefused
from cockpit.base.tasks import alongside
from cockpit.conductor.api import MAX_BODY, ApiServer
from cockpit.conductor.people import People
from cockpit.conductor.promotion_requests import QUESTION, PromotionRequests, request_of
from cockpit.conductor.recorder import Recorder
from cockpit.control.client import API_SOCKET, socket_address
from cockpit.journal.events import CommandReceived, Noted, Question, QuestionAnswered
from cockpit.plan.model import Plan
from tests.conductor.support import FastClock, events, gate_of, plan_of, recording, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SHA = "c" * 64


@dataclass
class Api:
    """A served run, and a client of it."""

    folder: Path
    plan: Plan
    people: People
    promotions: PromotionRequests
    recorder: Recorder
    client: httpx.AsyncClient

    async def post(self, what: str, document: object, status: int, **headers: str) -> dict[str, Any]:
        """Post a document (bytes as they are) and return the answer, whose status must be as given."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        answer = await self.client.post(f"http://cockpit/v2/{what}", content=body, headers=headers)
        assert answer.status_code == status, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found

    def waits(self) -> bool:
        """Whether a Promote v2 would be taken."""
        return self.promotions.waiting


@asynccontextmanager
async def api(folder: Path, **changes: Any) -> AsyncIterator[Api]:
    clock = FastClock()
    plan = plan_of(clock, **{"promote_on": "request", "auto_ramp_flags": False, **changes})
    async with asyncio.timeout(30), recording(folder, clock) as recorder:
        people = People(
            effects=gate_of(recorder), recorder=recorder, clock=clock, on_halt="ask", bound=1e6,
            unattended=False,
        )  # fmt: skip
        promotions = PromotionRequests(plan, recorder, clock)
        server = ApiServer(
            folder, people, promotions, recorder, clock, version=plan.target_version, plan_sha256=SHA
        )
        await server.start()
        try:
            with socket_address(folder, API_SOCKET) as address:
                async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=address)) as client:
                    yield Api(folder, plan, people, promotions, recorder, client)
        finally:
            await server.stop()


def promote(made: Api, **changes: Any) -> dict[str, Any]:
    return {**request_of(made.plan, TRACE).model_dump(), **changes}


def rollback(made: Api, **changes: Any) -> dict[str, Any]:
    return {"version": made.plan.target_version, "reason": "gate_fail", "trace_id": TRACE, **changes}


async def test_the_socket_is_its_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async with api(tmp_path):
        assert stat.S_IMODE((tmp_path / API_SOCKET).stat().st_mode) == 0o600
    assert not (tmp_path / API_SOCKET).exists()


async def test_a_folder_with_a_long_name_is_served_too(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    async with api(folder) as made:
        answer = await made.client.get("http://cockpit/v2/status")
        assert answer.json()["mode"] == "opening"


async def test_the_promotion_waits_for_a_request_that_agrees(tmp_path: Path) -> None:
    async with api(tmp_path) as made, alongside(made.promotions.wait()) as waiting:
        await until(made.waits)
        answer = await made.post("promote", promote(made), 200)
        assert (answer["accepted"], answer["trace_id"]) == (True, TRACE)
        await waiting
        (asked,) = await events(made.recorder, Question)
        (told,) = await events(made.recorder, QuestionAnswered)
        assert (asked.question, told.question, told.answer) == (QUESTION, QUESTION, "promote")
        (command,) = await events(made.recorder, CommandReceived)
        assert (command.command, command.kind, command.source) == (TRACE, "promote", "api")
        assert command.by == told.by


async def test_what_a_request_leaves_out_is_as_the_plan_says(tmp_path: Path) -> None:
    async with api(tmp_path, headroom_target=0.3) as made, alongside(made.promotions.wait()) as waiting:
        await until(made.waits)
        short = {
            "version": made.plan.target_version,
            "required_gates": list(made.plan.required_gates),
            "trace_id": TRACE,
        }
        await made.post("promote", short, 200)
        await waiting


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "v9.9.9"}, "version"),
        ({"canary": [50, 100]}, "canary"),
        ({"canary": [100]}, "canary"),
        ({"required_gates": ["slo"]}, "also requires"),
        ({"required_gates": ["slo", "perf", "supply_chain", "policy", "dr", "migrations", "chaos"]},
         "does not decide"),
        ({"auto_ramp_flags": True}, "auto_ramp_flags"),
        ({"abort_on": {"slo": "burn>1"}}, "abort_on.slo"),
        ({"abort_on": {"slo": "never"}}, "abort_on.slo"),
        ({"abort_on": {"perf": "headroom<0.1"}}, "abort_on.perf"),
        ({"abort_on": {"supply_chain": "nothing"}}, "abort_on.supply_chain"),
        ({"canary": []}, "Promote"),
        ({"more": 1}, "Promote"),
        ({"trace_id": "zz"}, "Promote"),
    ],
)  # fmt: skip
async def test_a_request_that_says_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    async with api(tmp_path) as made, alongside(made.promotions.wait()) as waiting:
        await until(made.waits)
        answer = await made.post("promote", promote(made, **changes), 400)
        assert not answer["accepted"]
        assert any(said in reason for reason in answer["reasons"]), answer
        assert made.promotions.waiting and not waiting.done()
        (noted,) = await events(made.recorder, Noted)
        assert noted.level == "warning" and said in noted.text
        waiting.cancel()


async def test_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    async with api(tmp_path) as made, alongside(made.promotions.wait()) as waiting:
        await until(made.waits)
        same = {"slo": "burn > 0", "perf": "headroom<0.20"}
        assert made.plan.headroom_target == 0.2
        await made.post("promote", promote(made, abort_on=same), 200)
        await waiting


async def test_nothing_is_taken_before_the_run_waits_or_twice(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        early = await made.post("promote", promote(made), 409)
        assert "does not wait" in early["reasons"][0]
        async with alongside(made.promotions.wait()) as waiting:
            await until(made.waits)
            await made.post("promote", promote(made), 200)
            await waiting
        await made.post("promote", promote(made), 409)


async def test_a_plan_that_promotes_by_its_gates_waits_for_nobody(tmp_path: Path) -> None:
    async with api(tmp_path, promote_on="gates") as made:
        await made.promotions.wait()
        assert await events(made.recorder, Question) == []
        answer = await made.post("promote", promote(made), 409)
        assert "gates" in answer["reasons"][0]


async def test_the_wait_ends_with_the_window(tmp_path: Path) -> None:
    now = FastClock().now()
    window = f"{now - timedelta(days=2):%Y-%m-%d %H:%M} → {now - timedelta(days=1):%Y-%m-%d %H:%M}"
    clock = FastClock()
    plan = plan_of(clock, promote_on="request")
    past = Plan.model_validate({**plan.model_dump(mode="json", by_alias=True), "window_utc": window})
    async with recording(tmp_path, clock) as recorder:
        with pytest.raises(EffectRefused) as refused:
            await PromotionRequests(past, recorder, clock).wait()
        assert refused.value.reason == "window"
        (told,) = await events(recorder, QuestionAnswered)
        assert (told.answer, told.by) == ("none", "window")


async def test_submitting_a_document_says_why_it_is_not_taken(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        assert "not JSON" in made.promotions.submit(b"{", "ann")
        assert "version" in made.promotions.submit(
            json.dumps(promote(made, version="v1.0.0")).encode(), "ann"
        )
        async with alongside(made.promotions.wait()) as waiting:
            await until(made.waits)
            assert made.promotions.submit(json.dumps(promote(made)).encode(), "ann") == ""
            await waiting


async def test_an_answer_on_a_screen_asks_for_what_the_plan_says(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        assert "does not wait" in made.promotions.answered("promote", "ann")
        async with alongside(made.promotions.wait()) as waiting:
            await until(made.waits)
            assert "promote" in made.promotions.answered("go", "ann")
            assert made.promotions.answered("promote", "ann") == ""
            await waiting
        (told,) = await events(made.recorder, QuestionAnswered)
        assert (told.answer, told.by) == ("promote", "ann")


async def test_a_wait_that_is_cut_off_leaves_no_question_open(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        async with alongside(made.promotions.wait()):
            await until(made.waits)
        (told,) = await events(made.recorder, QuestionAnswered)
        assert told.answer == "none"
        assert not made.promotions.waiting


# -- rollback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["gate_fail", "slo_breach", "kpi_regression", "manual"])
async def test_a_rollback_stops_the_run_with_its_reason(tmp_path: Path, reason: str) -> None:
    async with api(tmp_path) as made:
        answer = await made.post("rollback", rollback(made, reason=reason), 200)
        assert (answer["accepted"], answer["trace_id"]) == (True, TRACE)
        stop = await made.people.stopped()
        assert stop.reason == reason
        (command,) = await events(made.recorder, CommandReceived)
        assert (command.kind, command.reason, command.source) == ("rollback", reason, "api")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "v9.9.9"},
        {"reason": "crash"},
        {"reason": "signal"},
        {"reason": "boredom"},
        {"trace_id": 3},
    ],
)
async def test_a_rollback_that_is_not_one_stops_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with api(tmp_path) as made:
        answer = await made.post("rollback", rollback(made, **changes), 400)
        assert answer["reasons"] and not answer["accepted"]
        assert made.people.stop_decided is None
        assert len(await events(made.recorder, Noted)) == 1


async def test_a_run_that_is_ended_is_not_stopped_again(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        made.people.over()
        answer = await made.post("rollback", rollback(made), 409)
        assert "already being ended" in answer["reasons"][0]


async def test_a_request_about_another_plan_is_refused(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        for what, document in (("rollback", rollback(made)), ("promote", promote(made))):
            await made.post(what, document, 412, **{"If-Match": f'"{"d" * 64}"'})
        assert made.people.stop_decided is None
        await made.post("rollback", rollback(made), 200, **{"If-Match": f'"{SHA}"'})


# -- hostile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"\xff\xfe", b'"' * 100, b"[" * 60_000, b'{"trace_id": NaN}'], ids=repr
)
async def test_garbage_is_400_and_recorded(tmp_path: Path, body: bytes) -> None:
    async with api(tmp_path) as made:
        for what in ("promote", "rollback"):
            answer = await made.post(what, body, 400)
            assert (answer["accepted"], answer["trace_id"]) == (False, "")
        assert len(await events(made.recorder, Noted)) == 2
        assert made.people.stop_decided is None


async def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        await made.post("promote", b"x" * (MAX_BODY + 1), 413)
        await made.post("rollback", rollback(made), 200)  # and the next is served


async def test_other_paths_and_methods_are_not_served(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        for method, path, status in (
            ("GET", "/", 404), ("GET", "/v2/promote", 405), ("POST", "/v2/status", 405),
            ("GET", "/v2/../journal.jsonl", 404),
        ):  # fmt: skip
            answer = await made.client.request(method, f"http://cockpit{path}")
            assert answer.status_code == status
            assert answer.json()["accepted"] is False


async def test_what_is_no_http_at_all_ends_that_connection_only(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        with socket_address(tmp_path, API_SOCKET) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(os.urandom(2000).replace(b"\n", b"x") + b"\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert (await made.client.get("http://cockpit/v2/status")).status_code == 200


async def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    async with api(tmp_path) as made:
        held = []
        with socket_address(tmp_path, API_SOCKET) as address:
            for _ in range(40):
                held.append(await asyncio.open_unix_connection(address))
        answer = await made.client.get("http://cockpit/v2/status")
        assert answer.status_code == 503
        for _, writer in held:
            writer.close()
            await writer.wait_closed()

        async def free() -> bool:
            return (await made.client.get("http://cockpit/v2/status")).status_code == 200

        async with asyncio.timeout(20):
            while not await free():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)


async def test_the_status_says_where_the_run_stands(tmp_path: Path) -> None:
    async with api(tmp_path) as made, alongside(made.promotions.wait()) as waiting:
        await until(made.waits)
        await events(made.recorder, Question)
        found = (await made.client.get("http://cockpit/v2/status")).json()
        assert found["promotion_waits"] is True
        assert [wait["id"] for wait in found["waits"]] == [QUESTION]
        assert found["canary"]["desired"] == 0
        assert await events(made.recorder, CommandReceived) == []
        waiting.cancel()
