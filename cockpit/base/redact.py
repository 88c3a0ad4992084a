"""The redactor every writer passes text through: secrets are referenced, never stored (seed section 0)."""

from __future__ import annotations

import re

_MASK = "[redacted]"
_PATTERNS = (
    re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),  # JSON web tokens
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)"),
    re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16})\b"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/-]{8,}=*"),
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(
        r"(?i)\b(password|passwd|secret|api[_-]?key|token)(\s*[=:]\s*)(?!\[redacted\])[^\s,;\"'}]{4,}"
    ),
)


class Redactor:
    """Masks known secret values and what looks like one."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        # Longest first, so that a secret which contains another is masked whole.
        self._secrets = tuple(sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True))

    def add(self, secret: str) -> None:
        """Mask `secret` from now on."""
        if len(secret) >= 4:
            self._secrets = tuple(sorted({*self._secrets, secret}, key=len, reverse=True))

    def text(self, text: str) -> str:
        """Return `text` with secrets masked."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        for pattern in _PATTERNS[:-1]:
            text = pattern.sub(_MASK, text)
        return _PATTERNS[-1].sub(rf"\1\2{_MASK}", text)
