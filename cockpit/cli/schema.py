"""`cockpit schema`: the JSON Schemas of all messages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cockpit.base.errors import UsageError
from cockpit.rpc.validate import MODELS, schema_of

FOLDER = Path("schemas")


def rendered(name: str) -> str:
    """Return the text of a schema file."""
    return json.dumps(schema_of(MODELS[name]), indent=2, sort_keys=True) + "\n"


def main(arguments: argparse.Namespace) -> int:
    """Print one schema or the names; or write them all."""
    if arguments.write:
        if not Path("pyproject.toml").is_file() or not FOLDER.is_dir():
            raise UsageError("this is not a checkout of the project", where=str(Path.cwd()))
        for name in MODELS:
            (FOLDER / f"{name}.schema.json").write_text(rendered(name), encoding="utf-8")
        return 0
    if arguments.name is None:
        print("\n".join(MODELS))
        return 0
    if arguments.name not in MODELS:
        raise UsageError(f"there is no schema {arguments.name!r}", hint=f"one of {', '.join(MODELS)}")
    print(rendered(arguments.name), end="")
    return 0
