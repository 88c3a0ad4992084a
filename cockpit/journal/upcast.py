"""From a line to an event: a fast path for today's types, upcasters for older ones, `Unknown` else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cockpit.base.errors import JournalError
from cockpit.journal.events import AnyEvent, Unknown

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Old tag → function giving the fields (with `type`) of a newer version. Empty while all types are at v1."""

_decoder = msgspec.json.Decoder(AnyEvent)


def decode(line: bytes) -> AnyEvent:
    """Decode one journal line; raises JournalError when it is not a JSON object with a type."""
    try:
        event: AnyEvent = _decoder.decode(line)
    except msgspec.DecodeError:
        return _decode_slowly(line)
    return event


def _decode_slowly(line: bytes) -> AnyEvent:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise JournalError(f"a journal line is not a JSON object: {error}") from None
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise JournalError("a journal line has no type")
    for _ in range(len(UPCASTERS)):
        upcast = UPCASTERS.get(kind)
        if upcast is None:
            break
        fields = upcast(fields)
        kind = str(fields["type"])
    try:
        event: AnyEvent = msgspec.convert(fields, AnyEvent)
    except msgspec.ValidationError:
        seq, at = fields.pop("seq", -1), fields.pop("at", "")
        return Unknown(
            seq=seq if isinstance(seq, int) else -1,
            at=at if isinstance(at, str) else "",
            kind=kind,
            fields=fields,
        )
    return event
