"""Data: the Data Contracts Engineer (A23)."""

from __future__ import annotations

import json
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.base.errors import BackendGarbage
from cockpit.rpc.messages import Query

FOLDER = "contracts"
_SUFFIX = ".schema.json"
_MOST_FILES = 500


class DataContracts(GateAgent):
    """A23: compares every JSON Schema under `contracts/` with the last release and validates the samples.

    `contracts/<name>/producer.schema.json` and `consumer.schema.json` are two sides of one contract, any
    other `*.schema.json` is one both sides share; samples lie in `samples/` beside them.
    """

    gate = "migrations"
    phase_gate = "migrations"

    def needs(self, context: Context) -> str:
        """Need the repository."""
        _ = context.forge
        target = context.plan.targets.repository
        return f"compare the contracts of {target.from_ref} and {target.to_ref} and validate their samples"

    async def measure(self, context: Context) -> Measured:
        """Read both revisions, judge, and write the report."""
        target = context.plan.targets.repository
        revisions = {"from": target.from_ref, "to": target.to_ref}
        commits = {side: await context.forge.resolve(ref) for side, ref in revisions.items()}
        answers: dict[str, bytes] = {}
        queries: dict[str, Query] = {}
        listed: dict[str, list[str]] = {}
        for side, commit in commits.items():
            paths = [path for path in await context.forge.list_at(commit, FOLDER) if path.endswith(".json")]
            if len(paths) > _MOST_FILES:
                raise BackendGarbage(f"{len(paths)} files under {FOLDER}/; at most {_MOST_FILES} are read")
            listed[side] = paths
            for path in paths:
                if side == "from" and not path.endswith(_SUFFIX):
                    continue
                answers[f"{side}:{path}"] = await context.forge.file_at(commit, path)
            queries[f"list:{side}"] = query(
                context, f"{FOLDER}/ at {revisions[side]} ({commit})", "forge", samples=len(paths)
            )
            answers[f"list:{side}"] = json.dumps(paths).encode()
        contracts = _contracts(listed)
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "contracts_compatible",
            answers,
            {"contracts": contracts},
            queries,
        )
        artifact = write_json(
            context,
            "contracts/report.json",
            {"commits": commits, "contracts": contracts, "verdict": summary(verdict)},
        )
        return Measured((verdict,), (artifact,), reason_of((verdict,)))


def _contracts(listed: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return the contracts of both revisions as the rule wants them."""
    found: dict[str, dict[str, Any]] = {}
    for side, paths in listed.items():
        for path in paths:
            if not path.endswith(_SUFFIX):
                continue
            folder, _, file = path.rpartition("/")
            role = file.removesuffix(_SUFFIX)
            name = folder if role in ("producer", "consumer") else path
            entry = found.setdefault(name, {"name": name, "schemas": {}, "samples": []})
            key = role if name == folder else "shared"
            entry["schemas"].setdefault(key, {"from": "", "to": ""})[side] = f"{side}:{path}"
    for name, entry in found.items():
        stem = name.removesuffix(_SUFFIX)
        places = (f"{name}/samples/", f"{stem}.samples/")
        entry["samples"] = [f"to:{path}" for path in listed["to"] if path.startswith(places)]
    return [found[name] for name in sorted(found)]
