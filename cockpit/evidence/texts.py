"""What a journal holds of a text: the same text after what every writer passes it through.

The conductor makes control characters visible, and the journal's writer masks what looks like a secret
(`token: …`). A text kept elsewhere, in a blob, is compared with its record only after both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cockpit.base.redact import Redactor
from cockpit.base.text import visible

_REDACTOR = Redactor()


def recorded(text: str) -> str:
    """Return the text as a journal has it when the conductor recorded it."""
    return _REDACTOR.text(visible(text))


def made_on(real: Mapping[str, str]) -> str:
    """Return what a rehearsal was made on; `real` are the real servers in it, and their versions."""
    named = ", ".join(f"{name} {version}" for name, version in real.items())
    return f"real {named}, and stand-ins for all else" if named else "stand-ins"


def written(value: Any) -> Any:
    """Return a JSON value as a journal's writer leaves it: every text in it masked where need be."""
    if isinstance(value, str):
        return _REDACTOR.text(value)
    if isinstance(value, dict):
        return {name: written(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [written(item) for item in value]
    return value
