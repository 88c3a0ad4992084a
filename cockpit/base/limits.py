"""Bounds on everything that comes from outside."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 1 << 20
"""Largest Agent RPC v2 message accepted, in bytes of JSON; checked before parsing."""

MAX_ARTIFACTS = 500
"""Most artifacts one response may name (schema validation costs time per artifact)."""

MAX_LINE_BYTES = 256 * 1024
"""Longest journal line, without its newline; larger payloads become blobs."""

MAX_BLOB_BYTES = 32 << 20
"""Largest blob kept in a run folder."""

MAX_ANSWER_BYTES = 8 << 20
"""Largest answer read from a back end."""

MAX_TEXT = 4000
"""Longest free text (notes, reasons) kept, in characters."""
