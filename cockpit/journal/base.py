"""The base of every journal event.

A line of the journal is `{"prev":"<64 hex>","seq":N,"at":"<RFC 3339 UTC>","type":"<name>.v<version>",…}`.
`prev`, `seq` and `at` are put there by the writer; the rest is the event as msgspec encodes it.
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """One thing that happened. Subclasses set `tag="area.verb.vN"`; `seq` and `at` are filled on reading."""

    seq: int = -1
    at: str = ""
