"""Agents that are not ours: a command or a URL in the plan answers in a roster entry's stead.

The same messages, limits and fail-closed rules hold. Such an agent gets no handles. It is told in
`inputs.params.release` what is being judged; files it names must lie in its own folder of the artifacts; its
verdicts are judged again from the numbers it gives, and travel with a rule that says so.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cockpit.agentkit.artifacts import FOLDER
from cockpit.agentkit.context import Blobs
from cockpit.agentkit.external_transport import ask_command, ask_url
from cockpit.agentkit.info import AgentInfo
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import MessageInvalid, UsageError
from cockpit.base.files import sha256_file
from cockpit.base.limits import MAX_BLOB_BYTES
from cockpit.base.text import visible
from cockpit.plan.load import LoadedPlan
from cockpit.plan.operations import External
from cockpit.rpc.messages import AgentRequest, AgentResponse, GateVerdict
from cockpit.rpc.validate import check, encode
from cockpit.verdicts.gates import VALIDITY_S
from cockpit.verdicts.rules.external import external_statement

IMPLEMENTATION = "external"
"""What stands for `module:Class` in a roster entry that the plan gives to somebody else."""
RULE = "external_statement"


def roster_with(roster: Sequence[AgentInfo], external: Iterable[str]) -> tuple[AgentInfo, ...]:
    """Return the roster in which what the plan gives to others counts as built.

    Raises UsageError for an id the roster does not have.
    """
    given = set(external)
    if unknown := sorted(given - {info.id for info in roster}):
        names = ", ".join(visible(one, limit=40) for one in unknown)
        raise UsageError(
            f"the plan's `external` names agents the roster does not have: {names}",
            hint="`cockpit agents` lists all of them",
        )
    return tuple(
        dataclasses.replace(info, implementation=IMPLEMENTATION) if info.id in given else info
        for info in roster
    )


class ExternalAgents:
    """Calls the agents of a plan that are not ours. `note` records what one says on standard error."""

    def __init__(
        self,
        loaded: LoadedPlan,
        run_dir: Path,
        blobs: Blobs,
        *,
        secret: Callable[[External], str],
        note: Callable[[str], None] = lambda text: None,
        tls: Tls = USUAL,
    ) -> None:
        self._tls = tls
        self._loaded = loaded
        self._run_dir = run_dir
        self._blobs = blobs
        self._secret = secret
        self._note = note

    def __contains__(self, agent: str) -> bool:
        """Tell whether the plan gives this roster entry to somebody else."""
        return agent in self._loaded.plan.external

    async def call(self, info: AgentInfo, message: AgentRequest) -> bytes:
        """Return the response, checked and judged again; raises CockpitError for anything that is none."""
        external = self._loaded.plan.external[info.id]
        request = encode(told(info, message, self._loaded))
        if external.url is not None:
            raw = await ask_url(
                external.url,
                request,
                token=self._secret(external) if external.token is not None else "",
                trace_id=message.trace_id,
                deadline=external.deadline,
                tls=self._tls,
            )
        else:
            raw = await self._command(info, external, request)
        response = check(AgentResponse, raw)
        self._files(info, response)
        if not response.verdicts:
            return encode(response)
        kept = self._blobs.keep(raw)
        verdicts = [_judged(raw, kept, index, verdict) for index, verdict in enumerate(response.verdicts)]
        return encode(response.model_copy(update={"verdicts": verdicts}))

    async def _command(self, info: AgentInfo, external: External, request: bytes) -> bytes:
        folder = self._run_dir / FOLDER / info.id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        program, *arguments = external.command
        if "/" in program:
            program = str(self._loaded.base / program)  # an absolute path stays what it is
        answer = await ask_command(
            (program, *arguments),
            request,
            cwd=self._loaded.base,
            environment={
                "COCKPIT_AGENT": info.id,
                "COCKPIT_AGENT_NAME": info.name,
                "COCKPIT_ARTIFACTS": str(folder.absolute()),
            },
            deadline=external.deadline,
        )
        if answer.errors:
            self._note(f"{info.id} (external) says: {answer.errors}")
        return answer.line

    def _files(self, info: AgentInfo, response: AgentResponse) -> None:
        """Check that every file named is a plain file in the agent's own folder, as the response says."""
        named = [(one.path, one.sha256) for one in response.artifacts]
        named += [(one.path, one.sha256) for verdict in response.verdicts for one in verdict.evidence]
        for path, digest in named:
            try:
                _file(self._run_dir / FOLDER, info.id, path, digest)
            except OSError as error:
                raise MessageInvalid(f"artifact {path} is not there: {error.strerror}") from None


def told(info: AgentInfo, message: AgentRequest, loaded: LoadedPlan) -> AgentRequest:
    """Return the request as it is sent: with what the verdicts must be about in `params.release`."""
    plan = loaded.plan
    release: dict[str, Any] = {
        "agent": info.name,
        "id": info.id,
        "version": plan.target_version,
        "artifacts": info.id,
        "judged": {
            "images": {s.name: s.image.digest for s in plan.services if s.image.digest},
            "env": message.scope.env,
            "plan_sha256": loaded.sha256,
        },
        "valid_s": dict(VALIDITY_S),
    }
    params = {**message.inputs.params, "release": release}
    return message.model_copy(update={"inputs": message.inputs.model_copy(update={"params": params})})


def _file(root: Path, agent: str, path: str, digest: str) -> None:
    if not path.startswith(f"{agent}/"):
        raise MessageInvalid(f"artifact {path} is not below {agent}/, which is this agent's folder")
    target = root / path
    # What it lies on is looked at without following: a link would lead out, and a pipe would hold us up.
    if not target.resolve().is_relative_to((root / agent).resolve()) or (root / agent).is_symlink():
        raise MessageInvalid(f"artifact {path} leads out of {agent}/")
    seen = target.lstat()
    if not stat.S_ISREG(seen.st_mode):
        raise MessageInvalid(f"artifact {path} is not a plain file")
    if seen.st_size > MAX_BLOB_BYTES:
        raise MessageInvalid(f"artifact {path} has {seen.st_size} bytes; at most {MAX_BLOB_BYTES}")
    if sha256_file(target) != digest:
        raise MessageInvalid(f"artifact {path} has another SHA-256 than the response says")


def _judged(raw: bytes, kept: str, index: int, verdict: GateVerdict) -> GateVerdict:
    """Return a verdict as our rule judges the response it came in."""
    params: Mapping[str, Any] = {"index": index}
    judgement = external_statement({"response": raw}, params)
    said = verdict.details
    details = said.model_copy(
        update={
            # Nobody gives his own verdict a longer life than ours have.
            "judged": said.judged.model_copy(
                update={"valid_s": min(said.judged.valid_s, VALIDITY_S[verdict.gate])}
            ),
            "outcome": judgement.outcome,
            "reason": judgement.reason[:2000],
            # What it asked elsewhere is not stored here: only its own words are.
            "queries": [query.model_copy(update={"answer": ""}) for query in said.queries],
            "rule": {"name": RULE, "params": dict(params), "answers": {"response": kept}},
        }
    )
    return verdict.model_copy(
        update={
            "verdict": "pass" if judgement.passed else "fail",
            "metrics": dict(judgement.metrics),
            "thresholds": list(judgement.thresholds),
            "details": details,
        }
    )
