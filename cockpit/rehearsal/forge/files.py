"""What the demo platform's repository holds: contracts, migrations, workflows, flags."""

from __future__ import annotations

import json
from typing import Any

Files = dict[str, bytes]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _schema(name: str, required: list[str], /, **properties: Any) -> bytes:
    return _json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": name,
            "type": "object",
            "required": required,
            "properties": properties,
        }
    )


_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}


def contracts_before() -> Files:
    """Return the data contracts of v2.9: what producers promise and consumers rely on."""
    return {
        "contracts/item-created/producer.schema.json": _schema(
            "item-created", ["id", "seq"], id=_TEXT, seq=_WHOLE, title=_TEXT
        ),
        "contracts/item-created/consumer.schema.json": _schema(
            "item-created", ["id", "seq"], id=_TEXT, seq=_WHOLE
        ),
        "contracts/item-created/samples/1.json": _json({"id": "i-1", "seq": 1, "title": "one"}),
        "contracts/report-rendered/producer.schema.json": _schema(
            "report-rendered", ["name", "pages"], name=_TEXT, pages=_WHOLE
        ),
        "contracts/report-rendered/consumer.schema.json": _schema(
            "report-rendered", ["name"], name=_TEXT, pages=_WHOLE
        ),
        "contracts/report-rendered/samples/1.json": _json({"name": "weekly", "pages": 3}),
    }


def contracts_after() -> Files:
    """Return what v3.0.0 changes of the contracts: the producer promises more, consumers ask no more."""
    return {
        "contracts/item-created/producer.schema.json": _schema(
            "item-created", ["id", "seq", "tenant"], id=_TEXT, seq=_WHOLE, title=_TEXT, tenant=_TEXT
        ),
        "contracts/item-created/consumer.schema.json": _schema(
            "item-created", ["id", "seq"], id=_TEXT, seq=_WHOLE, tenant=_TEXT
        ),
        "contracts/item-created/samples/2.json": _json(
            {"id": "i-2", "seq": 2, "title": "two", "tenant": "t1"}
        ),
    }


def migration(number: int, phase: str) -> Files:
    """Return one phase of the v3.0.0 migration with the statements that take it back."""
    up, down = _SQL[phase]
    stem = f"migrations/v3.0.0/{number:02}_{phase}"
    return {f"{stem}.sql": up.encode(), f"{stem}.rollback.sql": down.encode()}


def migration_plan() -> Files:
    """Return the order of the phases; `after` delays the last one past the release."""
    steps = [
        {"phase": phase, "up": f"{number:02}_{phase}.sql", "rollback": f"{number:02}_{phase}.rollback.sql"}
        for number, phase in enumerate(_SQL, 1)
    ]
    steps[-1]["after"] = "7d"
    return {"migrations/v3.0.0/plan.json": _json({"version": "v3.0.0", "steps": steps, "parity": 0.995})}


_SQL = {
    "expand": (
        "SET lock_timeout = '2s';\nALTER TABLE items ADD COLUMN tenant_key text;\n",
        "SET lock_timeout = '2s';\nALTER TABLE items DROP COLUMN tenant_key;\n",
    ),
    "backfill": (
        "UPDATE items SET tenant_key = tenant\n WHERE id > :after AND id <= :until AND tenant_key IS NULL;\n",
        "UPDATE items SET tenant_key = NULL WHERE id > :after AND id <= :until;\n",
    ),
    "cutover": (
        "UPDATE settings SET value = 'tenant_key' WHERE name = 'items.read_column';\n",
        "UPDATE settings SET value = 'tenant' WHERE name = 'items.read_column';\n",
    ),
    "contract": (
        "SET lock_timeout = '2s';\nALTER TABLE items DROP COLUMN tenant;\n",
        "SET lock_timeout = '2s';\nALTER TABLE items ADD COLUMN tenant text;\n"
        "UPDATE items SET tenant = tenant_key;\n",
    ),
}

RUNBOOK = b"""\
---
owner: "@realtime"
trigger: "the delivery lag of realtime streams stays above 800 ms"
steps: 3
rollback: "turn the flag realtime off"
last_drill: 2025-07-30
mtta: 5m
mttr: 30m
---

# Streams lag

1. Look at the delivery lag by tenant.
2. Where one tenant alone lags, have its clients resume with `since`.
3. Where all do, turn the flag `realtime` off and open an incident.
"""

WORKFLOW = b"""\
name: release
on:
  push:
    tags: ["v*"]
permissions:
  contents: read
jobs:
  build:
    runs-on: ubuntu-24.04
    permissions:
      contents: read
      id-token: write
    steps:
      - uses: actions/checkout@0123456789abcdef0123456789abcdef01234567 # pinned by commit
      - run: make images attest
"""


def base() -> Files:
    """Return the repository as of v2.9.0."""
    services = ("gateway", "web", "search", "realtime", "reports", "ingest")
    return {
        "README.md": b"# intelgraph-platform\n\nThe demo platform that releases are rehearsed with.\n",
        "CODEOWNERS": b"* @platform\n/migrations/ @schema\n/contracts/ @data\n",
        "flags/ga.json": _json({"search": False, "realtime": False, "reports": False}),
        "migrations/v2.9.0/01_expand.sql": b"CREATE TABLE items (id bigint PRIMARY KEY, tenant text);\n",
        "migrations/v2.9.0/01_expand.rollback.sql": b"DROP TABLE items;\n",
        **{f"services/{name}/VERSION": b"v2.9.0\n" for name in services},
        **contracts_before(),
    }


def versions(version: str) -> Files:
    """Return the files that name the release's version."""
    services = ("gateway", "web", "search", "realtime", "reports", "ingest")
    return {f"services/{name}/VERSION": f"{version}\n".encode() for name in services}
