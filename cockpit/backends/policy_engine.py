"""Decisions of the release policy by the embedded engine: Rego in a child process, clean and bounded.

The policy gives one document `{allow, obligations: [{name, …}], reasons: […]}` at `<package>/decision`;
OPA over HTTP (`policy_opa.py`) gives the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cockpit.backends.policy import MAX_INPUT_BYTES, default_bundles, encode_input, problems
from cockpit.base.child import in_child
from cockpit.base.errors import BackendGarbage, BackendRefused
from cockpit.base.text import visible
from cockpit.verdicts.policy_decision import Decision, digest_of, read_decision, stored

RULE = "decision"
"""The rule of the package that is asked for."""

MAX_QUESTIONS = 2000
_PER_QUESTION = 0.05
_MAX_POLICY_BYTES = 1 << 20


class DecisionEngine(Protocol):
    """Decides whether an action may happen. Anything but a literal `true` is a deny."""

    @property
    def name(self) -> str:
        """`embedded` or `opa`."""
        ...

    @property
    def path(self) -> str:
        """The data path asked, e.g. `cockpit/release/decision`."""
        ...

    async def decide(self, input: Mapping[str, Any]) -> Decision:
        """Decide; raises BackendUnreachable, BackendRefused or BackendGarbage: then there is no decision.

        An undefined answer, one of another shape, and input no engine should be asked about are denies.
        """
        ...

    async def decide_all(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[Decision, ...]:
        """Decide on several inputs, in order; the first error is raised."""
        ...


@dataclass(frozen=True, slots=True)
class PolicySource:
    """The Rego files of a policy, (name, content) in order of their names."""

    modules: tuple[tuple[str, str], ...]

    @property
    def sha256(self) -> str:
        """The digest that names it."""
        return digest_of(list(self.modules))


def builtin_policy() -> Path:
    """Return the folder of the policy that comes with the cockpit."""
    return default_bundles() / "release"


def read_policy(folder: Path) -> PolicySource:
    """Read a folder's `.rego` files; raises BackendRefused when there are none, or they are too large."""
    try:
        # Tests of a policy lie beside it and are no part of it.
        files = [one for one in sorted(folder.glob("*.rego")) if not one.name.endswith("_test.rego")]
        if sum(one.stat().st_size for one in files) > _MAX_POLICY_BYTES:
            raise BackendRefused(f"a policy of more than {_MAX_POLICY_BYTES} bytes", where=folder.name)
        modules = tuple((one.name, one.read_text(encoding="utf-8")) for one in files)
    except (OSError, UnicodeError):
        raise BackendRefused("the policy cannot be read", where=folder.name) from None
    if not modules:
        raise BackendRefused("the folder holds no policy", where=folder.name, hint="`targets.policy.bundle`")
    return PolicySource(modules)


def unfit(input: Mapping[str, Any]) -> str:
    """Return why no engine is asked about this input, `""` when it may be: too large, or known to be misread.

    The same for both engines, so that they cannot come apart over it.
    """
    found = next(problems(input), "")
    if not found:
        size = len(encode_input(input))
        if size > MAX_INPUT_BYTES:
            found = f"an input of {size} bytes; at most {MAX_INPUT_BYTES}"
    return found


def refusal(engine: str, path: str, policy: str, reason: str) -> Decision:
    """Return the deny for an unfit input; the input itself is not kept: it may be of any size."""
    return read_decision(stored(engine=engine, path=path, policy=policy, input=None, unfit=reason))


class EmbeddedEngine:
    """The release policy through regopy; `deadline` seconds bound a decision; then the child is killed."""

    def __init__(
        self, policy: Path | PolicySource | None = None, *, package: str = "cockpit/release", deadline: float
    ) -> None:
        self._policy = policy or builtin_policy()
        self._package = package
        self._deadline = deadline

    @property
    def name(self) -> str:
        """`embedded`."""
        return "embedded"

    @property
    def path(self) -> str:
        """The data path asked."""
        return f"{self._package}/{RULE}"

    async def decide(self, input: Mapping[str, Any]) -> Decision:
        """Decide; see DecisionEngine."""
        return (await self.decide_all([input]))[0]

    async def decide_all(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[Decision, ...]:
        """Decide on several inputs in one child; see DecisionEngine."""
        if len(inputs) > MAX_QUESTIONS:
            raise BackendRefused(f"{len(inputs)} questions at once; at most {MAX_QUESTIONS}")
        policy = self._policy if isinstance(self._policy, PolicySource) else read_policy(self._policy)
        reasons = [unfit(one) for one in inputs]
        asked = [one for one, reason in zip(inputs, reasons, strict=True) if not reason]
        answers = iter(await self._ask(policy, asked) if asked else [])
        return tuple(
            refusal(self.name, self.path, policy.sha256, reason)
            if reason
            else read_decision(
                stored(
                    engine=self.name, path=self.path, policy=policy.sha256, input=one, answer=next(answers)
                )
            )
            for one, reason in zip(inputs, reasons, strict=True)
        )

    async def _ask(self, policy: PolicySource, inputs: list[Mapping[str, Any]]) -> list[str]:
        rule = "data." + self.path.replace("/", ".")
        request = {"modules": policy.modules, "rule": rule, "inputs": inputs}
        answer = await in_child(
            "cockpit.backends.policy_child",
            json.dumps(request, ensure_ascii=False).encode(),
            what="the policy engine",
            deadline=self._deadline + _PER_QUESTION * (len(inputs) - 1),
        )
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            raise BackendGarbage("the policy engine's answer is not JSON") from None
        if isinstance(document, dict) and isinstance(document.get("error"), str):
            raise BackendGarbage(f"the policy engine failed: {visible(document['error'], limit=300)}")
        answers = document.get("answers") if isinstance(document, dict) else None
        if not isinstance(answers, list) or len(answers) != len(inputs):
            raise BackendGarbage("the policy engine did not answer every question")
        return [json.dumps(one, ensure_ascii=False, sort_keys=True) for one in answers]
