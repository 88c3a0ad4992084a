"""Engines of the release policy for one suite over all of them; a real OPA is started once for a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from cockpit.backends.policy_engine import DecisionEngine, EmbeddedEngine, PolicySource
from cockpit.backends.policy_opa import OpaEngine, OpaHttp, OpaPolicyStore
from cockpit.rehearsal.opa import OpaServer
from cockpit.rehearsal.real.opa import Opa, opa
from tests.real.fixtures import need

Make = Callable[[str], Awaitable[DecisionEngine]]
"""Source of a policy of package `p`, or of the built-in one → an engine that decides by it."""

DEADLINE = 20.0
TOKEN = "t0ken-of-the-tests"

REASON = """package p
import rego.v1

decision := {
	"allow": allow,
	"obligations": [{"name": "echo", "text": input.subject.reason}],
	"reasons": [one | some one in reasons],
}

default allow := false

allow if input.subject.reason == "good"

allow if input.number == 0

reasons contains sprintf("said: %s", [input.subject.reason]) if not allow
"""

SLOW = """package p
import rego.v1

decision := {"allow": allow}

default allow := false

allow if {
	some a in numbers.range(1, 3000)
	some b in numbers.range(1, 3000)
	some c in numbers.range(1, 3000)
	a + b + c == 0
}
"""


@dataclass(frozen=True)
class Server:
    """An OPA that wants the token; `standin` is None where it is a real one."""

    url: str
    token: str
    standin: OpaServer | None
    real: Opa | None

    def http(self, *, token: str | None = None, deadline: float = DEADLINE) -> OpaHttp:
        """Return requests to it, with its token or another."""
        return OpaHttp(self.url, token=self.token if token is None else token, deadline=deadline)

    async def engine(self, source: str, *, deadline: float = DEADLINE) -> OpaEngine:
        """Put a policy there and return the engine that decides by it."""
        await OpaPolicyStore(self.http()).put("p", source)
        return OpaEngine(self.http(deadline=deadline), package=package_of(source))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real_opa(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opa]:
    """Run a real OPA for a module's tests."""
    need("opa")
    async with opa(tmp_path_factory.mktemp("opa"), token=TOKEN) as running:
        yield running


@pytest.fixture(params=["embedded", "stand-in", pytest.param("real", marks=pytest.mark.real)])
def kind(request: pytest.FixtureRequest) -> tuple[str, Opa | None]:
    """Give which engine it is."""
    # Asked for here, outside of any loop: it runs in its module's.
    return request.param, request.getfixturevalue("real_opa") if request.param == "real" else None


@pytest_asyncio.fixture
async def make(kind: tuple[str, Opa | None]) -> AsyncIterator[Make]:
    """Give a way to an engine of each kind."""
    name, real = kind
    async with AsyncExitStack() as stack:

        async def made(source: str) -> DecisionEngine:
            if name == "embedded":
                policy = PolicySource((("p.rego", source),))
                return EmbeddedEngine(policy, package=package_of(source), deadline=DEADLINE)
            return await (await stack.enter_async_context(_serving(real))).engine(source)

        yield made


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.real)])
def server_kind(request: pytest.FixtureRequest) -> Opa | None:
    """Give the real OPA where it is one."""
    return request.getfixturevalue("real_opa") if request.param == "real" else None


@pytest_asyncio.fixture
async def server(server_kind: Opa | None) -> AsyncIterator[Server]:
    """Give an OPA of each kind, without a policy."""
    async with _serving(server_kind) as serving:
        yield serving


class _serving:
    """An OPA without a policy for the length of a test."""

    def __init__(self, real: Opa | None) -> None:
        self._real = real
        self._standin = OpaServer(token=TOKEN) if real is None else None

    async def __aenter__(self) -> Server:
        if self._standin is not None:
            await self._standin.start()
            return Server(self._standin.url, TOKEN, self._standin, None)
        assert self._real is not None
        return Server(self._real.url, self._real.token, None, self._real)

    async def __aexit__(self, *_: object) -> None:
        if self._standin is not None:
            await self._standin.stop()
        elif self._real is not None:
            await OpaPolicyStore(OpaHttp(self._real.url, token=self._real.token, deadline=DEADLINE)).delete(
                "p"
            )


def package_of(source: str) -> str:
    """Return the package of a policy of these tests."""
    return "p" if source.startswith("package p\n") else "cockpit/release"


def subject(reason: Any, **more: Any) -> dict[str, Any]:
    """Return a question."""
    return {"subject": {"reason": reason}, **more}
