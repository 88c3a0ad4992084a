"""The application's log: JSON lines with release, env, tenant, trace_id and sha, bounded in size."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

_FIELDS = ("release", "env", "tenant", "trace_id", "sha", "pod", "image", "version", "path", "status")
_MAX_BYTES = 2 << 20


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        entry = {"at": at, "level": record.levelname.lower(), "message": record.getMessage()}
        entry |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = repr(record.exc_info[1])
        return json.dumps(entry, separators=(",", ":"))


def log_to(path: Path) -> None:
    """Send the process's log records to `path`, at most two files of 2 MB."""
    handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
