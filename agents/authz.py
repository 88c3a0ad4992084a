"""Who may do what: the AuthZ Author (A19), the release policy and its decision table."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.common import GateAgent, Measured, blocked, judge, query, reason_of, summary, write_json
from cockpit.backends.policy import default_bundles
from cockpit.backends.policy_engine import EmbeddedEngine, PolicySource, builtin_policy, read_policy
from cockpit.backends.policy_opa import PolicyStore
from cockpit.base.errors import BackendError, UsageError
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.rpc.messages import Artifact
from cockpit.verdicts.decision_table import MAX_TABLE_BYTES, Case, cases_of, read_table
from cockpit.verdicts.obligations import unmet
from cockpit.verdicts.policy_decision import Decision, policy_of
from cockpit.verdicts.rules.authz import bundled, decision_table, mismatch

LOG = "identity/decision_logs.json"
BEFORE = "identity/policy_before.json"
TABLE = "decision_table.json"
PARAMS = {
    "actions": ["promote", "flip", "rollback", "break-glass", "resume", "approve"],
    "always": ["rollback"],
    "obligations": ["step_up_mfa", "reason_for_access", "second_person"],
}
_AGAIN = "run APPLY again, or ROLLBACK"
_DIFF_CHARS = 2500


@dataclass(frozen=True, slots=True)
class Change:
    """One module of the policy as OPA holds it (`before`, None: not there) and as it is to be."""

    id: str
    before: str | None
    after: str


class AuthzAuthor(GateAgent):
    """A19: puts the release policy where it is decided by, and holds its decisions to the table."""

    gate = "policy"
    phase_gate = "authz"

    def needs(self, context: Context) -> str:
        """Need the engine, the policy's files and the table."""
        engine = context.decisions
        cases = cases_of(_table(context))
        return f"put {len(cases)} questions to data.{engine.path.replace('/', '.')} ({engine.name})"

    async def plan(self, context: Context) -> Outcome:
        """Show what APPLY would upload, as a diff."""
        try:
            said = self.needs(context)
        except BackendMissing as missing:
            return blocked(str(missing))
        except UsageError as error:
            return blocked(str(error))
        changes = await _changes(context)
        if not changes:
            return Outcome("ok", f"APPLY changes nothing. VERIFY will {said}", "run VERIFY")
        named = ", ".join(f"{one.id} ({'new' if one.before is None else 'changed'})" for one in changes)
        return Outcome(
            "ok",
            f"APPLY will upload to OPA: {named}. VERIFY will {said}\n{_diff(changes)}",
            "run APPLY",
        )

    async def apply(self, context: Context) -> Outcome:
        """Upload what differs, after the policy has met its table here; keep what was there before."""
        try:
            return await self._apply(context)
        except UsageError as error:
            return blocked(str(error))

    async def _apply(self, context: Context) -> Outcome:
        if context.policies is None:
            return Outcome("ok", "the embedded engine reads the policy's files: nothing to change", "VERIFY")
        changes = await _changes(context)
        if not changes:
            return Outcome("ok", "OPA holds the policy as it is to be: nothing to change", "run VERIFY")
        problem = await self._rehearsed(context)
        if problem:
            # A policy that locks people out, or lets them in, is found out before anybody is under it.
            return Outcome("fail", f"nothing was uploaded: {problem}", "mend policy or table, then run APPLY")
        # On disk before anything is sent: what was there must be known whatever happens next.
        record = _record(context, changes, read_before(context))
        store = context.policy_store
        assert context.effects is not None  # policy_store has checked
        try:
            for one in changes:
                await context.effects.forward(
                    "upload",
                    f"OPA policy {one.id}",
                    _put(store, one.id, one.after),
                    env=context.request.scope.env,
                    by=context.info.id,
                    detail=sha256_hex(one.after.encode()),
                )
            left = await _changes(context)
        except BackendError as error:
            return _failed(
                f"the policy was not uploaded whole: {error}", "run APPLY again, or ROLLBACK", record
            )
        if left:
            names = ", ".join(one.id for one in left)
            return _failed(
                f"OPA does not hold what was uploaded: {names}", "run APPLY again, or ROLLBACK", record
            )
        return Outcome("ok", f"{len(changes)} modules uploaded to OPA", "run VERIFY", artifacts=(record,))

    async def rollback(self, context: Context) -> Outcome:
        """Put back what was there before APPLY, unless somebody has changed it since; read it back."""
        try:
            before = read_before(context)
        except UsageError as error:
            return blocked(str(error))
        if not before:
            return Outcome("ok", "no policy was uploaded: nothing to restore", "none")
        reader = context.policies
        if reader is None:
            return blocked("a policy was uploaded to OPA, and the plan no longer names one")
        store = context.policy_store
        assert context.effects is not None  # policy_store has checked
        try:
            for one in before:
                found = await reader.get(one.id)
                if found == one.before:
                    continue
                if found != one.after:
                    return _failed(f"{one.id} was changed by somebody else since", "restore it by hand")
                await context.effects.forward(
                    "restore",
                    f"OPA policy {one.id}",
                    _put(store, one.id, one.before),
                    env=context.request.scope.env,
                    by=context.info.id,
                    detail="absent" if one.before is None else sha256_hex(one.before.encode()),
                )
                if await reader.get(one.id) != one.before:
                    return _failed(f"{one.id} is not as it was", "run ROLLBACK again")
        except BackendError as error:
            return _failed(f"the policy was not restored: {error}", "run ROLLBACK again")
        record = write_json(context, BEFORE, {"state": "restored", "policies": [asdict(x) for x in before]})
        said = f"{len(before)} modules are as they were before"
        return Outcome("ok", said, "run VERIFY", artifacts=(record,))

    async def measure(self, context: Context) -> Measured:
        """Put every cell of the table to the engine and hold the answers to it."""
        table = _table(context)
        cases = cases_of(table)
        engine = context.decisions
        decisions = await engine.decide_all([one.input for one in cases])
        plain = json.dumps(table, sort_keys=True, ensure_ascii=False).encode()
        text = f"data.{engine.path.replace('/', '.')} ({engine.name})"
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "decision_table",
            {"table": plain, "decisions": bundled(tuple(one.raw for one in decisions))},
            PARAMS,
            {
                "table": query(context, _table_name(context), "files", samples=len(cases)),
                "decisions": query(context, text, "policy", samples=len(decisions)),
            },
        )
        artifact = write_json(
            context,
            LOG,
            {
                "engine": engine.name,
                "path": engine.path,
                "policy_sha256": policy_of(decisions[0].raw) if decisions else "",
                "table": _table_name(context),
                "table_sha256": sha256_hex(plain),
                "decisions": [_logged(*both) for both in zip(cases, decisions, strict=True)],
                "verdict": summary(verdict),
            },
        )
        return Measured((verdict,), (artifact,), reason_of((verdict,)))

    async def _rehearsed(self, context: Context) -> str:
        """Return how the policy's files fail the table in the embedded engine, `""` when they do not."""
        target = context.plan.targets.policy
        engine = EmbeddedEngine(source(context), package=target.package, deadline=target.deadline)
        table = _table(context)
        decisions = await engine.decide_all([one.input for one in cases_of(table)])
        answers = {
            "table": json.dumps(table).encode(),
            "decisions": bundled(tuple(one.raw for one in decisions)),
        }
        judgement = decision_table(answers, PARAMS)
        return "" if judgement.passed else f"the policy does not meet its table: {judgement.reason}"


def source(context: Context) -> PolicySource:
    """Return the policy's files: those the plan names, else the built-in ones; raises BackendRefused."""
    bundle = context.plan.targets.policy.bundle
    return read_policy(context.base / bundle if bundle else builtin_policy())


def policy_id(package: str, name: str) -> str:
    """Return under which id OPA holds a file of the policy."""
    return f"{package.replace('/', '.')}.{name.removesuffix('.rego')}"


def read_before(context: Context) -> tuple[Change, ...]:
    """Return what APPLY recorded and nobody has restored yet."""
    try:
        document = json.loads(context.artifacts.path(BEFORE).read_bytes())
        if document["state"] != "uploaded":
            return ()
        return tuple(Change(one["id"], one["before"], one["after"]) for one in document["policies"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError("what was there before the policy cannot be read", where=BEFORE) from None


async def _changes(context: Context) -> list[Change]:
    reader = context.policies
    if reader is None:
        return []
    package = context.plan.targets.policy.package
    changes: list[Change] = []
    for name, text in source(context).modules:
        found = await reader.get(policy_id(package, name))
        if found != text:
            changes.append(Change(policy_id(package, name), found, text))
    return changes


def _record(context: Context, changes: list[Change], recorded: tuple[Change, ...]) -> Artifact:
    # A second APPLY must not take what the first one uploaded for what was there before.
    first = {one.id: one.before for one in recorded}
    after = {one.id: one for one in recorded} | {
        one.id: Change(one.id, first.get(one.id, one.before), one.after) for one in changes
    }
    document = {"state": "uploaded", "policies": [asdict(one) for one in after.values()]}
    return write_json(context, BEFORE, document)


def _table_name(context: Context) -> str:
    return context.plan.targets.policy.table or f"built-in {TABLE}"


def _table(context: Context) -> dict[str, Any]:
    builtin = _read(default_bundles() / TABLE)
    own = context.plan.targets.policy.table
    if not own:
        return read_table(builtin)
    return read_table(_read(context.base / own), builtin=builtin)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise UsageError(f"larger than {MAX_TABLE_BYTES} bytes", where=path.name)
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=path.name) from None


def _logged(case: Case, decision: Decision) -> dict[str, Any]:
    difference = mismatch(case, decision)
    return {
        "case": case.name,
        "input": case.input,
        "allow": decision.allow,
        "obligations": [{"name": one.name, **one.params} for one in decision.obligations],
        "unmet": [one.name for one, _ in unmet(decision.obligations, case.facts)] if decision.allow else [],
        "reasons": list(decision.reasons),
        "expected": case.allow,
        "as_expected": not difference,
        "difference": difference,
    }


def _put(store: PolicyStore, policy: str, text: str | None) -> Callable[[], Awaitable[None]]:
    return lambda: store.delete(policy) if text is None else store.put(policy, text)


def _diff(changes: list[Change]) -> str:
    lines: list[str] = []
    for one in changes:
        old, new = (one.before or "").splitlines(), one.after.splitlines()
        lines += difflib.unified_diff(old, new, f"{one.id} (OPA)", one.id, lineterm="")
    return visible("\n".join(lines), limit=_DIFF_CHARS, newlines=True)


def _failed(what: str, then: str, *artifacts: Artifact) -> Outcome:
    return Outcome("fail", visible(what, limit=2000), then, artifacts=artifacts)
