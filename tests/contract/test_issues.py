"""The issues client against a server that speaks GitHub's REST API: filing once, pages, limits, refusals.

`forge` gives the server. What only a stand-in can be told to do is asked of `stand_in`; the other tests leave
nothing behind that the next one would stumble over, so that they may run against a real server too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.issue_answers import key_in, marker
from cockpit.backends.issues import LABEL, GitHubIssues
from cockpit.base.clock import VirtualClock
from cockpit.base.errors import BackendError, BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from cockpit.base.markdown import cell, escaped
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rehearsal.sigstore import Fault

pytestmark = pytest.mark.contract


@dataclass
class Forge:
    """Where issues are filed, and by which token."""

    url: str
    repository: str
    token: str
    clock: VirtualClock

    def client(self, *, token: str = "", repository: str = "", deadline: float = 5.0) -> GitHubIssues:
        return GitHubIssues(
            self.url,
            repository or self.repository,
            token or self.token,
            clock=self.clock,
            deadline=deadline,
            max_wait=60.0,
        )


@pytest_asyncio.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[IssuesServer]:
    async with IssuesServer(record=tmp_path / "world" / "issues.jsonl") as running:
        yield running


@pytest.fixture
def forge(stand_in: IssuesServer) -> Forge:
    return Forge(stand_in.url, stand_in.repository, stand_in.token, VirtualClock(auto=True))


@pytest.fixture
def key() -> str:
    """A key nobody has used."""
    return f"test:{secrets.token_hex(8)}"


# -- any server ------------------------------------------------------------------------------------------


async def test_an_issue_is_created_commented_and_closed(forge: Forge, key: str) -> None:
    client = forge.client()
    made = await client.create(f"release {key}", "line one\n\nline two – ünïcode ☃", (LABEL, "drill"))
    assert made.number > 0 and made.state == "open" and made.url.startswith("http")
    assert {LABEL, "drill"} <= set(made.labels)
    await client.comment(made.number, "first")
    await client.comment(made.number, "second")
    closed = await client.close(made.number)
    assert closed.state == "closed" and closed.closed_at >= made.created_at
    again = await client.get(made.number)
    assert (again.title, again.body, again.state) == (made.title, made.body, "closed")
    assert [one.body for one in await client.comments(made.number)] == ["first", "second"]


async def test_an_issue_is_filed_once(forge: Forge, key: str) -> None:
    client = forge.client()
    first = await client.file_once("incident", key, "the canary broke", "body", ("risk:high",))
    second = await client.file_once("incident", key, "the canary broke again", "other", ("risk:high",))
    assert (first.known, second.known) == (False, True)
    assert (first.number, first.url) == (second.number, second.url)
    found = await client.get(first.number)
    assert found.title == "the canary broke" and found.key == key
    assert {LABEL, "incident", "risk:high"} <= set(found.labels)
    await client.close(first.number)


async def test_a_closed_issue_is_found_again(forge: Forge, key: str) -> None:
    client = forge.client()
    first = await client.file_once("regression", key, "title", "body")
    await client.close(first.number)
    assert (await client.file_once("regression", key, "title", "body")).number == first.number


async def test_a_comment_is_made_once(forge: Forge, key: str) -> None:
    client = forge.client()
    filed = await client.file_once("incident", key, "title", "body")
    assert await client.comment_once(filed.number, f"{key}:update", "evidence attached")
    assert not await client.comment_once(filed.number, f"{key}:update", "evidence attached")
    assert [one.key for one in await client.comments(filed.number)] == [f"{key}:update"]
    await client.close(filed.number)


async def test_issues_are_listed_by_label_and_state(forge: Forge, key: str) -> None:
    client = forge.client()
    label = f"t-{key[-8:]}"
    numbers = [(await client.create(f"{key} {n}", "body", (LABEL, label))).number for n in range(3)]
    await client.close(numbers[0])
    assert [one.number for one in await client.issues(labels=(label,))] == numbers[::-1]
    assert [one.number for one in await client.issues(labels=(label,), state="closed")] == numbers[:1]
    assert [one.number for one in await client.issues(labels=(label,), state="open")] == numbers[:0:-1]
    for number in numbers[1:]:
        await client.close(number)


async def test_a_wrong_token_is_refused(forge: Forge) -> None:
    with pytest.raises(BackendRefused, match="401") as refused:
        await forge.client(token="wrong").issues()
    assert refused.value.status == 401 and "token" in refused.value.hint


async def test_an_unknown_repository_and_an_unknown_issue(forge: Forge) -> None:
    with pytest.raises(BackendRefused) as refused:
        await forge.client(repository="nobody/nothing-there").issues()
    assert refused.value.status == 404
    with pytest.raises(BackendRefused) as missing:
        await forge.client().get(999_999)
    assert missing.value.status == 404


# -- what only a stand-in can be told to do --------------------------------------------------------------


async def test_a_key_is_found_on_a_later_page(forge: Forge, stand_in: IssuesServer, key: str) -> None:
    filed = await forge.client().file_once("incident", key, "the first", "body")
    for number in range(230):
        stand_in.add(f"later {number}", "", (LABEL,))
    stand_in.add("a pull request", marker(key), (LABEL,), pull_request=True)
    again = await forge.client().file_once("incident", key, "the first", "body")
    assert (again.number, again.known) == (filed.number, True)
    assert len(await forge.client().issues(labels=(LABEL,))) == 231


async def test_a_strangers_issue_does_not_pose_as_ours(
    forge: Forge, stand_in: IssuesServer, key: str
) -> None:
    stand_in.add("no label", f"{marker(key)}\n", ())
    stand_in.add("quoted in the text", f"see {marker(key)}", (LABEL,))
    assert not (await forge.client().file_once("incident", key, "ours", "body")).known


async def test_an_answer_that_got_lost_files_no_second_issue(
    forge: Forge, stand_in: IssuesServer, key: str
) -> None:
    stand_in.drop_next("POST")
    filed = await forge.client().file_once("incident", key, "title", "body")
    assert [one["number"] for one in stand_in.all()] == [filed.number]


async def test_labels_that_were_dropped_are_told(forge: Forge, stand_in: IssuesServer, key: str) -> None:
    stand_in.may_label = False
    filed = await forge.client().file_once("incident", key, "title", "body")
    assert filed.number == 1 and "would not be found again" in filed.problem


@pytest.mark.parametrize("status", [403, 429])
async def test_a_rate_limit_is_waited_for(
    forge: Forge, stand_in: IssuesServer, key: str, status: int
) -> None:
    stand_in.answer_next(status, times=2, headers={"Retry-After": "7"})
    before = forge.clock.monotonic()
    assert (await forge.client().file_once("incident", key, "title", "body")).number == 1
    assert forge.clock.monotonic() - before == 14


async def test_other_ways_to_say_when(forge: Forge, stand_in: IssuesServer) -> None:
    later = forge.clock.now() + timedelta(seconds=9)
    stand_in.answer_next(429, headers={"Retry-After": format_datetime(later, usegmt=True)})
    reset = str(int((forge.clock.now() + timedelta(seconds=20)).timestamp()))
    stand_in.answer_next(403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})
    stand_in.answer_next(429)
    assert await forge.client().issues() == []
    assert forge.clock.now() >= datetime.fromtimestamp(int(reset), UTC)


async def test_a_limit_beyond_patience_is_an_outage(forge: Forge, stand_in: IssuesServer) -> None:
    stand_in.answer_next(429, headers={"Retry-After": "3600"})
    before = forge.clock.monotonic()
    with pytest.raises(BackendUnreachable, match="rate-limited"):
        await forge.client().issues()
    assert forge.clock.monotonic() == before
    stand_in.answer_next(429, times=9, headers={"Retry-After": "1"})
    with pytest.raises(BackendUnreachable, match="rate-limited"):
        await forge.client().issues()


@pytest.mark.parametrize("status", [400, 403, 404, 410, 422])
async def test_refusals_say_why_and_are_not_repeated(
    forge: Forge, stand_in: IssuesServer, status: int
) -> None:
    stand_in.answer_next(status, method="POST")
    with pytest.raises(BackendRefused, match=f"{status}: rehearsal fault") as refused:
        await forge.client().create("title", "body", ())
    assert refused.value.status == status and stand_in.requests == 1


async def test_validation_errors_are_told(forge: Forge) -> None:
    with pytest.raises(BackendRefused, match="missing_field"):
        await forge.client().create(" ", "body", ())


@pytest.mark.parametrize("fault", ["error", "hang", "refuse"])
async def test_outages_are_outages(forge: Forge, stand_in: IssuesServer, fault: Fault) -> None:
    await stand_in.fault(fault)
    with pytest.raises(BackendUnreachable):
        await forge.client(deadline=0.3).issues()
    await stand_in.fault(None)
    assert await forge.client().issues() == []


async def test_long_text_is_cut_to_what_a_forge_takes(forge: Forge, key: str) -> None:
    filed = await forge.client().file_once("incident", key, "t" * 900, "x" * 90_000)
    found = await forge.client().get(filed.number)
    assert found.key == key and len(found.title) <= 256 and found.body.endswith("in the run folder\n")


async def test_every_change_is_on_record(stand_in: IssuesServer, forge: Forge, tmp_path: Path) -> None:
    made = await forge.client().create("title", "body", ("drill",))
    await forge.client().close(made.number)
    lines = (tmp_path / "world" / "issues.jsonl").read_text().splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["created", "changed"]


BODIES = {
    "not json": (200, b"<html>", {}),
    "not a list": (200, b'{"message": "?"}', {}),
    "a list of nothing like issues": (200, b'[{"number": "one"}]', {}),
    "rows that are no objects": (200, b"[1]", {}),
    "a redirect": (301, b"", {"Location": "http://192.0.2.1/"}),
    "a next page elsewhere": (200, b"[]", {"Link": '<http://192.0.2.1/x>; rel="next"'}),
    "too much": (200, b"[" + b" " * (9 << 20) + b"]", {}),
    "compressed": (200, b"[]", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("case", BODIES)
async def test_answers_that_are_none(case: str) -> None:
    status, body, headers = BODIES[case]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        with pytest.raises(BackendGarbage):
            await GitHubIssues(url, "o/n", "t", clock=VirtualClock(), deadline=5.0).issues()
    finally:
        await runner.cleanup()


# -- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a b", "a--b", "-->", "x" * 201, "é", "a-"])
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError):
        marker(key)


def test_a_key_is_read_only_from_the_beginning() -> None:
    assert key_in(f"{marker('a:b/c-1.2')}\nrest") == "a:b/c-1.2"
    assert key_in(f"rest {marker('a')}") == ""


def test_text_from_outside_is_inert() -> None:
    shown = escaped("@everyone <!-- cockpit:key=x --> [a](http://b) `c` **d** fixes #12 GH-3 | \x1b[31m")
    for live in ("@everyone", "<!--", "[a](", " `", " **d", "#12", "GH-3", "http://", "\x1b", " | "):
        assert live not in shown, live
    assert escaped("# head").startswith("\\#") and escaped("12. item") == "12\\. item"
    assert cell("") == "–" and "\n" not in cell("a\nb")


async def test_concurrent_filing_under_one_deadline(forge: Forge) -> None:
    client = forge.client()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.file_once("regression", f"k:{n}", f"t{n}", "b")) for n in range(12)]
    assert len({task.result().number for task in tasks}) == 12


async def test_credentials_do_not_stand_in_errors(forge: Forge, stand_in: IssuesServer) -> None:
    await stand_in.fault("error")
    with pytest.raises(BackendError) as failed:
        await forge.client().issues()
    assert forge.token not in str(failed.value)
